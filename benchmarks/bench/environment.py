"""What numbers depend on: the machine, versions, threads, and what happens to memory that is
freed."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path

import torch

from snnsim._version import __version__
from snnsim.errors import RunError
from snnsim.kernels.cpu import host

__all__ = [
    "MEMORY",
    "PEERS",
    "PIP",
    "describe",
    "keep_freed_memory",
    "missing_peers",
    "why_not_kept",
]

# what a process does with memory that it has freed
MEMORY = {
    "returned": "large blocks go back to the system, as the C library does by default",
    "retained": "freed memory stays mapped, so that nobody pays for mapping fresh memory",
}
PEERS = ("snntorch", "spikingjelly")
# spikingjelly asks for packages that only its data sets and GPU code use
PIP = {"snntorch": "pip install snntorch", "spikingjelly": "pip install --no-deps spikingjelly"}

# parameters of glibc's mallopt
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def describe() -> dict[str, str]:
    """What the numbers depend on, by name."""
    packages = ("torch", "numba", "numpy", *PEERS)
    versions = {name: version for name in packages if (version := _version(name)) is not None}
    return {
        "processor": f"{_processor()}, {os.cpu_count()} logical cores",
        "system": platform.platform(),
        "load": f"{os.getloadavg()[0]:.1f} before the run"
        if hasattr(os, "getloadavg")
        else "unknown",
        "snnsim": __version__,
        "python": platform.python_version(),
        **versions,
        "threads": host.why_serial() or "kernels run in torch's pool",
        "output pool": f"{host.limit() >> 20} MiB",
        "matrix products": torch.get_float32_matmul_precision(),
    }


def missing_peers() -> dict[str, str]:
    """The peers that are not installed, with the line that installs them."""
    return {
        name: f"not installed; {PIP[name]}"
        for name in PEERS
        if importlib.util.find_spec(name) is None
    }


def why_not_kept() -> str | None:
    """Why this process cannot be told to keep the memory it frees; None if it can."""
    return None if hasattr(ctypes.CDLL(None), "mallopt") else "this C library has no mallopt"


def keep_freed_memory() -> None:
    """From now on, let the C library keep what is freed.

    Raises:
        RunError: it cannot.
    """
    reason = why_not_kept()
    mallopt = None if reason else ctypes.CDLL(None).mallopt
    if mallopt is None or not (mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1)):
        raise RunError(
            f"memory='retained': {reason or 'mallopt refused'}; measure with memory='returned' only"
        )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
