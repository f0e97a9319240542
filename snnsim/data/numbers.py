"""Numbers, labels, sizes and places that a caller passes, in whatever type they come."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Set
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnsim.errors import InvalidTypeError, InvalidValueError, refuse

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
    """True for a finite real number that is no bool."""
    if not isinstance(value, Real) or isinstance(value, bool | np.bool_):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        # a whole number, or a fraction, beyond what 64 bits of a float hold
        return False


def checked_part(where: str, train: object, training: str, test: str) -> str:
    """The name of the training part where `train` is True, of the test part where it is False."""
    if not isinstance(train, bool):
        rule = "expected True (training part) or False (test part)"
        refuse(where, "train", train, rule, kind=InvalidTypeError)
    return training if train else test


def check_generator(where: str, generator: object) -> None:
    """Refuse what nothing can be drawn from."""
    if not isinstance(generator, np.random.Generator):
        rule = "expected numpy.random.default_rng(seed)"
        refuse(where, "generator", generator, rule, kind=InvalidTypeError)


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
    if values.dtype.kind == "f":
        # at least 64 bits: in fewer the limits would round; one more than `highest` is a power of
        # two and does not
        values = values.astype(np.result_type(values, np.float64))
        return _first(~((values >= lowest) & (values < highest + 1)))
    if lowest <= int(values.min()) and int(values.max()) <= highest:
        return None
    return _first((values < lowest) | (values > highest))


def _first(wrong: np.ndarray) -> int | None:
    return int(wrong.argmax()) if wrong.any() else None


def checked_size(where: str, size: Any) -> tuple[int, int]:
    """`size` as (height, width), two whole numbers of at least 1."""
    given = size.tolist() if isinstance(size, Tensor | np.ndarray) else size
    values = [whole(value, 1) for value in given] if isinstance(given, list | tuple) else []
    if len(values) != 2 or values[0] is None or values[1] is None:
        rule = "size must be (height, width) of the sensor in pixels, two whole numbers of at least"
        refuse(where, "size", size, f"{rule} 1")
    return values[0], values[1]


def checked_labels(where: str, labels: Any) -> list[int]:
    """`labels` as a list of ints, one for each item."""
    rule = "labels must be a list of ints"
    try:
        values = as_array(labels if isinstance(labels, Tensor) else _items(labels))
    except TypeError as error:
        raise InvalidTypeError(f"{where}(labels={labels!r:.100}): {rule} ({error})") from error
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        remedy = "number the classes 0, 1, 2 and so on"
        refuse(where, "labels", labels, f"{rule}, one per item", remedy, kind=InvalidTypeError)
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
    """Numbers in any form as an array, each of them as it was; else a TypeError."""
    try:
        if not isinstance(values, Tensor):
            array = np.asarray(values)
        elif values.is_floating_point() and values.itemsize < 4:
            # numpy has no bfloat16; every number of fewer bits is one of float32
            array = values.detach().cpu().to(torch.float32).numpy()
        else:
            array = values.detach().cpu().numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(values, Tensor):
            kind = f"a tensor {values.dtype}, {values.layout} on {values.device}"
            raise TypeError(f"{kind} is no array; convert it") from error
        raise TypeError(str(error)) from error
    if array.dtype.kind == "f" and not isinstance(values, np.ndarray | Tensor) and array.ndim == 1:
        # numpy makes floats of whole numbers beside a float, or of signed beside unsigned ones
        for value, made in zip(values, array.tolist(), strict=True):
            exact = value.item() if isinstance(value, np.generic | Tensor) else value
            if exact != made and exact == exact:
                rounded = f"{exact} beside other types of numbers would be rounded"
                raise TypeError(f"{rounded}; give all in one type")
    return array


def checked_index(where: str, index: Any, count: int, items: str = "items") -> int:
    """Place of an item in [0, count); a negative index counts from the end. Outside it is an
    IndexError, at which a loop over the items ends.
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


def checked_places(where: str, index: Any, count: int, device: torch.device) -> Tensor:
    """Places of items, `[M]` int64, each in [0, count); negative ones count from the end."""
    try:
        given = torch.as_tensor(index)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(
            f"{where}(index={index!r:.100}): expected a list of whole numbers ({error})"
        ) from error
    rule = "expected whole numbers"
    is_whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if given.numel() and not is_whole:
        raise InvalidTypeError(
            f"{where}(index: {given.dtype}): {rule}; of a mask, mask.nonzero().flatten()"
        )
    if given.ndim != 1:
        raise InvalidTypeError(f"{where}(index: {list(given.shape)}): {rule} [M]")
    places = given.to(torch.int64)
    outside = (places < -count) | (places >= count)
    if outside.any():
        raise IndexError(
            f"{where}(index): {int(places[outside][0])} is outside this dataset of {count} items"
        )
    return torch.where(places < 0, places + count, places).to(device)
