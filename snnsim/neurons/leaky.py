"""Leaky integrate-and-fire."""

from __future__ import annotations

import torch
from torch import Tensor

from snnsim.checks import checked_bool, checked_number
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.neurons.arguments import check_broadcast
from snnsim.neurons.base import BaseNode
from snnsim.neurons.membrane import Membrane
from snnsim.quant.codebook import Codebook
from snnsim.surrogate import ATan, Surrogate

__all__ = ["LIFNode", "Leaky", "set_tau"]


class Leaky(Membrane):
    """The leaky integration that LIF neurons and readouts share.

    h = v - (v - v_rest) / tau + x / tau      (decay_input=True)
    h = v - (v - v_rest) / tau + x            (decay_input=False)
    """

    tau: Tensor
    decay_input: bool

    def leak(self, v: Tensor) -> Tensor:
        """What is left of `v`: a step of 1/tau toward rest."""
        return v - (v - self.v_rest) / self.tau

    def check_constants(self, x: Tensor) -> None:
        """Refuse a time constant that does not fit one step of input."""
        super().check_constants(x)
        if self.tau.dim():
            check_broadcast(type(self).__name__, "tau", self.tau, x)

    def linear_leak(self) -> tuple[bool, Tensor | None]:
        """Linear with time constant tau, unless a subclass leaks otherwise."""
        return type(self).leak is Leaky.leak, self.tau

    def input_divisor(self) -> Tensor | None:
        """tau where `decay_input` asks for it."""
        return self.tau if self.decay_input else None


class LIFNode(Leaky, BaseNode):
    """Leaky integrate-and-fire neuron.

        h = v - (v - v_rest) / tau + x / tau,  v_rest = v_reset, or 0 with soft reset

    Without reset, a constant input x takes the membrane to `v_rest + x` (`decay_input=True`), so an input below
    `v_threshold - v_rest` never makes it fire.

    Args:
        tau: time constant in time steps, > 1; a number, or a tensor that broadcasts against `[*n]`.
        decay_input: divide the input by tau.
        others: see BaseNode.
    """

    def __init__(
        self,
        tau: float | Tensor = 2.0,
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
        set_tau(self, tau)
        self.decay_input = checked_bool(type(self).__name__, "decay_input", decay_input)
        if state_quant is not None and self.tau.dim() == 0:
            self.warn_if_stuck(state_quant, self.leak)

    def extra_repr(self) -> str:
        return f"{tau_repr(self)}, decay_input={self.decay_input}, {super().extra_repr()}"


def set_tau(node: Membrane, tau: float | Tensor) -> None:
    """Give a node its time constant, as a float64 buffer.

    A tensor even where it is one number: dividing by a plain number is a multiplication by its reciprocal on CUDA devices, which
    rounds differently. Not in `state_dict`.
    """
    who = type(node).__name__
    if isinstance(tau, Tensor):
        if not tau.dtype.is_floating_point:
            raise InvalidTypeError(f"{who}(tau): a tensor must be floating point, got {tau.dtype}")
        # float32: a wider constant would widen every state it meets, unless it is a single number
        value = tau.detach().float().clone() if tau.dim() else tau.detach().double()
    else:
        value = torch.tensor(checked_number(who, "tau", tau), dtype=torch.float64)
    if not (value > 1).all() or not torch.isfinite(value).all():
        shown = float(value.min())
        raise InvalidValueError(
            f"{who}(tau={shown:g}): tau is in time steps and must be > 1; for a neuron without leak use IFNode()"
        )
    node.register_buffer("tau", value, persistent=False)


def tau_repr(node: Leaky) -> str:
    """`tau=2` for the node's repr."""
    return f"tau={float(node.tau.detach()):.4g}" if node.tau.dim() == 0 else f"tau={tuple(node.tau.shape)}"
