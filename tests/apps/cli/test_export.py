"""`snnsim export`, as a user types it."""

import copy
import json
import re

import nir
import pytest
import torch
from torch import nn

from snnsim import MultiStep, data, neurons
from snnsim.__main__ import main
from snnsim.apps.cli.export import differences
from snnsim.deploy import IntegerNetwork, from_nir, verify
from snnsim.deploy.cost import count_operations
from snnsim.training import Config, build_network, load_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert (
        main(
            [
                "train",
                "--hidden",
                "8",
                "--time-steps",
                "3",
                "--epochs",
                "2",
                "--quiet",
                "--out",
                str(folder),
            ]
        )
        == 0
    )
    return folder / "checkpoint.pt"


def export(*arguments):
    return main(["export", "--samples", "30", *map(str, arguments)])


def test_c_and_integers_are_compared_and_certified(checkpoint, tmp_path, capsys):
    for kind, files in (
        ("c", {"Makefile", "main.c", "snn.c", "snn.h"}),
        ("integer", {"network.json", "tensors.safetensors"}),
    ):
        out = tmp_path / kind
        assert export("--to", kind, checkpoint, out) == 0
        assert {path.name for path in out.iterdir()} == files | {
            "network.pt",
            "certificate.json",
            "export.json",
        }
        text = capsys.readouterr().out
        # before and after, and why they may differ
        assert len(re.findall(r"test accuracy \d+\.\d\d% as (?:trained|exported)", text)) == 2
        assert (
            "its accuracy may with it: weights quantized to 8 bits after training; inputs are the"
            " integers x * 16" in text
        )
        assert re.search(r"^2 +1 +20 ", text, re.MULTILINE)
        assert "compared on the test set: exact: 30 samples" in text
        certificate = json.loads((out / "certificate.json").read_text())
        assert certificate["exact"] is True
        assert f"generated C: {certificate['c']}" in text
        numbers = json.loads((out / "export.json").read_text())
        assert (numbers["time_steps"], numbers["input_scale"], numbers["decision"]) == (
            3,
            16,
            "rate",
        )
        assert numbers["layout"] == "[channel][row][column] = [1][8][8], the last index fastest"
        assert numbers["changes"][0] == "weights quantized to 8 bits after training"
        differ, samples = numbers["difference"]["predictions"]
        assert samples == 30
        assert (
            f"differs from the checkpoint in {differ} of 30 predictions of the test set, and in"
            " spikes: 2 " in text
        )
        assert {name: total for name, (_, total) in numbers["difference"]["spikes"].items()} == {
            "2": 720,
            "4": 900,
        }
        weights, tables, ram = (numbers[f"{part}_bytes"] for part in ("weight", "table", "ram"))
        # rows of 10 weights are filled up to whole words
        assert 8 * 64 + 8 * 10 <= weights <= 8 * 64 + 8 * 16
        assert (
            f"flash {weights + tables} bytes ({weights} of weights, {tables} of tables) and the"
            f" code; RAM {ram} bytes" in text
        )
        total = numbers["operations"]["additions"] + numbers["operations"]["multiplications"]
        assert f"inference {total:,.0f}:" in text
    network = IntegerNetwork.load(tmp_path / "integer")
    assert network.time_steps == 3
    assert network.input.shape == (1, 8, 8)


def test_the_network_that_was_compared_is_kept(checkpoint, tmp_path):
    assert export("--to", "integer", checkpoint, tmp_path / "i") == 0
    runner = torch.load(tmp_path / "i" / "network.pt", weights_only=False)
    images = torch.randint(0, 17, (5, 1, 8, 8)) / 16
    assert verify(runner, IntegerNetwork.load(tmp_path / "i"), [images]).exact


def test_differences_are_counted():
    trained = MultiStep(
        nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False), neurons.IFNode()), time_steps=4
    )
    trained.net[1].weight.data = torch.tensor([[0.5, 0.0, 0.0, 0.0], [0.25, 0.0, 0.0, 0.0]])
    exported = copy.deepcopy(trained)
    exported.net[1].weight.data[1, 0] = 1.0
    found = differences(trained, exported, [torch.eye(4).reshape(4, 1, 2, 2)] * 2)
    # in one of 4 samples the second neuron fires at every step, and not at the last alone
    assert found == {"predictions": [2, 8], "spikes": {"2": [6, 64]}}


def test_a_network_with_batch_norm_and_few_bits(tmp_path):
    train = [
        "--dataset",
        "digits-dvs",
        "--weight-bits",
        "4",
        "--epochs",
        "1",
        "--time-steps",
        "2",
        "--hidden",
        "4",
        "--quiet",
    ]
    assert main(["train", *train, "--out", str(tmp_path / "dvs")]) == 0
    assert export("--to", "c", tmp_path / "dvs" / "checkpoint.pt", tmp_path / "c") == 0
    numbers = json.loads((tmp_path / "c" / "export.json").read_text())
    assert numbers["changes"][0] == "batch normalization folded into the layers before it"


def test_a_checkpoint_in_the_folder_stays(checkpoint, tmp_path):
    out = tmp_path / "i"
    assert export("--to", "integer", checkpoint, out) == 0
    copied = out / "checkpoint.pt"
    copied.write_bytes(checkpoint.read_bytes())
    assert export("--to", "integer", copied, out, "--overwrite") == 0
    assert copied.is_file()


def test_a_network_too_large_for_memory(checkpoint, tmp_path, capsys):
    saved = torch.load(checkpoint, weights_only=True)
    for hidden, words in (
        (2**31 - 1, "there is not enough memory"),
        (10**12, "hidden must be <= 2147483647"),
        (10**30, "hidden must be <= 2147483647"),
    ):
        torch.save(
            {**saved, "config": {**saved["config"], "hidden": hidden}}, tmp_path / "large.pt"
        )
        assert export("--to", "c", tmp_path / "large.pt", tmp_path / "c") == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_a_graph_comes_back_as_the_checkpoint(checkpoint, tmp_path, capsys):
    out = tmp_path / "net.nir"
    assert export("--to", "nir", checkpoint, out) == 0
    text = capsys.readouterr().out
    assert "as exported" not in text
    assert "compared on the test set: exact: 30 samples" in text
    assert {path.name for path in tmp_path.iterdir()} == {
        "net.nir",
        "net.nir.certificate.json",
        "net.nir.export.json",
    }
    saved = load_checkpoint(checkpoint)
    runner = build_network(Config(**saved["config"]))
    runner.load_state_dict(saved["model"])
    back, ours = from_nir(out).state_dict(), runner.net.state_dict()
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)
    assert isinstance(nir.read(out).nodes["1"], nir.Affine)


def test_options_change_what_is_written(checkpoint, tmp_path, capsys):
    assert (
        export("--to", "nir", "--weight-bits", 3, checkpoint, tmp_path / "a.nir", "--no-verify")
        == 0
    )
    assert "weights quantized to 3 bits" in (text := capsys.readouterr().out)
    assert "compared" not in text
    assert not (tmp_path / "a.nir.certificate.json").exists()
    assert (
        export("--to", "c", "--grid-bits", "none", "--name", "tiny", checkpoint, tmp_path / "c")
        == 0
    )
    assert "snapped" not in capsys.readouterr().out
    assert (tmp_path / "c" / "tiny.h").is_file()
    assert (
        export("--to", "integer", "--grid-bits", 12, "--pj-add", 7, checkpoint, tmp_path / "i") == 0
    )
    assert "multiples of 2^-12" in (text := capsys.readouterr().out)
    assert "assumes 7 pJ per 32-bit addition" in text


def test_an_earlier_export_is_replaced_only_when_asked(checkpoint, tmp_path, capsys):
    out = tmp_path / "c"
    assert export("--to", "c", checkpoint, out) == 0
    (out / "snn.o").write_text("built")
    assert export("--to", "c", checkpoint, out) == 2
    assert (
        f"{out} exists; replace it with --overwrite, or name another OUT" in capsys.readouterr().err
    )
    # of another kind: what the earlier one wrote goes, and nothing else
    assert export("--to", "integer", checkpoint, out, "--overwrite") == 0
    written = {
        "network.json",
        "tensors.safetensors",
        "network.pt",
        "certificate.json",
        "export.json",
    }
    assert {path.name for path in out.iterdir()} == written | {"snn.o"}
    # neither a folder for a file, nor what is no export at all
    before = checkpoint.read_bytes()
    for kind, target in (("nir", out), ("c", tmp_path), ("nir", checkpoint)):
        assert export("--to", kind, checkpoint, target, "--overwrite") == 2
        assert "is no earlier export of this kind" in capsys.readouterr().err
    assert checkpoint.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_what_differs_is_not_written(checkpoint, tmp_path, capsys, monkeypatch):
    from snnsim.deploy import network

    right = network.IntegerNetwork.load

    def wrong(folder):
        loaded = right(folder)
        loaded.operations[-1].fire[:] += 1
        return loaded

    monkeypatch.setattr(network.IntegerNetwork, "load", wrong)
    assert export("--to", "integer", checkpoint, tmp_path / "i") == 2
    captured = capsys.readouterr()
    assert (
        "was not written, as it would not compute what the checkpoint does: not exact"
        in captured.err
    )
    assert not list(tmp_path.iterdir())


def test_operations_are_counted_on_all_samples(checkpoint, tmp_path):
    arguments = ["--no-verify", "--samples", "130", "--to", "nir", str(checkpoint)]
    assert main(["export", *arguments, str(tmp_path / "a.nir")]) == 0
    counted = json.loads((tmp_path / "a.nir.export.json").read_text())["operations"]
    saved = load_checkpoint(checkpoint)
    runner = build_network(Config(**saved["config"]))
    runner.load_state_dict(saved["model"])
    images = data.digits(train=False).take(torch.arange(130))[0]
    expected = count_operations(runner.net, images.expand(3, *images.shape))
    assert counted["additions"] == pytest.approx(expected.additions)
    assert counted["multiplications"] == pytest.approx(expected.multiplications)


def test_a_disk_that_is_full(checkpoint, tmp_path, capsys):
    resource = pytest.importorskip("resource", reason="no limits of resources")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (1024, 4096, 8192):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            status = export("--to", "integer", "--no-verify", checkpoint, tmp_path / "i")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert status == 2
        assert "cannot be written (File too large)" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weight-bits", "30"], "num_bits must be 1 to 24"),
        (["--grid-bits", "2"], "would vanish on this grid; use grid_bits="),
        (["--grid-bits", "24"], "float32 is exact for at most"),
        (["--name", "Main"], "must be a C identifier of lower-case letters"),
        (["--pj-read", "-1"], "Energy(read=-1.0): read must be >= 0"),
    ],
)
def test_mistakes_end_with_a_message_and_nothing_written(
    checkpoint, tmp_path, capsys, arguments, message
):
    assert export("--to", "c", *arguments, checkpoint, tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_wrong_checkpoints_and_places(checkpoint, tmp_path, capsys):
    assert export("--to", "c", tmp_path / "none.pt", tmp_path / "out") == 2
    assert "no checkpoint at" in capsys.readouterr().err
    (tmp_path / "text.pt").write_text("no zip")
    assert export("--to", "c", tmp_path / "text.pt", tmp_path / "out") == 2
    assert "damaged or not a checkpoint" in capsys.readouterr().err
    saved = torch.load(checkpoint, weights_only=True)
    torch.save({**saved, "config": {**saved["config"], "charm": 1}}, tmp_path / "new.pt")
    assert export("--to", "c", tmp_path / "new.pt", tmp_path / "out") == 2
    assert "has options that this version does not know, charm" in capsys.readouterr().err
    assert export("--to", "c", checkpoint, checkpoint / "out") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_states_in_floating_point_go_to_other_tools_only(tmp_path, capsys):
    run = tmp_path / "run"
    train = [
        "train",
        "--hidden",
        "8",
        "--time-steps",
        "3",
        "--epochs",
        "1",
        "--quiet",
        "--bits",
        "float",
        "--out",
        str(run),
    ]
    assert main(train) == 0
    assert export("--to", "c", run / "checkpoint.pt", tmp_path / "c") == 2
    assert (
        "'2' (LIFNode) cannot be lowered exactly: its state is not quantized"
        in capsys.readouterr().err
    )
    assert export("--to", "nir", run / "checkpoint.pt", tmp_path / "a.nir") == 0


def test_a_bad_number_of_grid_bits_is_refused_by_the_parser(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--to", "c", "--grid-bits", "few", "a", "b"])
    assert (
        "'few' is neither a whole number in 0..64 nor 'auto' or 'none'" in capsys.readouterr().err
    )
