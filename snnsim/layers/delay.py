"""Delay of a signal by whole time steps."""

from __future__ import annotations

import torch
from torch import Tensor

from snnsim.checks import check_int
from snnsim.temporal import Temporal, stack_steps

__all__ = ["Delay"]


class Delay(Temporal):
    """Delays its input by whole time steps: `y[t] = x[t - delay_steps]`, zeros before the first.

    The module for use inside a network; on a plain sequence `functional.delay` does the same.

    Args:
        delay_steps: time steps, at least 0.
    """

    def __init__(self, delay_steps: int) -> None:
        super().__init__()
        check_int("Delay", "delay_steps", delay_steps, at_least=0)
        self.delay_steps = delay_steps

    def forward_sequence(self, x_seq: Tensor) -> Tensor:
        """The sequence `[T, B, *n]`, late by `delay_steps`."""
        if not self.delay_steps:
            return x_seq
        # one flat state tensor per waiting step, so that each is checked against the input's shape
        waiting = [self.check_held(f"x{i}", x_seq[0], x_seq.dtype) for i in range(self.delay_steps)]
        past = stack_steps([torch.zeros_like(x_seq[0]) if x is None else x for x in waiting])
        line = torch.cat([past, x_seq])
        # copies: a view would keep the whole line alive
        self.hold(**{f"x{i}": x.clone() for i, x in enumerate(line[len(x_seq) :])})
        return line[: len(x_seq)]

    def extra_repr(self) -> str:
        return str(self.delay_steps)
