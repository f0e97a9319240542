"""Sequences of any shape as rows `[T, N]` of neurons, in the order in which they lie in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from snnsim.errors import ShapeError

__all__ = ["Layout", "stored"]


def stored(tensor: Tensor) -> Tensor:
    """The same values, in memory as they are: torch keeps a negation, and zeros of a gradient, as a
    mark on a tensor.
    """
    if tensor.is_neg():
        return tensor.resolve_neg()
    return torch.zeros_like(tensor) if tensor._is_zerotensor() else tensor


@dataclass(frozen=True)
class Layout:
    """How the axes behind time lie in memory, and where the channels are in that order.

    Attributes:
        shape: `[T, *n]`, of the sequence.
        order: axes of one step, outermost in memory first; None where that is their own order.
        inner: neurons of a row that share a channel in a row.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...] | None
    inner: int

    @staticmethod
    def of(x_seq: Tensor, channels: int, inner: int) -> Layout:
        """Layout of a sequence; the row-major one where its steps have gaps, overlap, or tear the
        channels apart.

        Args:
            x_seq: `[T, *n]`.
            channels: C of the table.
            inner: neurons that share a channel in a row, in row-major order.

        Raises:
            ShapeError: one step does not hold a whole number of groups of `channels * inner`
                neurons.
        """
        row_major = _row_major(tuple(x_seq.shape), channels, inner)
        if not x_seq.is_contiguous():
            step = row_major.shape[1:]
            order = _memory_order(step, x_seq.stride()[1:])
            inner_there = (
                inner
                if order is None or channels == 1
                else _moved_inner(step, order, channels, inner)
            )
            if order is not None and inner_there is not None:
                return Layout(row_major.shape, order, inner_there)
        return row_major

    @cached_property
    def size(self) -> int:
        """Neurons of one step, N."""
        return math.prod(self.shape[1:])

    def rows(self, sequence: Tensor) -> Tensor:
        """`[T, *n]` as `[T, N]`, each row dense; a copy only where the memory is laid out
        otherwise.
        """
        sequence = stored(sequence)
        if self.order is not None:
            sequence = sequence.permute(0, *(axis + 1 for axis in self.order))
        elif sequence.is_contiguous():
            return sequence.view(self.shape[0], self.size)
        size = self.size
        if _is_dense(sequence.shape[1:], sequence.stride()[1:]):
            # the steps themselves may lie anywhere: all in one place for an input that is the same
            # at every step
            return sequence.as_strided((self.shape[0], size), (sequence.stride(0), 1))
        return sequence.contiguous().view(self.shape[0], size)

    def unrows(self, rows: Tensor) -> Tensor:
        """`[T, N]` as `[T, *n]`, a view."""
        return self._restore(rows, rows.shape[:1])

    def row(self, step: Tensor) -> Tensor:
        """One step `[*n]` as `[N]`."""
        step = stored(step)
        return (step if self.order is None else step.permute(self.order)).reshape(-1)

    def unrow(self, row: Tensor) -> Tensor:
        """`[N]` as one step `[*n]`, a view."""
        return self._restore(row, ())

    def _restore(self, rows: Tensor, leading: Sequence[int]) -> Tensor:
        step = self.shape[1:]
        if self.order is None:
            return rows.view((*leading, *step))
        offset = len(leading)
        inverse = sorted(range(len(step)), key=self.order.__getitem__)
        view = rows.view(*leading, *(step[axis] for axis in self.order))
        return view.permute(*range(offset), *(inverse[axis] + offset for axis in range(len(step))))


@lru_cache(maxsize=1024)
def _row_major(shape: tuple[int, ...], channels: int, inner: int) -> Layout:
    step = shape[1:]
    if channels > 1 and math.prod(step) % (channels * inner):
        raise ShapeError(
            f"x_seq: one step has shape {step}, and a table of {channels} channels of {inner}"
            f" neurons each needs a multiple of {channels * inner} neurons; the first axis is time"
        )
    return Layout(shape, None, inner)


def _memory_order(step: Sequence[int], strides: Sequence[int]) -> tuple[int, ...] | None:
    """Axes of a dense step, outermost in memory first; None for row-major order and for a step that
    is not dense.
    """
    order = tuple(sorted(range(len(step)), key=lambda axis: (-strides[axis], axis)))
    if order == tuple(range(len(step))) or not _is_dense(
        [step[a] for a in order], [strides[a] for a in order]
    ):
        return None
    return order


def _moved_inner(
    step: Sequence[int], order: Sequence[int], channels: int, inner: int
) -> int | None:
    """`inner` after reordering; None where the axes that distinguish channels do not stay
    together."""
    last = len(step)
    while last and math.prod(step[last:]) != inner:
        last -= 1
    first = last
    while first and math.prod(step[first:last]) != channels:
        first -= 1
    run = list(range(first, last))
    if math.prod(step[last:]) != inner or math.prod(step[first:last]) != channels or not run:
        return None
    start = order.index(first)
    if list(order[start : start + len(run)]) != run:
        return None
    return math.prod(step[axis] for axis in order[start + len(run) :])


def _is_dense(sizes: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether a row-major walk goes through memory without a gap."""
    expected = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
