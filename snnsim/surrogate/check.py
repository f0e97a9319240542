"""Comparison of a surrogate's derivative with that of its primitive."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.surrogate.base import Surrogate


@dataclass(frozen=True)
class GradientCheck:
    """Result of `check_gradient`: true in `if` when the check passed.

    Args:
        surrogate: what was checked.
        worst_x: grid point with the largest error.
        derivative: `derivative(worst_x)`.
        gradient: gradient of `primitive` at `worst_x`.
        error: by how much the two disagree there.
        jump: largest step of the primitive that its derivative does not account for; 0 when it is
            continuous.
        tolerance: largest error that passes, in the same unit.
    """

    surrogate: Surrogate
    worst_x: float
    derivative: float
    gradient: float
    error: float
    jump: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """The error is within the tolerance and the primitive does not jump."""
        return self.error <= self.tolerance and self.jump == 0

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        verdict = "passed" if self.passed else "failed"
        jump = f", primitive jumps by {self.jump:.3g}" if self.jump else ""
        return (
            f"GradientCheck({verdict}: {self.surrogate!r}, worst at x={self.worst_x:.6g}, "
            f"derivative {self.derivative:.6g}, gradient of primitive {self.gradient:.6g}, "
            f"error {self.error:.3g}, tolerance {self.tolerance:.3g}{jump})"
        )


def check_gradient(
    surrogate: Surrogate,
    low: float = -4.0,
    high: float = 4.0,
    points: int = 8193,
    tolerance: float = 1e-6,
) -> GradientCheck:
    """Compare `derivative` with autograd of `primitive` on a dense float64 grid that contains 0.

    At a kink of the primitive the derivative has two one-sided values, and either is right. So the
    error at a grid point is the distance of the gradient from the interval that the derivative
    spans within 1e-9 of that point; no point is left out. Autograd does not see a jump of the
    primitive; it is looked for between neighbouring points.

    Args:
        surrogate: an instance that has a primitive.
        low, high: the grid's ends, in the unit of the threshold; low < 0 < high. The default grid
            has steps of 2^-10, so that whole and half units, where kinks like to be, are on it
            exactly.
        points: number of grid points, at least 3; a feature narrower than their distance can be
            missed.
        tolerance: largest error that passes, relative to the largest derivative on the grid.

    Raises:
        InvalidTypeError: not a Surrogate instance.
        InvalidValueError: no primitive, a range without 0 inside, too few points, or a negative
            tolerance.

    Example:
        >>> from snnsim.surrogate import ATan
        >>> bool(check_gradient(ATan()))
        True
    """
    if not isinstance(surrogate, Surrogate):
        raise InvalidTypeError(
            f"check_gradient(surrogate={surrogate!r}): surrogate must be an instance of Surrogate;"
            " write e.g. ATan()"
        )
    if not -math.inf < low < 0 < high < math.inf:
        raise InvalidValueError(
            f"check_gradient(low={low}, high={high}): the ends must be finite with 0 between them;"
            " try low=-4, high=4"
        )
    if points < 3:
        raise InvalidValueError(
            f"check_gradient(points={points}): at least 3 points are needed; the default is 8193"
        )
    if not tolerance >= 0:
        raise InvalidValueError(
            f"check_gradient(tolerance={tolerance}): tolerance must be >= 0; the default is 1e-6"
        )

    x = torch.linspace(low, high, points, dtype=torch.float64)
    # the threshold itself is where most surrogates have their kink
    x[x[1:-1].abs().argmin() + 1] = 0.0
    value, gradient = _value_and_gradient(surrogate, x)
    with torch.no_grad():
        derivative = surrogate.derivative(x)
        around = torch.stack(
            [surrogate.derivative(x - 1e-9), derivative, surrogate.derivative(x + 1e-9)]
        )
    error = (gradient - gradient.clamp(around.amin(0), around.amax(0))).abs()
    error[error.isnan()] = torch.inf
    worst = int(error.argmax())
    return GradientCheck(
        surrogate=surrogate,
        worst_x=float(x[worst]),
        derivative=float(derivative[worst]),
        gradient=float(gradient[worst]),
        error=float(error[worst]),
        jump=_largest_jump(x, value, derivative),
        tolerance=tolerance * float(derivative.abs().amax()),
    )


def _value_and_gradient(surrogate: Surrogate, x: Tensor) -> tuple[Tensor, Tensor]:
    """`primitive(x)` and its elementwise gradient, 0 where autograd finds no dependence on `x`."""
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone().requires_grad_()
        value = surrogate.primitive(x)
        if not value.requires_grad:
            return value, torch.zeros_like(value)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def _largest_jump(x: Tensor, value: Tensor, derivative: Tensor) -> float:
    """Largest increment between neighbouring grid points that no slope within the derivative's
    range explains.
    """
    low, high = derivative.aminmax()
    # a derivative may pass its grid values between two of them, and increments are rounded
    margin = (high - low) + 1e-6 * torch.maximum(high.abs(), low.abs())
    step = x.diff()
    slope = value.diff() / step
    unexplained = (slope - slope.clamp(low - margin, high + margin)).abs() * step
    return float(unexplained.amax())
