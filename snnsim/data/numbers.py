"""Whole numbers, in whatever type they come."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Set
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnsim.errors import InvalidTypeError, InvalidValueError

__all__ = [
    "as_array",
    "check_generator",
    "checked_index",
    "checked_labels",
    "checked_places",
    "checked_size",
    "first_fraction",
    "first_outside",
    "is_number",
    "whole",
]

_INT64 = (-(2**63), 2**63 - 1)


def whole(value: object, lowest: int, highest: int = _INT64[1]) -> int | None:
    """`value` as an int; None for what is no whole number within [lowest, highest]."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        return None
    try:
        number = int(value)  # type: ignore[call-overload]
    except (OverflowError, ValueError):
        # infinity, and what is not a number
        return None
    return number if number == value and lowest <= number <= highest else None


def is_number(value: object) -> bool:
    """Whether `value` is a finite real number, and no bool."""
    if not isinstance(value, Real) or isinstance(value, bool | np.bool_):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        # a whole number, or a fraction, beyond what 64 bits of a float hold
        return False


def check_generator(where: str, generator: object) -> None:
    """Refuse what nothing can be drawn from."""
    if not isinstance(generator, np.random.Generator):
        raise InvalidTypeError(
            f"{where}(generator={generator!r}): expected numpy.random.default_rng(seed)"
        )


def first_fraction(values: np.ndarray) -> int | None:
    """Index of the first of a numeric array `[N]` that is no whole number; NaN and infinity are
    none.
    """
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
        # at least 64 bits: in fewer the limits would round; one more than `highest` is a power of
        # two and does not
        values = values.astype(np.result_type(values, np.float64))
        return _first(~((values >= lowest) & (values < highest + 1)))
    return _first((values < lowest) | (values > highest))


def _first(wrong: np.ndarray) -> int | None:
    return int(wrong.argmax()) if wrong.any() else None


def checked_size(where: str, size: Any) -> tuple[int, int]:
    """`size` as (height, width), two whole numbers of at least 1."""
    given = size.tolist() if isinstance(size, Tensor | np.ndarray) else size
    values = [whole(value, 1) for value in given] if isinstance(given, list | tuple) else []
    if len(values) != 2 or values[0] is None or values[1] is None:
        raise InvalidValueError(
            f"{where}(size={size!r}): size must be (height, width) of the sensor in pixels, two"
            " whole numbers of at least 1"
        )
    return values[0], values[1]


def checked_labels(where: str, labels: Any) -> list[int]:
    """`labels` as a list of ints.

    Raises:
        InvalidTypeError: something else than one number per item.
        InvalidValueError: a label that is no whole number, or does not fit 64 bits.
    """
    try:
        values = as_array(labels if isinstance(labels, Tensor) else _items(labels))
    except TypeError as error:
        raise InvalidTypeError(
            f"{where}(labels={labels!r}): labels must be a list of ints ({error})"
        ) from error
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise InvalidTypeError(
            f"{where}(labels={labels!r}): labels must be a list of ints, one per item; number the"
            " classes 0, 1, 2 and so on"
        )
    wrong = first_fraction(values)
    if wrong is None:
        wrong = first_outside(values, *_INT64)
    if wrong is not None:
        raise InvalidValueError(
            f"{where}(labels): label {wrong} is {values[wrong]}; labels must be ints within 64 bits"
        )
    return [int(value) for value in values.tolist()]


def _items(labels: Iterable[Any]) -> list[Any]:
    if isinstance(labels, str | bytes | Mapping | Set):
        raise TypeError(f"a {type(labels).__name__} is none")
    if np.ma.is_masked(labels):
        raise TypeError("some are masked")
    return [
        label.item() if isinstance(label, Tensor) and label.ndim == 0 else label for label in labels
    ]


def as_array(values: Any) -> np.ndarray:
    """Numbers in any form as an array, each of them as it was.

    Raises:
        TypeError: what makes no array, or only one of other numbers.
    """
    if isinstance(values, Tensor):
        try:
            dense = values.detach().cpu()
            # numpy has no bfloat16; every number of fewer bits is one of float32
            return (
                dense.to(torch.float32)
                if dense.is_floating_point() and dense.itemsize < 4
                else dense
            ).numpy()
        except (TypeError, RuntimeError, NotImplementedError) as error:
            raise TypeError(
                f"a tensor {values.dtype}, {values.layout} on {values.device} is no array;"
                " convert it"
            ) from error
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(str(error)) from error
    if array.dtype.kind == "f" and not isinstance(values, np.ndarray) and array.ndim == 1:
        # numpy makes floats of whole numbers beside a float, or of signed beside unsigned ones
        exact = [
            value.item() if isinstance(value, np.generic | Tensor) else value for value in values
        ]
        changed = [
            value
            for value, made in zip(exact, array.tolist(), strict=True)
            if value != made and value == value
        ]
        if changed:
            raise TypeError(
                f"{changed[0]} beside other types of numbers would be rounded; give all in one type"
            )
    return array


def checked_index(where: str, index: Any, count: int, items: str = "items") -> int:
    """Place of an item in [0, count); a negative index counts from the end.

    Raises:
        InvalidTypeError: no whole number.
        IndexError: outside; a loop over the items ends there.
    """
    try:
        place = operator.index(index)
    except TypeError as error:
        raise InvalidTypeError(
            f"{where}[{index!r}]: expected a whole number; of several items make a"
            " torch.utils.data.Subset"
        ) from error
    if not -count <= place < count:
        raise IndexError(f"{where}[{place}]: the index is outside this dataset of {count} {items}")
    return place % count


def checked_places(where: str, index: Any, count: int) -> Tensor:
    """Places of items, `[M]` int64, each in [0, count); negative ones count from the end.

    Raises:
        InvalidTypeError: no list of whole numbers.
        IndexError: one that is outside.
    """
    try:
        given = torch.as_tensor(index)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(
            f"{where}(index={index!r:.100}): expected a list of whole numbers ({error})"
        ) from error
    if given.numel() and (
        given.is_floating_point() or given.is_complex() or given.dtype == torch.bool
    ):
        raise InvalidTypeError(
            f"{where}(index: {given.dtype}): expected whole numbers; of a mask,"
            " mask.nonzero().flatten()"
        )
    if given.ndim != 1:
        raise InvalidTypeError(f"{where}(index: {list(given.shape)}): expected whole numbers [M]")
    places = given.to(torch.int64)
    outside = (places < -count) | (places >= count)
    if outside.any():
        raise IndexError(
            f"{where}(index): {int(places[outside][0])} is outside this dataset of {count} items"
        )
    return torch.where(places < 0, places + count, places)
