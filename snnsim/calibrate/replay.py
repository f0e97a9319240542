"""Running one node again on what it was given, with other codebooks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from snnsim._core.restore import hooked, restoring
from snnsim.calibrate.collect import observe
from snnsim.neurons.base import BaseNode
from snnsim.quant.codebook import Codebook
from snnsim.temporal.record import Trace
from snnsim.temporal.runner import MultiStep

__all__ = ["Replay", "replays"]


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
