"""Compiled kernels on disk, so that a process compiles each once in the life of a machine.

One file for each kernel, type, processor and version, named by a digest of all of these and of the
source: two processes that write at once write the same thing, and nothing stale or foreign is ever
found. A file is written beside its place and moved there; one that was cut short fails its checksum
and is compiled again. Where nothing can be written, kernels are compiled in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import llvmlite
import numba
from numba import types
from numba.core import config, sigutils
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target
from numba.core.serialize import dumps

from snnsim._core.files import user_cache
from snnsim.kernels.cpu import formula, passes, records, vector
from snnsim.kernels.cpu.host import Kernel

log = logging.getLogger("snnsim")

CHECKSUM = 32


@cache
def kernel(name: str, wide: bool) -> Kernel:
    """A kernel of `passes` in float64 (`wide`) or float32, from disk or compiled."""
    return compiled(getattr(passes, name), wide)


def compiled(function: Callable[..., Any], wide: bool, *modules: ModuleType) -> Kernel:
    """A function of one pointer to a record, typed as float64 (`wide`) or float32, from disk or
    compiled.

    It is found again while neither the file it is in, nor `passes`, `vector`, `records`, nor any of
    `modules` changes: what it is built of must be in these.
    """
    signature = types.void(types.CPointer(types.float64 if wide else types.float32))
    made: Any = CFunc(
        vector.entry(function), sigutils.normalize_signature(signature), {}, vector.IEEE
    )
    sources = [inspect.getsource(module) for module in (sys.modules[function.__module__], *modules)]
    made._cache = _File(function.__name__, "".join(sources).encode())
    made.compile()
    # the code lives as long as numba's object does
    return Kernel(function.__name__, made.address, owner=made)


def folder() -> Path:
    """Where compiled kernels lie: below numba's cache folder where one is set, else below the
    user's.
    """
    # numba fills this module in when it is imported
    chosen = vars(config)["CACHE_DIR"]
    if chosen:
        return Path(chosen) / "snnsim"
    return user_cache() / "kernels"


class _File:
    """One kernel's place on disk, in the form that numba asks for."""

    def __init__(self, name: str, source: bytes = b"") -> None:
        self.name, self.source = name, source

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The compiled kernel, or None."""
        target_context.refresh()
        try:
            path = self._path(signature)
            content = path.read_bytes() if _is_private(path.parent) else b""
        except (OSError, RuntimeError):
            return None
        checksum, data = content[:CHECKSUM], content[CHECKSUM:]
        if hashlib.sha256(data).digest() != checksum:
            return None
        return CompileResult._rebuild(target_context, *pickle.loads(data))

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep a compiled kernel, if the disk lets us."""
        data = dumps(compiled._reduce())
        try:
            path = self._path(signature)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, beside = tempfile.mkstemp(dir=path.parent, prefix=path.name)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(data).digest() + data)
                os.replace(beside, path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(beside)
                raise
        except (OSError, RuntimeError) as problem:
            log.info("compiled kernel %s is not kept: %s", self.name, problem)

    def _path(self, signature: Any) -> Path:
        versions = (
            numba.__version__,
            llvmlite.__version__,
            sys.version,
            cpu_target.target_context.codegen().magic_tuple(),
        )
        digest = hashlib.sha256(
            repr((versions, str(signature), self.name)).encode() + _source() + self.source
        ).hexdigest()
        return folder() / f"{self.name}-{digest[:32]}"


@cache
def _source() -> bytes:
    # kernels take their fields from `records`, and their numbers of operations from `formula`
    return "".join(map(inspect.getsource, (passes, vector, records, formula))).encode()


def _is_private(place: Path) -> bool:
    """Whether nobody but this user can have put files there: what is loaded is run."""
    if not hasattr(os, "getuid"):
        return True
    status = place.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022
