"""Membranes that do not fire: the output is the membrane itself."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from snnsim.neurons.arguments import TAU, Constants
from snnsim.neurons.leaky import Leaky
from snnsim.neurons.membrane import Membrane
from snnsim.quant.codebook import Codebook


class Readout(Membrane):
    """A membrane whose output is its own potential after every step: `v = codebook(leak(v) +
    drive(x))`.
    """


class LIReadout(Leaky, Readout):
    """Leaky integrator that never fires; the last layer of a network that is read by its
    potentials.

        v = codebook(v - v/tau + x/tau)

    Args:
        tau: time constant in time steps, > 1.
        decay_input: divide the input by tau.
        state_quant: codebook of the membrane; None keeps it in floating point.
        min_decay: a level that the leak cannot move leaks one level toward rest instead.
    """

    constants: ClassVar[Constants] = {"tau": TAU}
    _nir = "LI"

    def __init__(
        self,
        tau: float | Tensor = 2.0,
        decay_input: bool = True,
        state_quant: Codebook | None = None,
        *,
        min_decay: bool = False,
    ) -> None:
        super().__init__(tau, decay_input, 0.0, state_quant, min_decay)


class Integrator(Readout):
    """Sum of all input so far, which never fires: `v = codebook(v + x)`.

    Args:
        state_quant: codebook of the sum; None keeps it in floating point.
    """

    _nir = "I"

    def __init__(self, state_quant: Codebook | None = None) -> None:
        super().__init__(0.0, state_quant)

    def leak(self, v: Tensor) -> Tensor:
        """All of `v`."""
        return v

    def _linear_leak(self) -> tuple[bool, Tensor | None]:
        return type(self).leak is Integrator.leak, None
