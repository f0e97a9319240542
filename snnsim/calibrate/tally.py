"""What calibration remembers of a node: histograms of its membrane, and how often it fired."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from snnsim.calibrate.collect import observe
from snnsim.errors import InvalidValueError
from snnsim.neurons.base import BaseNode
from snnsim.quant.histogram import Histogram
from snnsim.quant.ranges import percentile_amax
from snnsim.temporal.record import Trace

__all__ = ["Tally", "entropy", "occupied", "tallies"]


class Tally:
    """Counts of one node, over all samples, time steps and neurons.

    Args:
        name: of the node, for messages.
        spiking: whether what it puts out are spikes, not potentials.
        per_channel: keep the charged membrane of every channel (the axis behind the batch) apart.

    Attributes:
        charged: histogram of the membrane before the reset.
        silent, firing: histograms of the membrane after it, where the next step was silent and
            where it fired.
        spikes: how many.
        places: neurons times time steps times samples.
        steps: most time steps of a sample.
    """

    def __init__(self, name: str, spiking: bool, per_channel: bool = False) -> None:
        self.name, self.spiking, self.per_channel = name, spiking, per_channel
        self.charged, self.silent, self.firing = Histogram(), Histogram(), Histogram()
        self.spikes = self.places = self.steps = 0
        self._low = self._high = torch.empty(0)

    def collect(self, trace: Trace) -> None:
        """Take in the trace of some samples.

        Raises:
            InvalidValueError: a membrane that is NaN or infinite.
        """
        charged = trace.charged
        by_channel = self.per_channel and charged.dim() > 2
        rows = charged.movedim(2, 0).flatten(1) if by_channel else charged.reshape(1, -1)
        if not bool(torch.isfinite(rows).all()):
            raise InvalidValueError(
                f"calibrate: the membrane of {self.name!r} is NaN or infinite; look at the layers"
                " before it"
            )
        self.charged.collect(rows)
        low, high = rows.amin(1), rows.amax(1)
        self._low = torch.minimum(self._low, low) if self.places else low
        self._high = torch.maximum(self._high, high) if self.places else high
        self.places += charged.numel()
        self.steps = max(self.steps, len(charged))
        if not self.spiking:
            return
        self.spikes += int(trace.spikes.count_nonzero())
        fires_next, before = trace.spikes[1:] == 1, trace.membrane[:-1]
        self.firing.collect(before[fires_next].reshape(1, -1))
        self.silent.collect(before[~fires_next].reshape(1, -1))

    def range(self, percentile: float = 100.0) -> tuple[Tensor, Tensor]:
        """Low and high `[C]`: at most `100 - percentile` % of the charged membrane lies beyond each
        of them.

        Args:
            percentile: in (0, 100]; 100 is the exact extremes, less is exact to a bin of the
                histogram.
        """
        if percentile == 100:
            return self._low, self._high
        counts, lower, width = self.charged.counts, self.charged.lower_edges(), self.charged.width
        high = percentile_amax(lower + width, counts, percentile).to(self._high.dtype)
        low = -percentile_amax(-lower.flip(1), counts.flip(1), percentile).to(self._low.dtype)
        return torch.maximum(low, self._low), torch.minimum(high, self._high)


def tallies(
    where: str, net: nn.Module, batches: Iterable[Any], per_channel: bool = False
) -> dict[str, Tally]:
    """Run data through a network and count what every node does; see `observe`."""
    spiking = (
        {name: isinstance(module, BaseNode) for name, module in net.named_modules()}
        if isinstance(net, nn.Module)
        else {}
    )
    found: dict[str, Tally] = {}

    def collect(name: str, trace: Trace) -> None:
        if name not in found:
            found[name] = Tally(name, spiking[name], per_channel)
        found[name].collect(trace)

    observe(where, net, batches, collect)
    return found


def occupied(histogram: Histogram) -> tuple[Tensor, Tensor]:
    """Centres of the bins of a one-channel histogram that are not empty, float64 `[M]`, and their
    counts; on the CPU.
    """
    if histogram.empty:
        return torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.int64)
    counts = histogram.counts[0].cpu()
    filled = counts > 0
    return (histogram.lower_edges() + histogram.width / 2)[0].cpu()[filled], counts[filled]


def entropy(probability: Tensor) -> Tensor:
    """Binary entropy in bits, elementwise."""
    other = 1 - probability
    return -(torch.xlogy(probability, probability) + torch.xlogy(other, other)) / math.log(2)
