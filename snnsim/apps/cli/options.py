"""Command-line arguments that several commands share."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

from snnsim._core.scalars import MOST_WORKERS, short
from snnsim.apps.config import Config, positive_int, state_bits, weight_bits, whole_number

__all__ = [
    "Defaults",
    "add_config",
    "folder",
    "given",
    "option_of",
    "percent",
    "points",
    "positive_int",
    "shows_progress",
    "state_bits",
    "weight_bits",
    "whole_number",
    "workers",
]


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults as they would be typed; none for switches and for what has none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        if isinstance(action.default, tuple):
            listed = " ".join("float" if value is None else str(value) for value in action.default)
            return f"{action.help} (default: {listed})"
        return super()._get_help_string(action)


def points(text: str) -> float:
    """Percentage points, at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value) and value >= 0:
        return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of points of at least 0")


def percent(text: str) -> float:
    """A share in [0, 1), written in percent."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0 <= value < 100:
        return value / 100
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of percent in [0, 100)")


def folder(text: str) -> Path:
    """A folder by its name, in which a leading ~ is the user's home."""
    if not text:
        raise argparse.ArgumentTypeError("'' names no folder; for the one you are in give .")
    try:
        return Path(text).expanduser()
    except RuntimeError as problem:
        raise argparse.ArgumentTypeError(
            f"{text!r}: {problem}; write the folder out, or ./{text} where it is called that"
        ) from problem


def workers(text: str) -> int:
    """A number of threads or processes."""
    count = positive_int(text)
    if count > MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"{short(text)} is too many; give at most {MOST_WORKERS}")
    return count


def option_of(name: str) -> str:
    """How the field of a configuration is typed."""
    return "--" + name.replace("_", "-")


def add_config(parser: argparse._ActionsContainer, without: Collection[str] = ()) -> None:
    """Add an option for each field of a configuration; those that are not typed leave no trace."""
    for field in fields(Config):
        if field.name not in without:
            typed = dict(field.metadata)
            if "action" not in typed:
                typed["help"] += (
                    f" (default: {'float' if field.default is None else field.default})"
                )
            parser.add_argument(option_of(field.name), default=argparse.SUPPRESS, **typed)


def given(options: argparse.Namespace, without: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a configuration that were typed."""
    return {
        field.name: getattr(options, field.name)
        for field in fields(Config)
        if field.name not in without and hasattr(options, field.name)
    }


def shows_progress(options: argparse.Namespace) -> bool:
    """Whether progress bars are wanted, and standard error is a screen rather than a log."""
    return not options.quiet and sys.stderr is not None and sys.stderr.isatty()
