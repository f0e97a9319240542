"""Small functions on spike trains, labels and networks.

An argument out of the stated range raises an InvalidValueError, one of another type an
InvalidTypeError, one of another shape a ShapeError.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from snnsim._core.checks import (
    MOST,
    check_int,
    check_labels,
    check_module,
    check_one_hot,
    check_plain,
    check_real,
    check_sequence,
    check_tensor,
    check_values,
    checked_float,
    checked_number,
)
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError


class MarginNode(Protocol):
    """Output layer of `set_threshold_margin`; every neuron that fires is one."""

    def set_training_threshold(self, threshold: Tensor, evaluation: float) -> None:
        """Use `threshold`, `[B, C]`, while training and `evaluation` in eval mode."""


def delay(x_seq: Tensor, delay_steps: int) -> Tensor:
    """A sequence moved to later times: `y[t] = x_seq[t - delay_steps]`, zeros before the first.

    Args:
        x_seq: `[T, B, *n]`, differentiable.
        delay_steps: time steps, at least 0; 0 is the identity, T or more gives zeros only.

    Returns:
        Same shape and dtype.
    """
    check_sequence("delay", "x_seq", x_seq)
    check_int("delay", "delay_steps", delay_steps, at_least=0)
    late = min(delay_steps, len(x_seq))
    return (
        torch.cat([torch.zeros_like(x_seq[:late]), x_seq[: len(x_seq) - late]]) if late else x_seq
    )


def first_spike_index(spikes: Tensor) -> Tensor:
    """Mask of each neuron's first spike. Time is the **last** axis here.

    Args:
        spikes: `[*, T]` of 0 and 1, any numeric or bool dtype.

    Returns:
        Bool mask, same shape: True at the first spike of each neuron, all False for a silent one.

    Example:
        >>> first_spike_index(torch.tensor([[0, 1, 1], [0, 0, 0]]))
        tensor([[False,  True, False],
                [False, False, False]])
    """
    _check_time_last("first_spike_index", spikes)
    fired = spikes != 0
    check_values(
        "first_spike_index",
        "spikes",
        spikes,
        ~fired | (spikes == 1),
        "0 or 1",
        "pass spikes, not currents or membranes",
    )
    return fired & (fired.cumsum(-1, dtype=torch.int32) == 1)


def first_spike_time(spikes: Tensor, none_value: float) -> Tensor:
    """Time step of each neuron's first spike, counted from 0; not differentiable. Time is the
    **last** axis here.

    Args:
        spikes: `[*, T]` of 0 and 1, any numeric or bool dtype.
        none_value: result for a neuron that never fires, e.g. T or `math.inf`.

    Returns:
        Times `[*]` in the dtype of `spikes`, or the default dtype where that is wider or `spikes`
        is not floating; float32 at least.
    """
    none_value = checked_float("first_spike_time", "none_value", none_value)
    first = first_spike_index(spikes)
    time = first.to(torch.uint8).argmax(-1).to(_time_dtype(spikes))
    return torch.where(first.any(-1), time, none_value)


def soft_first_spike_time(spikes: Tensor, none_value: float) -> Tensor:
    """`first_spike_time` with a gradient, for losses on latencies. Time is the **last** axis here.

    With alive[t] = (1 - s[0]) ... (1 - s[t]), which is 1 until the first spike and 0 from it on,

        time = sum over t of alive[t] + (none_value - T) alive[T-1]

    That is exact for spikes of 0 and 1, and for fractional ones the expected time if s[t] is the
    probability to fire. It is linear in each s[t], so its gradient is exactly the change that
    flipping this one spike makes:

        before the first spike at t1   t - t1             a spike here would come earlier by t1 - t
        at the first spike             t1 - next          without it, the next spike or none_value
        is the first
        after it                       0                  nothing changes
        in a silent neuron             t - none_value

    Args:
        spikes: `[*, T]` within 0..1.
        none_value: result for a neuron that never fires, finite; T is the natural choice.

    Returns:
        Times `[*]`, in the dtype of `spikes`, or the default dtype where that is wider or `spikes`
        is not floating; float32 at least.

    Source: the gradient is ours.
    """
    none_value = checked_number("soft_first_spike_time", "none_value", none_value)
    _check_time_last("soft_first_spike_time", spikes)
    return _expected_time("soft_first_spike_time", "spikes", spikes, none_value)


def earliest(where: str, name: str, s_seq: Tensor) -> Tensor:
    """`soft_first_spike_time` of a sequence `[T, B, *n]`, T where a neuron is silent; for a caller
    who knows it as `name`.
    """
    return _expected_time(where, name, s_seq.movedim(0, -1), len(s_seq))


def _expected_time(where: str, name: str, spikes: Tensor, none_value: float) -> Tensor:
    check_real(where, name, spikes)
    spikes = spikes.to(_time_dtype(spikes))
    check_values(where, name, spikes, (spikes >= 0) & (spikes <= 1), "within 0..1", "pass spikes")
    alive = (1 - spikes).cumprod(-1)
    return alive.sum(-1) + (none_value - spikes.shape[-1]) * alive[..., -1]


def _time_dtype(spikes: Tensor) -> torch.dtype:
    """Dtype that counts time steps exactly, which half precision does not."""
    return torch.promote_types(
        torch.promote_types(spikes.dtype, torch.get_default_dtype()), torch.float32
    )


def set_threshold_margin(
    output_layer: MarginNode,
    label_one_hot: Tensor,
    eval_threshold: float = 1.0,
    threshold0: float = 0.9,
    threshold1: float = 1.1,
) -> None:
    """Make the right class harder to fire, and the others easier, while training on one batch.

    Call it before every training batch. In eval mode the layer uses `eval_threshold`, whatever was
    set.

    Args:
        output_layer: the neuron of the last layer; it checks that it can reach the thresholds.
        label_one_hot: `[B, C]`, one 1 per row; or `redundant_one_hot`, for a layer of several
            neurons per class.
        eval_threshold: threshold in eval mode, in the unit of the membrane.
        threshold0: training threshold of the other classes.
        threshold1: training threshold of the right class, at least `threshold0`.

    Raises:
        InvalidTypeError: `output_layer` is not a spiking neuron, or a threshold not a number.
        InvalidValueError: not one-hot, `threshold0 > threshold1`, or a threshold that the layer
            cannot reach.
        ShapeError: `label_one_hot` is not `[B, C]`.
    """
    where = "set_threshold_margin"
    if isinstance(output_layer, type) or not callable(
        getattr(output_layer, "set_training_threshold", None)
    ):
        raise InvalidTypeError(
            f"{where}(output_layer={type(output_layer).__name__}): output_layer must be a spiking"
            " neuron; pass the last node of the network itself, such as net[-1]"
        )
    eval_threshold = checked_number(where, "eval_threshold", eval_threshold)
    threshold0 = checked_number(where, "threshold0", threshold0)
    threshold1 = checked_number(where, "threshold1", threshold1)
    if threshold0 > threshold1:
        raise InvalidValueError(
            f"{where}(threshold0={threshold0}, threshold1={threshold1}): threshold1, of the right"
            " class, must not be below threshold0; swap the two"
        )
    check_one_hot(where, label_one_hot)
    # float64, so that the node can round to the dtype of its state as it does for a plain number
    threshold = torch.full_like(label_one_hot, threshold0, dtype=torch.float64).masked_fill(
        label_one_hot == 1, threshold1
    )
    try:
        output_layer.set_training_threshold(threshold, eval_threshold)
    except (InvalidValueError, ShapeError) as problem:
        given = (
            f"eval_threshold={eval_threshold:g}, threshold0={threshold0:g},"
            f" threshold1={threshold1:g}"
        )
        raise type(problem)(f"{where}({given}): {problem}") from problem


def redundant_one_hot(labels: Tensor, num_classes: int, n: int) -> Tensor:
    """One-hot labels with `n` neurons per class, those of a class side by side.

    Args:
        labels: `[B]` integers in 0..num_classes-1.
        num_classes: number of classes.
        n: neurons per class.

    Returns:
        `[B, num_classes * n]` of 0 and 1 in the default dtype.

    Example:
        >>> redundant_one_hot(torch.tensor([1]), num_classes=3, n=2)
        tensor([[0., 0., 1., 1., 0., 0.]])
    """
    check_int("redundant_one_hot", "num_classes", num_classes, at_least=1, at_most=MOST)
    check_int("redundant_one_hot", "n", n, at_least=1, at_most=MOST)
    check_labels("redundant_one_hot", labels, num_classes)
    batch = len(labels)
    result = torch.zeros(batch, num_classes, n, device=labels.device)
    return result.scatter_(1, labels.long().view(batch, 1, 1).expand(batch, 1, n), 1.0).flatten(1)


_WEIGHTED = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def kaiming_normal_conv_linear_weight(net: nn.Module) -> None:
    """Draw the weight of every linear and convolution layer of `net` anew, Kaiming-normal with a =
    sqrt(5).

    In place; biases stay as they are. Draws from torch's global generator.

    Raises:
        InvalidTypeError: `net` is not a module.
        InvalidValueError: a weight that is not an initialized parameter.

    Source: He et al. 2015, "Delving Deep into Rectifiers", arXiv 1502.01852.
    """
    check_module("kaiming_normal_conv_linear_weight", "net", net)
    layers = {name: module for name, module in net.named_modules() if isinstance(module, _WEIGHTED)}
    for name, layer in layers.items():
        if not isinstance(layer.weight, nn.Parameter) or isinstance(
            layer.weight, nn.UninitializedParameter
        ):
            raise InvalidValueError(
                f"kaiming_normal_conv_linear_weight(net): the weight of {name!r} must be an"
                " initialized parameter; call this before a layer is parametrized and after a lazy"
                " layer's first forward"
            )
    for layer in layers.values():
        nn.init.kaiming_normal_(layer.weight, a=math.sqrt(5))


def _check_time_last(where: str, spikes: Tensor) -> None:
    check_tensor(where, "spikes", spikes)
    check_plain(where, "spikes", spikes)
    if spikes.ndim == 0 or spikes.shape[-1] == 0:
        raise ShapeError(
            f"{where}(spikes of shape {tuple(spikes.shape)}): spikes must be [*, T] with T >= 1,"
            " time last; for [T, B, *n] pass spikes.movedim(0, -1)"
        )
