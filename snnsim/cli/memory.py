"""Networks that are larger than the memory of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from snnsim.errors import RunError

__all__ = ["enough_memory"]

# torch has no error of its own for them
SIGNS = ("allocate memory", "not enough memory", "out of memory", "Storage size calculation overflowed", "Overflow when unpacking")


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Work that may need more memory than there is.

    Raises:
        RunError: it does.
    """
    try:
        yield
    except (MemoryError, RuntimeError, TypeError) as problem:
        if not isinstance(problem, MemoryError) and not any(sign in str(problem) for sign in SIGNS):
            raise
        raise RunError(f"{what} needs more memory than there is; take a smaller one, or a machine with more") from problem
