"""The pictures that commands write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from snnsim import viz
from snnsim.record import Recorder
from snnsim.training import Training, describe_bits


def draw_curves(histories: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> Path:
    """Loss and test accuracy against epochs, one run per label."""
    runs = [
        {
            "training loss": [record["loss"] for record in history],
            "test accuracy": [record["accuracy"] for record in history],
        }
        for history in histories.values()
    ]
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    if len(runs) == 1:
        viz.learning_curve(runs[0], ax=figure.add_subplot())
    else:
        viz.learning_curve(
            [{"test accuracy": run["test accuracy"]} for run in runs], list(histories), ax=figure.add_subplot()
        )
    viz.save(figure, path)
    return path


@torch.no_grad()
def draw_membranes(training: Training, path: Path, neurons: int = 3) -> Path:
    """Raster of one test image, and the membranes of the hidden neurons that fired most on their levels."""
    images, labels = training.test_set.take(torch.tensor([0]))
    training.runner.eval()
    with Recorder(training.runner) as recorder:
        training.runner(images)
    hidden, output = recorder.traces().values()
    spikes = hidden.spikes[:, 0]
    busiest = spikes.sum(0).topk(neurons).indices
    node = training.runner.get_submodule(hidden.name)
    figure = Figure(figsize=(8, 8), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(1, 1.3))
    viz.raster({"hidden": spikes, "output": output.spikes[:, 0]}, ax=top)
    top.set_title(
        f"One test image of the digit {int(labels[0])}, {describe_bits(training.config.bits)} states", loc="left"
    )
    viz.membrane(
        hidden.charged[:, 0, busiest], node.state_quant, float(node.v_threshold), spikes[:, busiest], ax=bottom
    )
    bottom.set_title("Hidden neurons that fired most: membrane before reset", loc="left", y=1.08)
    viz.save(figure, path)
    return path
