"""Whole numbers, in whatever type they come."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor

from snnsim.errors import InvalidTypeError, InvalidValueError

__all__ = ["checked_labels", "checked_size", "first_fraction", "first_outside", "is_number", "whole"]

_INT64 = (-(2**63), 2**63 - 1)


def whole(value: object, lowest: int, highest: int = _INT64[1]) -> int | None:
    """`value` as an int; None for what is no whole number within [lowest, highest]."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        return None
    if not isinstance(value, Integral) and not float(value).is_integer():
        return None
    number = int(value) if isinstance(value, Integral) else int(float(value))
    return number if lowest <= number <= highest else None


def is_number(value: object) -> bool:
    """Whether `value` is a finite real number, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_) and math.isfinite(value)


def first_fraction(values: np.ndarray) -> int | None:
    """Index of the first of a numeric array `[N]` that is no whole number; NaN and infinity are none."""
    if values.dtype.kind != "f":
        return None
    return _first(~(np.isfinite(values) & (values == np.floor(values))))


def first_outside(values: np.ndarray, lowest: int, highest: int) -> int | None:
    """Index of the first of a numeric array `[N]` that is not within [lowest, highest]."""
    if not values.size:
        return None
    if values.dtype.kind != "f" and lowest <= int(values.min()) and int(values.max()) <= highest:
        return None
    if values.dtype.kind == "f":
        # at least 64 bits: in fewer the limits would round; one more than `highest` is a power of two and does not
        values = values.astype(np.result_type(values, np.float64))
        return _first(~((values >= lowest) & (values < highest + 1)))
    return _first((values < lowest) | (values > highest))


def _first(wrong: np.ndarray) -> int | None:
    return int(wrong.argmax()) if wrong.any() else None


def checked_size(where: str, size: Any) -> tuple[int, int]:
    """`size` as (height, width), two whole numbers of at least 1."""
    try:
        values = [whole(value, 1) for value in size]
    except TypeError:
        values = []
    if isinstance(size, str) or len(values) != 2 or values[0] is None or values[1] is None:
        raise InvalidValueError(
            f"{where}(size={size!r}): size must be (height, width) of the sensor in pixels, two whole numbers of at least 1"
        )
    return values[0], values[1]


def checked_labels(where: str, labels: Any) -> list[int]:
    """`labels` as a list of ints.

    Raises:
        InvalidTypeError: something else than one number per item.
        InvalidValueError: a label that is no whole number, or does not fit 64 bits.
    """
    try:
        given = labels.tolist() if isinstance(labels, Tensor) else _items(labels)
        values = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"{where}(labels={labels!r}): labels must be a list of ints ({error})") from error
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise InvalidTypeError(
            f"{where}(labels={labels!r}): labels must be a list of ints, one per item; number the classes 0, 1, 2 and so on"
        )
    wrong = first_fraction(values)
    if wrong is None:
        wrong = first_outside(values, *_INT64)
    if wrong is not None:
        raise InvalidValueError(f"{where}(labels): label {wrong} is {values[wrong]}; labels must be ints within 64 bits")
    return [int(value) for value in values.tolist()]


def _items(labels: Iterable[Any]) -> list[Any]:
    if isinstance(labels, str | bytes):
        raise TypeError("text is none")
    return [label.item() if isinstance(label, Tensor) and label.ndim == 0 else label for label in labels]
