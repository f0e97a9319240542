"""Integration without leak and without threshold."""

from __future__ import annotations

from torch import Tensor

from snnsim.neurons.readout import Readout
from snnsim.quant.codebook import Codebook

__all__ = ["Integrator"]


class Integrator(Readout):
    """Sum of all input so far, which never fires: `v = codebook(v + x)`.

    Args:
        state_quant: codebook of the sum; None keeps it in floating point.
    """

    def __init__(self, state_quant: Codebook | None = None) -> None:
        super().__init__(0.0, state_quant)

    def leak(self, v: Tensor) -> Tensor:
        """All of `v`."""
        return v
