"""Quantizers of weights and activations, as functions.

All are straight-through in the backward (`quant.ste`) except `clamp_by_linear`, which is
differentiated as written. Half-precision inputs are computed in float32 and rounded once, at the
end. An argument of another type raises an InvalidTypeError, one out of the stated range an
InvalidValueError, one that does not broadcast a ShapeError; checks that look at values are skipped
while `torch.compile` traces.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from snnsim._core.checks import (
    check_floating,
    check_real,
    checked_bool,
    checked_float,
    checked_number,
    checked_numbers,
    wide,
)
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, refuse
from snnsim.quant import ste

# a range at or below this holds nothing but rounding noise: it quantizes to 0
TINY_AMAX = 2.0**-24
# float32 holds every integer up to 2**24 exactly
MAX_BITS = 24
MAX_K = 16


def step_quantize(x: Tensor, step: float) -> Tensor:
    """Nearest integer multiple of `step`; halfway cases go to the even multiple.

    Args:
        x: any shape, floating point.
        step: distance between two results, > 0, in the unit of `x`.
    """
    check_floating("step_quantize", "x", x)
    checked_number("step_quantize", "step", step, above=0)
    return ste.straight_through((torch.round(wide(x.detach()) / step) * step).to(x.dtype), x)


def k_bit_quantize(x: Tensor, k: int) -> Tensor:
    """Nearest of the 2^k levels i / (2^k - 1), for x in [0, 1].

    Args:
        x: any shape, values in [0, 1].
        k: number of bits, 1 to 16.

    Source: Zhou et al. 2016, "DoReFa-Net", arXiv 1606.06160, equation 5.
    """
    check_floating("k_bit_quantize", "x", x)
    check_bits("k_bit_quantize", "k", k, 1, MAX_K)
    if not torch.compiler.is_compiling() and not bool(((x >= 0) & (x <= 1)).all()):
        raise InvalidValueError(
            f"k_bit_quantize(x in [{float(x.min())}, {float(x.max())}]): every value must lie in"
            " [0, 1]; normalize first, for example with clamp_by_linear(x)"
        )
    intervals = 2**k - 1
    return ste.straight_through(
        (torch.round(wide(x.detach()) * intervals) / intervals).to(x.dtype), x
    )


def affine_k_bit_quantize(x: Tensor, k: int, w: Tensor | float, b: Tensor | float) -> Tensor:
    """w * k_bit_quantize(x, k) + b, differentiable in `w` and `b` too.

    Args:
        x: any shape, values in [0, 1].
        k: number of bits, 1 to 16.
        w: factor, a number or a shape that broadcasts to that of `x`.
        b: offset, likewise.
    """
    check_floating("affine_k_bit_quantize", "x", x)
    for name, value in (("w", w), ("b", b)):
        if isinstance(value, Tensor):
            _check_broadcasts("affine_k_bit_quantize", name, value, x)
        else:
            checked_number("affine_k_bit_quantize", name, value)
    dtype = torch.promote_types(torch.result_type(x, w), torch.result_type(x, b))
    return (w * k_bit_quantize(wide(x), k) + b).to(dtype)


def clamp_by_linear(x: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - min) / (max - min + eps): the whole tensor mapped linearly into [0, 1). Not
    straight-through.

    Args:
        x: any shape, not empty.
        eps: > 0; keeps a constant tensor from dividing by 0.
    """
    check_floating("clamp_by_linear", "x", x)
    checked_number("clamp_by_linear", "eps", eps, above=0)
    if x.numel() == 0:
        raise InvalidValueError(
            "clamp_by_linear(x): x is empty and has no range; give at least one value"
        )
    values = wide(x)
    low, high = values.aminmax()
    return ((values - low) / (high - low + eps)).to(x.dtype)


def tensor_quant(
    x: Tensor,
    amax: Tensor | float,
    num_bits: int = 8,
    unsigned: bool = False,
    narrow_range: bool = True,
) -> tuple[Tensor, Tensor]:
    """Integers that stand for `x`, and the scale that made them.

    bound = 2^(num_bits - 1 + unsigned) - 1
    scale = bound / amax
    q     = clamp(round(x * scale), low, bound),  halves to even
    low   = 0 unsigned, -bound narrow, -bound - 1 full

    Where amax <= 2^-24, q is 0 and the scale 1. The gradient of q by x is 1 where |x| <= amax and 0
    elsewhere; amax gets none.

    Args:
        x: any shape, floating point.
        amax: largest magnitude represented, >= 0, in the unit of `x`; a number, or a shape that
            broadcasts to that of `x`.
        num_bits: 1 to 24; at least 2 where signed.
        unsigned: integers from 0; no value of `x` may be negative.
        narrow_range: leave out the most negative integer, so that the grid is symmetric.

    Returns:
        (q, scale), both in the dtype of `x`: q in the shape of `x`, scale in that of `amax`.

    Raises:
        InvalidTypeError: also where `x` has negative values and unsigned is set.
        InvalidValueError: also where the scale overflows float16 (float16 `x`).

    Source: NVIDIA pytorch-quantization, whose recorded results this reproduces; signed 1 bit, all
    NaN there, is refused.
    """
    amax = _as_range("tensor_quant", x, amax)
    q, scale = _integers_and_scale("tensor_quant", x, amax, num_bits, unsigned, narrow_range)
    if x.dtype is torch.float16 and not torch.compiler.is_compiling():
        largest, limit = float(scale.max()), torch.finfo(x.dtype).max
        if largest > limit:
            raise InvalidValueError(
                f"tensor_quant(amax={amax}): the scale {largest:g} overflows float16 (at most"
                f" {limit:g}); give x in float32, or call fake_tensor_quant, which needs no scale"
                " in float16"
            )
    return _gradient_within(q.to(x.dtype), x, amax), scale.to(x.dtype)


def fake_tensor_quant(
    x: Tensor,
    amax: Tensor | float,
    num_bits: int = 8,
    unsigned: bool = False,
    narrow_range: bool = True,
) -> Tensor:
    """`x` on the grid of `tensor_quant`: q / scale.

    Arguments, gradient and errors are those of `tensor_quant`, without the float16 limit on the
    scale.

    Returns:
        Same shape and dtype as `x`.
    """
    amax = _as_range("fake_tensor_quant", x, amax)
    q, scale = _integers_and_scale("fake_tensor_quant", x, amax, num_bits, unsigned, narrow_range)
    return _gradient_within((q / scale).to(x.dtype), x, amax)


def integer_bounds(
    num_bits: int, unsigned: bool = False, narrow_range: bool = True
) -> tuple[int, int]:
    """Smallest and largest integer of a format; `num_bits` from 1, or 2 where signed, to 24."""
    check_bits("integer_bounds", "num_bits", num_bits, 1, MAX_BITS)
    checked_bool("integer_bounds", "unsigned", unsigned)
    checked_bool("integer_bounds", "narrow_range", narrow_range)
    if num_bits == 1 and not unsigned:
        raise InvalidValueError(
            "num_bits=1: a signed 1-bit grid has no level but 0; use 2 bits, or unsigned=True "
            "(weights of -1 and +1 are what the quantized layers make of 1 bit)"
        )
    bound = 2 ** (num_bits - 1 + unsigned) - 1
    return (0 if unsigned else -bound if narrow_range else -bound - 1), bound


def scaled_integers(x: Tensor, scale: Tensor | float, low: int, high: int) -> Tensor:
    """clamp(round(x * scale), low, high), halves to even; straight-through in `x` and in `scale`
    within the bounds.

    Multiplied by 1/scale this is learned step size quantization: the gradient by the step is q -
    x/step inside, q outside.

    Source: Esser et al. 2020, "Learned Step Size Quantization", arXiv 1902.08153, equation 3.
    """
    # with whole-numbered bounds, rounding after clamping gives the same integers
    return ste.round(ste.clamp(x * scale, low, high))


def power_of_two_ceil(x: Tensor) -> Tensor:
    """Smallest power of two not below each positive value; straight-through.

    Source: Jain et al. 2019, "Trained Quantization Thresholds", arXiv 1903.08066, equation 3.
    """
    mantissa, exponent = torch.frexp(x.detach())
    # frexp puts the mantissa in [0.5, 1): only an exact power of two has 0.5
    exponent = exponent - (mantissa == 0.5).to(exponent.dtype)
    return ste.straight_through(torch.ldexp(torch.ones_like(mantissa), exponent), x)


def lsq_scale(values: int, largest: Any) -> Any:
    """Factor of the gradient of a learned step, 1/sqrt(values * largest): for so many values and
    the largest integer of a format, the step then learns about as fast as weights.

    Source: Esser et al. 2020, arXiv 1902.08153, section 2.2.
    """
    return (largest * values) ** -0.5


def check_bits(
    who: str, name: str, value: object, low: int, high: int, remedy: str = "give a number of bits"
) -> None:
    """Raise unless `value` is a number of bits from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int):
        rule = f"{name} must be an int, not {type(value).__name__}"
        refuse(who, name, value, rule, remedy, kind=InvalidTypeError)
    if not low <= value <= high:
        refuse(who, name, value, f"{name} must be {low} to {high}", remedy)


def _as_range(caller: str, x: Tensor, amax: object) -> Tensor | float:
    check_floating(caller, "x", x)
    if isinstance(amax, Tensor):
        check_real(caller, "amax", amax)
        return amax
    if isinstance(amax, Real):
        return checked_float(caller, "amax", amax)
    return checked_numbers(caller, "amax", amax).to(wide(x))


def _integers_and_scale(
    caller: str, x: Tensor, amax: Tensor | float, num_bits: int, unsigned: bool, narrow_range: bool
) -> tuple[Tensor, Tensor]:
    """Integers and scale of `tensor_quant` in the wide dtype, without a gradient."""
    low, high = integer_bounds(num_bits, unsigned, narrow_range)
    values = wide(x.detach())
    limit = torch.as_tensor(amax, dtype=values.dtype, device=values.device).detach()
    _check_amax(caller, x, limit)
    if unsigned:
        check_unsigned(caller, x)
    empty = limit <= TINY_AMAX
    scale = high / limit.masked_fill(empty, 1.0)
    return scaled_integers(values, scale.masked_fill(empty, 0.0), low, high), scale.masked_fill(
        empty, 1.0
    )


def _gradient_within(value: Tensor, x: Tensor, amax: Tensor | float) -> Tensor:
    """`value` with gradient 1 to `x` where |x| <= amax, 0 elsewhere."""
    limit = amax.detach() if isinstance(amax, Tensor) else amax
    return ste.straight_through(value, torch.where(x.detach().abs() <= limit, x, x.detach()))


def check_unsigned(caller: str, x: Tensor) -> None:
    """Raise where an unsigned format is given negative values; skipped while compiling."""
    if not torch.compiler.is_compiling() and bool((x < 0).any()):
        raise InvalidTypeError(
            f"{caller}(unsigned=True): x has negative values, down to {float(x.min()):g}; use"
            " unsigned=False, or rectify x first"
        )


def _check_broadcasts(caller: str, name: str, value: Tensor, x: Tensor) -> None:
    check_real(caller, name, value)
    aligned = zip(reversed(value.shape), reversed(x.shape), strict=False)
    if value.ndim > x.ndim or any(size not in (1, full) for size, full in aligned):
        raise ShapeError(
            f"{caller}({name} of shape {tuple(value.shape)}): must broadcast to the shape of x,"
            f" {tuple(x.shape)}; give one value, or one per channel with size 1 along the other"
            " axes"
        )


def _check_amax(caller: str, x: Tensor, amax: Tensor) -> None:
    _check_broadcasts(caller, "amax", amax, x)
    if not torch.compiler.is_compiling() and not bool(((amax >= 0) & (amax < math.inf)).all()):
        raise InvalidValueError(
            f"{caller}(amax from {float(amax.min()):g} to {float(amax.max()):g}): amax is the"
            " largest magnitude and must be finite and >= 0; take it from x.abs().amax() of clean"
            " data"
        )
