"""Linear layers and convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from snnsim.deploy.bounds import (
    INT32_MAX,
    accumulator_bounds,
    frac_bits_of,
    on_grid,
)
from snnsim.deploy.ops.base import Cost, Integers, Operation, Shape, Signal, Window
from snnsim.deploy.ops.context import Context, Sums
from snnsim.deploy.ops.reshape import Reshape
from snnsim.deploy.read import Part, check_method, refusal
from snnsim.quant.layers import QuantizedWeight

# layers by the axes of one sample
AXES: dict[type, int] = {nn.Linear: 1, nn.Conv1d: 2, nn.Conv2d: 3}
LINEAR_LAYERS = tuple(AXES)
# of weights as whole numbers
WEIGHT_TYPES = (np.int8, np.int16, np.int32)
INT16_MAX = 2**15 - 1
# more than any float32 network that could be exact; keeps the search for an answer within 64 bits
SEARCHED_FRAC_BITS, LARGEST_SEARCHED = 40, 2.0**52
PLAIN = Window()
# of the compiled engine: outputs that are summed at once, most and fewest
LARGEST_TILE, SMALLEST_TILE = 128, 16
# of the generated C: how a product is computed, with weights of spikes, several to a word; every
# output from every input; tap by tap
PACKED, DENSE, CONVOLUTION = "packed", "dense", "convolution"
# events are kept as 16-bit numbers
MAX_PACKED_INPUTS = 2**16
# outputs of one block: two words of bytes, or one of nibbles; their sums fit the registers of a
# small processor
BLOCK = 8


@dataclass(frozen=True, eq=False)
class Product(Operation):
    """Linear layer or convolution: `multiplier[o] * a + offset[o]`, where `a` is the sum of weights
    times inputs.

    Attributes:
        planes: channels, height and width of the input.
        weight: `[O, I / groups, kernel height, kernel width]`, int8 where it fits.
        multiplier: `[O]` int32, the layer's scale on the output's grid.
        offset: `[O]` int32, its bias.
        limits: `[2, O]` int32: `a` is clamped between them first, where the result could leave 32
            bits otherwise; beyond them the neuron behind is saturated anyway. None where nothing
            has to be clamped.
        window, groups: of the convolution.
    """

    layers = LINEAR_LAYERS

    planes: tuple[int, int, int]
    weight: Integers
    multiplier: Integers
    offset: Integers
    limits: Integers | None
    window: Window = PLAIN
    groups: int = 1

    @classmethod
    def output_shape(cls, part: Part, shape_of: Callable[[int], Shape]) -> Shape:
        layer: Any = part.module
        shape = shape_of(part.inputs[0])
        axes = next(axes for kind, axes in AXES.items() if isinstance(layer, kind))
        channels = layer.in_features if axes == 1 else layer.in_channels
        if len(shape) != axes or shape[0] != channels:
            raise refusal(
                part, f"takes {channels} channels in {axes} axes, and one sample has shape {shape}"
            )
        return (layer.weight.shape[0], *spatial_shape(part, _window(part, layer), shape))

    @classmethod
    def cost(cls, module: Any, x: Tensor, output: Tensor) -> Cost:
        quantizer = getattr(module, "input_quantizer", None)
        # the input as the product sees it: its integers where the layer quantizes it
        seen = x if quantizer is None or not quantizer.enabled else quantizer.integers(x)[0]
        active = (seen != 0).double()
        if isinstance(module, nn.Linear):
            events = float(active.sum()) * module.out_features
        else:
            # a kernel of ones counts what each place of the output sees
            ones = torch.ones_like(module.weight, dtype=active.dtype)
            events = float(module._conv_forward(active, ones, None).sum())
        is_spikes = bool(((seen == 0) | (seen == 1)).all())
        return Cost(additions=events) if is_spikes else Cost(multiplications=events)

    @classmethod
    def lowered(cls, context: Context) -> int:
        part, (source,), assembly = context.part, context.inputs, context.assembly
        layer: Any = part.module
        shape, window = cls.output_shape(part, context.shape_of), _window(part, layer)
        context.check_exact("a layer")
        check_finite(part, layer)
        _check_fixed(part, layer)
        weight, scale, bias = _constants(context, layer)
        # the input may have been given a binary point by an average pool, or bounds by input_quant
        (signal,) = context.signals
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
        least, most = int((exact * low + offset).min()), int((exact * high + offset).max())
        product = cls(
            context.name,
            (source,),
            Signal(shape, min(0, least), max(0, most), frac_bits),
            signal.planes,
            weight,
            multiplier,
            offset,
            None,
            window,
            1 if isinstance(layer, nn.Linear) else layer.groups,
        )
        # fractional bits of the power of two in the step of the layer's input
        own_step = getattr(layer, "input_quantizer", None) is not None
        input_scale = assembly.input_scale if own_step else None
        step_bits = 0 if input_scale is None else max(0, math.ceil(math.log2(input_scale)))
        signal_id = context.append(product, signal.frac_bits + step_bits)
        assembly.sums[signal_id] = Sums(low, high, layer, needed if too_many else None)
        return signal_id

    def settled(self) -> Operation:
        # every reader has made sure that they fit
        whole = self.multiplier.astype(np.int32), self.offset.astype(np.int32)
        return replace(self, multiplier=whole[0], offset=whole[1])

    def step(self, inputs: list[Integers], state: Integers) -> tuple[Integers, Integers]:
        batch, (channels, height, width), groups = len(inputs[0]), self.planes, self.groups
        x = inputs[0].reshape(batch, groups, channels // groups, height, width)
        weight = self.weight.astype(np.int64).reshape(groups, -1, *self.weight.shape[1:])
        a = sum(
            np.einsum("bgihw,goi->bgohw", seen, weight[..., ky, kx])
            for ky, kx, seen in self.window.views(x)
        )
        a = np.asarray(a).reshape(batch, len(self.weight), self.output.size // len(self.weight))
        if self.limits is not None:
            a = a.clip(*self.limits[:, :, None])
        driven = self.multiplier[:, None].astype(np.int64) * a + self.offset[:, None]
        return driven.reshape(batch, *self.output.shape), state

    def check(self, inputs: list[Signal]) -> None:
        source, weight = self.require_one(inputs), self.weight
        self.window.check(self.name, self.planes, source)
        is_weight = weight.ndim == 4 and weight.dtype in WEIGHT_TYPES
        self.require(is_weight, "weights are integers [O, I / groups, kh, kw]")
        self.require(0 < weight.size <= INT32_MAX, "it has 1 to 2^31 - 1 weights")
        outputs = len(weight)
        divides = self.groups > 0 and outputs % self.groups == 0
        divides = divides and weight.shape[1] * self.groups == self.planes[0]
        self.require(divides, "groups divide its channels")
        is_kernel = weight.shape[2:] == self.window.kernel
        self.require(is_kernel, "its weights have the size of its kernel")
        is_seen = self.output.size == outputs * self.window.places(*self.planes[1:])
        self.require(is_seen, "it returns what its window sees")
        for constants in (self.multiplier, self.offset):
            fits = constants.shape == (outputs,) and constants.dtype == np.int32
            self.require(fits, "it has one int32 constant per output")
        low, high = accumulator_bounds(weight, source.low, source.high)
        self.require(max(-low.min(), high.max()) <= INT32_MAX, "sums fit 32 bits")
        if self.limits is not None:
            fits = self.limits.shape == (2, outputs) and self.limits.dtype == np.int32
            self.require(fits, "limits are int32 [2, O]")
            rises = bool((self.limits[0] <= self.limits[1]).all())
            self.require(rises, "lower limits lie below upper ones")
            low, high = low.clip(*self.limits), high.clip(*self.limits)
        multiplier, offset = self.multiplier.astype(np.float64), self.offset.astype(np.float64)
        reach = np.abs(multiplier) * np.maximum(np.abs(low), np.abs(high)) + np.abs(offset)
        fits = bool((multiplier > 0).all()) and reach.max() <= INT32_MAX
        self.require(fits, "multipliers are positive and results fit 32 bits")
        least, most = (multiplier * low + offset).min(), (multiplier * high + offset).max()
        self.require_bounds(int(least), int(most))

    def instructions(self, program: Any) -> list[dict[str, Any]]:
        weight, window, source = self.weight, self.window, program.signals[self.inputs[0]]
        is_binary, is_narrow = source.is_binary, weight.dtype == np.int8
        is_tiled = is_narrow and self.groups == 1
        is_tiled = is_tiled and self.planes[1:] == (1, 1) and window == Window()
        has_runs = self.groups == 1 and window.stride[1] == window.dilation[1] == 1
        if is_tiled:
            tables = _tiles(weight.reshape(len(weight), -1), in_pairs=is_binary)
        else:
            turned = weight[..., ::-1] if has_runs else weight
            tables = [turned.transpose(1, 2, 3, 0)]
        low, high = accumulator_bounds(weight, source.low, source.high)
        terms = 0
        if max(-low.min(), high.max()) <= INT16_MAX and (is_binary or not is_tiled):
            terms = source.size
        elif is_tiled and is_binary:
            terms = INT16_MAX // int(np.abs(weight.astype(np.int64)).max())
        return [
            {
                "kind": "product",
                **window.geometry(self.planes),
                "groups": self.groups,
                "weights": program.add_weights(is_narrow, *tables),
                "is_narrow": is_narrow,
                "constants": program.add_constants(self.multiplier, self.offset),
                "limits": -1 if self.limits is None else program.add_constants(self.limits),
                "num_channels": len(weight),
                "is_tiled": is_tiled,
                "is_binary": is_binary,
                "terms": terms,
                "has_runs": has_runs,
            }
        ]

    def form(self, source: Signal, kind: str) -> str:
        """How the C computes it from a signal whose numbers are of a kind."""
        window = self.window
        is_plain = window.count == 1 and window.padding == (0, 0) and self.groups == 1
        if self.planes[1:] != (1, 1) or not is_plain:
            return CONVOLUTION
        is_events = source.is_binary and kind == "uint8_t" and source.size <= MAX_PACKED_INPUTS
        return PACKED if is_events and self.weight.dtype == np.int8 else DENSE

    def c_values(self, layout: Any) -> Any:
        (i,), signal = self.inputs, len(layout.values)
        source, size = layout.signals[i], self.output.size
        bounds = [self.output.low, self.output.high]
        if self.window.places(*self.planes[1:]) == 1 and layout.goes_to_neurons_alone(signal):
            # the neurons scale the sums as they read them
            layout.unscaled.add(signal)
            bounds = []
        # the sums come first, and are scaled in place; on the way they are between 0 and their
        # bounds
        low, high = accumulator_bounds(self.weight, source.low, source.high)
        bounds += [int(low.min()), int(high.max())]
        is_packed = self.form(source, layout.values[i].kind) == PACKED
        return layout.sums(size, bounds, -(-size // BLOCK) * BLOCK if is_packed else None)

    def c(self, source: Any) -> None:
        i, layout, weight = source.i, source.layout, self.weight
        read = layout.values[self.inputs[0]]
        form = self.form(layout.signals[self.inputs[0]], read.kind)
        values: dict[str, Any] = {
            **self.window.geometry(self.planes),
            "places": self.window.places(*self.planes[1:]),
            "inputs": read.size,
            "scale": self._scale(source, form),
            "group_in": weight.shape[1],
            "group_out": len(weight) // self.groups,
            "outputs": len(weight),
            "size": self.output.size,
            "room": layout.values[i + 1].room,
        }
        if form == PACKED:
            dense = weight[:, :, 0, 0]
            nibbles = fits_nibbles(dense)
            packed = packed_nibbles(dense) if nibbles else packed_bytes(dense)
            source.table(f"weights_{i}", packed, weights=True)
            source.helper("events", "nibbles" if nibbles else "bytes")
            values["kernel"] = "sum_nibbles" if nibbles else "sum_bytes"
        else:
            table = source.table(f"weights_{i}", weight.transpose(1, 2, 3, 0), weights=True)
            values["weight_type"] = table
        source.function(C[form], values)

    def _scale(self, source: Any, form: str) -> str:
        """C lines that turn sums into driven currents, in place."""
        i, values = source.i, source.layout.values[source.i + 1]
        # the loop variable of a packed layer would be unused
        nothing = "    (void)o;\n" if form == PACKED else ""
        if i + 1 in source.layout.unscaled:
            return nothing
        driven = self.driven(source, i, values.at("*y"), "o")
        if driven == values.at("*y"):
            return nothing
        lines = [f"*y = {f'{values.cast}({driven})' if values.cast else driven};", "y++;"]
        places = self.window.places(*self.planes[1:])
        if places > 1:
            inner = (f"    {line}" for line in lines)
            lines = [f"for (column = 0; column < {places}; column++) {{", *inner, "}"]
        # the loop variable of a convolution is signed
        end = f"{len(self.weight)}{'u' * (form != CONVOLUTION)}"
        body = "".join(f"        {line}\n" for line in lines)
        return f"    for (o = 0; o < {end}; o++) {{\n{body}    }}\n"

    def driven(self, source: Any, i: int, value: str, channel: str) -> str:
        """C expression for the driven current of a channel, from a sum; this is operation i."""
        if self.limits is not None:
            source.helper("clamped")
            source.table(f"low_{i}", self.limits[0])
            source.table(f"high_{i}", self.limits[1])
            value = f"clamped({value}, low_{i}[{channel}], high_{i}[{channel}])"
        for name, constants, neutral, sign in (
            ("scale", self.multiplier, 1, "*"),
            ("bias", self.offset, 0, "+"),
        ):
            if len(np.unique(constants)) > 1:
                source.table(f"{name}_{i}", constants)
                value += f" {sign} {name}_{i}[{channel}]"
            elif constants[0] != neutral:
                value += f" {sign} ({constants[0]})"
        return value


# ---- lowering


def check_finite(part: Part, layer: Any) -> None:
    """Refuse a layer with constants that are no numbers."""
    tensors = (*layer.named_parameters(), *layer.named_buffers(), ("weight", layer.weight))
    for name, tensor in tensors:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise refusal(
                part,
                f"its {name} has NaN or infinite values; find the step of training where they"
                " arise",
            )


def _check_fixed(part: Part, layer: Any) -> None:
    """Refuse a weight or bias, computed by a parametrization, that is another at every call."""
    state = torch.get_rng_state()
    first, second = (
        [tensor.detach().clone() for tensor in (layer.weight, layer.bias) if tensor is not None]
        for _ in range(2)
    )
    drawn = not torch.equal(state, torch.get_rng_state())
    torch.set_rng_state(state)
    if drawn or not all(torch.equal(a, b) for a, b in zip(first, second, strict=True)):
        raise refusal(
            part,
            "its weight or bias is computed anew at every call, and is not the same twice; fix it"
            " with torch.nn.utils.parametrize.remove_parametrizations",
        )


def _constants(context: Context, layer: Any) -> tuple[Integers, Tensor, Tensor | None]:
    """Whole-number weights `[O, ...]`, the scale `[O]` or `[]` of their sums, and the bias."""
    if not isinstance(layer, QuantizedWeight):
        bias = None if layer.bias is None else layer.bias.detach()
        return *_power_of_two_weights(context, layer.weight.detach()), bias
    if not layer.weight_quantizer.enabled:
        raise context.refusal("its weight quantizer is disabled; enable it and fine-tune")
    with torch.no_grad():
        w_int, step = layer.integer_weight()
        bias = layer.quantized_bias()
        if layer.input_quantizer is not None and layer.input_quantizer.enabled:
            if layer.weight.dtype != torch.float32:
                raise context.refusal(
                    f"quantizes its input in {layer.weight.dtype}, and an integer network in"
                    " float32; convert the network with net.float()"
                )
            step = layer.scale(step, _take_input_quantizer(context, layer.input_quantizer))
    weight = _narrowest(context, w_int.double().numpy())
    return weight, step.detach(), None if bias is None else bias.detach()


def _power_of_two_weights(context: Context, weight: Tensor) -> tuple[Integers, Tensor]:
    """Weights that are whole numbers times one power of two per output channel."""
    bits = [frac_bits_of(row) for row in weight]
    scale = torch.tensor([2.0**-b for b in bits])
    whole = weight.double() / scale.double().reshape(-1, *[1] * (weight.ndim - 1))
    if float(whole.abs().max()) > np.iinfo(np.int16).max:
        raise context.refusal(
            "its weights are not quantized; call snnsim.quant.convert.quantize(net) and fine-tune"
            " before lowering"
        )
    return _narrowest(context, whole.numpy()), scale


def _narrowest(context: Context, whole: Any) -> Integers:
    for kind in WEIGHT_TYPES:
        if np.iinfo(kind).min <= whole.min() and whole.max() <= np.iinfo(kind).max:
            return whole.astype(kind)
    raise context.refusal("its weights do not fit 32 bits")


def _of_live_channels(weight: Integers, scale: Tensor) -> Tensor:
    """Scales `[O]`; where weights are all 0, which any scale fits, the smallest of the others."""
    live = torch.from_numpy(weight.reshape(len(weight), -1).any(1))
    scale = scale.expand(len(weight))
    if not bool(live.any()):
        return torch.ones_like(scale)
    return torch.where(live, scale, scale[live].min())


def _take_input_quantizer(context: Context, quantizer: Any) -> Tensor:
    """Let the network's input be the integers of this quantizer; returns their step."""
    assembly, (source,) = context.assembly, context.inputs
    if assembly.origin_of(source):
        raise context.refusal(
            "quantizes the output of another layer; spikes need no input_quant, so leave it out"
        )
    if not _is_alone_at_input(context):
        raise context.refusal(
            "quantizes an input that other layers read as well; quantize it for all of them before"
            " the network"
        )
    if quantizer.amax is None:
        raise context.refusal(
            "takes the range of its input from each batch; call"
            " snnsim.quant.convert.calibrate_inputs first"
        )
    check_method(context.part, quantizer)
    _, step = quantizer.integers(torch.zeros(1))
    assembly.input_scale = float(1.0 / step)
    assembly.change_input(source, *quantizer.descriptor.bounds)
    return step.reshape(())


def _is_alone_at_input(context: Context) -> bool:
    """True where one part alone reads the input, as it is or in other shapes."""
    graph, same, readers = context.assembly.graph, [0], set()
    for index in same:
        for reader in graph.readers(index):
            if isinstance(graph.parts[reader].module, Reshape.layers):
                same.append(reader)
            else:
                readers.add(reader)
    return len(readers) == 1 and graph.output not in same


# ---- windows of layers


def _window(part: Part, layer: Any) -> Window:
    if isinstance(layer, nn.Linear):
        return Window()
    if layer.padding_mode != "zeros":
        raise refusal(part, f"padding_mode={layer.padding_mode!r} is not supported; use 'zeros'")
    if layer.padding == "same" and any(
        d * (k - 1) % 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
    ):
        raise refusal(
            part, "padding='same' with an even kernel pads one side more; use an odd kernel"
        )
    return window_of(layer, 1 if isinstance(layer, nn.Conv1d) else 2)


def window_of(module: Any, spatial: int) -> Window:
    """Window of a convolution or a pool over 1 or 2 axes."""
    kernel = _pair(module.kernel_size, spatial, 1)
    dilation = _pair(getattr(module, "dilation", 1), spatial, 1)
    if module.padding == "same":
        padding = (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)
    else:
        padding = _pair(0 if module.padding == "valid" else module.padding, spatial, 0)
    return Window(kernel, _pair(module.stride, spatial, 1), padding, dilation)


def _pair(value: Any, spatial: int, other: int) -> tuple[int, int]:
    """(vertical, horizontal), `other` for the axis that a one-dimensional module does not have."""
    values = tuple(value) if isinstance(value, Iterable) else (value,)
    # torch takes one number for all axes, in a list too
    values = values * spatial if len(values) == 1 else values
    return (other, int(values[0])) if spatial == 1 else (int(values[0]), int(values[1]))


def spatial_shape(part: Part, window: Window, shape: Shape) -> Shape:
    """The axes behind the channels that a window leaves of a sample's shape."""
    axes = len(shape) - 1
    sizes = window.output_size(*((1, 1) + shape[1:])[-2:])[2 - axes :]
    if axes and min(sizes) < 1:
        raise refusal(part, f"its kernel is larger than its input of shape {shape}")
    return tuple(sizes)


# ---- weights of the compiled engine


def tile_width(outputs: Any) -> Any:
    """Outputs of the next tile where so many are left, the empty ones that fill it up included."""
    width = LARGEST_TILE
    while width > SMALLEST_TILE and width // 2 >= outputs:
        width //= 2
    return width


def _tiles(weight: Integers, in_pairs: bool) -> list[Integers]:
    """Weights `[O, I]` as tiles `[I, width]`; outputs that fill up the last tile have weight 0.

    In pairs, an output of the first half of a tile lies beside one of the second half, and bytes
    are weights + 128.
    """
    tiles, first = [], 0
    while first < len(weight):
        width = tile_width(len(weight) - first)
        some = weight[first : first + width]
        tile = np.zeros((weight.shape[1], width), np.int8)
        tile[:, : len(some)] = some.T
        if in_pairs:
            biased = tile.view(np.uint8) ^ np.uint8(128)
            tile = biased.reshape(-1, 2, width // 2).transpose(0, 2, 1).view(np.int8)
        tiles.append(tile)
        first += width
    return tiles


# ---- weights of the generated C: 4 of 8 bits, or 8 of 4 bits, to a 32-bit word
#
# a block is the outputs that are summed together in registers. Each lane of a word is an unsigned
# number, its weight plus a bias, so that lanes never borrow from each other


def fits_nibbles(weight: Integers) -> bool:
    """True where every weight is a 4-bit number, -8 to 7."""
    return bool(weight.min() >= -8 and weight.max() <= 7)


def packed_bytes(weight: Integers) -> npt.NDArray[np.uint32]:
    """`[O, I]` weights of 8 bits, plus 128, as words `[O / 4, I]`; byte i is output i."""
    return _words(weight, 128, 8)


def packed_nibbles(weight: Integers) -> npt.NDArray[np.uint32]:
    """`[O, I]` weights of 4 bits, plus 8, as words `[O / 8, I]`; nibble i is output i."""
    return _words(weight, 8, 4)


def _words(weight: Integers, bias: int, bits: int) -> npt.NDArray[np.uint32]:
    """Words of biased lanes; outputs that fill up the last block have weight 0."""
    (outputs, inputs), per_word = weight.shape, 32 // bits
    padded = np.zeros((-(-outputs // BLOCK) * BLOCK, inputs), np.int64)
    padded[:outputs] = weight
    lanes = (padded + bias).astype(np.uint32).reshape(-1, per_word, inputs).transpose(0, 2, 1)
    shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
    return np.bitwise_or.reduce(lanes << shifts, axis=-1)


C = {
    # weights [I, O]
    DENSE: (
        """\
static void layer_$i(const $in_type *x, $out_type *y)
{
    uint32_t n, o;
    for (o = 0; o < ${outputs}u; o++) {
        y[o] = 0;
    }
    for (n = 0; n < ${inputs}u; n++) {
        const int32_t value = x[n];
        if (value != 0) {
            for (o = 0; o < ${outputs}u; o++) {
                y[o] = $cast(y[o] + value * weights_$i[n * ${outputs}u + o]);
            }
        }
    }
$scale}
"""
    ),
    PACKED: (
        """\
static void layer_$i(const $in_type *x, $out_type *y)
{
    uint32_t o;
    $kernel(weights_$i, ${room}u, x, ${inputs}u, y);
$scale}
"""
    ),
    # weights [I / groups, ky, kx, O]; sums [O, places]. What an input at (row, column) reaches
    # through the tap (ky, kx) is at the quotient of row + padding - ky * dilation by the stride, if
    # nothing remains; both are counted along, as some processors cannot divide
    CONVOLUTION: (
        """\
static void layer_$i(const $in_type *x, $out_type *y)
{
    int32_t channel, row, column, ky, kx, o, first = 0, in_group = 0;
    for (o = 0; o < $size; o++) {
        y[o] = 0;
    }
    for (channel = 0; channel < $channels; channel++) {
        int32_t row_place = $padding_y / $stride_y, row_rest = $padding_y % $stride_y;
        for (row = 0; row < $height; row++) {
            int32_t column_place = $padding_x / $stride_x, column_rest = $padding_x % $stride_x;
            for (column = 0; column < $width; column++) {
                const int32_t value = *x++;
                int32_t down = row_place, down_rest = row_rest;
                for (ky = 0; value != 0 && ky < $kernel_y; ky++) {
                    int32_t right = column_place, right_rest = column_rest;
                    for (kx = 0; down_rest == 0 && down >= 0 && down < $out_height && kx < $kernel_x; kx++) {
                        if (right_rest == 0 && right >= 0 && right < $out_width) {
                            const $weight_type *tap = weights_$i + ((in_group * $kernel_y + ky) * $kernel_x + kx) * $outputs;
                            $out_type *sum = y + down * $out_width + right;
                            for (o = first; o < first + $group_out; o++) {
                                sum[o * $places] = $cast(sum[o * $places] + value * tap[o]);
                            }
                        }
                        right -= $dilation_x / $stride_x;
                        right_rest -= $dilation_x % $stride_x;
                        if (right_rest < 0) {
                            right_rest += $stride_x;
                            right--;
                        }
                    }
                    down -= $dilation_y / $stride_y;
                    down_rest -= $dilation_y % $stride_y;
                    if (down_rest < 0) {
                        down_rest += $stride_y;
                        down--;
                    }
                }
                if (++column_rest == $stride_x) {
                    column_rest = 0;
                    column_place++;
                }
            }
            if (++row_rest == $stride_y) {
                row_rest = 0;
                row_place++;
            }
        }
        if (++in_group == $group_in) {
            in_group = 0;
            first += $group_out;
        }
    }
$scale}
"""  # noqa: E501
    ),
}
