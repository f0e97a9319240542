"""From a trained ReLU network to a spiking one, with balanced thresholds."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from snnsim._core.checks import MOST, check_int, checked_bool
from snnsim._core.restore import evaluating, hooked
from snnsim._core.warn import warn_user
from snnsim.calibrate.averages import departures
from snnsim.calibrate.collect import regroup
from snnsim.errors import InvalidTypeError, InvalidValueError, StateError
from snnsim.layers.scale import Scale
from snnsim.neurons.integrate_fire import IFNode
from snnsim.neurons.membrane import Membrane
from snnsim.quant.codebook import Codebook
from snnsim.quant.histogram import Histogram
from snnsim.quant.ranges import check_percentile, percentile_amax
from snnsim.temporal.runner import MultiStep

__all__ = ["BalancedIFNode", "Scale", "convert"]

RECTIFIERS = (nn.ReLU, nn.ReLU6)


class BalancedIFNode(IFNode):
    """Integrate-and-fire neuron with soft reset whose fresh membrane is half the threshold.

    Driven by a constant x for T steps it fires round(T x / threshold) times, halves up, within
    0..T; from rest it would be rounded down, which loses half a spike on average in every layer.
    (64-128-128-10 on the digits, T = 2: 95.5 % right against 22 % from rest, of 97.5 % for the ReLU
    network; no difference from T = 8 on.)

    Args:
        v_threshold, surrogate, detach_reset, state_quant, learn_threshold, min_decay: see BaseNode.

    Source: Bu et al. 2022, "Optimized Potential Initialization for Low-latency Spiking Neural
        Networks", arXiv 2202.01440.
    """

    _nir = "IF"

    def __init__(
        self, v_threshold: float | Tensor = 1.0, state_quant: Codebook | None = None, **options: Any
    ) -> None:
        super().__init__(v_threshold, v_reset=None, state_quant=state_quant, **options)

    def _arguments(self) -> dict[str, Any]:
        return {name: value for name, value in super()._arguments().items() if name != "v_reset"}

    def rest(self, x: Tensor, dtype: torch.dtype, codebook: Codebook | None) -> Tensor:
        """The state before the first step, for input like `x`: half the threshold, on its level."""
        with torch.inference_mode(False), torch.no_grad():
            half = torch.as_tensor(self.v_threshold, dtype=dtype, device=x.device) / 2
            half = half.reshape([1] * (x.dim() - half.dim()) + list(half.shape))
            return half if codebook is None else codebook.snap(half, self.v_rest)


def convert(
    ann: nn.Module,
    batches: Iterable[Any],
    T: int,
    *,
    percentile: float = 99.9,
    per_channel: bool = False,
) -> MultiStep:
    """A spiking copy of a trained ReLU network: every ReLU becomes an integrate-and-fire layer with
    a threshold from data.

    A layer's threshold is the `percentile` of its ReLU's positive outputs on the data; a spike
    stands for as much as the threshold (a `Scale` behind the node), so weights and biases stay as
    they are and branches may join anywhere. The rate of a neuron approaches its activation as T
    grows, cut off at the threshold. To quantize states, calibrate the result.

    Every ReLU must be a module of its own. What lies between them stays as it is and must average
    over spikes: layers, average pooling, batch norm and dropout (both in eval mode) do;
        `torch.relu` within a forward, max pooling, layer norm and other
    functions that are not linear do not. Both networks are run on samples of the data to find what
    does not, for 16 steps on at most 64 samples, and it is warned of by name.

    Args:
        ann: trained network on `[B, *n]`, with nn.ReLU or nn.ReLU6; not changed.
        batches: inputs for it, or (input, ...); the same samples in any batch size give the same
            thresholds.
        T: time steps, at least 1.
        percentile: in (0, 100]; lower gets by with fewer steps and cuts off more.
        per_channel: a threshold for each channel, the axis behind the batch.

    Returns:
        A runner in eval mode: static input `[B, *n]` to `[T, B, *out]`; its mean over T approaches
            `ann(x)`.

    Raises:
        InvalidTypeError, InvalidValueError: a forward of several inputs, no ReLU module, one used
            twice or with a hook or a forward of its own that changes what it gives, another
            activation, or a neuron in the network.
        StateError: no data.

    Warns:
        UserWarning: a ReLU that is 0 on all data, or what does not average over spikes.

    Source: Diehl et al. 2015, "Fast-Classifying, High-Accuracy Spiking Deep Networks Through Weight
        and Threshold Balancing";
    the percentile from Rueckauer et al. 2017, "Conversion of Continuous-Valued Deep Networks to
    Efficient Event-Driven Networks for Image Classification"; a threshold per channel from Kim et
    al. 2020, "Spiking-YOLO", arXiv 1903.06530.
    """
    if not isinstance(ann, nn.Module):
        raise InvalidTypeError(
            f"calibrate.convert(ann): must be an nn.Module, got {type(ann).__name__}"
        )
    check_int("calibrate.convert", "T", T, at_least=1, at_most=MOST)
    check_percentile("calibrate.convert", percentile)
    checked_bool("calibrate.convert", "per_channel", per_channel)
    plain = copy.deepcopy(ann).eval()
    # a parent of its own, so that a lone ReLU can be replaced too
    whole = nn.Sequential(copy.deepcopy(ann)).eval()
    activities, samples = _activities(whole, batches, per_channel)
    for name, activity in activities.items():
        threshold = activity.threshold(percentile)
        if not bool(threshold.any()):
            warn_user(
                f"calibrate.convert: {_shown(name)} is 0 on all of this data and will not fire;"
                " look at the layer before it"
            )
        # what was always 0 has no range, and any threshold will do
        threshold = threshold.masked_fill(threshold == 0, float(threshold.max()) or 1.0)
        node = BalancedIFNode(float(threshold) if threshold.numel() == 1 else threshold)
        parent, _, key = name.rpartition(".")
        layer = nn.Sequential(OrderedDict(node=node, scale=Scale(node.v_threshold))).to(
            threshold.device
        )
        setattr(whole.get_submodule(parent), key, layer)
    found = departures(plain, whole[0], [_own_name(name) for name in activities], samples)
    if found:
        warn_user(
            "calibrate.convert(ann): the rates of the spiking network will not approach ann, whose"
            f" values do not average over spikes everywhere: {'; '.join(found)}. Use nn.ReLU"
            " modules for functions that rectify, average pooling for max pooling, batch norm for"
            " other norms, and apply the rest behind the mean over time"
        )
    return MultiStep(whole[0], time_steps=T).eval()


class _Activity:
    """The outputs of one ReLU on all of the data."""

    def __init__(self, name: str, per_channel: bool) -> None:
        self.name, self.per_channel = name, per_channel
        self._given = torch.empty(0)
        self.calls = 0
        self._histogram = Histogram()
        self._zeros = self._largest = torch.zeros(1)
        self._shape: tuple[int, ...] = ()

    def receive(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Forward pre-hook, ahead of others: what the network itself hands over."""
        self._given = args[0]

    def collect(self, module: nn.Module, args: tuple[Any, ...], y: Tensor) -> None:
        """Forward hook that counts outputs `[B, *n]`."""
        self.calls += 1
        by_channel = self.per_channel and y.dim() > 1
        rows = y.movedim(1, 0).flatten(1) if by_channel else y.reshape(1, -1)
        self._shape = (-1, *[1] * (y.dim() - 2)) if by_channel else ()
        self._histogram.collect(rows)
        rectified = (
            functional.relu6(self._given)
            if isinstance(module, nn.ReLU6)
            else functional.relu(self._given)
        )
        if not torch.equal(y, rectified):
            raise InvalidValueError(
                f"calibrate.convert(ann): {_shown(self.name)} does not give relu of its input, as a"
                " neuron does; move what its hooks or its own forward do into modules around it"
            )
        self._zeros = self._zeros.to(y.device) + (rows == 0).sum(1)
        self._largest = torch.maximum(self._largest.to(y.device), rows.amax(1))

    def threshold(self, percentile: float) -> Tensor:
        """The percentile of the positive outputs, for the layer or in the shape of a channel
        constant; 0 where there are none.
        """
        low = self._histogram.num_bins
        counts = self._histogram.counts[:, low:].clone()
        counts[:, 0] -= self._zeros.long()
        upper = (self._histogram.lower_edges() + self._histogram.width)[:, low:]
        found = torch.minimum(
            percentile_amax(upper, counts, percentile).float(), self._largest.float()
        )
        return found.reshape(self._shape)


def _activities(
    whole: nn.Sequential, batches: Iterable[Any], per_channel: bool
) -> tuple[dict[str, _Activity], Tensor]:
    """What every ReLU puts out, by name; and some samples."""
    activities = {name: _Activity(name, per_channel) for name in _rectifiers(whole)}
    _check_inputs(whole[0])
    hooks = [(whole.get_submodule(name), seen.collect) for name, seen in activities.items()]
    receivers = [(whole.get_submodule(name), seen.receive) for name, seen in activities.items()]
    groups, samples = 0, torch.empty(0)
    with evaluating(whole), hooked(receivers, before=True, first=True), hooked(hooks):
        for x in regroup("calibrate.convert", batches, 0):
            samples = samples if groups else x
            groups += 1
            whole(x)
    if not groups:
        raise StateError(
            "calibrate.convert(batches): there is no sample in them; give at least one batch"
        )
    for name, activity in activities.items():
        if activity.calls != groups:
            raise InvalidValueError(
                f"calibrate.convert(ann): {_shown(name)} runs {activity.calls / groups:g} times per"
                " input; each place needs a ReLU module of its own that runs once"
            )
    return activities, samples


def _check_inputs(ann: nn.Module) -> None:
    """Raise where a network cannot be called with one input."""
    signature = inspect.signature(ann.forward)
    try:
        signature.bind(None)
    except TypeError as problem:
        raise InvalidTypeError(
            f"calibrate.convert(ann): forward{signature} does not run on one input ({problem});"
            " wrap the network in a module that takes one, and splits it or holds the others"
        ) from problem


def _own_name(name: str) -> str:
    """The name of a module within the network of the user."""
    return name.partition(".")[2]


def _shown(name: str) -> str:
    """The name of a module as the user knows it."""
    return repr(_own_name(name) or "ann")


def _rectifiers(whole: nn.Module) -> list[str]:
    """Names of the ReLU modules; refuses what has no spiking counterpart."""
    names = []
    for name, module in whole.named_modules(remove_duplicate=False):
        if isinstance(module, RECTIFIERS):
            names.append(name)
        elif isinstance(module, Membrane):
            raise InvalidValueError(
                f"calibrate.convert(ann): {_shown(name)} is a neuron already; give the ReLU network"
            )
        elif type(module).__module__ == nn.modules.activation.__name__:
            raise InvalidValueError(
                f"calibrate.convert(ann): {_shown(name)} is a {type(module).__name__}, which no"
                " integrate-and-fire neuron can stand for; train with nn.ReLU, and apply a final"
                " softmax outside"
            )
    if not names:
        raise InvalidValueError(
            "calibrate.convert(ann): it has no nn.ReLU module; replace torch.relu(x) by modules"
        )
    return names
