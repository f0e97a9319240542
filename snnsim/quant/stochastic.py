"""Stochastic rounding: right on average, at the price of reproducibility within a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snnsim._core.checks import check_generator
from snnsim.errors import InvalidValueError
from snnsim.quant.codebook import Codebook

__all__ = ["StochasticCodebook"]


class StochasticCodebook(Codebook):
    """A codebook that rounds to one of the two neighbouring levels, nearer ones more often.

    A value at the fraction `p` of the way from one level to the next goes up with probability `p`,
    so the mean of the result is the value itself. Values outside the levels saturate. Resets and
    rest potentials are snapped to the nearest level. `encode` is the code of the nearest level and
    draws nothing: a held state is on its codebook already.

    Args:
        levels: `[L]` strictly increasing levels.
        ste: as in Codebook.
        generator: source of randomness, on the device of the input; torch's global one by default.
            A copy of the codebook (deepcopy, pickle) draws from a generator in the same state.

    Source: Gupta et al. 2015, "Deep Learning with Limited Numerical Precision", section 3.
    """

    is_described = True

    def __init__(
        self,
        levels: Sequence[float] | Tensor,
        ste: str = "clip",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(levels, ste=ste)
        check_generator("StochasticCodebook", "generator", generator)
        self.generator = generator

    def describe(self) -> dict[str, Any]:
        """As of a Codebook; refused where it draws from a generator."""
        if self.generator is not None:
            raise InvalidValueError(
                "its codebook draws from a generator, which does not travel; leave the generator"
                " out"
            )
        return super().describe()

    @classmethod
    def _like(cls, plain: Codebook) -> Codebook:
        return cls(plain.levels, plain.ste)

    def forward(self, h: Tensor) -> Tensor:
        """One of the two levels around each value, drawn; straight-through gradient."""
        h = self._widened("h", h)
        levels, value = self.levels.to(h.dtype), h.detach()
        upper = torch.bucketize(value.contiguous(), levels, right=True).clamp(
            1, self.num_levels - 1
        )
        low, high = levels[upper - 1], levels[upper]
        draw = torch.rand(h.shape, generator=self.generator, device=h.device, dtype=h.dtype)
        return self.with_gradient(
            self._on_level(upper - (draw >= (value - low) / (high - low)).int(), h), h
        )
