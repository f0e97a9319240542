"""A command as a process of its own: terminals, pipes and keys that end it do so in one line and
with the right exit status.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from types import FrameType

__all__ = [
    "INTERRUPTED",
    "MISTAKE",
    "NO_READER",
    "is_out_of_memory",
    "leave_quietly",
    "own_process",
    "say",
]

MISTAKE = 2
NO_MEMORY = (
    *("allocate memory", "not enough memory", "out of memory"),
    *("Storage size calculation overflowed", "Overflow when unpacking"),
)
# what a shell reports of a process that SIGINT or SIGPIPE ended
INTERRUPTED, NO_READER = 130, 141


def own_process() -> None:
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


def leave_quietly() -> None:
    """Let nothing be written to standard output any more, which nobody reads, and the next
    interrupt end the process at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Print to standard error, where there is one."""
    # where that fails too, nobody is left to tell
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether memory was refused; torch says so by the words of its message alone."""
    return isinstance(problem, MemoryError) or any(sign in str(problem) for sign in NO_MEMORY)
