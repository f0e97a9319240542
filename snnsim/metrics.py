"""Cost of a network: bytes of state and weights by bit width, and firing rates."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import snnsim.neurons  # noqa: F401  whole, before any part
from snnsim._core.checks import check_real, check_tensor, dense
from snnsim._core.restore import PassingHook, evaluating, hooked, restoring
from snnsim.errors import InvalidTypeError, InvalidValueError, RunError, ShapeError
from snnsim.neurons.base import BaseNode
from snnsim.neurons.membrane import Membrane
from snnsim.quant.quantizer import TensorQuantizer
from snnsim.temporal.module import Temporal
from snnsim.temporal.runner import MultiStep, SingleStep, reset

__all__ = ["FiringMeter", "Footprint", "firing_rate", "footprint"]


@dataclass(frozen=True)
class Footprint:
    """Memory of a network on a target that packs every value into its own number of bits.

    Attributes:
        state_values: state variables of one sample, of neurons, delays and the user's own modules.
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
        """Bytes of state for one sample, rounded up."""
        return -(-self.state_bits // 8)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights, rounded up."""
        return -(-self.weight_bits // 8)


def footprint(net: nn.Module, x: Tensor) -> Footprint:
    """Bytes of state and weights of a network, by bit width.

    A quantized membrane takes the bits of its codebook, any other state the bits of its dtype; what
    a module holds from one time step to the next is its state. Weights count the bits of their
    dtype; a quantized layer's, its `weight_bits`. Codebooks, a few numbers a layer, are not
    counted.

    Args:
        net: a runner (MultiStep, SingleStep) around the network, or a network that takes one time
            step.
        x: an input for it, any batch size from 1; it is run once, in eval mode, without touching
            held states.

    Returns:
        The footprint for one sample.
    """
    if not isinstance(net, nn.Module):
        raise InvalidTypeError(f"footprint(net): must be an nn.Module, got {type(net).__name__}")
    check_tensor("footprint", "x", x)
    x = dense("footprint", "x", x)
    runners = [module for module in net.modules() if isinstance(module, MultiStep | SingleStep)]
    axis = int(any(runner.time_steps is None for runner in runners))
    if x.dim() <= axis or not x.shape[axis]:
        raise ShapeError(
            f"footprint(x of shape {tuple(x.shape)}): needs at least one sample, and the batch is"
            f" axis {axis} here"
        )
    carried = {runner: runner.carry_state for runner in runners}

    def restore() -> None:
        for runner, carry_state in carried.items():
            runner.carry_state = carry_state

    values = bits = 0
    with evaluating(net), restoring(restore):
        for runner in runners:
            runner.carry_state = True
        reset(net)
        net(x)
        for module in net.modules():
            if isinstance(module, Temporal):
                for state in module.state().values():
                    codebook = module.state_quant if isinstance(module, Membrane) else None
                    count = _of_one_sample(state, x.shape[axis])
                    values += count
                    bits += count * (codebook.bits if codebook is not None else _width(state))
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
            weight_bits += parameter.numel() * (_width(parameter) if width is None else width)
    return Footprint(values, bits, weight_values, weight_bits)


def _of_one_sample(state: Tensor, batch: int) -> int:
    """Values of a state that belong to one sample; all of them where its first axis is not the
    batch.
    """
    return state.numel() // batch if state.dim() and state.shape[0] % batch == 0 else state.numel()


def _width(x: Tensor) -> int:
    """Bits of one value."""
    return 1 if x.dtype == torch.bool else 8 * x.dtype.itemsize


def firing_rate(spikes: Tensor) -> float:
    """Mean number of spikes per neuron and time step.

    Raises:
        InvalidTypeError: not a tensor of numbers or bools.
        InvalidValueError: an empty tensor.
    """
    if not isinstance(spikes, Tensor):
        raise InvalidTypeError(
            f"firing_rate(spikes): must be a tensor, got {type(spikes).__name__}"
        )
    check_real("firing_rate", "spikes", spikes)
    spikes = dense("firing_rate", "spikes", spikes)
    if spikes.is_meta:
        raise InvalidValueError(
            "firing_rate(spikes): is on the meta device and has no values; pass the spikes of a run"
            " with values"
        )
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
        if not isinstance(net, nn.Module):
            raise InvalidTypeError(
                f"FiringMeter(net): must be an nn.Module, got {type(net).__name__}"
            )
        nodes = {
            name: module for name, module in net.named_modules() if isinstance(module, BaseNode)
        }
        self._spikes = dict.fromkeys(nodes, 0.0)
        self._places = dict.fromkeys(nodes, 0)
        self._hooks: list[tuple[nn.Module, Callable[..., None]]] = [
            (node, _Counter(name, self._spikes, self._places)) for name, node in nodes.items()
        ]
        self._counting = ExitStack()

    def __enter__(self) -> FiringMeter:
        if any(hook in node._forward_hooks.values() for node, hook in self._hooks):
            raise RunError(
                "FiringMeter: is counting already; enter it once, or make a FiringMeter of its own"
                " for each block"
            )
        self._counting.enter_context(hooked(self._hooks))
        return self

    def __exit__(self, *error: object) -> None:
        self._counting.close()

    def rates(self) -> dict[str, float]:
        """Mean spikes per neuron and time step, by module name; nodes that did not run are left
        out.
        """
        return {name: self._spikes[name] / count for name, count in self._places.items() if count}

    def mean(self) -> float:
        """Mean spikes per neuron and time step over all nodes, each neuron counted alike."""
        places = sum(self._places.values())
        if not places:
            raise InvalidValueError(
                "FiringMeter.mean(): no node has run; call the network within `with"
                " FiringMeter(net):`"
            )
        return sum(self._spikes.values()) / places


class _Counter(PassingHook):
    """Counts for one node; knows the counts alone, so that a meter that is gone counts no more."""

    def __init__(self, name: str, spikes: dict[str, float], places: dict[str, int]) -> None:
        self.name, self.spikes, self.places = name, spikes, places

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.spikes[self.name] += float(output.detach().double().sum())
        self.places[self.name] += output.numel()
