"""The number of the pass over a dataset, one for all processes that read it."""

from __future__ import annotations

import ctypes
from multiprocessing.context import get_spawning_popen
from multiprocessing.sharedctypes import RawValue
from typing import Any

__all__ = ["Epoch"]


class Epoch:
    """A number in memory that a process shares with those that it starts, by fork, spawn or
    forkserver.

    A copy and a pickle have a number of their own, of the same value.
    """

    def __init__(self, number: int = 0) -> None:
        self._shared = RawValue(ctypes.c_int64, number)

    @property
    def number(self) -> int:
        """The number as whichever process set it last."""
        return self._shared.value

    @number.setter
    def number(self, number: int) -> None:
        self._shared.value = number

    def __reduce__(self) -> tuple[Any, ...]:
        if get_spawning_popen() is None:
            return Epoch, (self.number,)
        # pickled for a process that is being started: handed on, not copied
        return _of, (self._shared,)


def _of(shared: Any) -> Epoch:
    epoch = Epoch.__new__(Epoch)
    epoch._shared = shared
    return epoch
