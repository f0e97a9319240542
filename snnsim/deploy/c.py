"""`to_c`: an integer network as standalone C99, without floating point, memory allocation or any library."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import partial, singledispatchmethod
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from snnsim._version import __version__
from snnsim.deploy.c_layout import c_type, even_spacing, geometry, is_dense, is_packed, memory_plan, padded_size
from snnsim.deploy.c_templates import HEADER, HELPERS, LAYERS, MAIN, MAKEFILE, SOURCE
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
    TableNeuron,
)
from snnsim.deploy.packing import fits_nibbles, packed_bytes, packed_nibbles
from snnsim.errors import InvalidValueError, OutputError
from snnsim.files import write_whole

if TYPE_CHECKING:
    from snnsim.deploy.network import IntegerNetwork

__all__ = ["CSource", "generate", "write_c"]

NUMBERS_PER_LINE = 16
C_TYPES = {"b": "int8_t", "B": "uint8_t", "h": "int16_t", "H": "uint16_t", "i": "int32_t", "I": "uint32_t"}
# of C99 and of C++, which no struct can be named
KEYWORDS = (
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl concept const consteval constexpr "
    "constinit continue default delete do double else enum explicit export extern false float for friend goto if import inline int "
    "long module mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public register requires "
    "restrict return short signed sizeof static struct switch template this throw true try typedef typeid typename union unsigned "
    "using virtual void volatile wchar_t while xor xor_eq"
)
# listed at a time: 2 bytes of stack each; a multiple of 4, and 16-bit lanes hold 257 weights
EVENTS = 128


@dataclass(frozen=True)
class CSource:
    """Generated C.

    Attributes:
        files: text by file name.
        weight_bytes, table_bytes: of constant data.
        ram_bytes: of the struct that holds everything that changes.
    """

    files: dict[str, str]
    weight_bytes: int
    table_bytes: int
    ram_bytes: int


def write_c(network: IntegerNetwork, folder: str | os.PathLike[str], name: str) -> CSource:
    """Write what `generate` makes into a new folder.

    Raises:
        OutputError: the folder exists already, or cannot be written.
    """
    path = Path(folder)
    if path.exists():
        raise OutputError(f"IntegerNetwork.to_c({str(folder)!r}): it exists already and is left alone; name a new folder")
    source = generate(network, name)
    for file, text in source.files.items():
        write_whole(path / file, partial(_write_text, text), "IntegerNetwork.to_c")
    return source


def _write_text(text: str, file: BinaryIO) -> None:
    file.write(text.encode("ascii"))


def generate(network: IntegerNetwork, name: str = "snn") -> CSource:
    """A network as C: header, source, a main for tests and a Makefile.

    Args:
        network: any integer network.
        name: of the files, the struct and the functions; a C identifier in lower case.

    Raises:
        InvalidValueError: a name that C could not use, or that the source uses itself.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "main":
        raise InvalidValueError(f"to_c(name={name!r}): must be a C identifier of lower-case letters, digits and _; such as 'snn'")
    if name in KEYWORDS.split() or name.endswith("_t"):
        raise InvalidValueError(f"to_c(name={name!r}): is a word of C or C++, or a type's; take another, such as 'snn'")
    return _Generator(network, name).source()


class _Generator:
    """Collects tables, helpers, layers and calls of one network."""

    def __init__(self, network: IntegerNetwork, name: str) -> None:
        self.network, self.name = network, name
        self.tables: list[str] = []
        self.layers: list[str] = []
        self.steps: list[str] = []
        self.reset: list[str] = []
        self.helpers: dict[str, str] = {}
        self.fields: list[str] = []
        self.code: list[str] = []
        self.weight_bytes = self.table_bytes = self.state_bytes = 0
        self.neurons = 0
        self.places, self.work_words = memory_plan(network)
        # sums that a neuron scales when it reads them, by the signal
        self.unscaled: dict[int, Product] = {}

    def source(self) -> CSource:
        """The files."""
        for i, operation in enumerate(self.network.operations):
            self._comment(operation)
            self._operation(operation, i)
        return self._assemble()

    def _assemble(self) -> CSource:
        network, name = self.network, self.name
        output = network.signals[network.output]
        if self.work_words:
            self.fields.append(f"    uint32_t work[{self.work_words}];\n")
        if not self.fields:
            self.fields.append("    uint8_t unused;\n")
        result = self._pointer(network.output)
        self.steps.insert(0, "    uint32_t n;\n")
        self.steps.append(f"    for (n = 0; n < {output.size}u; n++) {{\n        output[n] = ({result})[n];\n    }}\n")
        if not self.work_words and not self.code:
            self.steps.append("    (void)net;\n")
        spiking = output.low >= 0 and output.high <= 1
        values = {
            "name": name,
            "NAME": name.upper(),
            "version": __version__,
            "title": f"Integer network, {network.input.size} inputs, {output.size} outputs.",
            "low": network.input.low,
            "high": network.input.high,
            "inputs": network.input.size,
            "outputs": output.size,
            "neurons": self.neurons,
            "meaning": "spikes of one sample and time step" if spiking else f"values, in units of 2^-{output.frac_bits}",
            "in_type": c_type(network.input),
            "out_type": c_type(output),
            "fields": "".join(self.fields),
            "tables": "".join(self.tables),
            "helpers": "\n".join(self.helpers.values()),
            "layers": "\n".join(self.layers),
            "steps": "".join(self.steps),
            "reset": self._reset_body(),
            "code": self._code_body(),
        }
        source = Template(SOURCE).substitute(values)
        if re.search(rf"^static .*\b{name}[\[(]", source, re.MULTILINE):
            raise InvalidValueError(f"to_c(name={name!r}): is what a part of the source is called; take another, such as 'snn'")
        files = {
            f"{name}.h": Template(HEADER).substitute(values),
            f"{name}.c": source,
            "main.c": Template(MAIN).substitute(values),
            "Makefile": Template(MAKEFILE).substitute(values),
        }
        # the work area is aligned to words
        ram = -(-self.state_bytes // 4) * 4 + 4 * self.work_words
        return CSource(files, self.weight_bytes, self.table_bytes, ram)

    def _reset_body(self) -> str:
        if not self.reset:
            return "    (void)net;\n"
        return "    uint32_t n;\n" + "".join(self.reset)

    def _code_body(self) -> str:
        if not self.code:
            return "    (void)net;\n    return n;\n"
        return "".join(self.code) + "    return 0;\n"

    def _comment(self, operation: Operation) -> None:
        # a name may hold anything, also the end of a comment
        shown = operation.name.encode("unicode_escape").decode().replace("*/", "* /").replace("/*", "/ *")
        self.steps.append(f"    /* {shown}: {type(operation).__name__.lower()} */\n")

    def _helper(self, *names: str) -> None:
        for name in names:
            self.helpers[name] = Template(HELPERS[name]).substitute(events=EVENTS)

    def _cell(self, levels: int, edges: str, h: str, narrow: bool = False) -> str:
        """Expression for how many of `levels - 1` edges are at most h; narrow edges are int16."""
        halves = [1 << bit for bit in reversed(range(levels.bit_length() - 1))]
        kind = {"type": "int16_t", "suffix": "_short"} if narrow else {"type": "int32_t", "suffix": ""}
        if 1 << len(halves) != levels:
            self.helpers[f"cell{kind['suffix']}"] = Template(HELPERS["cell"]).substitute(kind)
            return f"cell{kind['suffix']}({edges}, {levels - 1}u, {h})"
        steps = "".join(f"    if (h >= at[{half - 1}]) {{\n        at += {half};\n    }}\n" for half in halves)
        name = f"cell_{levels}{kind['suffix']}"
        self.helpers[name] = Template(HELPERS["cell_of"]).substitute(kind, levels=levels, edges=levels - 1, steps=steps)
        return f"{name}({edges}, {h})"

    def _cell_of(self, edges: Integers, name: str, h: str) -> str:
        """As `_cell`, for edges that are known: all but evenly spaced ones need no search."""
        spacing = even_spacing(edges)
        if spacing is None:
            return self._cell(len(edges) + 1, name, h)
        self._helper("even_cell")
        origin, multiplier, shift = spacing
        return f"even_cell({name}, {len(edges) - 1}u, {origin % 2**32}u, {multiplier}u, {shift}u, {h})"

    def _table(self, name: str, values: Integers, weights: bool = False) -> None:
        flat = np.ascontiguousarray(values).reshape(-1)
        suffix = "u" if flat.dtype.kind == "u" else ""
        # the smallest int32 has no literal of its own; no table of a sound network holds it
        rows = [flat[i : i + NUMBERS_PER_LINE] for i in range(0, len(flat), NUMBERS_PER_LINE)]
        body = ",\n".join("    " + ", ".join(f"{value}{suffix}" for value in row.tolist()) for row in rows)
        self.tables.append(f"static const {C_TYPES[flat.dtype.char]} {name}[{len(flat)}] = {{\n{body}\n}};\n")
        if weights:
            self.weight_bytes += flat.nbytes
        else:
            self.table_bytes += flat.nbytes

    def _pointer(self, signal: int) -> str:
        """Expression for where a signal is."""
        # also the input in another shape
        if signal not in self.places:
            return "input"
        place, kind = self.places[signal], c_type(self.network.signals[signal])
        return f"({kind} *)(net->work + {place})"

    def _reading(self, signal: int) -> str:
        if signal not in self.places:
            return "input"
        return f"(const {c_type(self.network.signals[signal])} *)(net->work + {self.places[signal]})"

    def _call(self, i: int, *arguments: str) -> None:
        self.steps.append(f"    layer_{i}({', '.join(arguments)});\n")

    @singledispatchmethod
    def _operation(self, operation: Operation, i: int) -> None:
        raise NotImplementedError(type(operation).__name__)

    @_operation.register
    def _(self, operation: Reshape, i: int) -> None:
        """Nothing to do: the same numbers in the same place."""

    @_operation.register
    def _(self, operation: Product, i: int) -> None:
        source = self.network.signals[operation.inputs[0]]
        outputs = len(operation.weight)
        shape = geometry(operation)
        values = shape | {
            "i": i,
            "in_type": c_type(source),
            "inputs": source.size,
            "scale": self._scale(operation, i, shape["places"]),
            "group_in": operation.weight.shape[1],
            "group_out": outputs // operation.groups,
            "outputs": outputs,
            "padded": padded_size(operation),
        }
        dense = operation.weight[:, :, 0, 0]
        if is_packed(operation, source):
            nibbles = fits_nibbles(dense)
            self._table(f"weights_{i}", packed_nibbles(dense) if nibbles else packed_bytes(dense), weights=True)
            self._helper("events", "nibbles" if nibbles else "bytes")
            kind, values["kernel"] = "packed", "sum_nibbles" if nibbles else "sum_bytes"
        else:
            kind = "dense" if is_dense(operation) else "convolution"
            self._table(f"weights_{i}", operation.weight.transpose(1, 2, 3, 0), weights=True)
            values["weight_type"] = C_TYPES[operation.weight.dtype.char]
        self.layers.append(Template(LAYERS[kind]).substitute(values))
        self._call(i, self._reading(operation.inputs[0]), self._pointer(i + 1))

    def _scale(self, operation: Product, i: int, places: int) -> str:
        """Lines that turn sums into driven currents, in place."""
        if places == 1 and self._goes_to_neurons_alone(i + 1):
            self.unscaled[i + 1] = operation
            return "    (void)o;\n" if is_packed(operation, self.network.signals[operation.inputs[0]]) else ""
        value = self._driven(operation, i, "*y", "o")
        if value == "*y":
            # the loop variable of a packed layer would be unused
            return "    (void)o;\n" if is_packed(operation, self.network.signals[operation.inputs[0]]) else ""
        lines = [f"*y = {value};", "y++;"]
        if places > 1:
            lines = [f"for (column = 0; column < {places}; column++) {{", *(f"    {line}" for line in lines), "}"]
        # the loop variable of a convolution is signed
        end = f"{len(operation.weight)}{'u' * is_dense(operation)}"
        return "".join([f"    for (o = 0; o < {end}; o++) {{\n", *(f"        {line}\n" for line in lines), "    }\n"])

    def _goes_to_neurons_alone(self, signal: int) -> bool:
        readers = [operation for operation in self.network.operations if signal in operation.inputs]
        return signal != self.network.output and len(readers) == 1 and isinstance(readers[0], Neuron)

    def _driven(self, operation: Product, i: int, value: str, channel: str) -> str:
        """Expression for the driven current from a sum."""
        if operation.limits is not None:
            self._helper("clamped")
            self._table(f"low_{i}", operation.limits[0])
            self._table(f"high_{i}", operation.limits[1])
            value = f"clamped({value}, low_{i}[{channel}], high_{i}[{channel}])"
        for name, constants, neutral, sign in (("scale", operation.multiplier, 1, "*"), ("bias", operation.offset, 0, "+")):
            if len(np.unique(constants)) > 1:
                self._table(f"{name}_{i}", constants)
                value += f" {sign} {name}_{i}[{channel}]"
            elif constants[0] != neutral:
                value += f" {sign} ({constants[0]})"
        return value

    @_operation.register
    def _(self, operation: Pool, i: int) -> None:
        source = self.network.signals[operation.inputs[0]]
        padded = operation.window.padding != (0, 0)
        maximum = "seen = value > seen ? value : seen;"
        values = geometry(operation) | {
            "i": i,
            "in_type": c_type(source),
            "out_type": c_type(operation.output),
            # zeros beyond the border take part in a padded maximum
            "start": source.low if operation.maximum and not padded else 0,
            "take": maximum if operation.maximum else "seen += value;",
        }
        self.layers.append(Template(LAYERS["pool"]).substitute(values))
        self._call(i, self._reading(operation.inputs[0]), self._pointer(i + 1))

    @_operation.register
    def _(self, operation: Add, i: int) -> None:
        terms, parameters = [], []
        for k, (source, shift) in enumerate(zip(operation.inputs, operation.shifts, strict=True)):
            kind = c_type(self.network.signals[source])
            parameters.append(f"const {kind} *x{k}")
            terms.append(f"(int32_t)x{k}[n]" + (f" * {1 << shift}" if shift else ""))
        values = {
            "i": i,
            "parameters": ", ".join(parameters),
            "out_type": c_type(operation.output),
            "size": operation.output.size,
            "sum": " + ".join(terms),
        }
        self.layers.append(Template(LAYERS["add"]).substitute(values))
        self._call(i, *(self._reading(source) for source in operation.inputs), self._pointer(i + 1))

    @_operation.register
    def _(self, operation: Delay, i: int) -> None:
        kind, size = c_type(operation.output), operation.output.size
        waiting = size * operation.steps
        if not operation.steps:
            return
        self.fields.append(f"    {kind} delayed_{i}[{waiting}];\n")
        self.state_bytes += waiting * (4 if kind == "int32_t" else 1)
        self.reset.append(f"    for (n = 0; n < {waiting}u; n++) {{\n        net->delayed_{i}[n] = 0;\n    }}\n")
        values = {"i": i, "type": kind, "size": size, "waiting": waiting - size}
        self.layers.append(Template(LAYERS["delay"]).substitute(values))
        self._call(i, f"net->delayed_{i}", self._reading(operation.inputs[0]), self._pointer(i + 1))

    @_operation.register
    def _(self, operation: GridNeuron, i: int) -> None:
        self._table(f"edges_{i}", operation.edges)
        self._table(f"leak_{i}", operation.leak)
        driven = self._reading_of_neuron(operation)
        if operation.shift:
            driven = f"({driven}) * {1 << operation.shift}"
        leak = f"leak_{i}[{_row_of(operation)}code]"
        self._neuron(operation, i, self._cell_of(operation.edges, f"edges_{i}", f"{leak} + {driven}"))

    @_operation.register
    def _(self, operation: TableNeuron, i: int) -> None:
        levels, thresholds = operation.reset.shape[1], operation.thresholds
        narrow = bool(np.abs(thresholds).max(initial=0) < 2**15)
        self._table(f"thresholds_{i}", thresholds.astype(np.int16) if narrow else thresholds)
        row = f"thresholds_{i} + ({_row_of(operation)}code) * {levels - 1}u"
        self._neuron(operation, i, self._cell(levels, row, self._reading_of_neuron(operation), narrow))

    def _reading_of_neuron(self, operation: Neuron) -> str:
        """Expression for what neuron n is driven by."""
        product = self.unscaled.get(operation.inputs[0])
        return "x[n]" if product is None else self._driven(product, operation.inputs[0] - 1, "x[n]", "n")

    def _neuron(self, operation: Neuron, i: int, charged: str) -> None:
        """A layer of neurons; `charged` is the expression for the code before the reset of neuron n with the state `code`."""
        size, channels = operation.output.size, len(operation.reset)
        bits = next(width for width in (1, 2, 4, 8) if width >= operation.bits)
        per_word = 32 // bits
        words, rest = -(-size // per_word), size % per_word
        self._helper("code")
        self.fields.append(f"    uint32_t codes_{i}[{words}];\n")
        self.state_bytes += 4 * words
        start = sum(operation.start << shift for shift in range(0, 32, bits))
        self.reset.append(f"    for (n = 0; n < {words}u; n++) {{\n        net->codes_{i}[n] = 0x{start:08X}u;\n    }}\n")
        here = f"code_at(net->codes_{i}, n, {bits}u)"
        self.code.append(f"    if (n < {size}u) {{\n        return {here};\n    }}\n    n -= {size}u;\n")
        self.neurons += size
        self._table(f"reset_{i}", operation.reset)
        values = {
            "i": i,
            "in_type": c_type(self.network.signals[operation.inputs[0]]),
            "out_type": c_type(operation.output),
            "size": size,
            "bits": bits,
            "mask": (1 << bits) - 1,
            "high": 32 - bits,
            "end": f"{size}u - n < {per_word}u ? {size}u : n + {per_word}u" if rest else f"n + {per_word}u",
            "rest": f"    codes[-1] >>= {32 - rest * bits};\n" if rest else "",
            "charged": charged,
            "offset": _row_of(operation),
            "emitted": self._emitted(operation, i),
            **_channel_counters(channels, operation.inner),
        }
        self.layers.append(Template(LAYERS["neuron"]).substitute(values))
        self._call(i, f"net->codes_{i}", self._reading(operation.inputs[0]), self._pointer(i + 1))

    def _emitted(self, operation: Neuron, i: int) -> str:
        """Expression for what a neuron with the charged code q hands on."""
        if operation.levels is not None:
            self._table(f"levels_{i}", operation.levels)
            return f"{'(uint8_t)' if c_type(operation.output) == 'uint8_t' else ''}levels_{i}[q]"
        if len(operation.reset) > 1:
            self._table(f"fire_{i}", operation.fire)
            return f"(uint8_t)((int32_t)q >= fire_{i}[channel])"
        # the sign of a difference of two codes is cheaper than a comparison
        return f"(uint8_t)((q - {operation.fire[0]}u) >> 31 ^ 1u)"


def _channel_counters(channels: int, inner: int) -> dict[str, str]:
    """Lines before the loop over neurons and at its end, so that `channel` is `n // inner % channels` without a division."""
    if channels == 1:
        return {"first": "", "next": ""}
    first, step = "    uint32_t channel = 0;\n", f"channel = channel == {channels - 1}u ? 0u : channel + 1u;\n"
    if inner == 1:
        return {"first": first, "next": " " * 12 + step}
    counted = f"            if (++place == {inner}u) {{\n                place = 0;\n                {step}            }}\n"
    return {"first": first + "    uint32_t place = 0;\n", "next": counted}


def _row_of(operation: Neuron) -> str:
    """Start of the expression for a place in a table `[C, L]`."""
    channels, levels = operation.reset.shape
    return f"channel * {levels}u + " if channels > 1 else ""
