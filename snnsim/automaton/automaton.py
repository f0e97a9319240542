"""The automaton that a quantized neuron is: pure data, which all that run or show it read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError

DTYPES = (torch.float32, torch.float64)
ROWS = ("out", "carry", "after", "d_out", "d_carry", "d_after")


@dataclass(frozen=True, eq=False)
class LearnedLevels:
    """Dependence of the levels of a codebook on each of its `P` parameters.

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
class Automaton:
    """A quantized neuron as a finite automaton: what each of its `L` codes emits and leaves behind.

        forward    h = carry + x[t] / divisor;  k = number of edges <= h
                   out[t] = out[k];  carry = carry[k]
        backward   g = d_out[k] * grad_out[t] + d_carry[k] * g, 0 where the gradient is blocked
                   grad_x[t] = g / divisor

    The last step leaves `after[k]`, the state itself, in place of `carry[k]`. All tensors share one
    dtype, float32 or float64, in which a scan computes, and one device. A row belongs to a channel:
    that of flat neuron `n` is `(n // inner) % C`.

    Attributes:
        edges: `[L-1]`, strictly increasing; a value on an edge belongs to the upper cell.
        out: `[C, L]`, what is emitted: 0 or 1, or the level itself; differentiable.
        carry: `[C, L]`, state after reset and leak, before the next input; differentiable.
        after: `[C, L]`, state after the reset; differentiable.
        d_out, d_carry, d_after: `[C, L]`, derivatives of those with respect to the quantized state.
        low, high: outermost levels; with `clip`, no gradient passes where `h` lies outside of them.
        clip: the straight-through gradient is clipped.
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

    # by which an engine knows how it is run; the first input is added to a state that has leaked
    kind: ClassVar[str] = "automaton"
    starts_decayed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.edges.dtype not in DTYPES:
            raise InvalidTypeError(
                f"Automaton(edges): must be float32 or float64, got {self.edges.dtype}; a scan"
                " computes in this dtype"
            )
        if self.edges.dim() != 1 or not len(self.edges):
            raise ShapeError(
                f"Automaton(edges): needs shape [L-1] with L >= 2, got {tuple(self.edges.shape)}"
            )
        if self.out.dim() != 2:
            raise ShapeError(f"Automaton(out): needs shape [C, L], got {tuple(self.out.shape)}")
        shape = (self.channels, self.edges.shape[0] + 1)
        for name in ROWS:
            entries = getattr(self, name)
            if tuple(entries.shape) != shape:
                raise ShapeError(
                    f"Automaton({name}): needs shape [C, L] = {shape} like the others, got"
                    f" {tuple(entries.shape)}"
                )
            check_kind(name, entries, self.edges)
        check_constants("Automaton", self.inner, self.channels, self.edges, divisor=self.divisor)

    def __repr__(self) -> str:
        return (
            f"Automaton({self.channels} x {self.levels} codes, {self.low:.4g} to {self.high:.4g},"
            f" {self.dtype}, clip={self.clip})"
        )

    @cached_property
    def channels(self) -> int:
        """Number of rows, C."""
        return self.out.shape[0]

    @cached_property
    def levels(self) -> int:
        """Number of codes, L."""
        return self.out.shape[1]

    @cached_property
    def dtype(self) -> torch.dtype:
        """Dtype that a scan computes in."""
        return self.edges.dtype

    @cached_property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.edges.device

    @cached_property
    def entries(self) -> tuple[Tensor | None, ...]:
        """Tensors that a scan is differentiable in: out, carry, after, divisor, and what the
        codebook learns.
        """
        learned = () if self.learned is None else self.learned.parameters
        return (self.out, self.carry, self.after, self.divisor, *learned)

    @cached_property
    def learns(self) -> bool:
        """Gradients lead from here to something that is learned."""
        return any(entry is not None and entry.requires_grad for entry in self.entries)

    def is_same(self, other: Automaton) -> bool:
        """Equality of all values, bit for bit."""
        numbers = [(one.low, one.high, one.clip, one.inner) for one in (self, other)]
        if numbers[0] != numbers[1] or (self.divisor is None) != (other.divisor is None):
            return False
        names = ("edges", *ROWS) if self.divisor is None else ("edges", *ROWS, "divisor")
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        return all(
            x.shape == y.shape and bool(((x == y) | (x.isnan() & y.isnan())).all())
            for x, y in pairs
        )


def check_constants(
    who: str, inner: int, channels: int, like: Tensor, **constants: Tensor | None
) -> None:
    """Refuse constants that are neither one number nor one per channel, of the dtype and device of
    `like`.
    """
    for name, value in constants.items():
        if value is not None:
            if value.dim() != 1 or value.shape[0] not in (1, channels):
                raise ShapeError(
                    f"{name}: needs shape [1] or [C] = [{channels}], got {tuple(value.shape)}"
                )
            check_kind(name, value, like)
    if inner < 1:
        raise InvalidValueError(
            f"{who}(inner={inner}): neurons in a row that share a channel, at least 1"
        )


def check_kind(name: str, value: Tensor, like: Tensor) -> None:
    """Refuse a tensor of another dtype or device than `like`."""
    if value.dtype != like.dtype or value.device != like.device:
        raise InvalidTypeError(
            f"{name}: is {value.dtype} on {value.device} and must be {like.dtype} on {like.device}"
            " like the rest; convert it with .to()"
        )
