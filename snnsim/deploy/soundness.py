"""What an operation must fulfil so that every engine can run it without looking: shapes, ranges,
and nothing beyond 32 bits.
"""

from __future__ import annotations

import math
from functools import singledispatch

import numpy as np

from snnsim.deploy.dyadic import INT32_MAX
from snnsim.deploy.exactness import accumulator_bounds
from snnsim.deploy.operations import (
    Add,
    Delay,
    GridNeuron,
    Integers,
    Neuron,
    Operation,
    Pool,
    Product,
    Reshape,
    Signal,
    TableNeuron,
    Window,
)
from snnsim.deploy.preset_operations import PresetLayer, PresetNeuron
from snnsim.deploy.presets import LoihiLIF, SpeckIF, XyloLIF
from snnsim.errors import InvalidValueError

__all__ = ["check_operation", "check_signal"]

MAX_SHIFT = 31


def check_operation(operation: Operation, inputs: list[Signal]) -> None:
    """Refuse an operation that does not fit its inputs, or that could leave 32 bits.

    Raises:
        InvalidValueError: with the name of the operation and the rule it breaks.
    """
    check_signal(operation.name, operation.output)
    _require(operation.name, isinstance(operation, Add) or len(inputs) == 1, "it has one input")
    count = math.prod(operation.state_shape)
    _require(operation.name, count <= INT32_MAX, "its state has at most 2^31 - 1 numbers")
    _check(operation, inputs)


def check_signal(name: str, signal: Signal) -> None:
    """Refuse bounds beyond 32 bits, and shapes that are not channels, height and width."""
    _require(
        name,
        1 <= len(signal.shape) <= 3 and all(size > 0 for size in signal.shape),
        "a shape has 1 to 3 axes, all positive",
    )
    # engines and generated C count in 32 bits
    _require(name, signal.size <= INT32_MAX, "one sample has at most 2^31 - 1 integers")
    _require(
        name,
        -INT32_MAX <= signal.low <= 0 <= signal.high <= INT32_MAX,
        "bounds hold 0 and fit 32 bits",
    )
    _require(name, 0 <= signal.frac_bits <= MAX_SHIFT, "a binary point lies within 32 bits")


@singledispatch
def _check(operation: Operation, inputs: list[Signal]) -> None:
    raise InvalidValueError(
        f"{operation.name!r}: {type(operation).__name__} is no operation that engines know"
    )


@_check.register
def _(operation: Product, inputs: list[Signal]) -> None:
    name, out, (source,) = operation.name, operation.output, inputs
    weight, groups = operation.weight, operation.groups
    channels, height, width = _checked_planes(operation, source)
    _require(
        name,
        weight.ndim == 4 and weight.dtype in (np.int8, np.int16, np.int32),
        "weights are integers [O, I / groups, kh, kw]",
    )
    _require(name, 0 < weight.size <= INT32_MAX, "it has 1 to 2^31 - 1 weights")
    outputs = weight.shape[0]
    _require(
        name,
        groups > 0 and outputs % groups == 0 and weight.shape[1] * groups == channels,
        "groups divide its channels",
    )
    _require(
        name, weight.shape[2:] == operation.window.kernel, "its weights have the size of its kernel"
    )
    _check_window(name, operation.window, height, width)
    _require(
        name,
        out.size == outputs * operation.window.places(height, width),
        "it returns what its window sees",
    )
    for constants in (operation.multiplier, operation.offset):
        _require(
            name,
            constants.shape == (outputs,) and constants.dtype == np.int32,
            "it has one int32 constant per output",
        )
    low, high = accumulator_bounds(weight, source.low, source.high)
    _require(name, max(-low.min(), high.max()) <= INT32_MAX, "sums fit 32 bits")
    limits = operation.limits
    if limits is not None:
        _require(
            name,
            limits.shape == (2, outputs) and limits.dtype == np.int32,
            "limits are int32 [2, O]",
        )
        _require(name, bool((limits[0] <= limits[1]).all()), "lower limits lie below upper ones")
        low, high = low.clip(*limits), high.clip(*limits)
    multiplier, offset = (
        operation.multiplier.astype(np.float64),
        operation.offset.astype(np.float64),
    )
    reach = np.abs(multiplier) * np.maximum(np.abs(low), np.abs(high)) + np.abs(offset)
    _require(
        name,
        bool((multiplier > 0).all()) and reach.max() <= INT32_MAX,
        "multipliers are positive and results fit 32 bits",
    )
    _require_bounds(
        name, out, int((multiplier * low + offset).min()), int((multiplier * high + offset).max())
    )


@_check.register
def _(operation: Pool, inputs: list[Signal]) -> None:
    name, out, (source,) = operation.name, operation.output, inputs
    channels, height, width = _checked_planes(operation, source)
    _check_window(name, operation.window, height, width)
    _require(
        name,
        out.size == channels * operation.window.places(height, width),
        "it returns what its window sees",
    )
    padded = operation.window.padding != (0, 0)
    _require(
        name,
        not (operation.maximum and padded) or source.low >= 0,
        "a maximum pads no negative numbers",
    )
    count = 1 if operation.maximum else operation.window.count
    _require_bounds(name, out, source.low * count, source.high * count)


@_check.register
def _(operation: Add, inputs: list[Signal]) -> None:
    name, out = operation.name, operation.output
    _require(name, len(inputs) == len(operation.shifts) >= 1, "it has one shift per input")
    _require(
        name,
        all(source.shape == out.shape for source in inputs),
        "its inputs have the shape of its output",
    )
    _require(
        name, all(0 <= shift <= MAX_SHIFT for shift in operation.shifts), "shifts are 0 to 31 bits"
    )
    pairs = list(zip(inputs, operation.shifts, strict=True))
    _require_bounds(
        name,
        out,
        sum(s.low << shift for s, shift in pairs),
        sum(s.high << shift for s, shift in pairs),
    )


@_check.register
def _(operation: Reshape, inputs: list[Signal]) -> None:
    (source,) = inputs
    _require(
        operation.name, operation.output.size == source.size, "it keeps the number of integers"
    )
    _require_bounds(operation.name, operation.output, source.low, source.high)


@_check.register
def _(operation: Delay, inputs: list[Signal]) -> None:
    (source,) = inputs
    _require(
        operation.name,
        operation.output.shape == source.shape and operation.steps >= 0,
        "it keeps the shape, and delays",
    )
    _require_bounds(operation.name, operation.output, source.low, source.high)


@_check.register
def _(operation: GridNeuron, inputs: list[Signal]) -> None:
    name, (source,), edges, leak = operation.name, inputs, operation.edges, operation.leak
    _check_neuron(operation, source)
    _require(name, edges.dtype == leak.dtype == np.int32, "its tables are int32, and codes uint8")
    _require(
        name,
        edges.shape == (operation.reset.shape[1] - 1,) and leak.shape == operation.reset.shape,
        "its tables are [C, L]",
    )
    _require(name, bool((np.diff(edges.astype(np.int64)) > 0).all()), "its edges increase")
    _require(name, 0 <= operation.shift <= MAX_SHIFT, "shifts are 0 to 31 bits")
    _require(
        name,
        _magnitude(leak) + (source.magnitude << operation.shift) <= INT32_MAX,
        "its membrane fits 32 bits",
    )
    _require(name, _magnitude(edges) <= INT32_MAX, "its edges fit 32 bits")


@_check.register
def _(operation: TableNeuron, inputs: list[Signal]) -> None:
    name, (source,), thresholds = operation.name, inputs, operation.thresholds
    _check_neuron(operation, source)
    channels, levels = operation.reset.shape
    _require(
        name,
        thresholds.shape == (channels, levels, levels - 1),
        "thresholds are int32 [C, L, L - 1]",
    )
    _require(name, thresholds.dtype == np.int32, "thresholds are int32 [C, L, L - 1]")
    _require(
        name,
        bool((np.diff(thresholds.astype(np.int64), axis=2) >= 0).all()),
        "its thresholds do not fall",
    )
    _require(name, _magnitude(thresholds) <= INT32_MAX, "its thresholds fit 32 bits")


@_check.register
def _(operation: PresetNeuron, inputs: list[Signal]) -> None:
    name, out, (source,) = operation.name, operation.output, inputs
    _require(
        name,
        isinstance(operation.neuron, LoihiLIF | SpeckIF),
        "its neuron is a LoihiLIF or a SpeckIF",
    )
    _require(name, out.shape == source.shape, "it keeps the shape of its input")
    _require_bounds(name, out, 0, 1)


@_check.register
def _(operation: PresetLayer, inputs: list[Signal]) -> None:
    name, out, neuron, weight, (source,) = (
        operation.name,
        operation.output,
        operation.neuron,
        operation.weight,
        inputs,
    )
    _require(name, isinstance(neuron, XyloLIF), "its neuron is a XyloLIF")
    _require(
        name,
        weight.dtype == np.int8 and weight.shape == (source.size, out.size),
        "weights are int8 [inputs, neurons]",
    )
    _require(
        name, len(source.shape) == len(out.shape) == 1, "input and output of one sample are vectors"
    )
    if source.low < 0 or source.high > neuron.max_events:
        raise InvalidValueError(
            f"integer operation {name!r}: its inputs are {source.low} to {source.high} events in a"
            f" step, and its neurons take 0 to {neuron.max_events}; raise max_events of XyloLIF"
            " here, or lower max_spikes of the layer before"
        )
    _require_bounds(name, out, 0, neuron.max_spikes)


def _check_neuron(operation: Neuron, source: Signal) -> None:
    name, out, reset, fire = operation.name, operation.output, operation.reset, operation.fire
    _require(name, out.shape == source.shape, "it keeps the shape of its input")
    _require(
        name,
        reset.ndim == 2 and len(reset) > 0 and 2 <= reset.shape[1] <= 256,
        "its tables are [C, L]",
    )
    _require(name, fire.shape == reset.shape[:1], "its tables are [C, L]")
    _require(
        name,
        reset.dtype == np.uint8 and fire.dtype == np.int32,
        "its tables are int32, and codes uint8",
    )
    channels, levels = reset.shape
    _require(
        name,
        operation.inner > 0 and out.size % (operation.inner * channels) == 0,
        "its channels divide its neurons",
    )
    _require(
        name,
        int(reset.max()) < levels and 0 <= operation.start < levels,
        "every code is below the number of levels",
    )
    _require(
        name,
        bool((fire >= 0).all()) and bool((fire <= levels).all()),
        "the first code that fires is a code",
    )
    potentials = operation.levels
    if potentials is None:
        _require_bounds(name, out, 0, 1)
    else:
        _require(
            name,
            potentials.shape == (levels,) and potentials.dtype == np.int32,
            "levels are int32 [L]",
        )
        _require_bounds(name, out, int(potentials.min()), int(potentials.max()))


def _checked_planes(operation: Product | Pool, source: Signal) -> tuple[int, int, int]:
    planes = operation.planes
    _require(
        operation.name,
        len(planes) == 3 and min(planes) > 0,
        "its planes are channels, height and width",
    )
    _require(
        operation.name,
        math.prod(planes) == source.size,
        "its planes hold as many integers as its input",
    )
    down, across = operation.window.padding
    padded = planes[0] * (planes[1] + 2 * down) * (planes[2] + 2 * across)
    _require(
        operation.name,
        padded <= INT32_MAX,
        "with its border, its input has at most 2^31 - 1 integers",
    )
    return planes


def _check_window(name: str, window: Window, height: int, width: int) -> None:
    _require(
        name,
        all(size > 0 for size in (*window.kernel, *window.stride, *window.dilation)),
        "a window's sizes are positive",
    )
    _require(name, all(padding >= 0 for padding in window.padding), "padding is not negative")
    _require(
        name,
        max(*window.kernel, *window.stride, *window.dilation) <= INT32_MAX,
        "a window's sizes fit 32 bits",
    )
    _require(name, min(window.output_size(height, width)) > 0, "its kernel fits its input")


def _magnitude(table: Integers) -> int:
    return int(np.abs(table.astype(np.int64)).max())


def _require_bounds(name: str, signal: Signal, low: int, high: int) -> None:
    _require(
        name,
        signal.low <= low and high <= signal.high,
        f"its results, {low} to {high}, lie within its bounds",
    )


def _require(name: str, holds: bool, rule: str) -> None:
    if not holds:
        raise InvalidValueError(
            f"integer operation {name!r} breaks a rule: {rule}; lower the network again"
        )
