"""Dropout whose mask does not change over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from snnsim.errors import InvalidTypeError, InvalidValueError, StateError
from snnsim.temporal.module import Temporal

__all__ = ["Dropout"]


class Dropout(Temporal):
    """Dropout with one mask for all time steps of a sequence: a neuron is gone for the whole
    sample.

    Zeroes with probability `p` and scales the rest by `1/(1-p)` in training mode; the identity in
    eval mode. Outside a runner the mask holds until `reset`.

    Args:
        p: probability to zero, in [0, 1).
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "p":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise InvalidValueError(
                    f"Dropout(p={value!r}): the probability to zero must be a number in [0, 1)"
                )
            value = float(value)
        super().__setattr__(name, value)

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        """Refuse a state other than the mask."""
        super()._check_state(state)
        if set(state) - {"mask"}:
            raise StateError(
                f"Dropout: its state is 'mask', got {sorted(state)}; take states from"
                " snnsim.states(net)"
            )

    def forward_sequence(self, x_seq: Tensor) -> Tensor:
        """The sequence `[T, B, *n]` under one mask `[B, *n]`."""
        if not self.training or not self.p:
            return x_seq
        if not x_seq.dtype.is_floating_point or x_seq.dtype.itemsize < 2:
            raise InvalidTypeError(
                f"Dropout: x must be floating point of 16 bits or more, got {x_seq.dtype}; convert"
                " it with x.float()"
            )
        mask = self.check_held("mask", x_seq[0], x_seq.dtype)
        if mask is None:
            mask = torch.empty_like(x_seq[0]).bernoulli_(1 - self.p).div_(1 - self.p)
        self.hold(mask=mask)
        return x_seq * mask

    def extra_repr(self) -> str:
        return f"p={self.p}"
