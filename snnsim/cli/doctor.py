"""`snnsim doctor`: versions, devices, and which engine runs and why."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from typing import Any

import torch

from snnsim._version import __version__

PACKAGES = ("torch", "numpy", "numba", "triton", "matplotlib", "scikit-learn")


def add_parser(commands: Any) -> None:
    """Add this command to the parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "doctor",
        help="show versions, devices and engines",
        description="Show versions, devices, and which engine runs and why.",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the report; returns the exit status."""
    print(f"snnsim {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        print(f"  {package:<13}{_version(package)}")
    print(f"threads        {torch.get_num_threads()}")
    print(f"devices        {', '.join(devices())}")
    return 0


def devices() -> list[str]:
    """The devices torch can use, by name."""
    found = ["cpu"]
    found += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
