"""`snnsim demo`: how much accuracy each bit of neuron state is worth, on handwritten digits that
need no download.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from snnsim._core.files import claimed
from snnsim.apps.cli.options import Defaults, folder, shows_progress, workers
from snnsim.apps.config import Config

if TYPE_CHECKING:
    from snnsim.apps.train import Training

WIDTHS: tuple[int | None, ...] = (None, 8, 4, 3, 2)
DRAWN = 4


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to its parser."""
    parser.formatter_class = Defaults
    parser.description = (
        "Train a spiking network on handwritten digits (scikit-learn's, no download) with float, 8,"
        " 4, 3 and 2 bit neuron states, and print accuracy, firing rate and bytes of state for"
        " each."
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few epochs only: shows that everything runs, not how well",
    )
    parser.add_argument(
        "--out",
        type=folder,
        default=Path("runs/demo"),
        metavar="DIR",
        help="where checkpoint and pictures go",
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and image order")
    parser.add_argument(
        "--threads", type=workers, default=1, help="of torch; more do not help a network this small"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> int:
    """Train at every width; returns the exit status."""
    with claimed(options.out, "--out"):
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    import torch

    from snnsim.apps.cli.pictures import draw_curves, draw_membranes
    from snnsim.apps.train import Training, describe_bits, load_datasets
    from snnsim.metrics import footprint

    started = time.perf_counter()
    torch.set_num_threads(options.threads)
    trained: dict[int | None, Training] = {}
    rows = []
    for bits in WIDTHS:
        config = Config(
            dataset="digits",
            bits=bits,
            hidden=64,
            time_steps=8,
            epochs=2 if options.quick else 25,
            batch_size=32,
            learning_rate=5e-3,
            seed=options.seed,
        )
        training = Training(config, *load_datasets(config, None), progress=shows_progress(options))
        checkpoint = options.out / f"digits-{describe_bits(bits)}.pt"
        while training.epoch < config.epochs:
            record = training.run_epoch()
        training.save(checkpoint)
        image, _ = training.test_set.take(torch.tensor([0]))
        size = footprint(training.runner, image).state_bytes
        rows.append(
            (
                describe_bits(bits),
                f"{record['accuracy']:.1%}",
                f"{record['firing_rate']:.3f}",
                f"{size}",
            )
        )
        trained[bits] = training
    count = len(trained[None].test_set)
    print(f"\nHandwritten digits, 64-64-10 spiking network, 8 time steps, {count} test images\n")
    print(
        table(
            ("state", "test accuracy", "spikes per neuron and step", "bytes of neuron state"), rows
        )
    )
    curves = draw_curves(
        {describe_bits(bits): run.history for bits, run in trained.items()},
        options.out / "learning_curves.png",
    )
    membranes = draw_membranes(trained[DRAWN], options.out / "membranes.png")
    kept = options.out / f"digits-{describe_bits(DRAWN)}.pt"
    print(
        f"\ncheckpoint  {kept}  (and the other widths beside it)\npictures    {curves}\n           "
        f" {membranes}"
    )
    print(f"{time.perf_counter() - started:.0f} s")
    return 0


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )

    return "\n".join(
        [line(head), "  ".join("-" * width for width in widths), *(line(row) for row in rows)]
    )
