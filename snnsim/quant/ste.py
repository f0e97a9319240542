"""Straight-through functions: the forward is a step, the gradient passes as if it were not there.

Source: Bengio, Leonard & Courville 2013, "Estimating or Propagating Gradients Through Stochastic
Neurons", arXiv 1308.3432.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnsim._core.autograd import apply
from snnsim._core.checks import check_real, checked_float
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError

__all__ = ["ceil", "clamp", "floor", "round", "rounded", "straight_through"]


class _StraightThrough(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, source: Tensor) -> Tensor:
        # a fresh tensor: returning the input itself would alias it
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[None, Tensor | None]:
        return None, grad_outputs[0]


def straight_through(value: Tensor, source: Tensor) -> Tensor:
    """`value` in the forward; in the backward the gradient goes to `source` unchanged.

    The usual idiom `source + (value - source).detach()` returns values that are off by an ulp; this
    returns `value` exactly.

    Args:
        value: result of the forward, any shape.
        source: tensor that receives the gradient, same shape and dtype as `value`.

    Returns:
        A tensor equal to `value`, bit for bit.
    """
    check_real("straight_through", "value", value)
    check_real("straight_through", "source", source)
    if value.shape != source.shape:
        raise ShapeError(
            f"straight_through(value of shape {tuple(value.shape)}, source of shape"
            f" {tuple(source.shape)}): value and source must have one shape; expand one of them"
        )
    return apply(_StraightThrough, value.detach(), source)


def round(x: Tensor) -> Tensor:
    """Nearest integer, ties to even, with straight-through gradient."""
    _check_numeric("round", x)
    return straight_through(torch.round(x), x)


def ceil(x: Tensor) -> Tensor:
    """Smallest integer not below `x`, with straight-through gradient."""
    _check_numeric("ceil", x)
    return straight_through(torch.ceil(x), x)


def floor(x: Tensor) -> Tensor:
    """Largest integer not above `x`, with straight-through gradient."""
    _check_numeric("floor", x)
    return straight_through(torch.floor(x), x)


def _check_numeric(where: str, x: Tensor) -> None:
    check_real(where, "x", x)
    if x.dtype == torch.bool:
        raise InvalidTypeError(
            f"{where}(x of dtype torch.bool): x must be numbers; convert it with x.float()"
        )


class _Clamp(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, min_value: float, max_value: float) -> Tensor:
        return torch.clamp(x, min_value, max_value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, min_value, max_value = inputs
        ctx.save_for_backward((x >= min_value) & (x <= max_value))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return grad_outputs[0] * inside, None, None


def clamp(x: Tensor, min_value: float, max_value: float) -> Tensor:
    """`x` limited to [min_value, max_value]; gradient 1 inside, bounds included, 0 outside.

    Raises:
        InvalidValueError: min_value above max_value.
    """
    check_real("clamp", "x", x)
    for name, value in (("min_value", min_value), ("max_value", max_value)):
        checked_float("clamp", name, value)
    if not min_value <= max_value:
        raise InvalidValueError(
            f"clamp(min_value={min_value}, max_value={max_value}): min_value must not exceed"
            " max_value; swap the two"
        )
    return apply(_Clamp, x, min_value, max_value)


def rounded(values: Tensor, frac_bits: int) -> Tensor:
    """Nearest multiples of `2**-frac_bits`, halves to even, in the dtype of `values` and without a
    gradient.
    """
    step = 2.0**-frac_bits
    return (torch.round(values.detach().double() / step) * step).to(values.dtype)
