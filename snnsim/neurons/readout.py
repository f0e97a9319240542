"""Membranes that do not fire: the output is the membrane itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from snnsim.neurons.constants import TAU, Constant
from snnsim.neurons.leaky import Leaky, tau_repr
from snnsim.neurons.membrane import Membrane
from snnsim.quant.codebook import Codebook

__all__ = ["LIReadout", "Readout"]


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

    constants: ClassVar[Mapping[str, Constant]] = {"tau": TAU}

    def __init__(
        self,
        tau: float | Tensor = 2.0,
        decay_input: bool = True,
        state_quant: Codebook | None = None,
        *,
        min_decay: bool = False,
    ) -> None:
        super().__init__(0.0, state_quant, min_decay)
        # kept as a tensor
        self.tau = tau  # type: ignore[assignment]
        self.decay_input = decay_input
        if state_quant is not None and self.tau.dim() == 0:
            self._warn_if_stuck(state_quant, self.leak)

    def extra_repr(self) -> str:
        return (
            f"{tau_repr(self)}, decay_input={self.decay_input}"
            + ", min_decay=True" * self.min_decay
        )
