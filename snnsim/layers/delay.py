"""Delay of a signal by whole time steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from snnsim._core.checks import check_int
from snnsim.errors import ShapeError, StateError
from snnsim.temporal.module import Temporal, stack_steps

__all__ = ["Delay"]


class Delay(Temporal):
    """Delays its input by whole time steps: `y[t] = x[t - delay_steps]`, zeros before the first.

    The module for use inside a network; on a plain sequence `functional.delay` does the same.

    Args:
        delay_steps: time steps, at least 0.
    """

    def __init__(self, delay_steps: int) -> None:
        super().__init__()
        self.delay_steps = delay_steps

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "delay_steps":
            check_int("Delay", "delay_steps", value, at_least=0)
            if self._state and value != self.delay_steps:
                raise StateError(
                    f"Delay(delay_steps={value}): {self.delay_steps} steps are held, which would"
                    " come out at other times; call snnsim.reset(net) first"
                )
        super().__setattr__(name, value)

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        """Refuse a state other than one tensor of one shape for each step that waits."""
        super()._check_state(state)
        expected = {f"x{i}" for i in range(self.delay_steps)}
        if state and set(state) != expected:
            raise StateError(
                f"Delay({self.delay_steps}): its state is {sorted(expected)}, got {sorted(state)};"
                " take states from snnsim.states(net)"
            )
        if len({x.shape for x in state.values()}) > 1:
            raise ShapeError(
                f"Delay({self.delay_steps}): all steps that wait must have one shape; take states"
                " from snnsim.states(net)"
            )

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
