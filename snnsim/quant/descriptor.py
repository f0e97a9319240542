"""Formats of quantized tensors, as immutable values; and the descriptors that are used most.

Per channel, weights keep the axis of their output channels: 0 for linear and convolution layers, 1
for transposed convolutions. One published listing of these names has axis 0 for the transposed ones
too, which are their *input* channels: a scale there cannot be taken out of the product.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from snnsim._core.checks import (
    check_mapping,
    checked_bool,
    checked_float,
    checked_numbers,
    is_one_of,
)
from snnsim.errors import InvalidTypeError, InvalidValueError, refuse
from snnsim.quant.functional import MAX_BITS, check_bits, integer_bounds

__all__ = [
    "QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL",
    "QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW",
    "QUANT_DESC_8BIT_PER_TENSOR",
    "QUANT_DESC_UNSIGNED_8BIT_PER_TENSOR",
    "QuantDescriptor",
]

# "histogram" collects one and leaves the choice of method to load_calib_amax; "twn" is for ternary
# weights
CALIB_METHODS = ("max", "histogram", "percentile", "mse", "entropy", "twn")

Amax: TypeAlias = float | Sequence[Any] | np.ndarray | Tensor


@dataclass(frozen=True)
class QuantDescriptor:
    """The format of a quantized tensor and where its range comes from. Compares by value, hashes,
    and survives JSON.

    Args:
        num_bits: 1 to 24. Signed 1 bit is for weights only: -1 and +1 times a scale.
        name: free text.
        fake_quant: True: results are on the grid in the unit of the input; False: they are the
            integers.
        axis: the axis that keeps its own scale (negative counts from the end); None is one scale
            for the tensor.
        amax: largest magnitude represented, >= 0, in the unit of the input: a number, or one per
            channel as a list, array or tensor. Kept as a float or nested tuples of floats. None:
            calibrated, learned, or taken from each input.
        learn_amax: the range is a parameter, trained with the gradient of learned step size
            quantization; needs axis=None.
        scale_amax: the range is multiplied by this, > 0, once.
        calib_method: "max", "percentile", "mse", "entropy"; "histogram" names the method when the
            range is loaded; "twn" is the threshold rule of ternary weight networks and needs
            num_bits=2 with narrow_range=True.
        unsigned: no negative values.
        narrow_range: leave out the most negative integer. With num_bits=2 that is ternary.
        power_of_two: the step between two levels is raised to the next power of two.

    Raises:
        InvalidTypeError: an argument of another type, or an axis together with learn_amax.
        InvalidValueError: one out of range, an unknown calib_method, or "twn" on another format.

    Example:
        >>> QuantDescriptor(4, axis=0, narrow_range=True).bounds
        (-7, 7)
    """

    num_bits: int = 8
    name: str | None = None
    _: KW_ONLY
    fake_quant: bool = True
    axis: int | None = None
    amax: Amax | None = None
    learn_amax: bool = False
    scale_amax: float | None = None
    calib_method: str = "max"
    unsigned: bool = False
    narrow_range: bool = False
    power_of_two: bool = False

    def __post_init__(self) -> None:
        who = "QuantDescriptor"
        check_bits(who, "num_bits", self.num_bits, 1, MAX_BITS)
        if self.name is not None and not isinstance(self.name, str):
            rule = "name must be a str or None"
            refuse(who, "name", self.name, rule, "write name='...'", kind=InvalidTypeError)
        for flag in ("fake_quant", "learn_amax", "unsigned", "narrow_range", "power_of_two"):
            checked_bool(who, flag, getattr(self, flag))
        check_axis(who, self.axis)
        if self.axis is not None and self.learn_amax:
            raise InvalidTypeError(
                f"QuantDescriptor(axis={self.axis}, learn_amax=True): a learned range is one per"
                " tensor; use axis=None, or learn_amax=False"
            )
        if self.amax is not None:
            object.__setattr__(self, "amax", _as_nested_floats(self.amax))
        scale = self.scale_amax
        if scale is not None and not 0 < checked_float(who, "scale_amax", scale) < math.inf:
            rule = "scale_amax multiplies the range and must be positive and finite"
            refuse(who, "scale_amax", scale, rule, "leave it out for 1")
        if not is_one_of(self.calib_method, CALIB_METHODS):
            rule = f"must be one of {', '.join(CALIB_METHODS)}"
            refuse(who, "calib_method", self.calib_method, rule)
        if self.calib_method == "twn" and (self.learn_amax or not self.is_ternary):
            raise InvalidValueError(
                "QuantDescriptor(calib_method='twn'): the threshold rule is for ternary weights"
                " with a range that follows them; use num_bits=2, narrow_range=True,"
                " unsigned=False, learn_amax=False"
            )

    @property
    def is_binary(self) -> bool:
        """Signed 1 bit: weights of -1 and +1."""
        return self.num_bits == 1 and not self.unsigned

    @property
    def is_ternary(self) -> bool:
        """The integers are -1, 0 and 1."""
        return self.num_bits == 2 and self.narrow_range and not self.unsigned

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest integer of the format; (-1, 1) for binary."""
        return (
            (-1, 1)
            if self.is_binary
            else integer_bounds(self.num_bits, self.unsigned, self.narrow_range)
        )

    def amax_tensor(self) -> Tensor | None:
        """`amax` as a float32 tensor, in the shape it was given."""
        return None if self.amax is None else torch.tensor(self.amax, dtype=torch.float32)

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, in plain Python types; `from_dict` reads them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QuantDescriptor:
        """A descriptor from `to_dict`'s result; missing fields take their defaults."""
        check_mapping("QuantDescriptor.from_dict", "values", values)
        unknown = sorted(set(map(str, values)) - {field.name for field in fields(cls)})
        if unknown:
            raise InvalidTypeError(
                f"QuantDescriptor.from_dict(values with {', '.join(unknown)}): no such field;"
                " remove it"
            )
        return cls(**values)

    def to_json(self) -> str:
        """The descriptor as a JSON object."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> QuantDescriptor:
        """A descriptor from `to_json`'s result."""
        who, remedy = "QuantDescriptor.from_json", "pass to_json()'s result"
        if not isinstance(text, str):
            refuse(who, "text", text, "text must be a str", remedy, kind=InvalidTypeError)
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            refuse(who, "text", text, f"text is no JSON ({error})", remedy)


def check_axis(who: str, axis: object) -> None:
    """Raise unless `axis` is an int or None."""
    if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int)):
        rule, remedy = "axis must be one int or None", "give the axis that keeps its own range"
        refuse(who, "axis", axis, rule, remedy, kind=InvalidTypeError)


def _as_nested_floats(amax: object) -> Any:
    """A float, or nested tuples of floats: immutable, hashable, and the same after JSON."""
    if isinstance(amax, bool | str) or not isinstance(
        amax, float | int | Sequence | np.ndarray | np.number | Tensor
    ):
        rule = f"must be a number, list, array or tensor, not {type(amax).__name__}"
        refuse("QuantDescriptor", "amax", amax, rule, kind=InvalidTypeError)
    array = checked_numbers("QuantDescriptor", "amax", amax).cpu().numpy()
    if array.size == 0 or not bool(np.all((array >= 0) & (array < np.inf))):
        rule = "the largest magnitude must be finite and >= 0, one value or one per channel"
        refuse("QuantDescriptor", "amax", amax, rule)
    return _nested_tuple(array.tolist())


def _nested_tuple(values: Any) -> Any:
    return tuple(_nested_tuple(value) for value in values) if isinstance(values, list) else values


QUANT_DESC_8BIT_PER_TENSOR = QuantDescriptor(num_bits=8)
QUANT_DESC_UNSIGNED_8BIT_PER_TENSOR = QuantDescriptor(num_bits=8, unsigned=True)
QUANT_DESC_8BIT_CONV1D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=0)
QUANT_DESC_8BIT_CONV2D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=0)
QUANT_DESC_8BIT_CONV3D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=0)
QUANT_DESC_8BIT_CONVTRANSPOSE1D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=1)
QUANT_DESC_8BIT_CONVTRANSPOSE2D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=1)
QUANT_DESC_8BIT_CONVTRANSPOSE3D_WEIGHT_PER_CHANNEL = QuantDescriptor(num_bits=8, axis=1)
QUANT_DESC_8BIT_LINEAR_WEIGHT_PER_ROW = QuantDescriptor(num_bits=8, axis=0)
