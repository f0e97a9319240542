"""Data run through a network to look at it: quietly, the same however it was split into batches.

A `Tally` counts what every node does; a `Replay` runs one node again with other codebooks.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from snnsim._core.checks import check_iterable
from snnsim._core.restore import evaluating, hooked, restoring
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, StateError
from snnsim.neurons.base import BaseNode
from snnsim.neurons.membrane import Membrane
from snnsim.quant.codebook import Codebook
from snnsim.quant.ranges import Histogram, percentile_amax
from snnsim.temporal.record import Recorder, Trace
from snnsim.temporal.runner import MultiStep, SingleStep, reset

# samples that are run together, whatever the user's batches: a float matrix product depends on its
# number of rows
SAMPLES = 64


def observe(
    where: str, net: nn.Module, batches: Iterable[Any], visit: Callable[[str, Trace], None]
) -> int:
    """Run `batches` through a network and show the trace of every node to `visit(name, trace)`.

    The samples are regrouped first, so that the same samples in the same order give the same traces
    in any batch size. The network is left as it was.

    Args:
        where: the public function that asks, for messages.
        net: a runner, or a module around one.
        batches: inputs for it, or (input, ...) as a DataLoader gives them.
        visit: called for each node and group of samples.

    Returns:
        Number of samples.
    """
    axis = runner_axis(where, net)
    samples = 0
    with evaluating(net):
        for x in regroup(where, batches, axis):
            samples += x.shape[axis]
            reset(net)
            with Recorder(net) as recorder:
                net(x)
            for name, trace in recorder.traces().items():
                visit(name, trace)
    if not samples:
        raise StateError(f"{where}(batches): there is no sample in them; give at least one batch")
    return samples


def runner_axis(where: str, net: nn.Module) -> int:
    """Batch axis of the input of a runner: 0 of static `[B, *n]`, 1 of sequences `[T, B, *n]`."""
    if not isinstance(net, nn.Module):
        raise InvalidTypeError(
            f"{where}(net): must be a runner around a network, got {type(net).__name__}"
        )
    for module in net.modules():
        if isinstance(module, MultiStep | SingleStep):
            return 1 if module.time_steps is None else 0
    raise InvalidTypeError(
        f"{where}(net): {type(net).__name__} is not within a runner; wrap it, as in"
        " snnsim.MultiStep(net)"
    )


@contextmanager
def float_states(net: nn.Module) -> Iterator[None]:
    """All membranes without their codebooks for a while."""
    codebooks = {node: node.state_quant for node in net.modules() if isinstance(node, Membrane)}

    def restore() -> None:
        for node, codebook in codebooks.items():
            node.state_quant = codebook

    with restoring(restore):
        for node in codebooks:
            node.state_quant = None
        yield


def regroup(where: str, batches: Iterable[Any], axis: int) -> Iterator[Tensor]:
    """The samples of `batches` in groups of SAMPLES, or fewer before another shape of sample."""
    check_iterable(where, "batches", batches)
    waiting: list[Tensor] = []
    for batch in batches:
        x = batch[0] if isinstance(batch, Sequence) and batch else batch
        if not isinstance(x, Tensor):
            raise InvalidTypeError(
                f"{where}(batches): a batch must be a tensor, or a tuple or list that begins with"
                f" one; got {type(batch).__name__}"
            )
        if x.dim() <= axis:
            raise ShapeError(
                f"{where}(batches): a batch has shape {tuple(x.shape)}, and its batch axis should"
                f" be axis {axis}; give {'[T, B, *n]' if axis else '[B, *n]'}"
            )
        if not x.shape[axis]:
            continue
        if waiting and _sample(waiting[0], axis) != _sample(x, axis):
            yield torch.cat(waiting, axis)
            waiting = []
        waiting.append(x)
        if sum(part.shape[axis] for part in waiting) >= SAMPLES:
            *full, rest = torch.cat(waiting, axis).split(SAMPLES, axis)
            if rest.shape[axis] == SAMPLES:
                full, rest = [*full, rest], rest.narrow(axis, 0, 0)
            yield from (group.contiguous() for group in full)
            waiting = [rest] if rest.shape[axis] else []
    if waiting:
        yield torch.cat(waiting, axis)


def _sample(x: Tensor, axis: int) -> tuple[object, ...]:
    return x.shape[:axis], x.shape[axis + 1 :], x.dtype, x.device


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
        """Take in the trace of some samples; a membrane that is NaN or infinite is refused."""
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
    found: dict[str, Tally] = {}

    def collect(name: str, trace: Trace) -> None:
        if name not in found:
            spiking = isinstance(net.get_submodule(name), BaseNode)
            found[name] = Tally(name, spiking, per_channel)
        found[name].collect(trace)

    observe(where, net, batches, collect)
    return found


def occupied(histogram: Histogram) -> tuple[Tensor, Tensor]:
    """Centres of the occupied bins of a one-channel histogram, float64 `[M]`, and their counts."""
    if histogram.empty:
        return torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.int64)
    counts = histogram.counts[0].cpu()
    filled = counts > 0
    return (histogram.lower_edges() + histogram.width / 2)[0].cpu()[filled], counts[filled]


def entropy(probability: Tensor) -> Tensor:
    """Binary entropy in bits, elementwise."""
    other = 1 - probability
    return -(torch.xlogy(probability, probability) + torch.xlogy(other, other)) / math.log(2)


class Replay:
    """A spiking node, its inputs and how often each neuron fired, to compare codebooks by.

    Args:
        node: as it ran, with float states; a copy is kept.
    """

    def __init__(self, node: BaseNode) -> None:
        # hooks that record belong to the original
        before, after = node._forward_pre_hooks.copy(), node._forward_hooks.copy()

        def restore() -> None:
            node._forward_pre_hooks.update(before)
            node._forward_hooks.update(after)

        with restoring(restore):
            node._forward_pre_hooks.clear()
            node._forward_hooks.clear()
            self.node = copy.deepcopy(node)
        self.runner = MultiStep(self.node).eval()
        self._inputs: list[Tensor] = []
        self._counts: list[Tensor] = []

    def collect(self, x_seq: Tensor, spikes: Tensor) -> None:
        """Take in the input `[T, B, *n]` and the spikes that came of it, likewise."""
        same = (
            self._inputs
            and self._inputs[-1].shape[0] == len(x_seq)
            and self._inputs[-1].shape[2:] == x_seq.shape[2:]
        )
        counts = spikes.sum(0)
        if same and self._inputs[-1].shape[1] < LARGEST:
            self._inputs[-1] = torch.cat([self._inputs[-1], x_seq], 1)
            self._counts[-1] = torch.cat([self._counts[-1], counts])
        else:
            self._inputs.append(x_seq.clone())
            self._counts.append(counts)

    def difference(self, codebook: Codebook) -> float:
        """Squared difference between the spike counts with this codebook and the recorded ones,
        summed over neurons and samples.
        """
        self.node.state_quant = codebook.freeze()
        total = 0.0
        with torch.no_grad(), warnings.catch_warnings():
            # of levels that never leak, say: a candidate is not a choice yet
            warnings.simplefilter("ignore", UserWarning)
            for x_seq, counts in zip(self._inputs, self._counts, strict=True):
                total += float((self.runner(x_seq).sum(0) - counts).double().square().sum())
        return total


# samples that are run together: enough to be fast, few enough to stay small
LARGEST = 1024


def replays(where: str, net: nn.Module, batches: Iterable[Any]) -> dict[str, Replay]:
    """Run data through a network and remember what every spiking node was given; see `observe`."""
    nodes = {name: module for name, module in net.named_modules() if isinstance(module, BaseNode)}
    found = {name: Replay(node) for name, node in nodes.items()}
    given: dict[str, list[Tensor]] = {name: [] for name in nodes}

    def keeper(name: str) -> Callable[..., None]:
        return lambda module, inputs: given[name].append(inputs[0])

    def collect(name: str, trace: Trace) -> None:
        if name in nodes:
            found[name].collect(torch.cat(given[name]).reshape(trace.charged.shape), trace.spikes)
            given[name].clear()

    with hooked([(node, keeper(name)) for name, node in nodes.items()], before=True):
        observe(where, net, batches, collect)
    return found
