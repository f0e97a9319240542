"""What kernels run on: the threads that torch already has, and output buffers that come back.

A second pool of threads beside torch's would fight it for the cores, and numba's own either kills a
forked child or aborts when two Python threads call at once. So a kernel joins torch's OpenMP pool
through the entry point that compilers use, `GOMP_parallel`.

Large fresh memory costs more to map than a kernel takes to fill it. A buffer is lent to one storage
at a time. The storage owns the loan, and torch drops it when the last tensor, view, saved tensor or
array on that storage is gone; only then is the buffer free again. Memory is private to the process:
a forked child has its own copy, and a tensor that moves to shared memory leaves its buffer. Unlike
ordinary memory, such a tensor cannot be resized upward.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnsim.errors import EngineError, InvalidValueError

# below this, waking threads costs more than it saves
SERIAL_ELEMENTS = 50_000
# bytes; smaller memory comes from the allocator's own free lists, already mapped
MINIMUM = 1 << 20
# buffers are cut to whole pages, so that sizes that hardly differ share them
PAGE = 1 << 12
ALIGNMENT = 64
# flag of a Linux process that was forked and has not called exec
FORKED = 0x40

Parallel = Callable[[int, int, int, int], None]


class Kernel:
    """A compiled C function of one pointer: takes blocks of work off a shared counter until none is
    left.
    """

    def __init__(self, name: str, address: int, owner: object = None) -> None:
        self.name = name
        self.address = address
        self.owner = owner
        # called like this, ctypes releases the interpreter lock
        self.call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


class _Pool:
    """torch's OpenMP pool as seen by one process; None where it is not to be used, with the
    reason."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.parallel, self.reason = _find_parallel()


_pool: _Pool | None = None


def why_not() -> str | None:
    """Reason that no kernel can be compiled here; None if they can."""
    # looked up each time: it costs a microsecond
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed; pip install numba"
    return _import_problem()


@cache
def _import_problem() -> str | None:
    try:
        importlib.import_module("numba")
    except ImportError as problem:
        return f"numba cannot be imported: {problem}"
    return None


def run(kernel: Kernel, record: Any, blocks: int, elements: int) -> None:
    """Run a kernel on a record until its blocks are done.

    Args:
        kernel: what to run.
        record: of a kind of `records`; its header is 0.
        blocks: how many blocks there are, so how many threads can be of use.
        elements: how much work it is; little work stays on this thread.

    Raises:
        EngineError: the kernel ended before its work was done.
    """
    threads = min(thread_count(elements), blocks) if elements >= SERIAL_ELEMENTS else 1
    parallel = _current().parallel if threads > 1 else None
    if parallel is None:
        kernel.call(ctypes.addressof(record))
    else:
        parallel(kernel.address, ctypes.addressof(record), threads, 0)
    if record.unfinished:
        raise EngineError(
            f"kernel {kernel.name}: ended before its work was done, so that its results would be"
            " whatever was in memory; this is a fault of snnsim, please report it with the line"
            " that numba printed above"
        )


def thread_count(elements: int) -> int:
    """Threads that work of this size is worth: all that torch may use, or one."""
    return (
        torch.get_num_threads()
        if elements >= SERIAL_ELEMENTS and _current().parallel is not None
        else 1
    )


def why_serial() -> str | None:
    """Reason that kernels run on one thread in this process; None if they may use more."""
    return _current().reason


def _current() -> _Pool:
    global _pool
    # a forked child inherits the parent's answer and none of its threads
    if _pool is None or _pool.process != os.getpid():
        _pool = _Pool()
    return _pool


def _find_parallel() -> tuple[Parallel | None, str | None]:
    if not sys.platform.startswith("linux"):
        return None, f"no way into torch's thread pool is known on {sys.platform}"
    if not torch.backends.openmp.is_available():
        return None, "this torch was built without OpenMP"
    if _is_forked():
        return None, "this process was forked, and a forked process has none of the pool's threads"
    library = _loaded_gomp()
    if library is None:
        return None, "torch's OpenMP library (libgomp) is not loaded"
    parallel = ctypes.CDLL(library).GOMP_parallel
    parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    return parallel, None


def _is_forked() -> bool:
    # the program's name, in brackets, may hold anything
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return bool(int(fields[6]) & FORKED)


def _loaded_gomp() -> str | None:
    """Path of the OpenMP library that torch brought along, or of the only one there is; None if
    torch uses another.
    """
    mapped = {
        line.split(maxsplit=5)[-1].strip()
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "libgomp" in line
    }
    home = Path(torch.__file__).parent
    own = [
        path for path in mapped if Path(path).parent in (home / "lib", home.parent / "torch.libs")
    ]
    found = own or list(mapped)
    return found[0] if len(found) == 1 else None


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
