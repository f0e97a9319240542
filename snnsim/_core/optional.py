"""Packages that only some parts need."""

from __future__ import annotations

import importlib
from typing import Any

from snnsim.errors import MissingPackageError


def optional(module: str, extra: str, purpose: str = "") -> Any:
    """A module of a package that comes with an extra.

    Args:
        module: as it is imported.
        extra: of snnsim, which brings it.
        purpose: what needs it, in the plural, for the message.

    Raises:
        MissingPackageError: it is not installed.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as problem:
        if problem.name not in (package, module):
            raise
        missing = f"{purpose} need {package}, which" if purpose else package
        raise MissingPackageError(
            f"{missing} is not installed; pip install 'snnsim[{extra}]'", name=package
        ) from problem
