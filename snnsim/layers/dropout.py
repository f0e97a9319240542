"""Dropout whose mask does not change over time."""

from __future__ import annotations

import torch
from torch import Tensor

from snnsim.errors import InvalidValueError
from snnsim.temporal import Temporal

__all__ = ["Dropout"]


class Dropout(Temporal):
    """Dropout with one mask for all time steps of a sequence: a neuron is gone for the whole sample.

    Zeroes with probability `p` and scales the rest by `1/(1-p)` in training mode; the identity in eval mode. Outside a runner the
    mask holds until `reset`.

    Args:
        p: probability to zero, in [0, 1).
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p < 1:
            raise InvalidValueError(f"Dropout(p={p!r}): the probability to zero must be a number in [0, 1)")
        self.p = float(p)

    def forward_sequence(self, x_seq: Tensor) -> Tensor:
        """The sequence `[T, B, *n]` under one mask `[B, *n]`."""
        if not self.training or not self.p:
            return x_seq
        mask = self.check_held("mask", x_seq[0], x_seq.dtype)
        if mask is None:
            mask = torch.empty_like(x_seq[0]).bernoulli_(1 - self.p).div_(1 - self.p)
        self.hold(mask=mask)
        return x_seq * mask

    def extra_repr(self) -> str:
        return f"p={self.p}"
