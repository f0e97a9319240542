"""`snnsim train`: one network, resumable."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from snnsim._core.files import claimed, write_whole
from snnsim.apps.cli.options import (
    Defaults,
    add_config,
    folder,
    given,
    option_of,
    shows_progress,
    workers,
)
from snnsim.apps.cli.tensorboard import add_tensorboard, log_epoch, writer_of
from snnsim.apps.config import Config
from snnsim.errors import CheckpointError, InvalidValueError, OutputError

if TYPE_CHECKING:
    from snnsim.apps.train import Training

DESCRIPTION = """Train a spiking classifier with quantized neuron states and write a checkpoint,
the learning curve and a raster. The checkpoint is written after every epoch; --resume continues
an interrupted run to the same weights."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to its parser."""
    parser.description, parser.formatter_class = DESCRIPTION, Defaults
    add_config(parser)
    parser.add_argument(
        "--data",
        type=folder,
        metavar="DIR",
        help=(
            "folder with the four MNIST idx files, gzipped or not, or one above it; SNNSIM_DATA"
            " where it is not given; for digits-dvs, where its recordings are kept"
        ),
    )
    parser.add_argument(
        "--out",
        type=folder,
        default=Path("runs/train"),
        metavar="DIR",
        help="where checkpoint and pictures go",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the checkpoint in --out, with its options; --epochs may be more",
    )
    parser.add_argument("--overwrite", action="store_true", help="discard the checkpoint in --out")
    parser.add_argument(
        "--threads", type=workers, help="of torch; as many as torch takes unless given"
    )
    add_tensorboard(parser)
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="no progress bar; there is none either where errors go to a file",
    )


def run(options: argparse.Namespace) -> int:
    """Train as asked; returns the exit status."""
    # before torch is loaded, and long before there is something to write
    with claimed(options.out, "--out"):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    import torch

    from snnsim.apps.train import Training, load_datasets

    checkpoint = options.out / "checkpoint.pt"
    config = resumed(checkpoint, options) if options.resume else Config(**given(options))
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if checkpoint.exists() and not (options.resume or options.overwrite):
        raise OutputError(
            f"{checkpoint} exists; continue it with --resume, discard it with --overwrite, or give"
            " another --out"
        )
    training = Training(
        config, *load_datasets(config, options.data), progress=shows_progress(options)
    )
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
    from snnsim.apps.checkpoints import load_checkpoint

    theirs = Config.read(load_checkpoint(checkpoint)["config"], str(checkpoint))
    asked = given(options)
    if asked.get("epochs", theirs.epochs) < theirs.epochs:
        raise InvalidValueError(
            f"--epochs {asked['epochs']}: {checkpoint} was begun with {theirs.epochs}, which its"
            " learning rate goes by; give as many or more"
        )
    wrong = [
        f"{option_of(name)} {_typed(value)} (there {_typed(getattr(theirs, name))})"
        for name, value in asked.items()
        if name != "epochs" and value != getattr(theirs, name)
    ]
    if wrong:
        raise CheckpointError(
            f"--resume: {checkpoint} is of a run without {', '.join(wrong)}; leave out, or give"
            " another --out"
        )
    return replace(theirs, **asked)


def _typed(value: object) -> str:
    return "float" if value is None else str(value)


def report(training: Training, out: Path) -> None:
    """Print what the run came to, and write its pictures and a JSON summary."""
    import torch

    from snnsim.apps.cli.pictures import draw_curves, draw_membranes
    from snnsim.apps.train import describe_bits
    from snnsim.metrics import footprint

    images, _ = training.test_set.take(torch.tensor([0]))
    size = footprint(training.runner, images)
    last = training.history[-1]
    print(
        f"{describe_bits(training.config.bits)} states: test accuracy {last['accuracy']:.2%},"
        f" firing rate {last['firing_rate']:.3f} spikes per neuron and step, {size.state_bytes}"
        " bytes of neuron state"
    )
    curves = draw_curves(
        {describe_bits(training.config.bits): training.history}, out / "learning_curve.png"
    )
    membranes = draw_membranes(training, out / "membranes.png")
    summary = out / "summary.json"
    text = (
        json.dumps({"history": training.history, "state_bytes": size.state_bytes}, indent=2) + "\n"
    )
    write_whole(summary, lambda file: file.write(text.encode()), "--out")
    print(
        "wrote",
        ", ".join(str(path) for path in (out / "checkpoint.pt", curves, membranes, summary)),
    )
