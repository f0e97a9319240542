"""`preset_network`: an integer network of a chip's own neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from snnsim._core.checks import check_int
from snnsim.deploy.bounds import accumulator_bounds
from snnsim.deploy.network import IntegerNetwork
from snnsim.deploy.ops import Delay, Integers, Operation, Product, Signal
from snnsim.deploy.ops.chips import LoihiLIF, Preset, PresetLayer, PresetNeuron, XyloLIF
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError


def preset_network(
    layers: Sequence[tuple[Tensor | npt.ArrayLike, Preset]], delay: int = 0
) -> IntegerNetwork:
    """An integer network of the chips' own neurons, each layer fully connected to the one before
    it.

    What `IntegerNetwork` does with a lowered network it does with this one: batches, steps with
    held state, save and load. Generated C is for lowered networks.

    Args:
        layers: integer weights `[outputs, inputs]`, as `nn.Linear` holds them, and the neuron of
            each layer, the first one first. Weights are what the chip takes: see
            `LoihiLIF.check_weights`; -128 to 127 for the others.
        delay: time steps that a spike takes from one layer to the next: 1 in Lava and in xylosim, 0
            in sinabs.

    Returns:
        The network. It reads spikes 0 or 1; one that begins with Xylo neurons reads up to
        `max_events` events of each input.

    Raises:
        InvalidValueError: no layers, weights that the chip cannot hold, or a layer that fires more
            often than the next one takes.
        InvalidTypeError: weights that are no integers; a neuron that is no preset.
        ShapeError: weights that are not `[outputs, inputs]`, or not as many inputs as the layer
            before has outputs.
    """
    check_int("preset_network", "delay", delay, at_least=0)
    pairs = [(_weights(i, weights, neuron), neuron) for i, (weights, neuron) in enumerate(layers)]
    if not pairs:
        raise InvalidValueError(
            "preset_network(layers=[]): there must be at least one layer, a pair of weights and a"
            " neuron"
        )
    first, neuron = pairs[0]
    signal = Signal((first.shape[1],), 0, neuron.max_events if isinstance(neuron, XyloLIF) else 1)
    network_input, operations = signal, list[Operation]()

    def append(operation: Operation) -> Signal:
        operations.append(operation)
        return operation.output

    for i, (weights, neuron) in enumerate(pairs):
        if i and delay:
            signal = append(Delay(f"{i}.delay", (len(operations),), signal, delay))
        if weights.shape[1] != signal.size:
            raise ShapeError(
                f"preset_network(layers): weights of layer {i} are {list(weights.shape)}, [outputs,"
                f" inputs], and the layer before it has {signal.size} outputs"
            )
        if isinstance(neuron, XyloLIF):
            out = Signal((len(weights),), 0, neuron.max_spikes)
            signal = append(
                PresetLayer(f"{i}", (len(operations),), out, weights.T.astype(np.int8), neuron)
            )
        else:
            signal = append(_product(f"{i}.weight", len(operations), weights, signal))
            signal = append(
                PresetNeuron(f"{i}", (len(operations),), replace(signal, low=0, high=1), neuron)
            )
    return IntegerNetwork(network_input, operations, len(operations))


def _product(name: str, source: int, weights: Integers, signal: Signal) -> Product:
    """Sums of weights times inputs; even weights of 9 bits are twice a weight of 8."""
    factor = 2 if not (weights % 2).any() and np.abs(weights).max() > 127 else 1
    mantissa = weights // factor
    kind = np.int8 if mantissa.min() >= -128 and mantissa.max() <= 127 else np.int16
    low, high = accumulator_bounds(weights, signal.low, signal.high)
    return Product(
        name,
        (source,),
        Signal((len(weights),), min(0, int(low.min())), max(0, int(high.max()))),
        (signal.size, 1, 1),
        mantissa.astype(kind)[:, :, None, None],
        np.full(len(weights), factor, np.int32),
        np.zeros(len(weights), np.int32),
        None,
    )


def _weights(index: int, weights: Tensor | npt.ArrayLike, neuron: Preset) -> Integers:
    """The weights of a layer as int64, if its chip can hold them."""
    if not isinstance(neuron, Preset):
        kind = type(neuron).__name__
        raise InvalidTypeError(
            f"preset_network(layers): the neuron of layer {index} is {kind}; must be a LoihiLIF,"
            " XyloLIF or SpeckIF"
        )
    values = weights.detach().cpu().numpy() if isinstance(weights, Tensor) else np.asarray(weights)
    if values.dtype.kind not in "iu":
        raise InvalidTypeError(
            f"preset_network(layers): weights of layer {index} are {values.dtype} and must be"
            " integers; scale and round them first"
        )
    if values.ndim != 2 or not values.size:
        raise ShapeError(
            f"preset_network(layers): weights of layer {index} have shape {values.shape}; must be"
            " [outputs, inputs]"
        )
    if isinstance(neuron, LoihiLIF):
        return neuron.check_weights(values)
    if values.min() < -128 or values.max() > 127:
        raise InvalidValueError(
            f"preset_network(layers): weights of layer {index} go from {values.min()} to"
            f" {values.max()}; must be within -128..127"
        )
    return values.astype(np.int64)
