"""Every example runs in its quick form, without a warning."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import snnsim

ROOT = Path(snnsim.__file__).parents[1]
EXAMPLES = ROOT / "examples"

# what each prints, besides numbers
PRINTED = {
    "custom_neuron.py": [r"keep their contracts", r"test accuracy \d+\.\d%; tau started at 4"],
    "distributed.py": [r"batch 4: loss \d", r"test accuracy \d+\.\d% with 1 process\n"],
    "dvs_conv.py": [
        r"200 recordings of 20 x 20 pixels",
        r"fold 2/2",
        r"4 bits - float, fold by fold: -?\d+\.\d ± \d",
    ],
    "mnist_conv.py": [r"test accuracy with 4-bit states: \d+\.\d%"],
    "mnist_mlp.py": [
        r"float32: test accuracy \d+\.\d%",
        r"4 bits: test accuracy \d+\.\d%.* 133 bytes of neuron state",
    ],
    "recurrent.py": [r"without feedback: test accuracy \d", r"with    feedback: test accuracy \d"],
    "resnet.py": [r"test accuracy with 4-bit states: \d+\.\d%"],
    "threshold_margin.py": [
        r"per class: 1, without margin",
        r"per class: 1, with    margin",
        r"per class: 5, without margin",
    ],
    "time_to_first_spike.py": [
        r"answer after \d\.\d of 8 steps",
        r"every first spike comes 3 steps later: True",
    ],
}


def run(*arguments: str | Path, flags: tuple[str, ...] = ("-W", "error")) -> str:
    """What a Python command prints; it must succeed and complain about nothing."""
    # the package beside these tests, and one thread: tests run side by side
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *flags, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    if "error" in flags:
        assert done.stderr == ""
    return done.stdout


def quick(name: str, *arguments: str | Path) -> str:
    printed = run(EXAMPLES / name, "--quick", *arguments)
    for pattern in PRINTED[name]:
        assert re.search(pattern, printed), printed
    return printed


def losses(printed: str) -> list[float]:
    return [float(value) for value in re.findall(r"batch \d: loss (\S+)", printed)]


def test_every_example_is_tested():
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(PRINTED)


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_example_says_how_to_run_it(name):
    head = ast.get_docstring(ast.parse((EXAMPLES / name).read_text()))
    assert f"python examples/{name}" in head


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "custom_neuron.py",
        "mnist_mlp.py",
        "recurrent.py",
        "threshold_margin.py",
        "time_to_first_spike.py",
    ],
)
def test_example_runs(name):
    quick(name)


@pytest.mark.slow
def test_conv_example_draws_levels_rates_and_weights(tmp_path):
    quick("mnist_conv.py", "--out", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "levels.png",
        "rates.png",
        "weights.png",
    ]


@pytest.mark.slow
def test_event_example_makes_a_movie(tmp_path):
    quick("dvs_conv.py", "--out", tmp_path)
    assert (tmp_path / "recording.gif").read_bytes().startswith(b"GIF89a")


@pytest.mark.slow
def test_event_example_reads_nmnist(tmp_path, real_data):
    (archive,) = (real_data / "NMNIST").glob("*.zip")
    printed = run(EXAMPLES / "dvs_conv.py", "--quick", "--data", archive, "--out", tmp_path)
    assert "200 recordings of 34 x 34 pixels" in printed


@pytest.mark.slow
def test_image_examples_read_mnist(tmp_path, real_data):
    for name, options in (
        ("mnist_mlp.py", ()),
        ("mnist_conv.py", ("--out", tmp_path)),
        ("resnet.py", ()),
    ):
        assert "test accuracy" in run(
            EXAMPLES / name, "--quick", "--data", real_data / "MNIST", *options
        )


@pytest.mark.slow
def test_residual_example_trains_alike_with_checkpointing():
    # not so the accuracy, which comes from the running statistics of batch norm: they see
    # recomputed batches twice
    plain, checkpointed = (
        quick("resnet.py", *options).splitlines()[0] for options in ((), ("--checkpoint",))
    )
    assert plain.startswith("epoch 1/1: loss of the last batch")
    assert plain == checkpointed


@pytest.mark.slow
def test_residual_example_runs_in_mixed_precision_and_compiled():
    # torch itself warns while it compiles
    assert "test accuracy" in run(EXAMPLES / "resnet.py", "--quick", "--amp", "--compile", flags=())


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one():
    alone = losses(quick("distributed.py"))
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    printed = run(*two, EXAMPLES / "distributed.py", "--quick", flags=())
    assert "with 2 processes" in printed
    together = losses(printed)
    assert len(alone) == len(together) == 5
    assert len(set(alone)) == 5
    # a matrix product depends on the batch size in its last bits, and a spike may hang on them
    assert together == pytest.approx(alone, rel=1e-3)
