"""The command line: `snnsim train`, `snnsim sweep`, `snnsim demo`, `snnsim doctor`, `snnsim
export`, `snnsim bench`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from snnsim._version import __version__
from snnsim.apps.cli.process import (
    INTERRUPTED,
    MISTAKE,
    NO_READER,
    is_out_of_memory,
    leave_quietly,
    own_process,
    say,
)
from snnsim.errors import SnnsimError

# modules of snnsim.apps.cli, each with `add_options` and `run`
COMMANDS = {
    "train": "train a network on digits, MNIST or event recordings",
    "sweep": "train a grid of bit widths and find the smallest network that is good enough",
    "demo": "train on digits with float, 8, 4, 3 and 2 bit states and compare",
    "doctor": "show versions, devices and engines",
    "export": "write a trained network as C, integers or a NIR graph",
    "bench": "time the engines against the memory floor and other simulators",
}


class CommandParser(argparse.ArgumentParser):
    """The parser of one command, whose module is loaded when its options are needed.

    Args:
        module: its name in `snnsim.apps.cli`.
    """

    def __init__(self, *, module: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.module: str | None = module

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, with options that are added the first time."""
        if self.module is not None:
            module = importlib.import_module(f"snnsim.apps.cli.{self.module}")
            self.module = None
            module.add_options(self)
            self.set_defaults(run=module.run)
        return super().parse_known_args(args, namespace)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="snnsim",
        description=(
            "Train and run spiking neural networks whose neuron states are quantized to a few bits."
        ),
    )
    parser.add_argument("--version", action="version", version=f"snnsim {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=CommandParser
    )
    for name, help in COMMANDS.items():
        commands.add_parser(name, help=help, module=name)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: as typed; None, those of this process, which then is the command's own.

    Returns:
        The exit status: 2 for a mistake in what was asked and for what the machine refuses, such as
            a full disk, 130 where it was
        interrupted, 141 where nobody reads its output any more; 0 or 1 is for the command to say.
    """
    own = arguments is None
    if own:
        own_process()
    name = "snnsim"
    try:
        try:
            options = build_parser().parse_args(arguments)
            name = f"snnsim {options.command}"
            return options.run(options)
        finally:
            # what waits in the buffer may be refused as well
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        status = NO_READER
    except (SnnsimError, OSError) as problem:
        say(f"{name}: {problem}")
        status = MISTAKE
    except (MemoryError, RuntimeError, TypeError) as problem:
        if not is_out_of_memory(problem):
            raise
        say(
            f"{name}: there is not enough memory ({str(problem)[:200]}); ask for smaller sizes or"
            " fewer jobs"
        )
        status = MISTAKE
    except KeyboardInterrupt:
        say(f"{name}: interrupted")
        status = INTERRUPTED
    if own:
        leave_quietly()
    return status


if __name__ == "__main__":
    sys.exit(main())
