"""Leaky integrate-and-fire with a learned time constant."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from snnsim._core.checks import checked_number
from snnsim.errors import InvalidValueError
from snnsim.neurons.arguments import TAU, shown
from snnsim.neurons.base import BaseNode
from snnsim.neurons.leaky import Leaky


class ParametricLIFNode(Leaky, BaseNode):
    """Leaky integrate-and-fire neuron whose `1/tau = sigmoid(w)` is learned, one for the layer.

    Args:
        init_tau: time constant at the start, in time steps, > 1.
        decay_input: divide the input by tau.
        others: see BaseNode.

    Source: Fang et al. 2021, "Incorporating Learnable Membrane Time Constant", arXiv 2007.05785.
    """

    _nir = "LIF"

    def __init__(
        self, init_tau: float = 2.0, decay_input: bool = True, *others: Any, **options: Any
    ) -> None:
        super().__init__(init_tau, decay_input, *others, **options)

    def _start_at(self, tau: float | Tensor) -> None:
        who = type(self).__name__
        start = checked_number(who, "init_tau", tau)
        if not start > 1:
            raise InvalidValueError(f"{who}(init_tau={tau}): {TAU.rule}")
        self.w = nn.Parameter(torch.tensor(-math.log(start - 1)))

    @property
    def tau(self) -> Tensor:  # type: ignore[override]
        """The time constant in time steps: 1 / sigmoid(w) = 1 + exp(-w)."""
        return 1 + torch.exp(-self.w)

    def extra_repr(self) -> str:
        return f"tau={shown(self.tau)}, {super().extra_repr()}"
