"""Leaky integrate-and-fire."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from snnsim._core.checks import checked_bool
from snnsim.neurons.arguments import TAU, Constants
from snnsim.neurons.base import BaseNode
from snnsim.neurons.membrane import Membrane


class Leaky(Membrane):
    """The leaky integration that LIF neurons and readouts share.

        h = v - (v - v_rest) / tau + x / tau      (decay_input=True)
        h = v - (v - v_rest) / tau + x            (decay_input=False)

    Args:
        tau: time constant in time steps, > 1.
        decay_input: divide the input by tau.
        others, options: of the base that follows.
    """

    # a tensor even where it is one number: dividing by a plain number is a multiplication by its
    # reciprocal on CUDA devices, which rounds differently
    tau: Tensor
    decay_input: bool
    _is_leaky = True

    def __init__(
        self, tau: float | Tensor, decay_input: bool, /, *others: Any, **options: Any
    ) -> None:
        super().__init__(*others, **options)
        self._start_at(tau)
        self.decay_input = checked_bool(type(self).__name__, "decay_input", decay_input)
        # a leak of the user's own may need what its constructor has yet to set
        if type(self).leak is Leaky.leak:
            self._warn_once()

    def _start_at(self, tau: float | Tensor) -> None:
        # kept as a tensor
        self.tau = tau  # type: ignore[assignment]

    def leak(self, v: Tensor) -> Tensor:
        """Leaked membrane, a step of 1/tau toward rest."""
        return v - (v - self.v_rest) / self.tau

    def _linear_leak(self) -> tuple[bool, Tensor | None]:
        return type(self).leak is Leaky.leak, self.tau

    def _input_divisor(self) -> Tensor | None:
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

    constants: ClassVar[Constants] = {**BaseNode.constants, "tau": TAU}
    _nir = "LIF"

    def __init__(
        self, tau: float | Tensor = 2.0, decay_input: bool = True, *others: Any, **options: Any
    ) -> None:
        super().__init__(tau, decay_input, *others, **options)
