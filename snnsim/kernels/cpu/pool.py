"""Output buffers that come back: large fresh memory costs more to map than a kernel takes to fill
it.

A buffer is lent to one storage at a time. The storage owns the loan, and torch drops it when the
last tensor, view, saved tensor or array on that storage is gone; only then is the buffer free
again. Memory is private to the process: a forked child has its own copy, and a tensor that moves to
shared memory leaves its buffer. Unlike ordinary memory, such a tensor cannot be resized upward.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from snnsim.errors import InvalidValueError

__all__ = ["MINIMUM", "empty", "free_bytes", "limit", "set_limit"]

# bytes; smaller memory comes from the allocator's own free lists, already mapped
MINIMUM = 1 << 20
# buffers are cut to whole pages, so that sizes that hardly differ share them
PAGE = 1 << 12
ALIGNMENT = 64

_limit = 1 << 29
# appended to and popped from by any thread, also while a tensor dies in the middle of either: no
# lock to hold then
_free: deque[np.ndarray] = deque()


class _Loan(np.ndarray):
    """The part of a buffer that a storage owns; gives the buffer back when the storage dies."""

    buffer: np.ndarray | None = None

    def __del__(self) -> None:
        if self.buffer is not None:
            _give_back(self.buffer)


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """As `torch.empty` on the CPU, from a buffer that came back if one fits."""
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size < MINIMUM or size > _limit:
        return torch.empty(shape, dtype=dtype, device="cpu")
    capacity = -(-size // PAGE) * PAGE + ALIGNMENT
    buffer = _take(capacity)
    start = -buffer.ctypes.data % ALIGNMENT
    loan = buffer[start : start + size].view(_Loan)
    loan.buffer = buffer
    return torch.from_numpy(loan).view(dtype).view(shape)


def set_limit(size: int) -> None:
    """Keep at most `size` bytes of free buffers; 0 switches the pool off.

    Raises:
        InvalidValueError: a negative size.
    """
    global _limit
    if size < 0:
        raise InvalidValueError(
            f"set_limit({size}): bytes to keep, at least 0; 0 switches the pool off"
        )
    _limit = size
    _trim()


def limit() -> int:
    """Bytes of free buffers that are kept at most."""
    return _limit


def free_bytes() -> int:
    """Bytes of the buffers that are free at present."""
    return sum(buffer.nbytes for buffer in tuple(_free))


def _take(capacity: int) -> np.ndarray:
    for _ in range(len(_free)):
        try:
            buffer = _free.pop()
        except IndexError:
            break
        if buffer.nbytes == capacity:
            return buffer
        _free.appendleft(buffer)
    return np.empty(capacity, dtype=np.uint8)


def _give_back(buffer: np.ndarray) -> None:
    _free.append(buffer)
    _trim()


def _trim() -> None:
    while free_bytes() > _limit:
        try:
            # the one that has been of no use for longest
            _free.popleft()
        except IndexError:
            return
