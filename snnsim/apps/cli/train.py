"""`snnsim train`: one network, resumable; and `snnsim demo`: how much accuracy each bit of neuron
state is worth.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from snnsim import viz
from snnsim._core.files import write_whole
from snnsim._core.optional import optional
from snnsim.apps.checkpoints import load_checkpoint
from snnsim.apps.cli.options import given, option_of, shows_progress, typed
from snnsim.apps.config import Config, describe_bits
from snnsim.apps.datasets import load_datasets
from snnsim.apps.train import Training
from snnsim.errors import CheckpointError, InvalidValueError, OutputError
from snnsim.metrics import footprint
from snnsim.neurons import BaseNode
from snnsim.temporal.record import Recorder
from snnsim.temporal.runner import MultiStep

# test items whose neurons are logged
LOGGED = 100
# widths of the demo, and the one of which a picture is made
WIDTHS, DRAWN = (None, 8, 4, 3, 2), 4


def train(options: argparse.Namespace) -> int:
    """Train as asked; returns the exit status."""
    checkpoint = options.out / "checkpoint.pt"
    config = resumed(checkpoint, options) if options.resume else Config(**given(options))
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if checkpoint.exists() and not (options.resume or options.overwrite):
        raise OutputError(
            f"{checkpoint} exists; continue it with --resume, discard it with --overwrite, or give"
            " another --out"
        )
    sets = load_datasets(config, options.data)
    training = Training(config, *sets, progress=shows_progress(options))
    if options.resume:
        training.resume(checkpoint)
    else:
        training.save(checkpoint)
    with writer_of(options) as writer:
        while training.epoch < config.epochs:
            record = training.run_epoch()
            training.save(checkpoint)
            print(
                f"epoch {training.epoch}/{config.epochs}  loss {record['loss']:.4f}  test accuracy"
                f" {record['accuracy']:.2%}  firing rate {record['firing_rate']:.3f}",
                flush=True,
            )
            if writer is not None:
                log_epoch(writer, training)
    report(training, options.out)
    return 0


def resumed(checkpoint: Path, options: argparse.Namespace) -> Config:
    """The configuration of a checkpoint, with more epochs where they were asked for.

    Raises:
        CheckpointError: options that it was not made with.
    """
    theirs = Config(**load_checkpoint(checkpoint)["config"])
    asked = given(options)
    if asked.get("epochs", theirs.epochs) < theirs.epochs:
        raise InvalidValueError(
            f"--epochs {asked['epochs']}: {checkpoint} was begun with {theirs.epochs}, which its"
            " learning rate goes by; give as many or more"
        )
    wrong = [
        f"{option_of(name)} {typed(value)} (there {typed(getattr(theirs, name))})"
        for name, value in asked.items()
        if name != "epochs" and value != getattr(theirs, name)
    ]
    if wrong:
        raise CheckpointError(
            f"--resume: {checkpoint} is of a run without {', '.join(wrong)}; leave out, or give"
            " another --out"
        )
    return replace(theirs, **asked)


def report(training: Training, out: Path) -> None:
    """Print what the run came to, and write its pictures and a JSON summary."""
    size, last, states = (
        state_bytes(training),
        training.history[-1],
        describe_bits(training.config.bits),
    )
    print(
        f"{states} states: test accuracy {last['accuracy']:.2%}, firing rate"
        f" {last['firing_rate']:.3f} spikes per neuron and step, {size} bytes of neuron state"
    )
    curves = draw_curves({states: training.history}, out / "learning_curve.png")
    membranes = draw_membranes(training, out / "membranes.png")
    summary = out / "summary.json"
    text = json.dumps({"history": training.history, "state_bytes": size}, indent=2) + "\n"
    write_whole(summary, lambda file: file.write(text.encode()), "--out")
    wrote = (out / "checkpoint.pt", curves, membranes, summary)
    print("wrote", ", ".join(map(str, wrote)))


def state_bytes(training: Training) -> int:
    """Bytes of neuron state for one item."""
    return footprint(training.runner, training.test_set.take(torch.tensor([0]))[0]).state_bytes


def demo(options: argparse.Namespace) -> int:
    """Train at every width; returns the exit status."""
    started = time.perf_counter()
    torch.set_num_threads(options.threads)
    base = Config(
        dataset="digits",
        hidden=64,
        time_steps=8,
        epochs=2 if options.quick else 25,
        batch_size=32,
        learning_rate=5e-3,
        seed=options.seed,
    )
    sets = load_datasets(base, None)
    trained: dict[str, Training] = {}
    rows = []
    for bits in WIDTHS:
        name, config = describe_bits(bits), replace(base, bits=bits)
        training = Training(config, *sets, progress=shows_progress(options))
        while training.epoch < config.epochs:
            record = training.run_epoch()
        training.save(options.out / f"digits-{name}.pt")
        trained[name] = training
        accuracy, rate = f"{record['accuracy']:.1%}", f"{record['firing_rate']:.3f}"
        rows.append((name, accuracy, rate, str(state_bytes(training))))
    images = f"{len(sets[1])} test images"
    print(f"\nHandwritten digits, 64-64-10 spiking network, 8 time steps, {images}\n")
    head = ("state", "test accuracy", "spikes per neuron and step", "bytes of neuron state")
    print(table(head, rows))
    histories = {name: training.history for name, training in trained.items()}
    curves = draw_curves(histories, options.out / "learning_curves.png")
    drawn = describe_bits(DRAWN)
    membranes = draw_membranes(trained[drawn], options.out / "membranes.png")
    kept = options.out / f"digits-{drawn}.pt"
    print(f"\ncheckpoint  {kept}  (and the other widths beside it)")
    print(f"pictures    {curves}\n            {membranes}")
    print(f"{time.perf_counter() - started:.0f} s")
    return 0


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        [
            row[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
        ]
        for row in (head, ["-" * width for width in widths], *rows)
    ]
    return "\n".join("  ".join(line) for line in lines)


def draw_curves(histories: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> Path:
    """Test accuracy against epochs, one run per label; of a single run its loss too."""
    curves = {"training loss": "loss"} if len(histories) == 1 else {}
    curves["test accuracy"] = "accuracy"
    runs = [
        {title: [record[name] for record in history] for title, name in curves.items()}
        for history in histories.values()
    ]
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    if len(runs) == 1:
        viz.learning_curve(runs[0], ax=figure.add_subplot())
    else:
        viz.learning_curve(runs, list(histories), ax=figure.add_subplot())
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
    item = f"{'image' if still else 'recording'} of the digit {int(labels[0])}"
    top.set_title(f"One test {item}, {describe_bits(training.config.bits)} states", loc="left")
    viz.membrane(
        charged[:, liveliest],
        node.state_quant,
        threshold,
        spikes[:, liveliest],
        labels=[f"neuron {neuron}" for neuron in liveliest.tolist()],
        ax=bottom,
    )
    bottom.set_title("Hidden neurons that moved most: membrane before reset", loc="left", y=1.08)
    viz.save(figure, path)
    return path


@contextmanager
def writer_of(options: argparse.Namespace) -> Iterator[Any]:
    """The SummaryWriter that --tensorboard asks for, closed at the end; None without it."""
    if options.tensorboard is None:
        yield None
        return
    optional("tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    folder = Path(options.tensorboard or options.out / "tensorboard")
    with SummaryWriter(str(folder)) as writer:
        print(f"logging to {folder}; look with: tensorboard --logdir {folder}", flush=True)
        yield writer


def log_epoch(writer: Any, training: Training) -> None:
    """Log the last epoch: its record, and the neurons at the first items of the test set."""
    record = training.history[-1]
    for name in ("loss", "accuracy", "firing_rate"):
        writer.add_scalar(f"training/{name}", record[name], training.epoch)
    x, _ = training.test_set.take(torch.arange(min(LOGGED, len(training.test_set))))
    training.runner.eval()
    with torch.no_grad(), Recorder(training.runner.net) as recorder:
        training.runner(x)
    viz.log(writer, recorder, step=training.epoch)
