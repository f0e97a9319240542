"""The optional packages of this folder."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["optional"]


def optional(name: str) -> Any:
    """The package `name`, or an error that says how to get it.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as problem:
        if problem.name != name:
            raise
        raise ModuleNotFoundError(
            f"NIR graphs need {name}, which is not installed; pip install 'snnsim[nir]'", name=name
        ) from problem
