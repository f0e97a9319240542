"""BaseNode: charge, quantize, fire, discharge; subclasses say how the membrane leaks and is
driven."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from snnsim._core.autograd import apply
from snnsim._core.checks import checked_bool
from snnsim._core.warn import warn_user
from snnsim.automaton.build import channel_constants
from snnsim.errors import InvalidValueError, ShapeError
from snnsim.kernels.linear import LinearMembrane
from snnsim.neurons.arguments import (
    V_RESET,
    V_THRESHOLD,
    Constants,
    check_firing_levels,
    checked_surrogate,
    warn_if_far,
)
from snnsim.neurons.membrane import Membrane
from snnsim.quant.codebook import Codebook
from snnsim.surrogate import ATan, Surrogate


class BaseNode(Membrane):
    """A spiking neuron. Subclasses implement `leak` and, if the input is scaled, `drive`.

        charge     h = leak(v) + drive(x)
        quantize   q = codebook(h)
        fire       s = 1 if q >= v_threshold else 0
        discharge  v = v_reset where s = 1 (hard), or codebook(q - v_threshold) (soft, v_reset None)

    Called on `[B, *n]` it takes one step and holds its state; within MultiStep it runs all steps.
    The state is float32 (float64 for float64 input or codebook); spikes have the dtype of the
    input.

    Args:
        v_threshold: potential at which the neuron fires; a number, a tensor that broadcasts against
            `[*n]`, or a parameter, which is learned.
        v_reset: potential after a spike; None subtracts the threshold instead (soft reset).
        surrogate: derivative of the spike in the backward pass.
        detach_reset: take the reset out of the gradient graph.
        state_quant: codebook of the membrane; None keeps it in floating point.
        learn_threshold: make `v_threshold` a parameter.
        min_decay: a level that the leak cannot move leaks one level toward rest instead.

    Raises:
        InvalidTypeError, InvalidValueError: arguments that cannot work together, at construction.
    """

    constants: ClassVar[Constants] = {"v_threshold": V_THRESHOLD, "v_reset": V_RESET}
    v_threshold: float | Tensor
    v_reset: float | None
    # the last run found what is learned out of reach
    _is_out_of_reach = False

    def __init__(
        self,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        surrogate: Surrogate = ATan(),  # noqa: B008  frozen
        detach_reset: bool = False,
        state_quant: Codebook | None = None,
        *,
        learn_threshold: bool = False,
        min_decay: bool = False,
    ) -> None:
        who = type(self).__name__
        super().__init__(None, state_quant, min_decay)
        self.surrogate = checked_surrogate(who, surrogate)
        self.detach_reset = checked_bool(who, "detach_reset", detach_reset)
        self.v_reset = v_reset
        if checked_bool(who, "learn_threshold", learn_threshold) and not isinstance(
            v_threshold, nn.Parameter
        ):
            start = torch.as_tensor(
                V_THRESHOLD.checked(who, "v_threshold", v_threshold),
                dtype=torch.get_default_dtype(),
            )
            v_threshold = nn.Parameter(start)
        self._margin: tuple[Tensor, float] | None = None
        self.v_threshold = v_threshold

    @property
    def v_rest(self) -> float:  # type: ignore[override]
        """The potential that the leak decays to: `v_reset`, or 0 with a soft reset."""
        return 0.0 if self.v_reset is None else self.v_reset

    def _check_together(self) -> None:
        """Refuse a threshold at or below the potential after a spike, or out of the codebook's
        reach.
        """
        if hasattr(self, "v_threshold"):
            self._check_threshold()

    def fire(self, q: Tensor) -> Tensor:
        """Spikes: 1 where the membrane has reached the threshold, else 0."""
        return self.surrogate(q - self._firing_threshold(q), training=self.training)

    def discharge(self, q: Tensor, s: Tensor) -> Tensor:
        """Membrane after the spikes `s`: reset where they are 1."""
        target = (
            q - self._firing_threshold(q)
            if self.v_reset is None
            else torch.full_like(q, self.v_reset)
        )
        spikes = s.detach() if self.detach_reset else s
        mixed = spikes * target + (1 - spikes) * q
        if self.surrogate.spiking or not self.training:
            # the forward selects: 0 * inf is NaN
            mixed = _select(target, q, s, mixed)
        return mixed if self.state_quant is None else self.state_quant.snap(mixed, self.v_rest)

    def settle(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes, membrane before the reset, membrane after it."""
        s = self.fire(q)
        return s, q, self.discharge(q, s)

    def _why_not_automaton(self) -> str | None:
        """The reason why the next state does not follow from code and input alone, if any."""
        if self.training and not self.surrogate.spiking:
            return "spiking=False makes its spikes fractional"
        if self.training and self._margin is not None:
            return "every sample has a threshold of its own"
        return None

    def _linear_membrane(self, x: Tensor, dtype: torch.dtype) -> LinearMembrane | None:
        """This node's constants, where its equations are those of integrate-and-fire with a linear
        leak; else None.
        """
        if not self._is_linear():
            return None
        _, tau = self._linear_leak()
        constants = {
            "threshold": self._firing_threshold(x),
            "tau": tau,
            "divisor": self._input_divisor(),
        }
        per_channel, inner = channel_constants(constants, x, dtype)
        return LinearMembrane(
            threshold=per_channel["threshold"],
            derivative=self.surrogate.derivative,
            reset=self.v_reset,
            tau=per_channel.get("tau"),
            rest=self.v_rest,
            divisor=per_channel.get("divisor"),
            detach_reset=self.detach_reset,
            inner=inner,
        )

    def _is_linear(self) -> bool:
        """True for the equations of integrate-and-fire with a linear leak."""
        equations = (
            BaseNode.fire,
            BaseNode._firing_threshold,
            BaseNode.discharge,
            BaseNode.settle,
            Membrane._decayed,
        )
        if (
            self._has_own(*equations)
            or not self._is_tabular()
            or self.grid_bits is not None
            or type(self.surrogate).__call__ is not Surrogate.__call__
        ):
            return False
        return self._divides_input() and "leak" not in self.__dict__ and self._linear_leak()[0]

    def _linear_leak(self) -> tuple[bool, Tensor | None]:
        """True where `leak` is linear towards `v_rest`, and its time constant, None for no leak."""
        return False, None

    def _firing_threshold(self, q: Tensor) -> float | Tensor:
        """The threshold in force for the membrane `q`: that of `set_training_threshold` while
        training, else the node's own.
        """
        if self._margin is None:
            threshold, codebook = self.v_threshold, self.state_quant
            if (
                isinstance(threshold, float)
                and codebook is not None
                and codebook.levels.dtype != q.dtype
            ):
                # a level that is the threshold in the codebook's dtype is so in every other
                return torch.tensor(threshold, dtype=codebook.levels.dtype, device=q.device).to(
                    q.dtype
                )
            return threshold
        training, evaluation = self._margin
        return training.to(q.dtype) if self.training else evaluation

    def set_training_threshold(self, threshold: Tensor, evaluation: float) -> None:
        """Give every sample of the next batches its own threshold while training, and one number in
        eval mode.

        Not part of `state_dict`. A batch of another size raises until it is set again.

        Args:
            threshold: `[B, *n]`, used while training.
            evaluation: used in eval mode, whatever the labels were.

        Raises:
            InvalidValueError: a threshold at or below rest, or out of the codebook's reach.
        """
        if threshold.numel() and not torch.compiler.is_compiling():
            for value in (float(threshold.min()), float(threshold.max()), evaluation):
                self._check_reach(value)
        self._margin = (threshold.detach(), float(evaluation))
        self._planner.clear()

    def _arguments(self) -> dict[str, Any]:
        return {
            **super()._arguments(),
            "learn_threshold": isinstance(self.v_threshold, nn.Parameter),
        }

    def _check_constants(self, x: Tensor) -> None:
        """Refuse a threshold that does not fit one step of input, or that has learned its way out
        of the codebook.
        """
        super()._check_constants(x)
        if self._margin is not None:
            threshold = self._firing_threshold(x)
            if isinstance(threshold, Tensor) and threshold.shape != x.shape:
                raise ShapeError(
                    f"{type(self).__name__}: set_threshold_margin was given thresholds for"
                    f" {tuple(threshold.shape)} and this step's input is {tuple(x.shape)}; set it"
                    " again for every batch"
                )
        if torch.compiler.is_compiling():
            return
        if isinstance(self.v_threshold, nn.Parameter) or (
            self.state_quant is not None and self.state_quant.is_learned
        ):
            self._check_learned()
        else:
            # it may have been loaded, or moved in place
            self._check_threshold(moved=True)

    def _check_codebook(self) -> None:
        """Refuse a codebook on which the node could never fire, always fires, or never comes back
        from a spike.
        """
        self._check_threshold()
        super()._check_codebook()

    def _check_learned(self) -> None:
        """Once when what is learned gets out of reach: it may come back, and where it does not,
        saying so again is no help.
        """
        was_out = self._is_out_of_reach
        try:
            self._check_threshold(moved=True)
            self._is_out_of_reach = False
        except InvalidValueError as problem:
            if not self.training:
                raise
            self._is_out_of_reach = True
            if not was_out:
                what = "threshold" if isinstance(self.v_threshold, nn.Parameter) else "codebook"
                warn_user(f"learned {what}: {problem}")

    def _check_threshold(self, moved: bool = False) -> None:
        threshold = self.v_threshold
        ends = (
            {threshold}
            if isinstance(threshold, float)
            else {float(threshold.detach().min()), float(threshold.detach().max())}
        )
        for value in ends:
            self._check_reach(value, moved)

    def _check_reach(self, threshold: float, moved: bool = False) -> None:
        who = f"{type(self).__name__}(v_threshold={threshold:.6g})"
        if not np.float32(threshold) > np.float32(self.v_rest):
            raise InvalidValueError(
                f"{who}: the threshold must lie above the potential after a spike,"
                f" {'v_reset' if self.v_reset is not None else 'rest'}={self.v_rest:.6g}, or the"
                " neuron would fire for ever"
            )
        if self.state_quant is not None:
            landed = check_firing_levels(
                who, self.state_quant, threshold, self.v_rest, hard=self.v_reset is not None
            )
            # levels that training has moved are where it wants them
            if not moved:
                warn_if_far(
                    who,
                    "rest" if self.v_reset is None else "v_reset",
                    self.v_rest,
                    landed,
                    threshold,
                )


class _Select(torch.autograd.Function):
    """`target` where a spike is 1, else `q`, exactly; the gradient of `mixed`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(target: Tensor, q: Tensor, s: Tensor, mixed: Tensor) -> Tensor:
        return torch.where(s == 1, target, q)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[None, None, None, Tensor]:
        return None, None, None, grad_outputs[0]


def _select(target: Tensor, q: Tensor, s: Tensor, mixed: Tensor) -> Tensor:
    return apply(_Select, target.detach(), q.detach(), s.detach(), mixed)
