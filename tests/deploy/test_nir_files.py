"""Files that are damaged, lead elsewhere, or hold more than they weigh."""

import contextlib

import h5py
import nir
import numpy as np
import pytest
import torch

from snnsim import MultiStep
from snnsim.deploy import from_nir
from snnsim.errors import MissingDataError, SnnsimError

WEIGHT = "node/nodes/w/weight"


def full(value):
    return np.full(2, value, np.float32)


@pytest.fixture
def path(tmp_path):
    lif = nir.LIF(full(3e-4), full(1.0), full(0.0), full(1.0))
    inner = nir.NIRGraph(
        {"in": nir.Input([2]), "l": lif, "out": nir.Output([2])}, [("in", "l"), ("l", "out")]
    )
    nodes = {
        "i": nir.Input([2]),
        "w": nir.Linear(np.ones((2, 2), np.float32)),
        "s": inner,
        "o": nir.Output([2]),
    }
    nir.write(tmp_path / "a.nir", nir.NIRGraph(nodes, [("i", "w"), ("w", "s"), ("s", "o")]))
    return tmp_path / "a.nir"


def put(place, value, **options):
    def edit(file):
        if place in file:
            del file[place]
        file.create_dataset(place, data=value, **options)

    return edit


def soft(file):
    del file[WEIGHT]
    file[WEIGHT] = h5py.SoftLink("/node/nodes/w/other")


def external(file):
    del file[WEIGHT]
    file[WEIGHT] = h5py.ExternalLink("other.nir", "/weight")


def twice(file):
    file["node/nodes/w/bias"] = file[WEIGHT]


def cycle(file):
    file["node/nodes/w/inner"] = file["node"]


def elsewhere(file):
    del file[WEIGHT]
    file.create_dataset(WEIGHT, shape=(2, 2), dtype="f4", external=[("secret", 0, 16)])


def virtual(file):
    del file[WEIGHT]
    layout = h5py.VirtualLayout((2, 2), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(2, 2))
    file.create_virtual_dataset(WEIGHT, layout)


def bomb(file):
    del file[WEIGHT]
    file.create_dataset(
        WEIGHT, shape=(2, 10**12), dtype="f8", chunks=(1, 10**6), compression="gzip"
    )


def deep(file):
    group = file["node/nodes"]
    for _ in range(300):
        group = group.create_group("g").create_group("nodes")


CASES = [
    (
        soft,
        "'/node/nodes/w/weight' is a link to another place or file; write the graph into one file",
    ),
    (external, "'/node/nodes/w/weight' is a link to another place or file"),
    (twice, "is in the file under another name too"),
    (cycle, "is in the file under another name too"),
    (elsewhere, "keeps its values in another file"),
    (virtual, "keeps its values in another file"),
    (
        bomb,
        (
            r"takes the file to 160000000\d+ bytes once unpacked, and from a file of its size at"
            r" most 268435456 are read"
        ),
    ),
    (deep, "lies too deep; write the graph flat"),
    (put(WEIGHT, "text"), r"'w' \(Linear\) is damaged"),
    (
        put(WEIGHT, np.ones((2, 2), np.complex64)),
        r"'w' \(Linear\): its weight is array.*complex64., and must be numbers",
    ),
    (put(WEIGHT, h5py.Empty("f4")), r"'w' \(Linear\) is damaged"),
    (put("node/nodes/s/nodes/l/tau", full(np.nan)), r"'s.l' \(LIF\): tau = nan must be finite"),
    (
        put("node/nodes/s/nodes/l/type", "Izhikevich"),
        "'s.l' is a Izhikevich, and no module here computes that",
    ),
    (put("node/nodes/w/type", b"\xff\xfe"), "is damaged or no NIR graph"),
    (put("node/nodes/w/extra", 1), r"'w' \(Linear\) is damaged"),
    (put("node/edges", np.ones((2, 2))), "among the edges of 'the graph' is no pair of names"),
    (put("node/edges", "x"), "is damaged or no NIR graph"),
    (put("node/nodes", 3), "is damaged or no NIR graph"),
    (put("node", 3), "is damaged or no NIR graph"),
    (put("node/metadata/snnsim", "[" * 100_000), "the graph: its metadata 'snnsim' is damaged"),
    (
        put("node/metadata/snnsim", '{"version": 1, "shapes": {}, "dt": "x"}'),
        "its metadata names the time step 'x'",
    ),
    (
        put(
            "node/nodes/w/metadata/snnsim",
            '{"version": 1, "shapes": {}, "inputs": ' + "[" * 900 + '"i"' + "]" * 900 + "}",
        ),
        "its metadata names no order of its inputs",
    ),
]


@pytest.mark.parametrize(("edit", "message"), CASES, ids=[message[:40] for _, message in CASES])
def test_a_file_that_cannot_be_trusted_is_refused(path, edit, message):
    with h5py.File(path, "r+") as file:
        edit(file)
    with pytest.raises(SnnsimError, match=message):
        from_nir(path)


@pytest.mark.parametrize("dtype", [">f4", "<f8", "f2", "i1", "u8", np.longdouble])
def test_numbers_of_every_type_become_those_of_torch(path, dtype):
    with h5py.File(path, "r+") as file:
        put(WEIGHT, np.array([[1, 2], [3, 4]], dtype))(file)
    net = from_nir(path)
    assert net.w.weight.tolist() == [[1, 2], [3, 4]]
    assert net.w.weight.dtype is torch.get_default_dtype()
    assert MultiStep(net)(torch.rand(3, 2, 2)).shape == (3, 2, 2)


def test_what_is_no_file(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "link")
    for place in (tmp_path, tmp_path / "link", "/dev/null"):
        with pytest.raises(MissingDataError, match="no file at"):
            from_nir(place)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_are_refused_or_read(path, seed):
    random = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    start, length = int(random.integers(len(content))), int(random.choice([1, 4, 64, 512]))
    if seed % 4:
        content[start : start + length] = random.integers(
            0, 256, len(content[start : start + length]), np.uint8
        ).tobytes()
    else:
        content = content[:start]
    path.write_bytes(content)
    # nothing else than these
    with contextlib.suppress(SnnsimError):
        from_nir(path)
