"""Encoders: from values to spike trains `[T, *shape]`, time first.

An argument out of the stated range raises an InvalidValueError, one of another type an
InvalidTypeError, one of another shape a ShapeError.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snnsim._core.checks import (
    MOST,
    check_generator,
    check_int,
    check_sequence,
    check_tensor,
    check_unit,
    check_values,
    checked_number,
    wide,
)
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.quant.ste import straight_through

__all__ = ["delta", "direct", "latency", "phase", "rate"]


def rate(x: Tensor, time_steps: int, generator: torch.Generator | None = None) -> Tensor:
    """Independent random spikes: each step fires with probability `x` (Bernoulli, the discrete
    Poisson process).

    The gradient of a spike with respect to its probability is 1, that of its mean.

    Args:
        x: probability of a spike per time step, `[B, *n]`, floating, within 0..1.
        time_steps: T, at least 1.
        generator: source of randomness, on the device of `x`; torch's global one if not given.

    Returns:
        Spikes `[T, B, *n]`, in the dtype of `x`.
    """
    check_unit("rate", "x", x)
    check_int("rate", "time_steps", time_steps, at_least=1, at_most=MOST)
    check_generator("rate", "generator", generator)
    probability = x.expand(time_steps, *x.shape)
    return straight_through(torch.bernoulli(probability.detach(), generator=generator), probability)


def latency(x: Tensor, time_steps: int) -> Tensor:
    """One spike per value, the earlier the larger: at step round((1 - x) (T - 1)), half to even.

    Args:
        x: intensity, `[B, *n]`, floating, within 0..1; 1 fires at step 0, 0 at step T - 1.
        time_steps: T, at least 1.

    Returns:
        Spikes `[T, B, *n]`, in the dtype of `x`.
    """
    check_unit("latency", "x", x)
    check_int("latency", "time_steps", time_steps, at_least=1, at_most=MOST)
    # float64: half precision cannot count many steps
    at = ((1 - x.to(torch.float64)) * (time_steps - 1)).round()
    return (_steps(time_steps, x) == at).to(x.dtype)


def phase(x: Tensor, time_steps: int, period: int = 8) -> Tensor:
    """The binary digits of each value, most significant first, repeated every `period` steps.

    A spike at step t stands for 2^-(1 + t mod period). The value is rounded down to `period`
    digits, and 1 to the largest of them, which gives back the pixel values of 8-bit images divided
    by 255.

    Args:
        x: intensity, `[B, *n]`, floating, within 0..1.
        time_steps: T, at least 1; fewer than `period` leave the last digits out.
        period: digits, 1 to 32.

    Returns:
        Spikes `[T, B, *n]`, in the dtype of `x`.

    Source: Kim et al. 2018, "Deep neural networks with weighted spikes", Neurocomputing 311.

    Example:
        >>> phase(torch.tensor([0.625]), time_steps=4, period=4).flatten()
        tensor([1., 0., 1., 0.])
    """
    check_unit("phase", "x", x)
    check_int("phase", "time_steps", time_steps, at_least=1, at_most=MOST)
    check_int("phase", "period", period, at_least=1, at_most=MOST)
    if period > 32:
        raise InvalidValueError(
            f"phase(period={period}): period must be <= 32, the digits a value can have; pass 8"
        )
    code = (x.to(torch.float64) * 2**period).floor().clamp(max=2**period - 1).to(torch.int64)
    digit = period - 1 - _steps(time_steps, x) % period
    return ((code >> digit) & 1).to(x.dtype)


def direct(x: Tensor, time_steps: int) -> Tensor:
    """The value itself as a constant current, at every step; the first layer learns to encode it.

    Args:
        x: `[B, *n]`, differentiable.
        time_steps: T, at least 1.

    Returns:
        `[T, B, *n]`, a view of `x` that takes no memory and cannot be written to in place.
    """
    check_tensor("direct", "x", x)
    check_int("direct", "time_steps", time_steps, at_least=1, at_most=MOST)
    return x.expand(time_steps, *x.shape)


def delta(x_seq: Tensor, threshold: float) -> Tensor:
    """Events where a signal has moved by `threshold` since the last event (send on delta).

    At each step, at most one event moves the receiver's copy of the signal by one threshold toward
    it, so that slow changes add up and `x_seq[0] + threshold * events.cumsum(0)` follows the
    signal.

    Args:
        x_seq: signal, `[T, B, *n]`, floating, finite.
        threshold: size of a change that makes an event, in the unit of the signal, above 0.

    Returns:
        Events `[T, B, *n]` in the dtype of `x_seq`: 1 upward, -1 downward, 0 none; 0 at the first
            step. For two
        channels of spikes take `events.clamp(min=0)` and `(-events).clamp(min=0)`.

    Source: Miskowicz 2006, "Send-On-Delta Concept: An Event-Based Data Reporting Strategy", Sensors
    6(1).
    """
    check_sequence("delta", "x_seq", x_seq)
    threshold = checked_number("delta", "threshold", threshold, above=0)
    if not x_seq.is_floating_point():
        raise InvalidTypeError(
            f"delta(x_seq of dtype {x_seq.dtype}): x_seq must be floating; pass x_seq.float()"
        )
    check_values(
        "delta", "x_seq", x_seq, x_seq.isfinite(), "finite", "remove NaN and infinities first"
    )
    signal = wide(x_seq.detach())
    # events are counted, not summed as multiples of the threshold: no rounding error accumulates
    count = torch.zeros_like(signal[0])
    events = []
    for x in signal:
        change = x - (signal[0] + threshold * count)
        events.append(torch.where(change.abs() >= threshold, change.sign(), 0))
        count = count + events[-1]
    return torch.stack(events).to(x_seq.dtype)


def _steps(time_steps: int, x: Tensor) -> Tensor:
    """0..T-1 as `[T, 1, ..., 1]`, to compare with `x`."""
    return torch.arange(time_steps, device=x.device).view(-1, *[1] * x.ndim)
