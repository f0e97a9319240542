import contextlib
import json
import os
import shutil

import numpy as np
import pytest
import torch
from deploy.networks import NETWORKS, example

from snnsim.deploy import IntegerNetwork
from snnsim.errors import DataError, InvalidValueError, MissingDataError, OutputError, SnnsimError

safetensors = pytest.importorskip("safetensors.numpy")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_loaded_network_is_the_one_saved(name, tmp_path):
    _, integer, x = example(name)
    integer.save(tmp_path / "net")
    loaded = IntegerNetwork.load(tmp_path / "net")
    assert loaded.fingerprint() == integer.fingerprint()
    assert torch.equal(loaded(x), integer(x))


def test_the_files_are_json_and_safetensors(tmp_path):
    _, integer, _ = example("dense")
    integer.save(tmp_path / "net")
    manifest = json.loads((tmp_path / "net" / "network.json").read_text())
    assert (manifest["format"], manifest["format_version"]) == ("snnsim integer network", 1)
    tensors = safetensors.load_file(tmp_path / "net" / "tensors.safetensors")
    assert np.array_equal(tensors["0.weight"], integer.operations[0].weight)


def test_an_existing_folder_is_left_alone(tmp_path):
    _, integer, _ = example("dense")
    with pytest.raises(OutputError, match="it exists already and is left alone; name a new folder"):
        integer.save(tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(
        MissingDataError,
        match=r"network.json is not there; name a folder that IntegerNetwork.save wrote",
    ):
        IntegerNetwork.load(tmp_path)


@pytest.fixture
def saved(tmp_path):
    example("dense")[1].save(tmp_path / "net")
    return tmp_path / "net"


def rewrite(folder, change, rehash=True):
    """Change the manifest, as someone would who also fixes its hash."""
    from snnsim.deploy.store import _hash

    path = folder / "network.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if rehash:
        body = {
            key: value for key, value in manifest.items() if key not in ("sha256", "snnsim_version")
        }
        manifest["sha256"]["network"] = _hash(body)
    path.write_text(json.dumps(manifest))


def test_a_changed_tensor_is_noticed(saved):
    path = saved / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="its content does not match its SHA-256"):
        IntegerNetwork.load(saved)


def test_a_changed_manifest_is_noticed(saved):
    rewrite(saved, lambda m: m["operations"][2].update(start=3), rehash=False)
    with pytest.raises(DataError, match="its content does not match its SHA-256"):
        IntegerNetwork.load(saved)


BROKEN = {
    "format": (lambda m: m.update(format="other"), DataError, "its format is 'other'"),
    "version": (
        lambda m: m.update(format_version=2),
        DataError,
        "has format version 2, this snnsim reads 1",
    ),
    "kind": (
        lambda m: m["operations"][0].update(kind="os.system"),
        DataError,
        "damaged or not an integer network",
    ),
    "field": (
        lambda m: m["operations"][0].update(extra=1),
        DataError,
        "a Product with the fields",
    ),
    "type": (lambda m: m["operations"][1].update(start="8"), DataError, "'8' instead of int"),
    "bool": (lambda m: m["operations"][1].update(start=True), DataError, "True instead of int"),
    "window": (
        lambda m: m["operations"][0]["window"].update(stride=[1]),
        DataError,
        "damaged or not an integer network",
    ),
    "tensor": (
        lambda m: m["operations"][0].update(weight="9.weight"),
        DataError,
        "damaged or not an integer network",
    ),
    "range": (
        lambda m: m["operations"][1].update(start=99),
        InvalidValueError,
        "every code is below the number of levels",
    ),
    "input": (
        lambda m: m["input"].update(shape=[21]),
        InvalidValueError,
        "its planes hold as many integers as its input",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_manifest_that_describes_no_network_is_refused(name, saved):
    change, error, message = BROKEN[name]
    rewrite(saved, change)
    with pytest.raises(error, match=message):
        IntegerNetwork.load(saved)


def test_text_instead_of_json(saved):
    (saved / "network.json").write_text("not json")
    with pytest.raises(DataError, match="damaged or not an integer network"):
        IntegerNetwork.load(saved)


def test_what_is_no_folder_of_files_is_refused(saved, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingDataError, match=r"network[.]json is not there"):
        IntegerNetwork.load(tmp_path / "file")
    (saved / "network.json").unlink()
    (saved / "network.json").mkdir()
    with pytest.raises(DataError, match=r"network[.]json is no regular file"):
        IntegerNetwork.load(saved)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_or_a_device_is_not_waited_for(saved):
    (saved / "network.json").unlink()
    os.mkfifo(saved / "network.json")
    with pytest.raises(DataError, match=r"network[.]json is no regular file"):
        IntegerNetwork.load(saved)
    (saved / "network.json").unlink()
    (saved / "network.json").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"network[.]json is no regular file"):
        IntegerNetwork.load(saved)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000, "null", "1e999", "\\ud800", "9" * 10_000],
)
def test_json_that_describes_nothing_is_refused(text, saved):
    (saved / "network.json").write_text(text)
    with pytest.raises(DataError, match="damaged or not an integer network"):
        IntegerNetwork.load(saved)


def test_a_file_larger_than_any_network_is_not_read(saved):
    with (saved / "network.json").open("ab") as file:
        file.truncate(2**30)
    with pytest.raises(
        DataError, match=r"network[.]json has 1073741824 bytes, more than any network"
    ):
        IntegerNetwork.load(saved)


def numbers(value, path=()):
    """Where a JSON value holds numbers, names and nothing."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(inner, (*path, key))
    else:
        yield path


def test_a_network_with_any_value_changed_is_refused_or_runs(saved):
    manifest = json.loads((saved / "network.json").read_text())
    manifest.pop("sha256")
    random = np.random.default_rng(0)
    others = (
        0,
        -1,
        1,
        2**31,
        2**40,
        10**30,
        -(2**63),
        None,
        True,
        0.5,
        float("nan"),
        "x",
        "../../x",
        [],
        {},
        [1, 2],
    )
    for path in numbers(manifest):
        other = others[random.integers(len(others))]

        def change(changed, path=path, other=other):
            for key in path[:-1]:
                changed = changed[key]
            changed[path[-1]] = other

        folder = saved.with_name("changed")
        shutil.copytree(saved, folder)
        rewrite(folder, change)
        # no other error comes out
        with contextlib.suppress(SnnsimError):
            integer = IntegerNetwork.load(folder)
            integer(
                np.zeros(
                    (2, *integer.input.shape)
                    if integer.time_steps
                    else (2, 2, *integer.input.shape)
                )
            )
        shutil.rmtree(folder)


def test_nothing_is_left_of_a_network_that_cannot_be_saved(tmp_path):
    _, integer, _ = example("dense")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="exists already"):
        integer.save(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
    integer.save(tmp_path / "saved")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "saved"]
