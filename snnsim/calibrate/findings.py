"""What is wrong with a network that runs without an error: which layer, what, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from snnsim.calibrate.collect import runner_axis
from snnsim.calibrate.tally import Tally, tallies
from snnsim.neurons.base import BaseNode
from snnsim.neurons.membrane import Membrane
from snnsim.quant.weight import QuantizedWeight

__all__ = ["Finding", "data_findings", "inspect"]

WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with one layer.

    Attributes:
        layer: module name.
        problem: what was seen.
        remedy: what to do.
    """

    layer: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"layer {self.layer!r}: {self.problem}; {self.remedy}"


def inspect(net: nn.Module, batches: Iterable[Any]) -> list[Finding]:
    """Look for what makes a network fail silently, on data and with the codebooks that it has.

    Weights that are all zero (after quantization, where they are quantized); a threshold above
    every level; a node that never, or always, fires; a codebook most of whose levels never leak.
    The network is left as it was.

    Args:
        net: a runner around the network.
        batches: inputs for it, or (input, ...) as a DataLoader gives them.

    Returns:
        What was found, in network order within each kind; empty where all is well. Data is run
        where every node can fire.

    Raises:
        InvalidTypeError: no runner, or batches that hold no tensors.
        StateError: no data.
    """
    runner_axis("calibrate.inspect", net)
    silent, stuck = list(_unreachable(net)), list(_stuck(net))
    # a run would refuse a node that can never fire
    of_data = [] if silent else data_findings(net, tallies("calibrate.inspect", net, batches))
    return [*of_data, *silent, *stuck]


def data_findings(net: nn.Module, seen: Mapping[str, Tally]) -> Iterator[Finding]:
    """Zero weights, and nodes that never or always fired."""
    for name, module in net.named_modules():
        if isinstance(module, WEIGHTED) and _is_zero(module):
            problem = "every weight is zero, so it passes nothing on"
            yield Finding(
                name,
                problem,
                "initialize or load it, or quantize it with more bits or another range",
            )
    for name, tally in seen.items():
        node = net.get_submodule(name)
        if not isinstance(node, BaseNode):
            continue
        threshold = float(torch.as_tensor(node.v_threshold).detach().min())
        low, high = (float(end[0]) for end in tally.range())
        if not tally.spikes:
            problem = (
                f"no neuron ever fired on this data: the membrane reached {high:.4g} of a threshold"
                f" of {threshold:.4g}"
            )
            yield Finding(
                name,
                problem,
                "scale up the weights before it, lower v_threshold, or give it stronger input",
            )
        elif tally.spikes == tally.places:
            problem = (
                "every neuron fired in every time step on this data: the membrane never fell below"
                f" {low:.4g}"
            )
            yield Finding(
                name,
                problem,
                f"scale down the weights before it, or raise v_threshold={threshold:.4g}",
            )


def _is_zero(module: nn.Module) -> bool:
    weight = (
        module.integer_weight()[0]
        if isinstance(module, QuantizedWeight)
        else module.get_parameter("weight")
    )
    return not bool(weight.any())


def _unreachable(net: nn.Module) -> Iterator[Finding]:
    """Thresholds above every level."""
    for name, node in net.named_modules():
        if not isinstance(node, BaseNode) or node.state_quant is None:
            continue
        highest = node.state_quant.limits[1]
        threshold = torch.as_tensor(node.v_threshold).detach()
        unreachable = int((threshold > highest).sum())
        if unreachable:
            which = (
                ""
                if threshold.numel() == 1
                else f" for {unreachable} of its {threshold.numel()} thresholds"
            )
            problem = (
                f"no state can reach the threshold {float(threshold.max()):.4g}{which}: the highest"
                f" level is {highest:.4g}"
            )
            yield Finding(name, problem, "lower v_threshold, or calibrate the codebook again")


def _stuck(net: nn.Module) -> Iterator[Finding]:
    """Codebooks most of whose levels never leak."""
    for name, node in net.named_modules():
        if not isinstance(node, Membrane) or node.state_quant is None:
            continue
        stuck = node._stuck_levels()
        if stuck > node.state_quant.num_levels / 2:
            problem = f"{stuck} of {node.state_quant.num_levels} levels never leak"
            yield Finding(
                name, problem, "use more bits, a shorter time constant, or min_decay=True"
            )
