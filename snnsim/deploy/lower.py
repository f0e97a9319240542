"""`lower`: from a quantized network to the integers that compute the same."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snnsim.calibrate.conversion import Scale
from snnsim.deploy.assembly import Assembly, check_magnitude
from snnsim.deploy.automaton import automaton
from snnsim.deploy.bisection import bisect, oracle
from snnsim.deploy.constants import (
    check_finite,
    check_fixed,
    checked_codebook,
    input_bits,
    layer_window,
    narrowest,
    pool_divisor,
    pool_window,
    power_of_two_weights,
)
from snnsim.deploy.dyadic import FLOAT32_EXACT, frac_bits_of, on_grid
from snnsim.deploy.exactness import Report, Stage, accumulator_bounds
from snnsim.deploy.graph import (
    Graph,
    Part,
    at_rest,
    check_method,
    check_methods,
    network_of,
    read,
    refusal,
)
from snnsim.deploy.interface import checked_decision
from snnsim.deploy.network import IntegerNetwork
from snnsim.deploy.operations import (
    Add,
    Delay,
    GridNeuron,
    Integers,
    Pool,
    Product,
    Reshape,
    Signal,
    TableNeuron,
    Window,
)
from snnsim.deploy.shapes import (
    AVERAGES,
    IDENTITIES,
    LINEAR_LAYERS,
    MAXIMA,
    RESHAPES,
    input_shape_of,
    output_shape,
    whole_numbers,
)
from snnsim.errors import InvalidValueError
from snnsim.layers import Delay as DelayLayer
from snnsim.neurons.base import BaseNode
from snnsim.neurons.membrane import Membrane
from snnsim.quant.codebook import Codebook
from snnsim.quant.weight import QuantizedWeight

__all__ = ["build", "lower"]

# more than any float32 network that could be exact; keeps the search for an answer within 64 bits
SEARCHED_FRAC_BITS, LARGEST_SEARCHED = 40, 2.0**52
# a table of thresholds has L * (L - 1) entries per output channel
MAX_BISECTED_LEVELS = 16
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
    codebook of up to 8 bits. What a trace of the forward does not show is refused: hooks, methods
    of one's own in place of a layer's, half precision.

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
    """The integer network, and how exact each stage on a grid is; what is on none is refused, or
    bisected where asked.
    """
    builder = _Builder(graph, _input_signal(graph, input_shape, input_range), bisects)
    output = builder.run()
    integer = IntegerNetwork(
        builder.signals[0], builder.operations, output, time_steps, builder.input_scale
    )
    return integer, Report(tuple(builder.stages))


def _input_signal(graph: Graph, shape: tuple[int, ...] | None, bounds: tuple[int, int]) -> Signal:
    form = "two ints, the smallest and the largest input; (0, 255) for pixels"
    low, high = whole_numbers("input_range", bounds, (2,), form)
    if not (low <= 0 <= high and low < high and max(-low, high) < FLOAT32_EXACT):
        raise InvalidValueError(
            f"input_range={bounds!r}: must go from at most 0 to at least 0, within 24 bits; (0, 1)"
            " for spikes"
        )
    return Signal(input_shape_of(graph, shape), low, high)


class _Builder(Assembly):
    """Makes an operation of each part."""

    def __init__(self, graph: Graph, input: Signal, bisects: bool) -> None:
        super().__init__(graph, input)
        self.bisects = bisects
        self.input_scale: float | None = None
        self.stages: list[Stage] = []

    def run(self) -> int:
        """Lower every part; returns the signal of the output."""
        for index, part in enumerate(self.graph.parts):
            sources = [self.returned[i] for i in part.inputs]
            self.index = index
            self.returned[index] = self._lower(part, sources)
        output = self.returned[self.graph.output]
        self.check_value(output, self.graph.parts[self.graph.output], "the output")
        # every reader has made sure that they fit
        self.operations = [
            (
                replace(
                    op, multiplier=op.multiplier.astype(np.int32), offset=op.offset.astype(np.int32)
                )
                if isinstance(op, Product)
                else op
            )
            for op in self.operations
        ]
        return output

    def _lower(self, part: Part, sources: list[int]) -> int:
        module = part.module
        if module is None:
            return self._add(part, sources) if sources else 0
        if isinstance(module, IDENTITIES):
            return sources[0]
        if isinstance(module, LINEAR_LAYERS):
            return self._product(part, module, sources[0])
        if isinstance(module, RESHAPES):
            return self._reshape(part, sources[0])
        if isinstance(module, Scale):
            return self._scale(part, module, sources[0])
        if isinstance(module, AVERAGES + MAXIMA):
            return self._pool(part, module, sources[0])
        if isinstance(module, DelayLayer):
            self.check_value(sources[0], part, "a delay")
            delay = Delay(part.name, tuple(sources), self.signals[sources[0]], module.delay_steps)
            return self.append(delay, self.added_bits[sources[0]])
        if isinstance(module, Membrane):
            source = sources[0]
            for current in module._stages()[:-1]:
                before = replace(part, name=f"{part.name}.current", module=current)
                source = self._membrane(before, current, source)
            return self._membrane(part, module, source)
        raise refusal(
            part,
            (
                self._why_not_norm(part)
                if isinstance(module, NORMS)
                else "there is no integer operation for it"
            ),
        )

    def _why_not_norm(self, part: Part) -> str:
        (source,), graph = part.inputs, self.graph
        layer, reason = (
            graph.parts[source],
            "batch normalization must be folded into the layer before it",
        )
        if not isinstance(layer.module, LINEAR_LAYERS):
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

    def _add(self, part: Part, sources: list[int]) -> int:
        signals = [self.signals[source] for source in sources]
        if len({signal.shape for signal in signals}) > 1:
            raise refusal(
                part,
                f"adds tensors of shapes {[s.shape for s in signals]}; an integer network does not"
                " broadcast",
            )
        for source in sources:
            self.check_value(source, part, "a sum")
        frac_bits = max(signal.frac_bits for signal in signals)
        shifts = tuple(frac_bits - signal.frac_bits for signal in signals)
        low = sum(signal.low << shift for signal, shift in zip(signals, shifts, strict=True))
        high = sum(signal.high << shift for signal, shift in zip(signals, shifts, strict=True))
        added = max(
            self.added_bits[source]
            for source, shift in zip(sources, shifts, strict=True)
            if not shift
        )
        check_magnitude(part, max(-low, high), frac_bits, "the sum", added)
        return self.append(
            Add(part.name, tuple(sources), Signal(signals[0].shape, low, high, frac_bits), shifts),
            added,
        )

    def _shape(self, part: Part) -> tuple[int, ...]:
        return output_shape(part, lambda index: self.signals[self.returned[index]].shape)

    def _reshape(self, part: Part, source: int) -> int:
        signal, shape = self.signals[source], self._shape(part)
        if shape == signal.shape:
            return source
        return self.append(
            Reshape(part.name, (source,), replace(signal, shape=shape)), self.added_bits[source]
        )

    def _scale(self, part: Part, module: Scale, source: int) -> int:
        if bool((module.factor == 1).all()) and module.factor.numel() == 1:
            return source
        raise refusal(
            part,
            "it multiplies by a constant; call snnsim.deploy.to_grid(net), which moves one number"
            " for all channels into the scales of the layers behind it",
        )

    def _product(self, part: Part, layer: Any, source: int) -> int:
        signal, shape, window = self.signals[source], self._shape(part), layer_window(part, layer)
        self.check_value(source, part, "a layer")
        check_finite(part, layer)
        check_fixed(part, layer)
        weight, scale, bias = self._constants(part, layer, source)
        # the input may have been given a binary point by an average pool, or bounds by input_quant
        signal = self.signals[source]
        weight = weight.reshape(len(weight), -1, *window.kernel)
        scale = _of_live_channels(weight, scale) * 2.0**-signal.frac_bits
        bias = torch.zeros(len(weight)) if bias is None else bias
        frac_bits = needed = frac_bits_of(scale, bias)
        largest = float(torch.cat([scale.reshape(-1).abs(), bias.abs()]).max())
        too_many = frac_bits > SEARCHED_FRAC_BITS or largest * 2.0**frac_bits > LARGEST_SEARCHED
        if too_many:
            frac_bits, scale, bias = 0, torch.ones(()), torch.zeros(len(weight))
        low, high = accumulator_bounds(weight, signal.low, signal.high)
        multiplier = on_grid(scale.expand(len(weight)), frac_bits)
        offset = on_grid(bias, frac_bits)
        exact = multiplier.astype(np.float64)
        bounds = (
            min(0, int((exact * low + offset).min())),
            max(0, int((exact * high + offset).max())),
        )
        groups = 1 if isinstance(layer, nn.Linear) else layer.groups
        out = Signal(shape, *bounds, frac_bits)
        product = Product(
            part.name,
            (source,),
            out,
            signal.planes,
            weight,
            multiplier,
            offset,
            None,
            window,
            groups,
        )
        signal_id = self.append(product, signal.frac_bits + self._input_bits(layer))
        self.sums[signal_id], self.layers[signal_id] = (low, high), layer
        if too_many:
            self.off_grid[signal_id] = needed
        return signal_id

    def _constants(
        self, part: Part, layer: Any, source: int
    ) -> tuple[Integers, Tensor, Tensor | None]:
        """Whole-number weights `[O, ...]`, the scale `[O]` or `[]` of their sums, and the bias."""
        if not isinstance(layer, QuantizedWeight):
            weight, scale = power_of_two_weights(part, layer.weight.detach())
            return weight, scale, None if layer.bias is None else layer.bias.detach()
        if not layer.weight_quantizer.enabled:
            raise refusal(part, "its weight quantizer is disabled; enable it and fine-tune")
        with torch.no_grad():
            w_int, step = layer.integer_weight()
            bias = layer.quantized_bias()
            if layer.input_quantizer is not None and layer.input_quantizer.enabled:
                if layer.weight.dtype != torch.float32:
                    raise refusal(
                        part,
                        f"quantizes its input in {layer.weight.dtype}, and an integer network in"
                        " float32; convert the network with net.float()",
                    )
                step = layer.scale(
                    step, self._take_input_quantizer(part, layer.input_quantizer, source)
                )
        weight = w_int.double().numpy()
        return narrowest(part, weight), step.detach(), None if bias is None else bias.detach()

    def _input_bits(self, layer: Any) -> int:
        """Fractional bits of the power of two in the step of a layer's input."""
        if self.input_scale is None or getattr(layer, "input_quantizer", None) is None:
            return 0
        return max(0, math.ceil(math.log2(self.input_scale)))

    def _take_input_quantizer(self, part: Part, quantizer: Any, source: int) -> Tensor:
        """Let the network's input be the integers of this quantizer; returns their step."""
        if self.origin_of(source):
            raise refusal(
                part,
                "quantizes the output of another layer; spikes need no input_quant, so leave"
                " it out",
            )
        if not self._is_alone_at_input():
            raise refusal(
                part,
                "quantizes an input that other layers read as well; quantize it for all of them"
                " before the network",
            )
        if quantizer.amax is None:
            raise refusal(
                part,
                "takes the range of its input from each batch; call"
                " snnsim.quant.convert.calibrate_inputs first",
            )
        check_method(part, quantizer)
        _, step = quantizer.integers(torch.zeros(1))
        self.input_scale = float(1.0 / step)
        low, high = quantizer.descriptor.bounds
        for i in [
            j for j in range(source + 1) if j == 0 or isinstance(self.operations[j - 1], Reshape)
        ]:
            self.signals[i] = replace(self.signals[i], low=low, high=high)
            if i:
                self.operations[i - 1] = replace(self.operations[i - 1], output=self.signals[i])
        return step.reshape(())

    def _is_alone_at_input(self) -> bool:
        """Whether one part alone reads the input, as it is or in other shapes."""
        same, readers = [0], set()
        for index in same:
            for reader in self.graph.readers(index):
                if isinstance(self.graph.parts[reader].module, (*RESHAPES, *IDENTITIES, Scale)):
                    same.append(reader)
                else:
                    readers.add(reader)
        return len(readers) == 1 and self.graph.output not in same

    def _pool(self, part: Part, module: Any, source: int) -> int:
        signal, shape = self.signals[source], self._shape(part)
        self.check_value(source, part, "a pool")
        maximum, window = isinstance(module, MAXIMA), pool_window(part, module, signal.shape)
        if maximum and module.return_indices:
            raise refusal(part, "return_indices=True is not supported; leave it out")
        if maximum and window.padding != (0, 0) and signal.low < 0:
            raise refusal(
                part, "pads values that may be negative; pool after the neuron, or without padding"
            )
        sizes = signal.planes[1:]
        if maximum and any(
            (first == size).any() for first, size in zip(window.firsts(*sizes), sizes, strict=True)
        ):
            raise refusal(
                part,
                "has places that see nothing but padding, whose maximum is -inf; use less padding"
                " or dilation",
            )
        low, high, divided = signal.low, signal.high, 0
        if not maximum:
            low, high = low * window.count, high * window.count
            divided = self._pool_bits(part, module, window)
        frac_bits, added = signal.frac_bits + divided, self.added_bits[source] + divided
        check_magnitude(part, max(-low, high), frac_bits, "the sum of the pool", added)
        out = Signal(shape, low, high, frac_bits)
        return self.append(Pool(part.name, (source,), out, signal.planes, window, maximum), added)

    def _pool_bits(self, part: Part, module: Any, window: Window) -> int:
        """Binary digits by which an average pool divides its sum."""
        divisor = pool_divisor(part, module, window)
        if divisor & (divisor - 1):
            remedy = (
                "make it a module of torch.nn and call"
                if part.is_function
                else "sum instead, with divisor_override=1, or call"
            )
            raise refusal(
                part,
                f"divides by {divisor}, which no binary grid holds exactly; {remedy}"
                " snnsim.deploy.to_grid(net), which moves the division into the scale of a layer"
                " next to it",
            )
        return divisor.bit_length() - 1

    def _membrane(self, part: Part, node: Membrane, source: int) -> int:
        """A neuron on its grid, or through thresholds where it is on none."""
        try:
            return self._neuron(part, node, source)
        except InvalidValueError:
            if not self._may_bisect(part, node, source):
                raise
        return self._bisected(part, node, source)

    def _may_bisect(self, part: Part, node: Membrane, source: int) -> bool:
        codebook, origin = checked_codebook(part, node), self.origin_of(source)
        divisor = node._input_divisor()
        return (
            self.bisects
            and codebook.num_levels <= MAX_BISECTED_LEVELS
            and isinstance(self.layers.get(origin), QuantizedWeight)
            and self.is_alone()
            and self.largest_sum(origin) <= FLOAT32_EXACT
            and node._divides_input()
            and (divisor is None or bool((divisor > 0).all()))
        )

    def _neuron(self, part: Part, node: Membrane, source: int) -> int:
        origin = self.origin_of(source)
        if origin in self.off_grid:
            layer = self.operations[origin - 1].name
            raise refusal(
                part,
                f"scale and bias of layer {layer!r} need {self.off_grid[origin]} fractional bits,"
                " more than float32 is exact for; call snnsim.deploy.to_grid(net) and"
                " fine-tune it",
            )
        signal, codebook = self.signals[source], checked_codebook(part, node)
        table = automaton(part, node, codebook, signal.shape)
        divided = input_bits(part, node)
        frac_bits = max(signal.frac_bits + divided, frac_bits_of(table.edges, table.leak))
        shift = frac_bits - signal.frac_bits - divided
        stage = self.stage(part, source, table.edges, table.leak, frac_bits, shift, divided)
        if stage.problem is not None:
            raise refusal(part, f"{stage.problem} (layer {stage.layer!r})")
        self.stages.append(stage)
        edges, leak = on_grid(table.edges, frac_bits), on_grid(table.leak, frac_bits)
        self.limit(source, shift, edges, leak)
        output, levels = Signal(signal.shape, 0, 1), None
        if not isinstance(node, BaseNode):
            output, levels = _readout(part, codebook, signal.shape)
        return self.append(
            GridNeuron(
                part.name,
                (source,),
                output,
                reset=table.reset.numpy().astype(np.uint8),
                fire=table.fire.numpy().astype(np.int32),
                start=table.start,
                inner=table.inner,
                levels=levels,
                edges=edges.astype(np.int32),
                leak=leak.astype(np.int32),
                shift=shift,
                frac_bits=frac_bits,
            )
        )

    def _bisected(self, part: Part, node: Membrane, source: int) -> int:
        """A neuron as thresholds on the sums of the layer before it."""
        codebook, origin, signal = (
            checked_codebook(part, node),
            self.origin_of(source),
            self.signals[source],
        )
        product, (low, high) = self.product_at(origin), self.sums[origin]
        places = signal.size // len(product.weight)
        table = automaton(part, node, codebook, signal.shape)
        if len(table.reset) > 1 and (
            table.inner % places or len(signal.shape) != len(product.output.shape)
        ):
            raise refusal(
                part,
                "its constants differ within a channel of the layer before it; call"
                " snnsim.deploy.to_grid(net)",
            )
        # one row per output channel, whether or not the node's own constants differ
        channel = np.arange(signal.size)[::places] // table.inner % len(table.reset)
        unit = 2.0 ** -self.signals[product.inputs[0]].frac_bits
        codes = oracle(self.layers[origin], node, codebook, unit, len(signal.shape))
        output, levels = Signal(signal.shape, 0, 1), None
        if not isinstance(node, BaseNode):
            output, levels = _readout(part, codebook, signal.shape)
        ones = np.ones_like(product.multiplier)
        self.replace_product(
            source, int(low.min()), int(high.max()), 0, multiplier=ones, offset=0 * ones
        )
        return self.append(
            TableNeuron(
                part.name,
                (source,),
                output,
                reset=table.reset.numpy().astype(np.uint8)[channel],
                fire=table.fire.numpy().astype(np.int32)[channel],
                start=table.start,
                inner=places,
                levels=levels,
                thresholds=bisect(codes, codebook.num_levels, low, high),
            )
        )


def _of_live_channels(weight: Integers, scale: Tensor) -> Tensor:
    """Scales `[O]`, the smallest of the others where a channel's weights are all 0: sums of 0 are 0
    with every scale.
    """
    live = torch.from_numpy(weight.reshape(len(weight), -1).any(1))
    scale = scale.expand(len(weight))
    return (
        torch.where(live, scale, scale[live].min()) if bool(live.any()) else torch.ones_like(scale)
    )


def _readout(part: Part, codebook: Codebook, shape: tuple[int, ...]) -> tuple[Signal, Integers]:
    """Signal and integers of the levels that a readout returns."""
    frac_bits = frac_bits_of(codebook.levels)
    levels = on_grid(codebook.levels, min(frac_bits, SEARCHED_FRAC_BITS))
    signal = Signal(shape, min(0, int(levels[0])), max(0, int(levels[-1])), frac_bits)
    check_magnitude(part, signal.magnitude, frac_bits, "a level")
    return signal, levels.astype(np.int32)
