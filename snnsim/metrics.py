"""What a network costs: bytes of state and weights by bit width, and how often its neurons fire."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.neurons.base import BaseNode
from snnsim.quant.quantizer import TensorQuantizer
from snnsim.quiet import quiet
from snnsim.record import Recorder
from snnsim.runners import reset

__all__ = ["FiringMeter", "Footprint", "firing_rate", "footprint"]


@dataclass(frozen=True)
class Footprint:
    """Memory of a network on a target that packs every value into its own number of bits.

    Attributes:
        state_values: neuron state variables of one sample.
        state_bits: bits they take together.
        weight_values: weights and biases.
        weight_bits: bits they take together.
    """

    state_values: int
    state_bits: int
    weight_values: int
    weight_bits: int

    @property
    def state_bytes(self) -> int:
        """Bytes of neuron state for one sample, rounded up."""
        return -(-self.state_bits // 8)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights, rounded up."""
        return -(-self.weight_bits // 8)


def footprint(net: nn.Module, x: Tensor) -> Footprint:
    """Bytes of neuron state and weights of a network, by bit width.

    A quantized membrane takes the bits of its codebook, any other the bits of its dtype. Weights count the bits of their dtype;
    a quantized layer's, its `weight_bits`. Codebooks, a few numbers a layer, are not counted.

    Args:
        net: a runner (MultiStep, SingleStep) around the network, or a network that takes one time step.
        x: an input for it, any batch size; it is run once, in eval mode, without touching held states.

    Returns:
        The footprint for one sample.
    """
    values = bits = 0
    with quiet(net), Recorder(net) as recorder:
        reset(net)
        net(x)
    for trace in recorder.traces().values():
        count = trace.membrane[0, 0].numel()
        codebook = trace.node.state_quant
        values += count
        bits += count * (codebook.bits if codebook is not None else torch.finfo(trace.membrane.dtype).bits)
    weight_values = weight_bits = 0
    seen: set[int] = set()
    for module in net.modules():
        # a range that is learned ends up in the scale of its layer
        own = () if isinstance(module, TensorQuantizer) else module.named_parameters(recurse=False)
        for name, parameter in own:
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            width = getattr(module, "weight_bits", None) if name == "weight" else None
            weight_values += parameter.numel()
            weight_bits += parameter.numel() * (torch.finfo(parameter.dtype).bits if width is None else width)
    return Footprint(values, bits, weight_values, weight_bits)


def firing_rate(spikes: Tensor) -> float:
    """Mean number of spikes per neuron and time step.

    Raises:
        InvalidTypeError: not a tensor of numbers or bools.
        InvalidValueError: an empty tensor.
    """
    if not isinstance(spikes, Tensor):
        raise InvalidTypeError(f"firing_rate(spikes): must be a tensor, got {type(spikes).__name__}")
    if not spikes.numel():
        raise InvalidValueError(f"firing_rate(spikes): shape {tuple(spikes.shape)} holds no value")
    return float(spikes.detach().double().mean())


class FiringMeter:
    """Counts the spikes of every spiking node of a network over many runs, without keeping them.

    Args:
        net: network, or runner around one.

    Example:
        >>> import torch
        >>> from snnsim import MultiStep, neurons
        >>> from snnsim.metrics import FiringMeter
        >>> net = MultiStep(neurons.IFNode())
        >>> with FiringMeter(net) as meter:
        ...     spikes = net(torch.full((4, 1, 1), 0.5))
        >>> meter.mean()
        0.5
    """

    def __init__(self, net: nn.Module) -> None:
        self._nodes = {name: module for name, module in net.named_modules() if isinstance(module, BaseNode)}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._spikes = dict.fromkeys(self._nodes, 0.0)
        self._places = dict.fromkeys(self._nodes, 0)

    def __enter__(self) -> FiringMeter:
        for name, node in self._nodes.items():

            def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                self._spikes[name] += float(output.detach().double().sum())
                self._places[name] += output.numel()

            self._handles.append(node.register_forward_hook(count))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def rates(self) -> dict[str, float]:
        """Mean spikes per neuron and time step, by module name; nodes that did not run are left out."""
        return {name: self._spikes[name] / count for name, count in self._places.items() if count}

    def mean(self) -> float:
        """Mean spikes per neuron and time step over all nodes, each neuron counted alike."""
        places = sum(self._places.values())
        if not places:
            raise InvalidValueError("FiringMeter.mean(): no node has run; call the network within `with FiringMeter(net):`")
        return sum(self._spikes.values()) / places
