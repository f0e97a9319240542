"""`snnsim train --tensorboard`, read back with tensorboard's own reader."""

import sys

import pytest

from snnsim.__main__ import main

FAST = ["train", "--hidden", "8", "--time-steps", "3", "--epochs", "2", "--quiet"]


def logged(folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return reader


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def test_every_epoch_is_logged_beside_the_checkpoint(run, capsys):
    pytest.importorskip("tensorboard")
    assert main([*FAST, "--out", str(run), "--tensorboard"]) == 0
    assert f"tensorboard --logdir {run / 'tensorboard'}" in capsys.readouterr().out
    reader = logged(run / "tensorboard")
    assert set(reader.Tags()["scalars"]) == {
        *("training/loss", "training/accuracy", "training/firing_rate"),
        *("firing_rate/2", "firing_rate/4", "levels_used/2", "levels_used/4"),
    }
    assert set(reader.Tags()["histograms"]) == {"membrane/2", "membrane/4"}
    assert [event.step for event in reader.Scalars("training/loss")] == [1, 2]


def test_into_a_folder_of_ones_own(run, tmp_path):
    pytest.importorskip("tensorboard")
    assert main([*FAST, "--out", str(run), "--tensorboard", str(tmp_path / "logs")]) == 0
    assert [event.step for event in logged(tmp_path / "logs").Scalars("training/accuracy")] == [
        1,
        2,
    ]
    assert not (run / "tensorboard").exists()


def test_without_the_option_nothing_is_logged(run):
    assert main([*FAST, "--out", str(run)]) == 0
    assert not (run / "tensorboard").exists()


def test_logging_changes_no_weight(tmp_path):
    import torch

    pytest.importorskip("tensorboard")
    assert main([*FAST, "--out", str(tmp_path / "a"), "--tensorboard"]) == 0
    assert main([*FAST, "--out", str(tmp_path / "b")]) == 0
    first, second = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"] for name in "ab"
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_missing_package_is_named_with_its_pip_line(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert main([*FAST, "--out", str(run), "--tensorboard"]) == 2
    assert (
        capsys.readouterr().err
        == "snnsim train: tensorboard is not installed; pip install 'snnsim[tensorboard]'\n"
    )
