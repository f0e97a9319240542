"""Leaky integrate-and-fire with a learned time constant."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from snnsim._core.checks import checked_number
from snnsim.errors import InvalidValueError
from snnsim.neurons.base import BaseNode
from snnsim.neurons.leaky import Leaky, tau_repr
from snnsim.quant.codebook import Codebook
from snnsim.surrogate import ATan, Surrogate

__all__ = ["ParametricLIFNode"]


class ParametricLIFNode(Leaky, BaseNode):
    """Leaky integrate-and-fire neuron whose `1/tau = sigmoid(w)` is learned, one for the layer.

    Args:
        init_tau: time constant at the start, in time steps, > 1.
        decay_input: divide the input by tau.
        others: see BaseNode.

    Source: Fang et al. 2021, "Incorporating Learnable Membrane Time Constant", arXiv 2007.05785.
    """

    def __init__(
        self,
        init_tau: float = 2.0,
        decay_input: bool = True,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        surrogate: Surrogate = ATan(),  # noqa: B008  frozen
        detach_reset: bool = False,
        state_quant: Codebook | None = None,
        *,
        learn_threshold: bool = False,
        min_decay: bool = False,
    ) -> None:
        super().__init__(
            v_threshold,
            v_reset,
            surrogate,
            detach_reset,
            state_quant,
            learn_threshold=learn_threshold,
            min_decay=min_decay,
        )
        who = type(self).__name__
        if not checked_number(who, "init_tau", init_tau) > 1:
            raise InvalidValueError(
                f"{who}(init_tau={init_tau}): tau is in time steps and must be > 1; without leak"
                " use IFNode()"
            )
        self.w = nn.Parameter(torch.tensor(-math.log(init_tau - 1)))
        self.decay_input = decay_input
        if state_quant is not None:
            self._warn_if_stuck(state_quant, self.leak)

    @property
    def tau(self) -> Tensor:  # type: ignore[override]
        """The time constant in time steps: 1 / sigmoid(w) = 1 + exp(-w)."""
        return 1 + torch.exp(-self.w)

    def extra_repr(self) -> str:
        return f"{tau_repr(self)}, decay_input={self.decay_input}, {super().extra_repr()}"
