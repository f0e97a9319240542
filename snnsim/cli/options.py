"""Types of command-line arguments that several commands share."""

from __future__ import annotations

import argparse
import math

from snnsim.quant.state import MAX_BITS
from snnsim.training import MAX_WEIGHT_BITS


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults as they would be typed; none for switches and for what has none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        if isinstance(action.default, tuple):
            listed = " ".join("float" if value is None else str(value) for value in action.default)
            return f"{action.help} (default: {listed})"
        return super()._get_help_string(action)


def state_bits(text: str) -> int | None:
    """Bits of a state; None for "float"."""
    if text in ("float", "float32"):
        return None
    if text.isdecimal() and 1 <= int(text) <= MAX_BITS:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither a number of bits in 1..{MAX_BITS} nor 'float'")


def weight_bits(text: str) -> int | None:
    """Bits of a weight; None for "float"."""
    named = {"float": None, "float32": None, "binary": 1, "ternary": 2}
    if text in named:
        return named[text]
    if text.isdecimal() and 1 <= int(text) <= MAX_WEIGHT_BITS:
        return int(text)
    raise argparse.ArgumentTypeError(
        f"{text!r} is neither a number of bits in 1..{MAX_WEIGHT_BITS} nor 'binary' (1), 'ternary' (2) or 'float'"
    )


def whole_number(text: str) -> int:
    """A whole number of at least 0."""
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")


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


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
