"""What a kernel is told about a neuron: a table of its automaton, or the constants of a linear one.
Pure data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError

__all__ = ["LearnedLevels", "LinearMembrane", "Table"]

DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class LearnedLevels:
    """What a codebook learns about its levels: how the quantized state of code `k` follows each of
    its `P` parameters.

        dq/dp = inside[p, k] + by_membrane[p] * h    where the gradient passes
                outside[p, k]                        where it is clipped

    Attributes:
        parameters: P tensors of one element; a scan gives each its gradient and reads no value.
        inside, outside: `[P, L]` float64.
        by_membrane: `[P]` float64.
    """

    parameters: tuple[Tensor, ...]
    inside: Tensor
    outside: Tensor
    by_membrane: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """A quantized neuron as a finite automaton: what each of its `L` codes emits and leaves behind.

        forward    h = carry + x[t] / divisor;  k = number of edges <= h;  out[t] = out[k];  carry =
        carry[k]
        backward   g = d_out[k] * grad_out[t] + d_carry[k] * g, 0 where the gradient is blocked;
        grad_x[t] = g / divisor

    The last step leaves `after[k]`, the state itself, in place of `carry[k]`. All tensors share one
    dtype, float32 or float64, in which the scan computes, and one device. A row belongs to a
    channel: that of flat neuron `n` is `(n // inner) % C`.

    Attributes:
        edges: `[L-1]`, strictly increasing; a value on an edge belongs to the upper cell.
        out: `[C, L]`, what is emitted: 0 or 1, or the level itself; differentiable.
        carry: `[C, L]`, what is left of the state after reset and leak, before the next input;
            differentiable.
        after: `[C, L]`, state after the reset; differentiable.
        d_out, d_carry, d_after: `[C, L]`, derivatives of those with respect to the quantized state.
        low, high: outermost levels; with `clip`, no gradient passes where `h` lies outside of them.
        clip: whether the straight-through gradient is clipped.
        uniform: (first edge, step) where the edges are evenly spaced up to rounding; a hint that an
            engine may use once it has checked it against `edges`.
        inner: neurons in a row that share a channel.
        divisor: `[1]` or `[C]`, what the input is divided by; differentiable. None divides by
            nothing.
        learned: what the codebook learns; None where its levels are fixed.

    Raises:
        ShapeError, InvalidTypeError, InvalidValueError: tensors that do not belong together.
    """

    edges: Tensor
    out: Tensor
    carry: Tensor
    after: Tensor
    d_out: Tensor
    d_carry: Tensor
    d_after: Tensor
    low: float
    high: float
    clip: bool = False
    uniform: tuple[float, float] | None = None
    inner: int = 1
    divisor: Tensor | None = None
    learned: LearnedLevels | None = None

    def __post_init__(self) -> None:
        if self.edges.dtype not in DTYPES:
            raise InvalidTypeError(
                f"Table(edges): must be float32 or float64, got {self.edges.dtype}; a scan computes"
                " in this dtype"
            )
        if self.edges.dim() != 1 or not len(self.edges):
            raise ShapeError(
                f"Table(edges): needs shape [L-1] with L >= 2, got {tuple(self.edges.shape)}"
            )
        if self.out.dim() != 2:
            raise ShapeError(f"Table(out): needs shape [C, L], got {tuple(self.out.shape)}")
        shape = (self.channels, self.edges.shape[0] + 1)
        for name in ("out", "carry", "after", "d_out", "d_carry", "d_after"):
            entries = getattr(self, name)
            if tuple(entries.shape) != shape:
                raise ShapeError(
                    f"Table({name}): needs shape [C, L] = {shape} like the others, got"
                    f" {tuple(entries.shape)}"
                )
            _check_kind(name, entries, self.edges)
        if self.inner < 1:
            raise InvalidValueError(
                f"Table(inner={self.inner}): neurons in a row that share a channel, at least 1"
            )
        check_per_channel("divisor", self.divisor, self.channels, self.edges)

    def __repr__(self) -> str:
        return (
            f"Table({self.channels} x {self.levels} codes, {self.low:.4g} to {self.high:.4g},"
            f" {self.dtype}, clip={self.clip})"
        )

    @property
    def channels(self) -> int:
        """Number of rows, C."""
        return self.out.shape[0]

    @property
    def levels(self) -> int:
        """Number of codes, L."""
        return self.out.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype a scan of this table computes in."""
        return self.edges.dtype


@dataclass(frozen=True, eq=False)
class LinearMembrane:
    """An un-quantized integrate-and-fire neuron.

        h = v - (v - rest)/tau + x[t] / divisor  (tau None: h = v + x[t] / divisor);  s = 1 if h >=
        threshold else 0 v = reset where s = 1 (reset None: h - threshold), else h

    For the backward pass `h - threshold` is kept, at which the derivative is evaluated as it
    stands; its sign is that of the comparison, and `h`, where a gradient wants it, is the sum of it
    and the threshold.

    Attributes:
        threshold: `[1]` or `[C]`, float32 or float64, the dtype of the computation; differentiable.
        derivative: of the spike with respect to `h - threshold`, elementwise.
        reset: potential after a spike; None subtracts the threshold.
        tau: `[1]` or `[C]`, in time steps; differentiable. None does not leak.
        rest: potential the leak decays to.
        divisor: `[1]` or `[C]`, what the input is divided by; differentiable. None divides by
            nothing.
        detach_reset: take the reset out of the gradient.
        inner: neurons in a row that share a channel.
    """

    threshold: Tensor
    derivative: Callable[[Tensor], Tensor]
    reset: float | None = None
    tau: Tensor | None = None
    rest: float = 0.0
    divisor: Tensor | None = None
    detach_reset: bool = False
    inner: int = 1

    def __post_init__(self) -> None:
        if self.threshold.dtype not in DTYPES:
            raise InvalidTypeError(
                f"LinearMembrane(threshold): must be float32 or float64, got {self.threshold.dtype}"
            )
        channels = self.channels
        for name in ("threshold", "tau", "divisor"):
            check_per_channel(name, getattr(self, name), channels, self.threshold)
        if self.inner < 1:
            raise InvalidValueError(
                f"LinearMembrane(inner={self.inner}): neurons in a row that share a channel, at"
                " least 1"
            )

    @property
    def channels(self) -> int:
        """Number of channels, C."""
        return max(
            value.numel() for value in (self.threshold, self.tau, self.divisor) if value is not None
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype a scan of this membrane computes in."""
        return self.threshold.dtype

    def slopes(self, above: Tensor) -> Tensor:
        """The derivative at distances from the threshold, checked: what comes back is as the
        kernels read it.

        Raises:
            InvalidValueError: a derivative that changes its argument, which is kept for a further
                pass.
            ShapeError, InvalidTypeError: one whose result is not like its argument.
        """
        version = above._version
        slopes = self.derivative(above)
        if above._version != version:
            raise InvalidValueError(
                "derivative: changes its argument in place; return a new tensor"
            )
        if slopes.shape != above.shape:
            raise ShapeError(
                f"derivative: needs a result of the shape of its argument, {tuple(above.shape)},"
                f" got {tuple(slopes.shape)}; it has to be elementwise"
            )
        _check_kind("derivative", slopes, above)
        return slopes


def check_per_channel(name: str, value: Tensor | None, channels: int, like: Tensor) -> None:
    """Refuse a constant that is neither one number nor one per channel, of the dtype and device of
    `like`.
    """
    if value is None:
        return
    if value.dim() != 1 or value.shape[0] not in (1, channels):
        raise ShapeError(f"{name}: needs shape [1] or [C] = [{channels}], got {tuple(value.shape)}")
    _check_kind(name, value, like)


def _check_kind(name: str, value: Tensor, like: Tensor) -> None:
    if value.dtype != like.dtype or value.device != like.device:
        raise InvalidTypeError(
            f"{name}: is {value.dtype} on {value.device} and must be {like.dtype} on {like.device}"
            " like the rest; convert it with .to()"
        )
