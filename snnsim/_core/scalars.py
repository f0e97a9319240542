"""Limits, and checks of single numbers and switches that a caller passes; nothing here needs
torch."""

from __future__ import annotations

import math
import reprlib
from numbers import Real

from snnsim.errors import InvalidTypeError, InvalidValueError

# of a neuron state
MAX_STATE_BITS = 16
# threads or processes at once: more than any machine has cores, and fewer than bring one to a halt
MOST_WORKERS = 1024


def check_int(
    where: str, name: str, value: object, at_least: int, at_most: int | None = None
) -> None:
    """Raise unless `value` is an int, not a bool, not too small and not too large."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(
            f"{where}({name}={value!r}): {name} must be an int, not {type(value).__name__}; pass a"
            " whole number"
        )
    if value < at_least:
        raise InvalidValueError(
            f"{where}({name}={value}): {name} must be >= {at_least}; pass a larger number"
        )
    if at_most is not None and value > at_most:
        raise InvalidValueError(
            f"{where}({name}={short(value)}): {name} must be <= {at_most}; pass a smaller number"
        )


def checked_bool(where: str, name: str, value: object) -> bool:
    """`value` as it is, or an error if it is not True or False."""
    if not isinstance(value, bool):
        raise InvalidTypeError(
            f"{where}({name}={value!r}): {name} must be True or False, not {type(value).__name__}"
        )
    return value


def checked_float(where: str, name: str, value: object) -> float:
    """`value` as a float, infinities and NaN included, or an error that names `where` it was passed
    and its `name`.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidTypeError(
            f"{where}({name}={short(value)}): {name} must be a number, not {type(value).__name__};"
            " pass a float"
        )
    try:
        return float(value)
    except OverflowError as error:
        raise InvalidValueError(
            f"{where}({name}={short(value)}): {name} is beyond every float; pass a smaller number"
        ) from error


def short(value: object) -> str:
    """`value` as a message shows it: an int of 400 digits, or a list of a thousand, is cut."""
    return reprlib.repr(value)


def checked_number(
    where: str, name: str, value: object, above: float | None = None, at_least: float | None = None
) -> float:
    """`value` as a float, or an error that names `where` it was passed, its `name` and the rule
    that it breaks.
    """
    number = checked_float(where, name, value)
    if not math.isfinite(number):
        raise InvalidValueError(
            f"{where}({name}={value!r}): {name} must be finite; pass an ordinary number"
        )
    if above is not None and not number > above:
        raise InvalidValueError(
            f"{where}({name}={value!r}): {name} must be > {above:g}; pass a larger number"
        )
    if at_least is not None and not number >= at_least:
        raise InvalidValueError(
            f"{where}({name}={value!r}): {name} must be >= {at_least:g}; pass a larger number"
        )
    return number
