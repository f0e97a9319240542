"""A delay on the way back from a later layer to an earlier one."""

from __future__ import annotations

import torch
from torch import Tensor

from snnsim.errors import InvalidValueError, RunError, ShapeError
from snnsim.layers import Delay
from snnsim.temporal.module import stack_steps

__all__ = ["Feedback"]


class Feedback(Delay):
    """A delay that closes a loop: read at the start of a time step, written at its end.

    Args:
        delay_steps: time steps, at least 1.
        shape: of one sample, `[*n]`.
    """

    def __init__(self, delay_steps: int, shape: tuple[int, ...]) -> None:
        super().__init__(delay_steps)
        if delay_steps < 1:
            raise InvalidValueError(
                "Feedback(delay_steps=0): a loop needs a delay of at least one time step"
            )
        self.shape = shape

    def read(self, x: Tensor) -> Tensor:
        """What was written `delay_steps` ago, `[B, *n]`, zeros before; `x` is the network's input
        of this step.
        """
        if self._run.steps is not None:
            raise RunError(
                "MultiStep: this network has feedback, so one time step needs the one before; use"
                " snnsim.SingleStep"
            )
        oldest = self.held("x0")
        return x.new_zeros(len(x), *self.shape) if oldest is None else oldest

    def write(self, value: Tensor) -> None:
        """Put in the value of this time step."""
        if tuple(value.shape[1:]) != self.shape:
            raise ShapeError(
                f"Feedback: what comes back has shape {tuple(value.shape[1:])}, and was made for"
                f" {self.shape}; give the network samples of that shape"
            )
        waiting = [self.check_held(f"x{i}", value, value.dtype) for i in range(1, self.delay_steps)]
        line = stack_steps([*(torch.zeros_like(value) if x is None else x for x in waiting), value])
        self.hold(**{f"x{i}": x for i, x in enumerate(line)})
