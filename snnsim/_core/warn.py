"""Warnings that point at the user's line, however deep in the library they arise."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

# frames of these packages are not the user's
_INNER = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))


def warn_user(message: str) -> None:
    """Issue a UserWarning that names the first line outside snnsim and torch as its place."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INNER):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
