"""Integrate-and-fire: no leak."""

from __future__ import annotations

from torch import Tensor

from snnsim.neurons.base import BaseNode


class IFNode(BaseNode):
    """Integrate-and-fire neuron: `h = v + x`.

    Under a constant input x > 0 with hard reset to 0 it fires every ceil(threshold / x) steps.

    Args: see BaseNode.
    """

    _nir = "IF"

    def leak(self, v: Tensor) -> Tensor:
        """All of `v`."""
        return v

    def _linear_leak(self) -> tuple[bool, Tensor | None]:
        return type(self).leak is IFNode.leak, None
