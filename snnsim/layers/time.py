"""Layers that know about time, and constants around neurons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snnsim._core.checks import check_int, checked_number, checked_numbers
from snnsim.errors import (
    InvalidTypeError,
    InvalidValueError,
    RunError,
    ShapeError,
    StateError,
    refuse,
)
from snnsim.surrogate import ATan, Surrogate
from snnsim.temporal.module import Temporal, stack_steps


class Delay(Temporal):
    """Delays its input by whole time steps: `y[t] = x[t - delay_steps]`, zeros before the first.

    The module for use inside a network; on a plain sequence `functional.delay` does the same.

    Args:
        delay_steps: time steps, at least 0.
    """

    def __init__(self, delay_steps: int) -> None:
        super().__init__()
        self.delay_steps = delay_steps

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "delay_steps":
            check_int("Delay", "delay_steps", value, at_least=0)
            if self._state and value != self.delay_steps:
                raise StateError(
                    f"Delay(delay_steps={value}): {self.delay_steps} steps are held, which would"
                    " come out at other times; call snnsim.reset(net) first"
                )
        super().__setattr__(name, value)

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        """Refuse a state other than one tensor of one shape for each step that waits."""
        super()._check_state(state)
        expected = {f"x{i}" for i in range(self.delay_steps)}
        if state and set(state) != expected:
            raise StateError(
                f"Delay({self.delay_steps}): its state is {sorted(expected)}, got {sorted(state)};"
                " take states from snnsim.states(net)"
            )
        if len({x.shape for x in state.values()}) > 1:
            raise ShapeError(
                f"Delay({self.delay_steps}): all steps that wait must have one shape; take states"
                " from snnsim.states(net)"
            )

    def forward_sequence(self, x_seq: Tensor) -> Tensor:
        """The sequence `[T, B, *n]`, late by `delay_steps`."""
        if not self.delay_steps:
            return x_seq
        # one flat state tensor per waiting step, so that each is checked against the input's shape
        waiting = [self.check_held(f"x{i}", x_seq[0], x_seq.dtype) for i in range(self.delay_steps)]
        past = stack_steps([torch.zeros_like(x_seq[0]) if x is None else x for x in waiting])
        line = torch.cat([past, x_seq])
        # copies: a view would keep the whole line alive
        self.hold(**{f"x{i}": x.clone() for i, x in enumerate(line[len(x_seq) :])})
        return line[: len(x_seq)]

    def extra_repr(self) -> str:
        return str(self.delay_steps)


class Feedback(Delay):
    """A delay that closes a loop: read at the start of a time step, written at its end.

    Args:
        delay_steps: time steps, at least 1.
        shape: of one sample, `[*n]`.
    """

    def __init__(self, delay_steps: int, shape: tuple[int, ...]) -> None:
        super().__init__(delay_steps)
        if delay_steps < 1:
            raise InvalidValueError(
                "Feedback(delay_steps=0): a loop needs a delay of at least one time step"
            )
        self.shape = shape

    def read(self, x: Tensor) -> Tensor:
        """Value written `delay_steps` ago, `[B, *n]`, zeros before; `x` is the network's input
        of this step.
        """
        if self._run.steps is not None:
            raise RunError(
                "MultiStep: this network has feedback, so one time step needs the one before; use"
                " snnsim.SingleStep"
            )
        oldest = self.held("x0")
        return x.new_zeros(len(x), *self.shape) if oldest is None else oldest

    def write(self, value: Tensor) -> None:
        """Put in the value of this time step."""
        if tuple(value.shape[1:]) != self.shape:
            raise ShapeError(
                f"Feedback: what comes back has shape {tuple(value.shape[1:])}, and was made for"
                f" {self.shape}; give the network samples of that shape"
            )
        waiting = [self.check_held(f"x{i}", value, value.dtype) for i in range(1, self.delay_steps)]
        line = stack_steps([*(torch.zeros_like(value) if x is None else x for x in waiting), value])
        self.hold(**{f"x{i}": x for i, x in enumerate(line)})


class Dropout(Temporal):
    """Dropout with one mask for all time steps of a sequence: a neuron is gone for the whole
    sample.

    Zeroes with probability `p` and scales the rest by `1/(1-p)` in training mode; the identity in
    eval mode. Outside a runner the mask holds until `reset`.

    Args:
        p: probability to zero, in [0, 1).
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "p":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise InvalidValueError(
                    f"Dropout(p={value!r}): the probability to zero must be a number in [0, 1)"
                )
            value = float(value)
        super().__setattr__(name, value)

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        """Refuse a state other than the mask."""
        super()._check_state(state)
        if set(state) - {"mask"}:
            raise StateError(
                f"Dropout: its state is 'mask', got {sorted(state)}; take states from"
                " snnsim.states(net)"
            )

    def forward_sequence(self, x_seq: Tensor) -> Tensor:
        """The sequence `[T, B, *n]` under one mask `[B, *n]`."""
        if not self.training or not self.p:
            return x_seq
        if not x_seq.dtype.is_floating_point or x_seq.dtype.itemsize < 2:
            raise InvalidTypeError(
                f"Dropout: x must be floating point of 16 bits or more, got {x_seq.dtype}; convert"
                " it with x.float()"
            )
        mask = self.check_held("mask", x_seq[0], x_seq.dtype)
        if mask is None:
            mask = torch.empty_like(x_seq[0]).bernoulli_(1 - self.p).div_(1 - self.p)
        self.hold(mask=mask)
        return x_seq * mask

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Threshold(Temporal):
    """Spikes wherever the input reaches a threshold, and nothing kept: `s = 1 if x >= threshold
    else 0`.

    Args:
        threshold: a number or a tensor that broadcasts against `[*n]`, finite.
        surrogate: derivative of the spike in the backward pass.
    """

    threshold: Tensor

    def __init__(self, threshold: float | Tensor = 1.0, surrogate: Surrogate = ATan()) -> None:  # noqa: B008  frozen
        super().__init__()
        if not isinstance(surrogate, Surrogate):
            raise InvalidTypeError(
                f"Threshold(surrogate={surrogate!r}): must be a Surrogate, such as"
                f" snnsim.surrogate.ATan(), not {type(surrogate).__name__}"
            )
        self.register_buffer("threshold", _finite("Threshold", "threshold", threshold))
        self.surrogate = surrogate

    def forward_sequence(self, x_seq: Tensor) -> Tensor:
        """Spikes of a whole sequence `[T, B, *n]`, in the dtype of the input."""
        return self.surrogate(x_seq - self.threshold, training=self.training).to(x_seq.dtype)

    def extra_repr(self) -> str:
        return f"{_shown(self.threshold)}, surrogate={self.surrogate}"


class Scale(nn.Module):
    """Multiplies by a constant, such as what one spike of the layer before it stands for.

    Args:
        factor: a number or a tensor that broadcasts against `[*n]`.
    """

    factor: Tensor

    def __init__(self, factor: float | Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", checked_numbers("Scale", "factor", factor).float().clone())

    def forward(self, x: Tensor) -> Tensor:
        """`factor * x`."""
        return self.factor * x

    def extra_repr(self) -> str:
        return _shown(self.factor)


class Driven(nn.Module):
    """A neuron behind a gain and a bias of its own: `node(gain * x + bias)`.

    Args:
        node: takes `[B, *n]`.
        gain, bias: a number or a tensor that broadcasts against `[*n]`, finite.
    """

    gain: Tensor
    bias: Tensor

    def __init__(
        self, node: nn.Module, gain: float | Tensor = 1.0, bias: float | Tensor = 0.0
    ) -> None:
        super().__init__()
        for name, given in (("gain", gain), ("bias", bias)):
            self.register_buffer(name, _finite("Driven", name, given))
        self.node = node

    def forward(self, x: Tensor) -> Tensor:
        """`node(gain * x + bias)`."""
        return self.node(self.gain * x + self.bias)


def _finite(who: str, name: str, given: float | Tensor) -> Tensor:
    """`given` as a buffer of float32."""
    value = checked_numbers(who, name, given).float().clone()
    if not bool(value.isfinite().all()):
        refuse(who, name, given, f"{name} must be finite in float32", "pass ordinary numbers")
    return value


def _shown(value: Tensor) -> str:
    return f"{float(value):.4g}" if value.dim() == 0 else f"{tuple(value.shape)}"


class _ThresholdDependent(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose output starts with standard deviation `alpha * v_threshold`, so that neurons
    behind it fire from the start.

        y = weight (x - mean) / sqrt(variance + eps) + bias,   weight = alpha * v_threshold at first

    Mean and variance of a channel are over time, batch and space, which is what MultiStep's folded
    batch `[T*B, C, ...]` gives; in SingleStep every time step is normalized by itself while
    training. `quant.fold_batch_norm` folds it as any batch norm.

    Args:
        num_features: channels.
        v_threshold: threshold of the neurons behind it, above 0.
        alpha: 1, or 1/sqrt(n) where the outputs of n such layers are added, as in a residual block;
            above 0.
        options: eps, momentum, track_running_stats, device and dtype, as for torch's batch norm.

    Source: Zheng et al. 2021, "Going Deeper With Directly-Trained Larger Spiking Neural Networks",
    arXiv 2011.05280; alpha * v_threshold, there a fixed factor of a learned weight, is the first
    value of that weight here.
    """

    def __init__(
        self, num_features: int, v_threshold: float = 1.0, alpha: float = 1.0, **options: Any
    ) -> None:
        who = type(self).__name__
        threshold = checked_number(who, "v_threshold", v_threshold, above=0)
        self.first_weight = threshold * checked_number(who, "alpha", alpha, above=0)
        super().__init__(num_features, **options)

    def reset_parameters(self) -> None:
        """Running statistics of no data, bias 0, weight `alpha * v_threshold`."""
        super().reset_parameters()
        nn.init.constant_(self.weight, self.first_weight)


class ThresholdDependentBatchNorm1d(_ThresholdDependent, nn.BatchNorm1d):
    __doc__ = _ThresholdDependent.__doc__


class ThresholdDependentBatchNorm2d(_ThresholdDependent, nn.BatchNorm2d):
    __doc__ = _ThresholdDependent.__doc__
