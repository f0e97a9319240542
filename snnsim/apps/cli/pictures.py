"""The pictures that commands write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from snnsim import viz
from snnsim.apps.train import Training, describe_bits
from snnsim.neurons import BaseNode
from snnsim.temporal.record import Recorder
from snnsim.temporal.runner import MultiStep


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
            [{"test accuracy": run["test accuracy"]} for run in runs],
            list(histories),
            ax=figure.add_subplot(),
        )
    viz.save(figure, path)
    return path


@torch.no_grad()
def draw_membranes(training: Training, path: Path, time_steps: int = 24) -> Path:
    """Raster of one test item, and the membranes of those neurons of the last hidden layer that
    moved most, on their levels.
    """
    x, labels = training.test_set.take(torch.tensor([0]))
    still = training.runner.time_steps is not None
    # an image can be shown longer than in training, for more to see
    runner = MultiStep(training.runner.net, time_steps=time_steps if still else None).eval()
    with Recorder(runner) as recorder:
        runner(x)
    *_, hidden, output = recorder.traces().values()
    spikes, charged = hidden.spikes[:, 0].flatten(1), hidden.charged[:, 0].flatten(1)
    moves = (charged.diff(dim=0) != 0).sum(0) + 2 * (spikes.sum(0) > 1)
    liveliest = moves.topk(min(3, len(moves))).indices
    node = hidden.node
    threshold = float(node.v_threshold) if isinstance(node, BaseNode) else None
    figure = Figure(figsize=(8, 8), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(1, 1.3))
    viz.raster({"hidden": spikes, "output": output.spikes[:, 0]}, ax=top)
    states = f"{describe_bits(training.config.bits)} states"
    top.set_title(
        f"One test {'image' if still else 'recording'} of the digit {int(labels[0])}, {states}",
        loc="left",
    )
    names = [f"neuron {neuron}" for neuron in liveliest.tolist()]
    viz.membrane(
        charged[:, liveliest],
        node.state_quant,
        threshold,
        spikes[:, liveliest],
        labels=names,
        ax=bottom,
    )
    bottom.set_title("Hidden neurons that moved most: membrane before reset", loc="left", y=1.08)
    viz.save(figure, path)
    return path
