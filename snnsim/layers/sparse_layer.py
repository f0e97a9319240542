"""What the layers share that add up weights over spikes: the crossover, and which way an input
goes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snnsim._core.checks import checked_number
from snnsim.errors import InvalidValueError
from snnsim.kernels.sparse import Spikes, percent

__all__ = ["Crossover", "SpikeLayer", "few_multiplications"]


class Crossover(NamedTuple):
    """Where the sparse product begins to pay.

    Attributes:
        density: largest share of ones for which it is taken.
        multiplications: fewest of the dense product; below, that is as fast as finding the spikes.
    """

    density: float
    multiplications: int


class SpikeLayer(nn.Module):
    """Adds up weights over the spikes of an input, where few of it are, and else does what its
    other base class does.

    A layer derives from this and from the layer of torch that it speeds up, in this order, and says
    so in `same_as`, so that `quant.quantize` makes of it what it makes of that layer.
    """

    weight: Any
    bias: Any

    @property
    def crossover(self) -> float | None:
        """Largest share of ones for which the spikes are added up; None for the measured one."""
        return self._crossover

    @crossover.setter
    def crossover(self, value: float | None) -> None:
        who = type(self).__name__
        if value is not None and checked_number(who, "crossover", value, at_least=0) > 1:
            raise InvalidValueError(
                f"{who}(crossover={value!r}): is a share of ones, at most 1; pass 0.1 for 10 %"
            )
        self._crossover = value

    def forward(self, x: Tensor) -> Tensor:
        """The product of the layer."""
        # traced, the choice would be that of the first input
        spikes = "torch.compile is at work" if torch.compiler.is_compiling() else self._spikes(x)
        if isinstance(spikes, str):
            return super().forward(x)
        return self._product(x, spikes, self._is_differentiated(x))

    def explain(self, x: Tensor) -> str:
        """Which product `x` would go through, and why."""
        spikes = self._spikes(x)
        if isinstance(spikes, str):
            return f"dense: {spikes}"
        return (
            f"sparse: {percent(spikes.density)} of the inputs spike, up to"
            f" {percent(self._limit(x))} pay"
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + (
            "" if self.crossover is None else f", crossover={self.crossover}"
        )

    def _spikes(self, x: Tensor) -> Spikes | str:
        """The spikes of an input, or why they are not added up."""
        reason = self._why_not(x)
        if reason is None and self.crossover == 0:
            reason = "crossover=0"
        if reason is None and self.crossover is None:
            reason = self._too_small(x)
        return self._find(x, self._limit(x)) if reason is None else reason

    def _limit(self, x: Tensor) -> float:
        return self._measured(x).density if self.crossover is None else self.crossover

    def _is_differentiated(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and any(
            t is not None and t.requires_grad for t in (x, self.weight, self.bias)
        )

    def _why_not(self, x: Tensor) -> str | None:
        """Why the kernels cannot run on this, whatever the values are; None if they can."""
        raise NotImplementedError

    def _too_small(self, x: Tensor) -> str | None:
        """Why the dense product is faster whatever the values are; None if it may not be."""
        raise NotImplementedError

    def _measured(self, x: Tensor) -> Crossover:
        """Where the sparse product begins to pay for inputs like `x`."""
        raise NotImplementedError

    def _find(self, x: Tensor, limit: float) -> Spikes | str:
        """The spikes of an input that nothing stands in the way of, or why they are not to be added
        up.
        """
        raise NotImplementedError

    def _product(self, x: Tensor, spikes: Spikes, differentiate: bool) -> Tensor:
        """The sum over the spikes of `x`."""
        raise NotImplementedError


def few_multiplications(count: int, measured: Crossover) -> str | None:
    """Why so few multiplications are left to the dense product; None if they are not few."""
    if count >= measured.multiplications:
        return None
    return (
        f"{count:.1e} multiplications; finding the spikes pays from"
        f" {measured.multiplications:.1e} on"
    )
