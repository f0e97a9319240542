"""Quantized neurons, as tables on a grid or as thresholds on the sums before them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnsim.automaton.build import NoTable
from snnsim.automaton.examine import automaton_of
from snnsim.deploy.bounds import (
    FLOAT32_EXACT,
    INT32_MAX,
    Stage,
    frac_bits_of,
    live_limits,
    on_grid,
)
from snnsim.deploy.ops.add import shifted
from snnsim.deploy.ops.base import Cost, Integers, Operation, Shape, Signal, magnitude
from snnsim.deploy.ops.context import Context
from snnsim.deploy.ops.product import SEARCHED_FRAC_BITS, SMALLEST_TILE
from snnsim.deploy.thresholds import bisect, oracle
from snnsim.errors import InvalidValueError
from snnsim.neurons.base import BaseNode
from snnsim.neurons.membrane import Membrane
from snnsim.neurons.readout import Readout
from snnsim.quant.codebook import Codebook
from snnsim.quant.layers import QuantizedWeight

MAX_LEVELS = 256
# a table of thresholds has L * (L - 1) entries per output channel
MAX_BISECTED_LEVELS = 16
# methods that a table of leak, fire and reset does not show
FIXED_METHODS = ("forward", "forward_sequence", "step", "charge", "quantize", "transition")


@dataclass(frozen=True, eq=False)
class Neuron(Operation):
    """A quantized neuron as the finite automaton it is; its state is a code.

        q = charged code of state k and input x;  out = 1 if q >= fire[c] else 0;  k = reset[c, q]

    A readout (`levels` given) never fires: it returns `levels[q]`. The channel of flat neuron n is
        `c = (n // inner) % C`.

    Attributes:
        reset: `[C, L]` uint8, the state after the reset.
        fire: `[C]` int32, first code that fires.
        start: code of the rest potential.
        inner: neurons in a row that share a channel.
        levels: `[L]` int32 potentials of a readout; None for a spiking neuron.
    """

    layers = (Membrane,)
    reads_sums = True

    reset: Integers
    fire: Integers
    start: int
    inner: int
    levels: Integers | None

    @property
    def state_shape(self) -> Shape:
        return self.output.shape

    @property
    def state_bounds(self) -> tuple[int, int]:
        return 0, self.reset.shape[1] - 1

    @property
    def bits(self) -> int:
        """Bits that hold one code."""
        return math.ceil(math.log2(self.reset.shape[1]))

    @property
    def packed_bits(self) -> int:
        """Bits of a code in C, of which a word holds a whole number."""
        return next(width for width in (1, 2, 4, 8) if width >= self.bits)

    def rest(self) -> Integers:
        return np.full(self.state_shape, self.start, np.int64)

    def channel(self) -> Integers:
        """Channel of each neuron, `[*n]`."""
        number = np.arange(self.output.size) // self.inner % len(self.reset)
        return number.reshape(self.output.shape)

    def charged(self, inputs: list[Integers], state: Integers) -> Integers:
        """Codes before the reset, `[B, *n]`."""
        raise NotImplementedError

    def step(self, inputs: list[Integers], state: Integers) -> tuple[Integers, Integers]:
        return self.emitted(self.charged(inputs, state))

    def emitted(self, codes: Integers) -> tuple[Integers, Integers]:
        """Output and state after the reset, from the codes before it."""
        channel = self.channel()
        out = self.levels[codes] if self.levels is not None else codes >= self.fire[channel]
        return out.astype(np.int64), self.reset[channel, codes].astype(np.int64)

    @classmethod
    def cost(cls, module: Any, x: Tensor, output: Tensor) -> Cost:
        return Cost(updates=output.numel())

    @classmethod
    def lowered(cls, context: Context) -> int:
        node: Any = context.part.module
        for current in node._stages()[:-1]:
            part = replace(context.part, name=f"{context.name}.current", module=current)
            driven = _membrane(replace(context, part=part), current)
            context = replace(context, inputs=(driven,))
        return _membrane(context, node)

    def check(self, inputs: list[Signal]) -> None:
        source, reset, fire = self.require_one(inputs), self.reset, self.fire
        same = self.output.shape == source.shape
        self.require(same, "it keeps the shape of its input")
        is_table = reset.ndim == 2 and len(reset) > 0 and 2 <= reset.shape[1] <= MAX_LEVELS
        self.require(is_table and fire.shape == reset.shape[:1], "its tables are [C, L]")
        fits = reset.dtype == np.uint8 and fire.dtype == np.int32
        self.require(fits, "its tables are int32, and codes uint8")
        channels, levels = reset.shape
        divides = self.inner > 0 and self.output.size % (self.inner * channels) == 0
        self.require(divides, "its channels divide its neurons")
        is_code = int(reset.max()) < levels and 0 <= self.start < levels
        self.require(is_code, "every code is below the number of levels")
        is_code = bool((fire >= 0).all()) and bool((fire <= levels).all())
        self.require(is_code, "the first code that fires is a code")
        if self.levels is None:
            self.require_bounds(0, 1)
        else:
            fits = self.levels.shape == (levels,) and self.levels.dtype == np.int32
            self.require(fits, "levels are int32 [L]")
            self.require_bounds(int(self.levels.min()), int(self.levels.max()))

    def _instruction(self, program: Any, kind: str, *tables: Integers) -> dict[str, Any]:
        """Constants: what every code emits, its reset, then the tables of the charge."""
        channels, levels = self.reset.shape
        emitted = np.arange(levels) >= self.fire[:, None]
        if self.levels is not None:
            emitted = np.broadcast_to(self.levels, (channels, levels))
        fires_alike = self.levels is None and channels == 1
        constants = program.add_constants(emitted, self.reset, *tables)
        varies = channels > 1
        offsets = program.add_constants(self.channel() * levels) if varies else 0
        return {
            "kind": kind,
            "levels": levels,
            "num_channels": channels,
            "constants": constants,
            "fire": self.fire[0] if fires_alike else -1,
            "channel_offsets": offsets,
        }

    def writes_over(self) -> bool:
        return True

    @property
    def row(self) -> str:
        """Start of the C expression for a place in a table `[C, L]`."""
        channels, levels = self.reset.shape
        return f"channel * {levels}u + " if channels > 1 else ""

    def c_code(self, source: Any) -> str:
        """C expression for the code before the reset of neuron n with the state `code`."""
        raise NotImplementedError

    def c(self, source: Any) -> None:
        i, size, bits = source.i, self.output.size, self.packed_bits
        charged = self.c_code(source)
        per_word = 32 // bits
        words, rest = -(-size // per_word), size % per_word
        source.helper("code")
        source.fields.append(("uint32_t", f"codes_{i}", words))
        start = sum(self.start << shift for shift in range(0, 32, bits))
        source.reset.append(
            f"    for (n = 0; n < {words}u; n++) {{\n        net->codes_{i}[n] = 0x{start:08X}u;\n "
            "   }\n"
        )
        source.codes(size, f"code_at(net->codes_{i}, n, {bits}u)")
        source.table(f"reset_{i}", self.reset)
        whole = f"n + {per_word}u"
        values = {
            "size": size,
            "bits": bits,
            "mask": (1 << bits) - 1,
            "high": 32 - bits,
            "end": f"{size}u - n < {per_word}u ? {size}u : {whole}" if rest else whole,
            "rest": f"    codes[-1] >>= {32 - rest * bits};\n" if rest else "",
            "charged": charged,
            "offset": self.row,
            "emitted": self._emitted_c(source),
            **_channel_counters(len(self.reset), self.inner),
        }
        source.function(C, values, f"net->codes_{i}")

    def _emitted_c(self, source: Any) -> str:
        """C expression for what a neuron with the charged code q hands on."""
        i = source.i
        if self.levels is not None:
            source.table(f"levels_{i}", self.levels)
            return f"{source.layout.values[i + 1].cast}levels_{i}[q]"
        if len(self.reset) > 1:
            source.table(f"fire_{i}", self.fire)
            return f"(uint8_t)((int32_t)q >= fire_{i}[channel])"
        # the sign of a difference of two codes is cheaper than a comparison
        return f"(uint8_t)((q - {self.fire[0]}u) >> 31 ^ 1u)"


@dataclass(frozen=True, eq=False)
class GridNeuron(Neuron):
    """A neuron whose edges and leaks are on a binary grid.

        h = leak[c, k] + (x << shift);  q = number of edges <= h

    Attributes:
        edges: `[L-1]` int32, strictly increasing.
        leak: `[C, L]` int32, each state one step later.
        shift: of the input, to the binary point of the edges.
        frac_bits: binary point of edges and leak.
    """

    edges: Integers
    leak: Integers
    shift: int
    frac_bits: int

    def charged(self, inputs: list[Integers], state: Integers) -> Integers:
        h = self.leak[self.channel(), state].astype(np.int64) + (inputs[0] << self.shift)
        return np.searchsorted(self.edges, h, side="right")

    def check(self, inputs: list[Signal]) -> None:
        super().check(inputs)
        edges, leak = self.edges, self.leak
        fits = edges.dtype == leak.dtype == np.int32
        self.require(fits, "its tables are int32, and codes uint8")
        levels = self.reset.shape[1]
        is_table = edges.shape == (levels - 1,) and leak.shape == self.reset.shape
        self.require(is_table, "its tables are [C, L]")
        self.require(bool((np.diff(edges.astype(np.int64)) > 0).all()), "its edges increase")
        self.require_shift(self.shift)
        reach = magnitude(leak) + (inputs[0].magnitude << self.shift)
        self.require(reach <= INT32_MAX, "its membrane fits 32 bits")
        self.require(magnitude(edges) <= INT32_MAX, "its edges fit 32 bits")

    def instructions(self, program: Any) -> list[dict[str, Any]]:
        # filled up to a whole vector
        tops = np.concatenate([_tops(self.edges), np.full(SMALLEST_TILE, INT32_MAX)])
        return [self._instruction(program, "neuron", self.leak, tops) | {"shift": self.shift}]

    def c_code(self, source: Any) -> str:
        source.table(f"edges_{source.i}", self.edges)
        source.table(f"leak_{source.i}", self.leak)
        driven = shifted(source.reading(self.inputs[0]), self.shift)
        h = f"leak_{source.i}[{self.row}code] + {driven}"
        return source.cell_of(self.edges, f"edges_{source.i}", h)


@dataclass(frozen=True, eq=False)
class TableNeuron(Neuron):
    """A neuron whose next code is looked up from the sum of weights times inputs itself.

        q = number of thresholds[c, k] <= x

    Attributes:
        thresholds: `[C, L, L-1]` int32, not decreasing: the sums at which the next code goes up.
    """

    thresholds: Integers

    def charged(self, inputs: list[Integers], state: Integers) -> Integers:
        return (self.thresholds[self.channel(), state] <= inputs[0][..., None]).sum(-1)

    def check(self, inputs: list[Signal]) -> None:
        super().check(inputs)
        (channels, levels), thresholds = self.reset.shape, self.thresholds
        is_table = thresholds.shape == (channels, levels, levels - 1)
        is_table = is_table and thresholds.dtype == np.int32
        self.require(is_table, "thresholds are int32 [C, L, L - 1]")
        rises = bool((np.diff(thresholds.astype(np.int64), axis=2) >= 0).all())
        self.require(rises, "its thresholds do not fall")
        self.require(magnitude(thresholds) <= INT32_MAX, "its thresholds fit 32 bits")

    def instructions(self, program: Any) -> list[dict[str, Any]]:
        return [self._instruction(program, "table", _tops(self.thresholds))]

    def c_code(self, source: Any) -> str:
        levels, table = self.reset.shape[1], self.thresholds
        narrow = bool(np.abs(table).max(initial=0) < 2**15)
        source.table(f"thresholds_{source.i}", table.astype(np.int16) if narrow else table)
        row = f"thresholds_{source.i} + ({self.row}code) * {levels - 1}u"
        return source.cell(levels, row, source.reading(self.inputs[0]), narrow)


def _tops(edges: Integers) -> Integers:
    """The last integer below each edge, so that nothing lies above the largest integer."""
    return edges.astype(np.int64) - 1


def _channel_counters(channels: int, inner: int) -> dict[str, str]:
    """C lines that count `channel = n // inner % channels` without a division."""
    if channels == 1:
        return {"first": "", "next": ""}
    first = "    uint32_t channel = 0;\n"
    step = f"channel = channel == {channels - 1}u ? 0u : channel + 1u;\n"
    if inner == 1:
        return {"first": first, "next": " " * 12 + step}
    counted = (
        f"            if (++place == {inner}u) {{\n                place = 0;\n               "
        f" {step}            }}\n"
    )
    return {"first": first + "    uint32_t place = 0;\n", "next": counted}


# ---- lowering


def _membrane(context: Context, node: Membrane) -> int:
    """A neuron on its grid, or through thresholds where it is on none."""
    try:
        return _on_grid(context, node)
    except InvalidValueError:
        if not _may_bisect(context, node):
            raise
    return _bisected(context, node)


def _may_bisect(context: Context, node: Membrane) -> bool:
    codebook, assembly = _checked_codebook(context, node), context.assembly
    sums = assembly.sums.get(assembly.origin_of(context.inputs[0]))
    divisor = node._input_divisor()
    return (
        assembly.bisects
        and codebook.num_levels <= MAX_BISECTED_LEVELS
        and sums is not None
        and isinstance(sums.layer, QuantizedWeight)
        and _is_alone(context)
        and sums.largest <= FLOAT32_EXACT
        and node._divides_input()
        and (divisor is None or bool((divisor > 0).all()))
    )


def _on_grid(context: Context, node: Membrane) -> int:
    assembly, (source,), (signal,) = context.assembly, context.inputs, context.signals
    origin = assembly.origin_of(source)
    sums = assembly.sums.get(origin)
    if sums is not None and sums.needed is not None:
        raise context.refusal(
            f"scale and bias of layer {assembly.operations[origin - 1].name!r} need {sums.needed}"
            " fractional bits, more than float32 is exact for; call snnsim.deploy.to_grid(net) and"
            " fine-tune it"
        )
    codebook = _checked_codebook(context, node)
    table = _automaton(context, node, codebook, signal.shape)
    divided = _input_bits(context, node)
    frac_bits = max(signal.frac_bits + divided, frac_bits_of(table.edges, table.leak))
    shift = frac_bits - signal.frac_bits - divided
    stage = _stage(context, table, frac_bits, shift, divided)
    reason = stage.why_not()
    if reason is not None:
        raise context.refusal(f"{reason} (layer {stage.layer!r})")
    assembly.stages.append(stage)
    edges, leak = on_grid(table.edges, frac_bits), on_grid(table.leak, frac_bits)
    _limit(context, shift, edges, leak)
    return context.append(
        GridNeuron(
            **_fields(context, node, codebook, table, slice(None), table.inner),
            edges=edges.astype(np.int32),
            leak=leak.astype(np.int32),
            shift=shift,
            frac_bits=frac_bits,
        )
    )


def _bisected(context: Context, node: Membrane) -> int:
    """A neuron as thresholds on the sums of the layer before it."""
    assembly, (source,), (signal,) = context.assembly, context.inputs, context.signals
    codebook, origin = _checked_codebook(context, node), assembly.origin_of(source)
    sums = assembly.sums[origin]
    product: Any = assembly.operations[origin - 1]
    places = signal.size // len(sums.low)
    table = _automaton(context, node, codebook, signal.shape)
    same_axes = len(signal.shape) == len(product.output.shape)
    if len(table.reset) > 1 and (table.inner % places or not same_axes):
        raise context.refusal(
            "its constants differ within a channel of the layer before it; call"
            " snnsim.deploy.to_grid(net)"
        )
    # one row per output channel, also where the node's own constants are all the same
    channel = np.arange(signal.size)[::places] // table.inner % len(table.reset)
    unit = 2.0 ** -assembly.signals[product.inputs[0]].frac_bits
    codes = oracle(sums.layer, node, codebook, unit, len(signal.shape))
    fields = _fields(context, node, codebook, table, channel, places)
    ones = np.ones_like(product.multiplier)
    low, high = min(0, int(sums.low.min())), max(0, int(sums.high.max()))
    plain = Signal(signal.shape, low, high, 0)
    assembly.change(source, plain, multiplier=ones, offset=0 * ones)
    thresholds = bisect(codes, codebook.num_levels, sums.low, sums.high)
    return context.append(TableNeuron(**fields, thresholds=thresholds))


def _fields(
    context: Context, node: Membrane, codebook: Codebook, table: _Automaton, rows: Any, inner: int
) -> dict[str, Any]:
    """The fields of every neuron, with rows of its table for channels of `inner` neurons."""
    shape = context.signals[0].shape
    output, levels = Signal(shape, 0, 1), None
    if not isinstance(node, BaseNode):
        frac_bits = frac_bits_of(codebook.levels)
        whole = on_grid(codebook.levels, min(frac_bits, SEARCHED_FRAC_BITS))
        output = Signal(shape, min(0, int(whole[0])), max(0, int(whole[-1])), frac_bits)
        context.check_magnitude(output.magnitude, frac_bits, "a level")
        levels = whole.astype(np.int32)
    reset, fire = table.reset.numpy().astype(np.uint8), table.fire.numpy().astype(np.int32)
    return {
        "name": context.name,
        "inputs": context.inputs,
        "output": output,
        "reset": reset[rows],
        "fire": fire[rows],
        "start": table.start,
        "inner": inner,
        "levels": levels,
    }


def _stage(context: Context, table: _Automaton, frac_bits: int, shift: int, divided: int) -> Stage:
    """How exact a neuron is that divides by `2**divided`, with the layer in front of it."""
    assembly, (source,) = context.assembly, context.inputs
    origin, unit = assembly.origin_of(source), 2.0 ** (shift - frac_bits)
    sums, leak = assembly.sums.get(origin), float(table.leak.abs().max())
    added = assembly.added_bits[source if sums is None else origin] + divided
    if sums is None:
        layer = assembly.operations[origin - 1].name if origin else "input"
        window = assembly.signals[source].magnitude * unit + leak
        return Stage(context.name, layer, frac_bits, window, 0, None, added)
    product: Any = assembly.operations[origin - 1]
    multiplier, offset = product.multiplier, product.offset
    window = sums.reach(multiplier, offset) * unit + leak
    if isinstance(sums.layer, QuantizedWeight) and _is_alone(context):
        # beyond the neuron's saturation no rounding matters
        constants = float(multiplier.max() + np.abs(offset).max()) * unit
        window = min(window, float(table.edges.abs().max() + table.leak.abs().max()) + constants)
    scales = int(multiplier.min()) << shift, int(multiplier.max()) << shift
    return Stage(context.name, product.name, frac_bits, window, sums.largest, scales, added)


def _limit(context: Context, shift: int, edges: Integers, leak: Integers) -> None:
    """Clamp the sums of a layer where the neuron behind it could leave 32 bits."""
    assembly, (source,), (signal,) = context.assembly, context.inputs, context.signals
    origin = assembly.origin_of(source)
    if origin not in assembly.sums:
        return
    sums = assembly.sums[origin]
    product: Any = assembly.operations[origin - 1]
    multiplier, offset = product.multiplier << shift, product.offset << shift
    limits = live_limits(multiplier, offset, edges, leak, sums.low, sums.high)
    if limits is not None:
        bounds = product.multiplier * limits + product.offset
        low, high = min(0, int(bounds.min())), max(0, int(bounds.max()))
        assembly.change(source, replace(signal, low=low, high=high), limits=limits)


def _is_alone(context: Context) -> bool:
    """True where the neuron is the only one to see what the layer before it computes."""
    assembly, index = context.assembly, context.index
    graph = assembly.graph
    while True:
        (index,) = graph.parts[index].inputs
        if len(graph.readers(index)) != 1 or index == graph.output:
            return False
        sums = assembly.sums.get(assembly.returned[index])
        if graph.parts[index].module is (sums.layer if sums else None):
            return True


def _checked_codebook(context: Context, node: Membrane) -> Codebook:
    codebook = node.state_quant
    if codebook is None:
        raise context.refusal(
            "its state is not quantized; give it a state_quant of at most 8 bits, such as"
            " snnsim.quant.uniform(4)"
        )
    kind = type(codebook).__name__
    if codebook.is_learned:
        raise context.refusal(
            f"its codebook is a {kind}; fix its levels with state_quant = state_quant.freeze()"
        )
    if codebook.why_not_tabular() is not None:
        raise context.refusal(
            f"its codebook is a {kind}, which no table stands for; use a plain Codebook"
        )
    if codebook.num_levels > MAX_LEVELS:
        raise context.refusal(
            f"its codebook has {codebook.num_levels} levels and a code has at most 8 bits; use at"
            f" most {MAX_LEVELS}"
        )
    if not isinstance(node, BaseNode | Readout):
        raise context.refusal("it is neither a spiking neuron (BaseNode) nor a Readout")
    for name in FIXED_METHODS:
        owner = next(kind for kind in type(node).__mro__ if name in vars(kind))
        if not owner.__module__.startswith(("snnsim.", "torch.")) or name in vars(node):
            raise context.refusal(
                f"it has a {name} of its own, which a table of its leak, fire and reset does not"
                " show"
            )
    coupling = node._why_not_automaton()
    if coupling is not None:
        raise context.refusal(coupling)
    return codebook


def _input_bits(context: Context, node: Membrane) -> int:
    """Binary digits by which a node divides its input."""
    if not node._divides_input():
        raise context.refusal(
            "it has a drive of its own; scale the input in the layer before it instead"
        )
    divisor = node._input_divisor()
    if divisor is None:
        return 0
    mantissa, exponent = torch.frexp(divisor.detach().reshape(-1)[0])
    if divisor.numel() == 1 and mantissa == 0.5:
        return int(exponent) - 1
    shown = f"{float(divisor):.6g}" if divisor.numel() == 1 else "one number per channel"
    raise context.refusal(
        f"it divides its input by tau ({shown}), which is exact for one power of two only; call"
        " snnsim.deploy.to_grid(net), which moves the division into the scale of the layer before"
        " it, or use decay_input=False"
    )


@dataclass(frozen=True, eq=False)
class _Automaton:
    """The automaton of a node in floating point, for channels `c = (n // inner) % C` of flat
    neurons n: edges `[L-1]`, leaked levels and codes after a reset `[C, L]`, first codes that fire
    `[C]` (L for a readout), and the code of the rest potential.
    """

    edges: Tensor
    leak: Tensor
    reset: Tensor
    fire: Tensor
    start: int
    inner: int


def _automaton(context: Context, node: Membrane, codebook: Codebook, shape: Shape) -> _Automaton:
    """The automaton of a node at rest and in eval mode, from the table that the kernels run."""

    def equations(q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output, _, after = node.settle(q)
        # the leak of the state itself, not of the state after a reset: the held state is a code
        return output, after, node._decayed(q)

    dtype = codebook.levels.dtype
    try:
        # two samples, which show whether one looks at the other
        table = automaton_of(node, equations, codebook, (2, *shape), dtype)
    except NoTable as problem:
        raise context.refusal(f"{problem}; no table of integers can stand for it") from problem
    out, leak, after = table.out.detach(), table.carry.detach(), table.after.detach()
    reset = codebook.encode(after).long()
    reason = _why_not_integers(node, codebook, out, leak, after == codebook.decode(reset))
    if reason is not None:
        raise context.refusal(reason)
    start = node.rest(torch.zeros([1] * (len(shape) + 1)), dtype, codebook)
    fires = (out == 1) & isinstance(node, BaseNode)
    start_code = int(codebook.encode(start))
    return _Automaton(table.edges, leak, reset, (~fires).sum(1), start_code, table.inner)


def _why_not_integers(
    node: Membrane, codebook: Codebook, out: Tensor, leak: Tensor, is_level: Tensor
) -> str | None:
    """Reason that codes, first codes that fire and finite leaks do not tell all."""
    if not isinstance(node, BaseNode):
        if not bool((out == codebook.levels).all()):
            return "it returns something other than its membrane; use LIReadout's own settle"
    elif not bool(((out == 0) | (out == 1)).all()):
        return (
            "its fire returns values other than 0 and 1, and an integer neuron emits no other;"
            " return 0 or 1"
        )
    elif not bool((out[:, 1:] >= out[:, :-1]).all()):
        return (
            "its fire is no threshold: a level fires and a higher one does not; let all levels from"
            " one on fire"
        )
    if not bool(is_level.all()):
        return (
            "its membrane after a reset is on no level of its codebook; return self.state_quant"
            " of it"
        )
    if not bool(torch.isfinite(leak).all()):
        return "its leak of a level is NaN or infinite; let it be a finite number on every level"
    return None


# a word of codes goes round once: taken from its low end, put back at the high one
C = """\
static void layer_$i(uint32_t *codes, const $in_type *x, $out_type *y)
{
    uint32_t n = 0;
$first    while (n < ${size}u) {
        const uint32_t end = $end;
        uint32_t word = *codes;
        for (; n < end; n++) {
            const uint32_t code = word & ${mask}u;
            const uint32_t q = $charged;
            y[n] = $emitted;
            word = (word >> $bits) | ((uint32_t)reset_$i[${offset}q] << $high);
$next        }
        *codes++ = word;
    }
$rest}
"""
