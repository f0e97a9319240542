"""`lower`: from a quantized network to the integers that compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from snnsim.deploy.bounds import FLOAT32_EXACT, Report
from snnsim.deploy.integers import checked_decision
from snnsim.deploy.network import IntegerNetwork
from snnsim.deploy.ops import OPERATIONS, Context, Operation, Product, Signal
from snnsim.deploy.ops.base import Shape
from snnsim.deploy.ops.context import Assembly
from snnsim.deploy.read import (
    Graph,
    Part,
    at_rest,
    check_methods,
    input_shape_of,
    is_own_layer,
    network_of,
    read,
    refusal,
    whole_numbers,
)
from snnsim.errors import InvalidTypeError, InvalidValueError

NORMS = nn.modules.batchnorm._BatchNorm


def lower(
    net: nn.Module,
    input_shape: tuple[int, ...] | None = None,
    input_range: tuple[int, int] = (0, 1),
    decision: str | None = None,
) -> IntegerNetwork:
    """Turn a quantized network into integers with the same spikes and the same codes, at every
    layer and time step.

    The network, or a runner around it, is read in eval mode and left as it is. Layers are linear
    and convolution layers with quantized weights (or with weights that are multiples of a power of
    two), changes of shape, sum, average and maximum pools (over whole planes too), sums of two,
    delays, and IF, LIF, ParametricLIF, Synaptic and readout neurons (and the user's own) on a
    codebook of up to 8 bits; a layer of the user's own says which `Operation` it is, in
    `integer_operation(context)`. What a trace of the forward does not show is refused: hooks,
    methods of one's own in place of a layer's, half precision.

    A layer whose constants are on a binary grid (see `to_grid`) becomes one multiplication and one
    addition per output, for any codebook. One that is not, in front of neurons of at most 16
    levels, becomes a table of thresholds, found by bisection with the layer's own forward as the
    oracle.

    Args:
        net: see `to_grid` for how to make a network exact.
        input_shape: of one sample at one time step; may be left out where a linear layer comes
            first.
        input_range: smallest and largest integer of the input, as (0, 255) for 8-bit pixels. A
            first layer with `input_quant` brings its own.
        decision: how the outputs become a class, see `IntegerNetwork`.

    Returns:
        The integer network.

    Raises:
        InvalidValueError: something that cannot be lowered exactly; names the layer, the reason and
            what to change.
    """
    checked_decision("lower", decision)
    network, time_steps = network_of(net)
    # the caller's network stays as it is
    graph = read(at_rest(network))
    check_methods(graph)
    integer = build(graph, input_shape, input_range, time_steps, bisects=True)[0]
    integer.decision = decision
    return integer


def build(
    graph: Graph,
    input_shape: tuple[int, ...] | None,
    input_range: tuple[int, int],
    time_steps: int | None = None,
    *,
    bisects: bool,
) -> tuple[IntegerNetwork, Report]:
    """The integer network, and how exact each stage on a grid is."""
    assembly = Assembly(graph, [_input_signal(graph, input_shape, input_range)], bisects)
    for index, part in enumerate(graph.parts):
        sources = tuple(assembly.returned[i] for i in part.inputs)
        context = Context(part, index, sources, assembly)
        assembly.returned[index] = _lowered(context) if sources else 0
    output = assembly.returned[graph.output]
    Context(graph.parts[graph.output], graph.output, (output,), assembly).check_exact("the output")
    operations = [operation.settled() for operation in assembly.operations]
    integer = IntegerNetwork(
        assembly.signals[0], operations, output, time_steps, assembly.input_scale
    )
    return integer, Report(tuple(assembly.stages))


def _input_signal(graph: Graph, shape: tuple[int, ...] | None, bounds: tuple[int, int]) -> Signal:
    form = "two ints, the smallest and the largest input; (0, 255) for pixels"
    low, high = whole_numbers("input_range", bounds, (2,), form)
    if not (low <= 0 <= high and low < high and max(-low, high) < FLOAT32_EXACT):
        raise InvalidValueError(
            f"input_range={bounds!r}: must go from at most 0 to at least 0, within 24 bits; (0, 1)"
            " for spikes"
        )
    return Signal(input_shape_of(graph, shape), low, high)


def kind_of(module: nn.Module | None) -> type[Operation] | None:
    """The operation that a module of the package or of torch is lowered to; None for others."""
    return next((kind for kind in OPERATIONS if isinstance(module, kind.layers)), None)


def _lowered(context: Context) -> int:
    """Lower one part; returns its signal."""
    module: Any = context.part.module
    if is_own_layer(module):
        return _own(context, module)
    kind = kind_of(module)
    if kind is not None:
        return kind.lowered(context)
    raise context.refusal(
        _why_not_norm(context.assembly.graph, context.part)
        if isinstance(module, NORMS)
        else "there is no integer operation for it; derive one from snnsim.deploy.Operation, and"
        " return it from a method integer_operation(context) of the layer"
    )


def _own(context: Context, layer: Any) -> int:
    """The operation that a layer of the user's own returns."""
    context.check_exact("a layer")
    operation = layer.integer_operation(context)
    if not isinstance(operation, Operation):
        raise InvalidTypeError(
            f"{context.name!r} ({type(layer).__name__}): its integer_operation returned a"
            f" {type(operation).__name__}; return a snnsim.deploy.Operation"
        )
    if not operation.inputs or not set(operation.inputs) <= set(context.inputs):
        raise context.refusal(
            f"its integer_operation reads the signals {operation.inputs}, and the layer is given"
            f" {context.inputs}; pass context.inputs on"
        )
    output = operation.output
    added = max(context.added_bits)
    context.check_magnitude(output.magnitude, output.frac_bits, "its output", added)
    return context.append(operation, added)


def output_shape(part: Part, shape_of: Callable[[int], Shape]) -> Shape:
    """Shape of one sample behind a part that is not the input."""
    kind = kind_of(part.module)
    if kind is not None and not is_own_layer(part.module):
        return kind.output_shape(part, shape_of)
    if not is_own_layer(part.module):
        return shape_of(part.inputs[0])
    own: Any = part.module
    shapes = [shape_of(i) for i in part.inputs]
    try:
        with torch.no_grad():
            return tuple(own(*(torch.zeros(1, *shape) for shape in shapes)).shape[1:])
    except (RuntimeError, IndexError, TypeError, ValueError) as problem:
        raise refusal(part, f"it does not take samples of shape {shapes} ({problem})") from problem


def _why_not_norm(graph: Graph, part: Part) -> str:
    (source,) = part.inputs
    layer, reason = (
        graph.parts[source],
        "batch normalization must be folded into the layer before it",
    )
    if not isinstance(layer.module, Product.layers):
        return (
            f"{reason}, and {layer.name!r} is none; put it directly behind a linear or"
            " convolution layer"
        )
    uses = [p for p in graph.parts if p.module in (layer.module, part.module)]
    if len(uses) > 2 or len(graph.readers(source)) > 1 or source == graph.output:
        return (
            f"{reason}, and {layer.name!r} or the normalization is read or used elsewhere too;"
            " give each place its own"
        )
    return (
        f"{reason}; call snnsim.quant.fold_batch_norm(net) before quantize, naming the two in"
        " pairs where they do not follow each other in an nn.Sequential"
    )
