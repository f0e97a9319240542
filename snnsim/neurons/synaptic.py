"""Second-order leaky integrate-and-fire: a synaptic current drives the membrane."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from snnsim.neurons.arguments import ALPHA, BETA, Constants
from snnsim.neurons.base import BaseNode
from snnsim.neurons.membrane import Membrane
from snnsim.neurons.readout import Readout
from snnsim.quant.codebook import Codebook


class SynapticCurrent(Readout):
    """Synaptic current: `i = codebook(alpha * i + x)`.

    Args:
        alpha: fraction of the current that is kept in one step, in [0, 1).
        current_quant: codebook of the current; None keeps it in floating point.
    """

    constants: ClassVar[Constants] = {"alpha": ALPHA}
    alpha: float

    def __init__(self, alpha: float, current_quant: Codebook | None = None) -> None:
        super().__init__(0.0, current_quant)
        self.alpha = alpha

    def leak(self, v: Tensor) -> Tensor:
        """Leaked current: the fraction `alpha`."""
        return self.alpha * v


class SynapticNode(BaseNode):
    """Current-based leaky integrate-and-fire neuron.

        i = codebook_i(alpha * i + x);  h = beta * v + i;  then quantize, fire and discharge as
        every node

    Args:
        alpha: fraction of the synaptic current that is kept in one step, in [0, 1).
        beta: fraction of the membrane that is kept in one step, in [0, 1].
        current_quant: codebook of the synaptic current; None keeps it in floating point.
        others: see BaseNode.
    """

    constants: ClassVar[Constants] = {**BaseNode.constants, "beta": BETA}
    beta: float
    _is_leaky = True
    _nir = "CubaLIF"

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        *others: Any,
        current_quant: Codebook | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*others, **options)
        self.current = SynapticCurrent(alpha, current_quant)
        self.beta = beta
        if type(self).leak is SynapticNode.leak:
            self._warn_once()

    @property
    def alpha(self) -> float:
        """Fraction of the synaptic current that is kept in one step."""
        return self.current.alpha

    @property
    def current_quant(self) -> Codebook | None:
        """Codebook of the synaptic current."""
        return self.current.state_quant

    def _stages(self) -> tuple[Membrane, ...]:
        return self.current, self

    def leak(self, v: Tensor) -> Tensor:
        """Leaked membrane: the fraction `beta`."""
        return self.beta * v

    def forward_sequence(self, x_seq: Tensor) -> Tensor:
        """Spikes of a whole sequence `[T, B, *n]`: a scan of the current, then one of the membrane
        it drives.
        """
        before = self.current._state
        try:
            # the current reaches the membrane in its own precision, not in that of the input
            wide = x_seq.to(self.current._state_dtype(x_seq, self.current.state_quant))
            return super().forward_sequence(self.current.forward_sequence(wide)).to(x_seq.dtype)
        except BaseException:
            # a step that fails changes neither state
            self.current._state = before
            raise

    @property
    def i(self) -> Tensor | None:
        """The held synaptic current `[B, *n]`; None at rest."""
        # of this node's run, which the current has no call of its own in
        self._check_between_steps("state")
        return self.current._state.get("v")

    def reset(self) -> None:
        super().reset()
        self.current.reset()

    def detach(self) -> None:
        super().detach()
        self.current.detach()
