"""Losses on spike trains `[T, B, *n]`, time first: each a scalar, the mean over batch and neurons.

Half precision is summed in float32, and the loss is float32 then; under autocast too.

An argument out of the stated range raises an InvalidValueError, one of another type an
InvalidTypeError, one of another shape a ShapeError.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from snnsim._core.checks import (
    check_class_sequence,
    check_labels,
    check_real,
    check_sequence,
    check_shape,
    checked_number,
    summable,
)
from snnsim.errors import InvalidValueError
from snnsim.functional import decode
from snnsim.functional.misc import earliest, redundant_one_hot

__all__ = [
    "rate_cross_entropy",
    "rate_mse",
    "spike_count",
    "temporal_cross_entropy",
    "temporal_mse",
    "tet",
    "van_rossum",
]


def rate_mse(s_seq: Tensor, target_rate: Tensor) -> Tensor:
    """Mean squared difference of the firing rates from their targets.

    Args:
        s_seq: spikes, `[T, B, *n]`.
        target_rate: spikes per time step, `[B, *n]`; one-hot labels for a class per neuron.
    """
    check_sequence("rate_mse", "s_seq", s_seq)
    check_shape("rate_mse", "target_rate", target_rate, s_seq.shape[1:])
    check_real("rate_mse", "s_seq", s_seq)
    check_real("rate_mse", "target_rate", target_rate)
    rates = decode.rate(s_seq)
    return mse_loss(rates, target_rate.to(rates.dtype))


def rate_cross_entropy(s_seq: Tensor, labels: Tensor, scale: float = 1.0) -> Tensor:
    """Cross-entropy with the firing rates as logits.

    Rates lie within 0..1, so that with `scale=1` the loss stays above log(1 + (C - 1)/e); `scale=T`
    takes the spike counts as logits.

    Args:
        s_seq: spikes, `[T, B, C]`.
        labels: `[B]` class indices.
        scale: factor of the rates, above 0.
    """
    _check_classification("rate_cross_entropy", s_seq, labels)
    scale = checked_number("rate_cross_entropy", "scale", scale, above=0)
    return cross_entropy(scale * decode.rate(s_seq), labels.long())


def spike_count(s_seq: Tensor, labels: Tensor, true_count: float, false_count: float) -> Tensor:
    """Mean squared difference of the spike counts from a count for the right class and one for the
    others.

    Args:
        s_seq: spikes, `[T, B, C]`.
        labels: `[B]` class indices.
        true_count: spikes wanted of the right class, at least 0.
        false_count: spikes wanted of each other class, at least 0.

    Source: Shrestha & Orchard 2018, "SLAYER", arXiv 1810.08646.
    """
    _check_classification("spike_count", s_seq, labels)
    true_count = checked_number("spike_count", "true_count", true_count, at_least=0)
    false_count = checked_number("spike_count", "false_count", false_count, at_least=0)
    counts = summable("spike_count", "s_seq", s_seq).sum(0)
    right = redundant_one_hot(labels, num_classes=s_seq.shape[2], n=1) == 1
    return mse_loss(counts, torch.full_like(counts, false_count).masked_fill(right, true_count))


def temporal_mse(s_seq: Tensor, target_time: Tensor) -> Tensor:
    """Mean squared difference of the first-spike times from their targets, in time steps squared.

    A silent neuron counts as firing at step T. The gradient is that of `soft_first_spike_time`.

    Args:
        s_seq: spikes, `[T, B, *n]`, within 0..1.
        target_time: wanted step of the first spike, `[B, *n]`, counted from 0; T for none.
    """
    check_sequence("temporal_mse", "s_seq", s_seq)
    check_shape("temporal_mse", "target_time", target_time, s_seq.shape[1:])
    check_real("temporal_mse", "target_time", target_time)
    times = earliest("temporal_mse", "s_seq", s_seq)
    return mse_loss(times, target_time.to(times.dtype))


def temporal_cross_entropy(s_seq: Tensor, labels: Tensor, tau: float = 1.0) -> Tensor:
    """Cross-entropy with `-time / tau` as logits: the class that fires first wins.

    A silent neuron counts as firing at step T. The gradient is that of `soft_first_spike_time`.

    Args:
        s_seq: spikes, `[T, B, C]`, within 0..1.
        labels: `[B]` class indices.
        tau: how many time steps earlier make the odds e times larger, above 0.

    Source: Comsa et al. 2020, "Temporal Coding in Spiking Neural Networks with Alpha Synaptic
    Function", arXiv 1907.13223.
    """
    _check_classification("temporal_cross_entropy", s_seq, labels)
    tau = checked_number("temporal_cross_entropy", "tau", tau, above=0)
    return cross_entropy(-earliest("temporal_cross_entropy", "s_seq", s_seq) / tau, labels.long())


def tet(x_seq: Tensor, labels: Tensor, regularization: float = 0.05, target: float = 1.0) -> Tensor:
    """Temporal efficient training: cross-entropy of every time step by itself, not of their mean.

        loss = (1 - regularization) mean over t of CE(x_seq[t], labels) + regularization mean of
        (x_seq - target)^2

    Args:
        x_seq: outputs of a last layer without neurons, or potentials of a readout, `[T, B, C]`.
        labels: `[B]` class indices.
        regularization: weight of the second term, in [0, 1]; it keeps single steps from growing
            large.
        target: what the second term draws outputs towards; the threshold.

    Source: Deng et al. 2022, "Temporal Efficient Training of Spiking Neural Network via Gradient
    Re-weighting", arXiv 2202.11946.
    """
    _check_classification("tet", x_seq, labels, "x_seq")
    weight = checked_number("tet", "regularization", regularization, at_least=0)
    if weight > 1:
        raise InvalidValueError(
            f"tet(regularization={regularization!r}): regularization must be in [0, 1]; pass a"
            " smaller number"
        )
    wanted = checked_number("tet", "target", target)
    x_seq = summable("tet", "x_seq", x_seq)
    each = cross_entropy(x_seq.flatten(0, 1), labels.long().repeat(len(x_seq)))
    return (1 - weight) * each + weight * (x_seq - wanted).square().mean()


def van_rossum(s_seq: Tensor, target_seq: Tensor, tau: float) -> Tensor:
    """Squared van Rossum distance of two spike trains, mean over batch and neurons.

    Both trains are filtered with a decaying exponential; the distance is that of the two traces:

        f[t] = sum over r <= t of exp(-(t - r) / tau) (s_seq[r] - target_seq[r]);   D^2 = sum over t
        of f[t]^2 / tau

    Args:
        s_seq: spikes, `[T, B, *n]`.
        target_seq: wanted spikes, same shape.
        tau: time constant of the filter, in time steps, above 0: small compares single spikes,
            large compares rates.

    Source: van Rossum 2001, "A Novel Spike Distance", Neural Computation 13(4), with sums over time
    steps for integrals.
    """
    check_sequence("van_rossum", "s_seq", s_seq)
    check_shape("van_rossum", "target_seq", target_seq, s_seq.shape)
    tau = checked_number("van_rossum", "tau", tau, above=0)
    difference = summable("van_rossum", "s_seq", s_seq) - summable(
        "van_rossum", "target_seq", target_seq
    )
    step = torch.arange(len(s_seq), device=s_seq.device, dtype=difference.dtype)
    # [T, T]; a spike in the future is infinitely far away
    age = (step[:, None] - step).masked_fill(step[:, None] < step, torch.inf)
    # a product that autocast would take in half precision
    with torch.autocast(s_seq.device.type, enabled=False):
        trace = torch.exp(-age / tau) @ difference.flatten(1)
    return trace.square().sum(0).mean() / tau


def _check_classification(where: str, s_seq: Tensor, labels: Tensor, name: str = "s_seq") -> None:
    check_class_sequence(where, name, s_seq)
    check_real(where, name, s_seq)
    check_labels(where, labels, s_seq.shape[2])
    check_shape(where, "labels", labels, s_seq.shape[1:2])
