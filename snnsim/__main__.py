"""The command line: `snnsim train`, `snnsim sweep`, `snnsim demo`, `snnsim doctor`, `snnsim
export`, `snnsim bench`. Terminals, pipes and keys that end a command do so in one line and with the
right exit status.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from snnsim._core.files import claimed
from snnsim.apps.cli.options import build_parser
from snnsim.errors import SnnsimError

MISTAKE = 2
NO_MEMORY = (
    *("allocate memory", "not enough memory", "out of memory"),
    *("Storage size calculation overflowed", "Overflow when unpacking"),
)
# what a shell reports of a process that SIGINT or SIGPIPE ended
INTERRUPTED, NO_READER = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: as typed; None, those of this process, which then is the command's own.

    Returns:
        The exit status: 2 for a mistake in what was asked and for what the machine refuses, such as
            a full disk, 130 where it was interrupted, 141 where nobody reads its output any more; 0
            or 1 is for the command to say.
    """
    own = arguments is None
    if own:
        _own_process()
    name = "snnsim"
    try:
        try:
            options = build_parser().parse_args(arguments)
            name = f"snnsim {options.command}"
            with contextlib.ExitStack() as stack:
                # before torch is loaded, and long before there is something to write
                if options.claims:
                    stack.enter_context(claimed(options.out, "--out"))
                module, function = options.run.split(":")
                return getattr(importlib.import_module(module), function)(options)
        finally:
            # what waits in the buffer may be refused as well
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        status = NO_READER
    except (SnnsimError, OSError) as problem:
        _say(f"{name}: {problem}")
        status = MISTAKE
    except (MemoryError, RuntimeError, TypeError) as problem:
        if not is_out_of_memory(problem):
            raise
        _say(
            f"{name}: there is not enough memory ({str(problem)[:200]}); ask for smaller sizes or"
            " fewer jobs"
        )
        status = MISTAKE
    except KeyboardInterrupt:
        _say(f"{name}: interrupted")
        status = INTERRUPTED
    if own:
        _leave_quietly()
    return status


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether memory was refused; torch says so by the words of its message alone."""
    return isinstance(problem, MemoryError) or any(sign in str(problem) for sign in NO_MEMORY)


def _own_process() -> None:
    """Make this process that of a command: any name can be printed, interrupts are heard, pictures
    need no screen.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGINT, _interrupt)
    # pictures are only written; a back-end that is not here would end matplotlib before that
    os.environ["MPLBACKEND"] = "agg"


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Interrupt as Python does, but end at once while a module is imported: half of one turns the
    interrupt into other errors.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"snnsim: interrupted\n")
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


def _leave_quietly() -> None:
    """Let nothing be written to standard output any more, which nobody reads, and the next
    interrupt end the process at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(text: str) -> None:
    """Print to standard error, where there is one."""
    # where that fails too, nobody is left to tell
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
