"""The command line: `snnsim train`, `snnsim sweep`, `snnsim demo`, `snnsim doctor`, `snnsim export`, `snnsim bench`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from snnsim._version import __version__
from snnsim.cli import bench, demo, doctor, export, sweep, train
from snnsim.errors import SnnsimError


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="snnsim",
        description="Train and run spiking neural networks whose neuron states are quantized to a few bits.",
    )
    parser.add_argument("--version", action="version", version=f"snnsim {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (train, sweep, demo, doctor, export, bench):
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, 2 for a mistake in what was asked."""
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options)
    except SnnsimError as problem:
        print(f"snnsim {options.command}: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"snnsim {options.command}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
