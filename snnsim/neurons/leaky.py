"""Leaky integrate-and-fire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from snnsim._core.checks import checked_bool
from snnsim.neurons.base import BaseNode
from snnsim.neurons.constants import TAU, Constant
from snnsim.neurons.membrane import Membrane
from snnsim.quant.codebook import Codebook
from snnsim.surrogate import ATan, Surrogate

__all__ = ["LIFNode", "Leaky"]


class Leaky(Membrane):
    """The leaky integration that LIF neurons and readouts share.

    h = v - (v - v_rest) / tau + x / tau      (decay_input=True)
    h = v - (v - v_rest) / tau + x            (decay_input=False)
    """

    # a tensor even where it is one number: dividing by a plain number is a multiplication by its
    # reciprocal on CUDA devices, which rounds differently
    tau: Tensor
    decay_input: bool

    def leak(self, v: Tensor) -> Tensor:
        """What is left of `v`: a step of 1/tau toward rest."""
        return v - (v - self.v_rest) / self.tau

    def _linear_leak(self) -> tuple[bool, Tensor | None]:
        """Linear with time constant tau, unless a subclass leaks otherwise."""
        return type(self).leak is Leaky.leak, self.tau

    def _input_divisor(self) -> Tensor | None:
        """tau where `decay_input` asks for it."""
        return self.tau if self.decay_input else None


class LIFNode(Leaky, BaseNode):
    """Leaky integrate-and-fire neuron.

        h = v - (v - v_rest) / tau + x / tau,  v_rest = v_reset, or 0 with soft reset

    Without reset, a constant input x takes the membrane to `v_rest + x` (`decay_input=True`), so an
    input below `v_threshold - v_rest` never makes it fire.

    Args:
        tau: time constant in time steps, > 1; a number, a tensor that broadcasts against `[*n]`, or
            a parameter, which is learned.
        decay_input: divide the input by tau.
        others: see BaseNode.
    """

    constants: ClassVar[Mapping[str, Constant]] = {**BaseNode.constants, "tau": TAU}

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
        # kept as a tensor
        self.tau = tau  # type: ignore[assignment]
        self.decay_input = checked_bool(type(self).__name__, "decay_input", decay_input)
        if state_quant is not None and self.tau.dim() == 0:
            self._warn_if_stuck(state_quant, self.leak)

    def extra_repr(self) -> str:
        return f"{tau_repr(self)}, decay_input={self.decay_input}, {super().extra_repr()}"


def tau_repr(node: Leaky) -> str:
    """`tau=2` for the node's repr."""
    return (
        f"tau={float(node.tau.detach()):.4g}"
        if node.tau.dim() == 0
        else f"tau={tuple(node.tau.shape)}"
    )
