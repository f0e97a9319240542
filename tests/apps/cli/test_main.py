"""The command line, as a user types it."""

import json
import re
import shutil

import pytest
import torch

from snnsim.__main__ import main
from snnsim.apps.cli.options import build_parser
from snnsim.apps.cli.train import table

pytestmark = pytest.mark.usefixtures("without_data")

FAST = ["train", "--hidden", "8", "--time-steps", "3", "--epochs", "2", "--quiet"]


def test_train_writes_checkpoint_pictures_and_summary(tmp_path, capsys):
    assert main([*FAST, "--bits", "3", "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert (
        len(
            re.findall(
                r"epoch \d/2  loss \d+\.\d+  test accuracy \d+\.\d+%  firing rate 0\.\d+", out
            )
        )
        == 2
    )
    assert "3-bit states" in out
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"checkpoint.pt", "learning_curve.png", "membranes.png", "summary.json"}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["state_bytes"] == -(-18 * 3 // 8)
    assert len(summary["history"]) == 2
    for name in names:
        assert name in out


def test_resume_ends_where_an_uninterrupted_run_does(tmp_path, capsys, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*FAST, "--out", str(whole)]) == 0
    from snnsim.apps.train import Training

    original = Training.run_epoch

    def interrupted(self):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "run_epoch", interrupted)
        assert main([*FAST, "--out", str(broken)]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert main([*FAST, "--out", str(broken), "--resume"]) == 0
    a, b = (torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (whole, broken))
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    assert a["history"] == b["history"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The folder of a run that came to its end, with options of its own."""
    out = tmp_path_factory.mktemp("begun") / "out"
    assert (
        main([*FAST, "--bits", "3", "--weight-bits", "4", "--tau", "2.5", "--out", str(out)]) == 0
    )
    return out


def test_resume_alone_takes_every_option_from_the_checkpoint(begun, capsys):
    before = (begun / "checkpoint.pt").read_bytes()
    assert main(["train", "--resume", "--quiet", "--out", str(begun)]) == 0
    assert "3-bit states: test accuracy" in capsys.readouterr().out
    assert (begun / "checkpoint.pt").read_bytes() == before


def test_resume_goes_on_to_more_epochs(begun, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(begun, out)
    assert main(["train", "--resume", "--epochs", "3", "--quiet", "--out", str(out)]) == 0
    assert "epoch 3/3" in capsys.readouterr().out
    assert torch.load(out / "checkpoint.pt", weights_only=True)["config"]["epochs"] == 3
    assert main(["train", "--resume", "--epochs", "2", "--quiet", "--out", str(out)]) == 2
    assert "--epochs 2: " in capsys.readouterr().err


def test_resume_refuses_other_options_by_name(begun, capsys):
    arguments = ["--bits", "float", "--weight-bits", "4", "--time-steps", "7", "--hard-reset"]
    assert main(["train", "--resume", *arguments, "--quiet", "--out", str(begun)]) == 2
    assert (
        "is of a run without --bits float (there 3), --time-steps 7 (there 3), --hard-reset True"
        " (there False); leave out, or" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "mnist"], "--data DIR"),
        (["--dataset", "mnist", "--data", "/no/such/folder"], "/no/such/folder"),
        (["--resume"], "no checkpoint at"),
        (["--tau", "0.5"], "tau is in time steps and must be > 1"),
    ],
)
def test_mistakes_end_with_a_message_and_status_2(tmp_path, capsys, arguments, message):
    assert main([*FAST, "--out", str(tmp_path), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_missing_mnist_files_are_named(tmp_path, capsys):
    assert (
        main([*FAST, "--dataset", "mnist", "--data", str(tmp_path), "--out", str(tmp_path / "run")])
        == 2
    )
    error = capsys.readouterr().err
    for name in ("train-images", "train-labels", "t10k-images", "t10k-labels"):
        assert name in error or name.startswith("t10k")


def test_an_unwritable_output_shows_before_training(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main([*FAST, "--out", str(tmp_path / "file" / "run")]) == 2
    captured = capsys.readouterr()
    assert "cannot be written" in captured.err
    assert "epoch" not in captured.out


def test_a_checkpoint_is_not_overwritten_unless_asked(tmp_path, capsys):
    assert main([*FAST, "--out", str(tmp_path)]) == 0
    before = (tmp_path / "checkpoint.pt").read_bytes()
    assert main([*FAST, "--out", str(tmp_path)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert main([*FAST, "--out", str(tmp_path), "--overwrite", "--epochs", "1"]) == 0


@pytest.mark.parametrize("bits", ["0", "17", "two", "2.5", "-1"])
def test_bits_are_checked_by_the_parser(bits, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--bits", bits])
    assert stop.value.code == 2
    assert "1..16" in capsys.readouterr().err


def test_float_states_can_be_asked_for():
    assert build_parser().parse_args(["train", "--bits", "float"]).bits is None


@pytest.mark.parametrize(
    ("text", "bits"), [("float", None), ("ternary", 2), ("binary", 1), ("8", 8)]
)
def test_weight_bits_by_number_or_name(text, bits):
    assert build_parser().parse_args(["train", "--weight-bits", text]).weight_bits == bits


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--weight-bits", "9", "1..8"),
        ("--float-epochs", "-1", "in 0..2147483647"),
        ("--learning-rate", "0", "argument --learning-rate: '0' is not a number above 0"),
        ("--tau", "slow", "argument --tau: 'slow' is not a number"),
        ("--hidden", "2147483648", "'2147483648' is not a whole number in 1..2147483647"),
        ("--hidden", "9" * 5000, "is not a whole number in 1..2147483647"),
        ("--seed", "-1", "'-1' is not a whole number in 0..9223372036854775807"),
    ],
)
def test_numbers_are_checked_by_the_parser(option, value, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", f"{option}={value}"])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


# after one epoch no output neuron fires yet
@pytest.mark.filterwarnings("ignore:calibrate.states. layer:UserWarning")
def test_train_quantizes_weights_after_float_epochs(tmp_path, capsys):
    options = [
        "--float-epochs",
        "1",
        "--codebook",
        "learned",
        "--weight-bits",
        "ternary",
        "--network",
        "conv",
    ]
    assert main([*FAST, *options, "--out", str(tmp_path)]) == 0
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert (
        saved["config"]["weight_bits"],
        saved["config"]["network"],
        saved["config"]["float_epochs"],
    ) == (2, "conv", 1)
    assert any("weight_quantizer" in name for name in saved["model"])


def test_quick_demo_prints_the_table_and_writes_its_files(tmp_path, capsys):
    assert main(["demo", "--quick", "--quiet", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for row in ("float32", "8-bit", "4-bit", "3-bit", "2-bit"):
        assert re.search(rf"^{row} +\d+\.\d% +0\.\d+ +\d+$", out, re.MULTILINE)
    for name in ("digits-4-bit.pt", "learning_curves.png", "membranes.png"):
        assert (tmp_path / name).is_file()
        assert name in out


def test_doctor_names_versions_devices_and_engines(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert torch.__version__.split("+")[0] in out
    assert "cpu" in out
    assert "reference" in out


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("snnsim ")


@pytest.mark.parametrize("command", ["train", "demo", "doctor", "bench"])
def test_help_explains_itself(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    assert f"usage: snnsim {command}" in out


def test_table_aligns_its_columns():
    assert table(("a", "bb"), [("x", "1"), ("yyy", "22")]) == "a    bb\n---  --\nx     1\nyyy  22"


def test_train_on_event_recordings(tmp_path, capsys, monkeypatch):
    from snnsim.data import events

    class Few(events.DigitsDVS):
        def __init__(self, train):
            super().__init__(train)
            self.labels = self.labels[:32]

    monkeypatch.setattr("snnsim.apps.datasets.DigitsDVS", Few)
    out = tmp_path / "run"
    assert (
        main(
            [*FAST, "--dataset", "digits-dvs", "--data", str(tmp_path / "kept"), "--out", str(out)]
        )
        == 0
    )
    assert "4-bit states: test accuracy" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        "checkpoint.pt",
        "learning_curve.png",
        "membranes.png",
        "summary.json",
    }
    (tmp_path / "file").write_text("")
    assert (
        main(
            [
                *FAST,
                "--dataset",
                "digits-dvs",
                "--data",
                str(tmp_path / "file"),
                "--out",
                str(out),
                "--overwrite",
            ]
        )
        == 2
    )
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("hidden", ["1", "2"])
def test_a_picture_of_few_neurons(hidden, tmp_path):
    assert (
        main(
            [
                "train",
                "--hidden",
                hidden,
                "--time-steps",
                "1",
                "--epochs",
                "1",
                "--quiet",
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 0
    )
    assert (tmp_path / "run" / "membranes.png").is_file()


def test_a_tilde_is_the_users_home(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main([*FAST, "--out", "~/run"]) == 0
    assert (tmp_path / "run" / "checkpoint.pt").exists()
    assert not (tmp_path / "~").exists()
