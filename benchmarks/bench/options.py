"""What can be typed after `snnsim bench`; nothing here needs torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from snnsim.apps.cli.options import WORKERS, Place, add
from snnsim.apps.config import Choice, Kind, Switch, Whole

__all__ = ["PARTS", "add_options"]

PARTS = ("neurons", "memory", "training")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of the command."""
    parser.description = """Time snnsim's engines, a plain loop, torch.compile, snnTorch and
    SpikingJelly in turns, in one run, against the memory that has to be moved; measure what they
    keep for backward and their peak memory; time whole training steps; and say which targets are
    met. The engines must agree bit for bit first. A full run takes about 10 minutes on two cores
    that do nothing else. Peers take part where they are installed: pip install snntorch;
    pip install --no-deps spikingjelly"""
    quick = "small shapes and few rounds: shows that everything runs, not how fast"
    add(parser, "--quick", Switch(), quick)
    add(parser, "--parts", Choice(PARTS), "what to measure (default: all)", nargs="+")
    only = "candidates of the layer of neurons, or how their names begin"
    add(parser, "--only", None, only, nargs="+", metavar="NAME")
    add(parser, "--shapes", Shape(), "time steps and neurons of a layer", nargs="+")
    add(parser, "--threads", WORKERS, "numbers of torch threads (default: 1 2)", nargs="+")
    add(parser, "--rounds", Whole(), "samples of each (default: 7)")
    add(parser, "--out", Place(), "where results go", Path("runs/bench"))
    report = """measure nothing; write page and picture of these results, or of what the other
        options choose of them"""
    add(parser, "--report", Place("JSON"), report)


class Shape(Kind):
    """Time steps and neurons, "TxN"."""

    metavar = "TxN"

    def parse(self, text: str) -> tuple[int, int]:
        parts = text.split("x")
        if len(parts) == 2 and all(part.isdecimal() and int(part) >= 1 for part in parts):
            return int(parts[0]), int(parts[1])
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form TxN, such as 16x1000000: time steps and neurons, at least"
            " 1 each"
        )
