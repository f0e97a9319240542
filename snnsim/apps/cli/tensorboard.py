"""`--tensorboard`: what an epoch came to, and what its neurons did, for TensorBoard."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnsim.errors import RunError

if TYPE_CHECKING:
    from snnsim.apps.train import Training

# test items whose neurons are recorded
SHOWN = 100
BESIDE_CHECKPOINT = ""


def add_tensorboard(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--tensorboard",
        nargs="?",
        const=BESIDE_CHECKPOINT,
        metavar="DIR",
        help=(
            "log every epoch for TensorBoard, in DIR, or beside the checkpoint (pip install"
            " 'snnsim[tensorboard]')"
        ),
    )


@contextmanager
def writer_of(options: argparse.Namespace) -> Iterator[Any]:
    """The SummaryWriter that was asked for, closed at the end; None where none was.

    Raises:
        RunError: tensorboard is not installed.
    """
    if options.tensorboard is None:
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as problem:
        raise RunError(
            f"--tensorboard needs a package that is not here ({problem}); pip install"
            " 'snnsim[tensorboard]', or leave it out"
        ) from problem
    folder = (
        Path(options.tensorboard)
        if options.tensorboard != BESIDE_CHECKPOINT
        else options.out / "tensorboard"
    )
    with SummaryWriter(str(folder)) as writer:
        print(f"logging to {folder}; look with: tensorboard --logdir {folder}", flush=True)
        yield writer


def log_epoch(writer: Any, training: Training) -> None:
    """Log the last epoch: its record, and the neurons at the first items of the test set."""
    import torch

    from snnsim import viz
    from snnsim.temporal.record import Recorder

    record = training.history[-1]
    for name in ("loss", "accuracy", "firing_rate"):
        writer.add_scalar(f"training/{name}", record[name], training.epoch)
    x, _ = training.test_set.take(torch.arange(min(SHOWN, len(training.test_set))))
    training.runner.eval()
    with torch.no_grad(), Recorder(training.runner.net) as recorder:
        training.runner(x)
    viz.log(writer, recorder, step=training.epoch)
