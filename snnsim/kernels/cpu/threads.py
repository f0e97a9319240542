"""Run a compiled kernel on the threads that torch already has.

A second pool beside torch's would fight it for the cores, and numba's own either kills a forked
child or aborts when two Python threads call at once. So a kernel joins torch's OpenMP pool through
the entry point that compilers use, `GOMP_parallel`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from snnsim.errors import EngineError

__all__ = ["SERIAL_ELEMENTS", "Kernel", "run", "thread_count", "why_serial"]

# below this, waking threads costs more than it saves
SERIAL_ELEMENTS = 50_000
# where a record counts the threads that have begun and not come to the end
UNFINISHED = 16
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


def run(kernel: Kernel, record: int, blocks: int, elements: int) -> None:
    """Run a kernel on a record until its blocks are done.

    Args:
        kernel: what to run.
        record: address of its record, whose first three fields (blocks taken, slots taken, threads
            at work) are 0.
        blocks: how many blocks there are, so how many threads can be of use.
        elements: how much work it is; little work stays on this thread.

    Raises:
        EngineError: the kernel ended before its work was done.
    """
    threads = min(thread_count(elements), blocks)
    parallel = _current().parallel if threads > 1 else None
    if parallel is None:
        kernel.call(record)
    else:
        parallel(kernel.address, record, threads, 0)
    if ctypes.c_int64.from_address(record + UNFINISHED).value:
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
    """Why kernels run on one thread in this process; None if they may use more."""
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
