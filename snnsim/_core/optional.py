"""Packages that only some features need."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["optional"]


def optional(name: str, purpose: str, extra: str) -> Any:
    """The package `name`, imported.

    Args:
        name: as it is imported.
        purpose: what needs it, in the plural.
        extra: of snnsim, which brings it.

    Raises:
        ModuleNotFoundError: it is not installed; says how to get it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as problem:
        if problem.name != name:
            raise
        raise ModuleNotFoundError(
            f"{purpose} need {name}, which is not installed; pip install 'snnsim[{extra}]'",
            name=name,
        ) from problem
