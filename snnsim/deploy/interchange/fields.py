"""Nodes of NIR with their fields checked: what reads a graph sees numbers where numbers belong, and
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from snnsim.errors import DataError, InvalidValueError

__all__ = ["CONSTANTS", "KINDS", "Node", "checked"]

Array = npt.NDArray[Any]
# the fields of each kind that are constants of one sample
CONSTANTS: dict[str, tuple[str, ...]] = {
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset", "w_in"),
    "Delay": ("delay",),
    "I": ("r",),
    "IF": ("r", "v_threshold", "v_reset"),
    "LI": ("tau", "r", "v_leak"),
    "LIF": ("tau", "r", "v_leak", "v_threshold", "v_reset"),
    "Scale": ("scale",),
    "Threshold": ("threshold",),
}


@dataclass(frozen=True, eq=False)
class Node:
    """A node of a graph without subgraphs.

    Attributes:
        kind: NIR's name for what it is.
        fields: arrays of finite numbers, tuples of whole numbers, words; an absent `shape` or
            `input_shape` is None.
        metadata: as it is.
    """

    kind: str
    fields: Mapping[str, Any]
    metadata: Any

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


def checked(node: Any) -> Node:
    """A node of NIR, of one of `KINDS`.

    Raises:
        DataError, InvalidValueError: a field that is missing, is no number, or out of its range.
    """
    kind = type(node).__name__
    fields = {name: check(name, getattr(node, name, None)) for name, check in KINDS[kind].items()}
    if kind in ("Input", "Output", "Flatten"):
        fields["shape"] = _shape("shape", _declared(node))
    return Node(kind, fields, getattr(node, "metadata", None))


def _declared(node: Any) -> Any:
    """The shape that a node says its input has; None where it says none."""
    types = getattr(node, "input_type", None)
    return next(iter(types.values()), None) if isinstance(types, dict) else types


def _numbers(name: str, value: Any) -> Array:
    """Finite numbers, as they are."""
    try:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    except (ValueError, TypeError) as problem:
        raise DataError(f"its {name} must be numbers; write it again ({problem})") from problem
    if array.dtype.kind not in "iuf" or not array.size or np.ma.is_masked(value):
        holds = f"is empty, of shape {array.shape}" if not array.size else f"is {_short(value)}"
        raise DataError(f"its {name} {holds}, and must be numbers; write it again")
    valid = np.abs(array.astype(np.float64)) <= np.finfo(np.float32).max
    if not valid.all():
        raise InvalidValueError(
            f"{name} = {array[~valid].flat[0]:g} must be finite in float32; write ordinary numbers"
        )
    return array


def _constant(name: str, value: Any) -> Array:
    return _numbers(name, value).astype(np.float64)


def _whole(name: str, value: Any) -> tuple[int, ...]:
    array = np.atleast_1d(_numbers(name, value))
    if array.ndim > 1 or not (array == np.floor(array)).all():
        raise InvalidValueError(
            f"{name} = {_short(array.tolist())} must be whole numbers; write it again"
        )
    return tuple(int(number) for number in array)


def _index(name: str, value: Any) -> int:
    numbers = _whole(name, value)
    if len(numbers) != 1:
        raise InvalidValueError(
            f"{name} = {_short(numbers)} must be one whole number; write it again"
        )
    return numbers[0]


def _sizes(least: int, count: int) -> Callable[[str, Any], tuple[int, ...]]:
    """One whole number for each of so many axes, or one for all of them."""

    def check(name: str, value: Any) -> tuple[int, ...]:
        numbers = _whole(name, value)
        if len(numbers) not in (1, count) or min(numbers) < least:
            raise InvalidValueError(
                f"{name} = {_short(numbers)} must be {count} whole numbers of at least {least}, or"
                " one; write it again"
            )
        return numbers if len(numbers) == count else numbers * count

    return check


def _padding(count: int) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        word = value.decode(errors="replace") if isinstance(value, bytes) else value
        if not isinstance(word, str):
            return _sizes(0, count)(name, value)
        if word not in ("same", "valid"):
            raise InvalidValueError(
                f"{name} = {_short(word)} must be 'same', 'valid' or numbers; write it again"
            )
        return str(word)

    return check


def _shape(name: str, value: Any) -> tuple[int, ...] | None:
    # what some files hold for no shape
    empty = (
        not value.size
        if isinstance(value, np.ndarray)
        else isinstance(value, list | tuple) and not value
    )
    if value is None or empty:
        return None
    sizes = _whole(name, value)
    if min(sizes) < 1:
        raise DataError(f"its {name} is {_short(sizes)}, and every size must be at least 1")
    return sizes


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _convolution(count: int) -> dict[str, Callable[[str, Any], Any]]:
    sizes = _sizes(1, count)
    return {
        "weight": _numbers,
        "bias": _numbers,
        "stride": sizes,
        "padding": _padding(count),
        "dilation": sizes,
        "groups": _index,
        "input_shape": _shape,
    }


_POOL = {"kernel_size": _sizes(1, 2), "stride": _sizes(1, 2), "padding": _sizes(0, 2)}
KINDS: dict[str, dict[str, Callable[[str, Any], Any]]] = {
    "Affine": {"weight": _numbers, "bias": _numbers},
    "AvgPool2d": _POOL,
    "Conv1d": _convolution(1),
    "Conv2d": _convolution(2),
    "Flatten": {"start_dim": _index, "end_dim": _index},
    "Input": {},
    "Linear": {"weight": _numbers},
    "Output": {},
    "SumPool2d": _POOL,
    **{kind: dict.fromkeys(names, _constant) for kind, names in CONSTANTS.items()},
}
