from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch

from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.surrogate import ATan, PiecewiseLeakyReLU, Surrogate, check_gradient, from_derivative


@dataclass(frozen=True)
class OldLeaky(PiecewiseLeakyReLU):
    """The older published form: twice the true slope inside."""

    def derivative(self, x):
        return torch.where(x.abs() <= self.w, 1 / self.w, self.c).to(x.dtype)


def one(x):
    return torch.ones_like(x)


def test_a_right_surrogate_passes_and_says_where_it_is_worst():
    result = check_gradient(ATan())
    assert result
    assert result.passed
    assert result.surrogate == ATan()
    assert result.error <= result.tolerance
    assert result.jump == 0
    assert repr(result).startswith("GradientCheck(passed: ATan(alpha=2.0), worst at x=")


def test_the_older_leaky_relu_is_caught():
    result = check_gradient(OldLeaky(w=1.0, c=0.01))
    assert not result
    assert abs(result.worst_x) <= 1
    assert (result.derivative, result.gradient, result.error) == (1.0, 0.5, 0.5)
    assert repr(result).startswith("GradientCheck(failed: OldLeaky(w=1.0, c=0.01), worst at x=")
    assert "derivative 1, gradient of primitive 0.5, error 0.5" in repr(result)


def test_a_small_error_at_a_single_place_is_found():
    narrow = from_derivative(lambda x: 1 + 0.01 * torch.exp(-(((x - 1.5) * 50) ** 2)), lambda x: x)
    result = check_gradient(narrow)
    assert not result
    assert result.worst_x == 1.5


def test_a_gradient_lost_at_the_threshold_is_found():
    # sign(x) is 0 at 0, and with it autograd of a primitive written with abs
    lossy = from_derivative(
        lambda x: 1 / (1 + x.abs()), lambda x: x.sign() * torch.log(1 + x.abs())
    )
    result = check_gradient(lossy)
    assert not result
    assert (result.worst_x, result.derivative, result.gradient) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("value", [0.25, 0.75])
def test_at_a_kink_either_side_is_right(value):
    def step(x):
        return torch.where(x >= value, 2.0, 1.0).to(x.dtype)

    assert check_gradient(from_derivative(step, lambda x: torch.where(x > value, 2 * x - value, x)))
    assert check_gradient(
        from_derivative(step, lambda x: torch.where(x >= value, 2 * x - value, x))
    )


@pytest.mark.parametrize("height", [0.5, -0.5])
def test_a_jump_of_the_primitive_is_found(height):
    result = check_gradient(from_derivative(one, lambda x: torch.where(x < 1.0, x, x + height)))
    assert not result
    assert result.error == 0
    assert result.jump == pytest.approx(0.5, rel=1e-3)
    assert "primitive jumps by 0.5" in repr(result)


def test_a_primitive_that_blocks_autograd_fails():
    result = check_gradient(from_derivative(one, torch.zeros_like))
    assert not result
    assert result.gradient == 0


def test_nan_fails():
    assert not check_gradient(from_derivative(one, lambda x: torch.where(x > 1, math.nan * x, x)))
    assert not check_gradient(
        from_derivative(
            lambda x: torch.where(x > 1, math.nan, 1.0).to(x.dtype), lambda x: x.clone()
        )
    )


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_tolerance_follows_the_scale(scale):
    assert check_gradient(
        from_derivative(
            lambda x: scale * ATan().derivative(x), lambda x: scale * ATan().primitive(x)
        )
    )
    assert not check_gradient(
        from_derivative(lambda x: 1.001 * scale * one(x), lambda x: scale * x)
    )


def test_zero_is_on_every_grid():
    bad_at_zero = from_derivative(
        lambda x: torch.where(x == 0, 3.0, 1.0).to(x.dtype), lambda x: torch.where(x == 0, 5 * x, x)
    )
    assert check_gradient(bad_at_zero, low=-1.3, high=0.7, points=10).worst_x == 0.0


def test_it_runs_under_inference_mode():
    with torch.inference_mode():
        assert check_gradient(ATan())


def test_the_result_is_frozen():
    with pytest.raises(FrozenInstanceError):
        check_gradient(ATan()).error = 0.0


@pytest.mark.parametrize("value", [ATan, torch.sigmoid, None])
def test_it_wants_an_instance(value):
    with pytest.raises(
        InvalidTypeError, match=r"surrogate must be an instance of Surrogate; write e\.g\. ATan\(\)"
    ):
        check_gradient(value)


def test_it_wants_a_primitive():
    class Bare(Surrogate):
        def derivative(self, x):
            return torch.ones_like(x)

    with pytest.raises(InvalidValueError, match="has no primitive"):
        check_gradient(Bare())


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-1.0, 0.0), (2.0, -2.0), (-math.inf, 1.0), (-1.0, math.nan)]
)
def test_zero_must_lie_inside_the_grid(low, high):
    with pytest.raises(InvalidValueError, match="the ends must be finite with 0 between them"):
        check_gradient(ATan(), low=low, high=high)


def test_a_grid_needs_points():
    with pytest.raises(InvalidValueError, match=r"check_gradient\(points=2\): at least 3 points"):
        check_gradient(ATan(), points=2)


@pytest.mark.parametrize("tolerance", [-1e-9, math.nan])
def test_the_tolerance_must_not_be_negative(tolerance):
    with pytest.raises(InvalidValueError, match=r"tolerance must be >= 0"):
        check_gradient(ATan(), tolerance=tolerance)
