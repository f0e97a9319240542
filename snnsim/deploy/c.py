"""`to_c`: an integer network as standalone C99, without floating point, memory allocation or any
library.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import singledispatchmethod
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from snnsim._core.files import write_folder
from snnsim._version import __version__
from snnsim.deploy.c_layout import (
    AREAS,
    CONVOLUTION,
    PACKED,
    even_spacing,
    geometry,
    layout_of,
    width_of,
)
from snnsim.deploy.c_names import check_name
from snnsim.deploy.c_templates import HEADER, HELPERS, LAYERS, MAIN, MAKEFILE, SOURCE
from snnsim.deploy.interface import DECISIONS, input_in_words, layout_in_words, time_in_words
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
from snnsim.deploy.preset_operations import PresetLayer, PresetNeuron
from snnsim.errors import InvalidValueError

if TYPE_CHECKING:
    from snnsim.deploy.network import IntegerNetwork

__all__ = ["CSource", "generate", "write_c"]

NUMBERS_PER_LINE = 16
C_TYPES = {
    "b": "int8_t",
    "B": "uint8_t",
    "h": "int16_t",
    "H": "uint16_t",
    "i": "int32_t",
    "I": "uint32_t",
}
# bits of all codes, at whose places a counter of 32 bits arrives
COUNTED = 2**32
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
    source = generate(network, name)
    write_folder(
        folder,
        {file: text.encode("ascii") for file, text in source.files.items()},
        "IntegerNetwork.to_c",
    )
    return source


def generate(network: IntegerNetwork, name: str = "snn") -> CSource:
    """A network as C: header, source, a main for tests and a Makefile.

    Args:
        network: any integer network.
        name: of the files, the struct and the functions; a C identifier in lower case.

    Raises:
        InvalidValueError: a name that C could not use, or that the source uses itself; a network
            that C could not compute.
    """
    check_name(name)
    reason = why_not(network)
    if reason is not None:
        raise InvalidValueError(f"IntegerNetwork.to_c: {reason}")
    return _Generator(network, name).source()


def why_not(network: IntegerNetwork) -> str | None:
    """Why a network has no C; None where it has."""
    for operation in network.operations:
        if isinstance(operation, PresetNeuron | PresetLayer):
            kind = type(operation.neuron).__name__
            return (
                f"{operation.name!r} is a layer of {kind}, and C is generated for lowered networks;"
                " run this one as it is, its chip has tools of its own"
            )
    bits = sum(
        operation.output.size * packed_bits(operation)
        for operation in network.operations
        if isinstance(operation, Neuron)
    )
    if bits > COUNTED:
        return (
            f"its states take {bits} bits, and C counts up to 2^32; use fewer neurons or fewer bits"
        )
    return None


class _Generator:
    """Collects tables, helpers, layers and calls of one network."""

    def __init__(self, network: IntegerNetwork, name: str) -> None:
        self.network, self.name = network, name
        self.tables: list[str] = []
        self.layers: list[str] = []
        self.steps: list[str] = []
        self.reset: list[str] = []
        self.helpers: dict[str, str] = {}
        # of the struct: type, name and length of each array
        self.fields: list[tuple[str, str, int]] = []
        self.code: list[str] = []
        self.weight_bytes = self.table_bytes = 0
        self.neurons = 0
        self.layout = layout_of(network)

    def source(self) -> CSource:
        """The files."""
        for i, operation in enumerate(self.network.operations):
            self._comment(operation)
            self._operation(operation, i)
        return self._assemble()

    def _assemble(self) -> CSource:
        network, name = self.network, self.name
        output, result = network.signals[network.output], self.layout.values[network.output]
        given_as = f"{output.given_as}_t"
        cast = "" if result.kind == given_as else f"({given_as})"
        self.steps.insert(0, "    uint32_t n;\n")
        self.steps.append(
            f"    for (n = 0; n < {output.size}u; n++) {{\n        output[n] ="
            f" {cast}({result.pointer()})[n];\n    }}\n"
        )
        if not self.fields and not self.layout.bytes:
            self.steps.append("    (void)net;\n")
        for area, size in self.layout.areas.items():
            if size:
                self.fields.append((AREAS[area], area, size // width_of(AREAS[area])))
        # the widest first, so that the compiler leaves no gaps
        fields = sorted(
            self.fields or [("uint8_t", "unused", 1)], key=lambda field: -width_of(field[0])
        )
        widest = width_of(fields[0][0])
        rule = "" if network.decision is None else f"; {DECISIONS[network.decision]}"
        spiking = output.is_binary
        values = {
            "name": name,
            "NAME": name.upper(),
            "version": __version__,
            "title": f"Integer network, {network.input.size} inputs, {output.size} outputs.",
            "low": network.input.low,
            "high": network.input.high,
            "inputs": network.input.size,
            "layout": layout_in_words(network),
            "encoding": input_in_words(network),
            "time": time_in_words(network),
            "time_steps": (
                ""
                if network.time_steps is None
                else f"#define {name.upper()}_TIME_STEPS {network.time_steps}u\n"
            ),
            "outputs": output.size,
            "neurons": self.neurons,
            "meaning": (
                (
                    "spikes of one sample and time step"
                    if spiking
                    else f"values, in units of 2^-{output.frac_bits}"
                )
                + rule
            ),
            "in_type": self.layout.values[0].kind,
            "out_type": given_as,
            "fields": "".join(f"    {kind} {field}[{count}];\n" for kind, field, count in fields),
            "tables": "".join(self.tables),
            "helpers": "\n".join(self.helpers.values()),
            "layers": "\n".join(self.layers),
            "steps": "".join(self.steps),
            "reset": self._reset_body(),
            "code": self._code_body(),
        }
        source = Template(SOURCE).substitute(values)
        if re.search(rf"^static .*\b{name}[\[(]", source, re.MULTILINE):
            raise InvalidValueError(
                f"to_c(name={name!r}): is what a part of the source is called; take another, such"
                " as 'snn'"
            )
        files = {
            f"{name}.h": Template(HEADER).substitute(values),
            f"{name}.c": source,
            "main.c": Template(MAIN).substitute(values),
            "Makefile": Template(MAKEFILE).substitute(values),
        }
        ram = -(-sum(width_of(kind) * count for kind, _, count in fields) // widest) * widest
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
        shown = (
            operation.name.encode("unicode_escape")
            .decode()
            .replace("*/", "* /")
            .replace("/*", "/ *")
        )
        self.steps.append(f"    /* {shown}: {type(operation).__name__.lower()} */\n")

    def _helper(self, *names: str) -> None:
        for name in names:
            self.helpers[name] = Template(HELPERS[name]).substitute(events=EVENTS)

    def _cell(self, levels: int, edges: str, h: str, narrow: bool = False) -> str:
        """Expression for how many of `levels - 1` edges are at most h; narrow edges are int16."""
        halves = [1 << bit for bit in reversed(range(levels.bit_length() - 1))]
        kind = (
            {"type": "int16_t", "suffix": "_short"} if narrow else {"type": "int32_t", "suffix": ""}
        )
        if 1 << len(halves) != levels:
            self.helpers[f"cell{kind['suffix']}"] = Template(HELPERS["cell"]).substitute(kind)
            return f"cell{kind['suffix']}({edges}, {levels - 1}u, {h})"
        steps = "".join(
            f"    if (h >= at[{half - 1}]) {{\n        at += {half};\n    }}\n" for half in halves
        )
        name = f"cell_{levels}{kind['suffix']}"
        self.helpers[name] = Template(HELPERS["cell_of"]).substitute(
            kind, levels=levels, edges=levels - 1, steps=steps
        )
        return f"{name}({edges}, {h})"

    def _cell_of(self, edges: Integers, name: str, h: str) -> str:
        """As `_cell`, for edges that are known: all but evenly spaced ones need no search."""
        spacing = even_spacing(edges)
        if spacing is None:
            return self._cell(len(edges) + 1, name, h)
        self._helper("even_cell")
        origin, multiplier, shift = spacing
        return (
            f"even_cell({name}, {len(edges) - 1}u, {origin % 2**32}u, {multiplier}u, {shift}u, {h})"
        )

    def _table(self, name: str, values: Integers, weights: bool = False) -> None:
        flat = np.ascontiguousarray(values).reshape(-1)
        suffix = "u" if flat.dtype.kind == "u" else ""
        # the smallest int32 has no literal of its own; no table of a sound network holds it
        rows = [flat[i : i + NUMBERS_PER_LINE] for i in range(0, len(flat), NUMBERS_PER_LINE)]
        body = ",\n".join(
            "    " + ", ".join(f"{value}{suffix}" for value in row.tolist()) for row in rows
        )
        self.tables.append(
            f"static const {C_TYPES[flat.dtype.char]} {name}[{len(flat)}] = {{\n{body}\n}};\n"
        )
        if weights:
            self.weight_bytes += flat.nbytes
        else:
            self.table_bytes += flat.nbytes

    def _layer(self, i: int, template: str, values: dict[str, Any], *state: str) -> None:
        """The function of operation i, and its call: it reads its inputs as `x`, or `x0` and so on,
        and writes `y`.
        """
        inputs = [self.layout.values[source] for source in self.network.operations[i].inputs]
        output = self.layout.values[i + 1]
        types = {"in_type": inputs[0].kind, "out_type": output.kind, "cast": output.cast}
        self.layers.append(Template(LAYERS[template]).substitute(values, i=i, **types))
        arguments = [*(source.pointer("const ") for source in inputs), output.pointer()]
        self.steps.append(f"    layer_{i}({', '.join([*state, *arguments])});\n")

    @singledispatchmethod
    def _operation(self, operation: Operation, i: int) -> None:
        raise NotImplementedError(type(operation).__name__)

    @_operation.register
    def _(self, operation: Reshape, i: int) -> None:
        """Nothing to do: the same numbers in the same place."""

    @_operation.register
    def _(self, operation: Product, i: int) -> None:
        form, shape, outputs = self.layout.forms[i + 1], geometry(operation), len(operation.weight)
        values = shape | {
            "inputs": self.layout.values[operation.inputs[0]].size,
            "scale": self._scale(operation, i, shape["places"]),
            "group_in": operation.weight.shape[1],
            "group_out": outputs // operation.groups,
            "outputs": outputs,
            "size": operation.output.size,
            "room": self.layout.values[i + 1].room,
        }
        if form == PACKED:
            dense = operation.weight[:, :, 0, 0]
            nibbles = fits_nibbles(dense)
            self._table(
                f"weights_{i}",
                packed_nibbles(dense) if nibbles else packed_bytes(dense),
                weights=True,
            )
            self._helper("events", "nibbles" if nibbles else "bytes")
            values["kernel"] = "sum_nibbles" if nibbles else "sum_bytes"
        else:
            self._table(f"weights_{i}", operation.weight.transpose(1, 2, 3, 0), weights=True)
            values["weight_type"] = C_TYPES[operation.weight.dtype.char]
        self._layer(i, form, values)

    def _scale(self, operation: Product, i: int, places: int) -> str:
        """Lines that turn sums into driven currents, in place."""
        form, values = self.layout.forms[i + 1], self.layout.values[i + 1]
        # the loop variable of a packed layer would be unused
        nothing = "    (void)o;\n" if form == PACKED else ""
        if i + 1 in self.layout.unscaled:
            return nothing
        driven = self._driven(operation, i, values.at("*y"), "o")
        if driven == values.at("*y"):
            return nothing
        lines = [f"*y = {f'{values.cast}({driven})' if values.cast else driven};", "y++;"]
        if places > 1:
            lines = [
                f"for (column = 0; column < {places}; column++) {{",
                *(f"    {line}" for line in lines),
                "}",
            ]
        # the loop variable of a convolution is signed
        end = f"{len(operation.weight)}{'u' * (form != CONVOLUTION)}"
        return "".join(
            [
                f"    for (o = 0; o < {end}; o++) {{\n",
                *(f"        {line}\n" for line in lines),
                "    }\n",
            ]
        )

    def _driven(self, operation: Product, i: int, value: str, channel: str) -> str:
        """Expression for the driven current from a sum."""
        if operation.limits is not None:
            self._helper("clamped")
            self._table(f"low_{i}", operation.limits[0])
            self._table(f"high_{i}", operation.limits[1])
            value = f"clamped({value}, low_{i}[{channel}], high_{i}[{channel}])"
        for name, constants, neutral, sign in (
            ("scale", operation.multiplier, 1, "*"),
            ("bias", operation.offset, 0, "+"),
        ):
            if len(np.unique(constants)) > 1:
                self._table(f"{name}_{i}", constants)
                value += f" {sign} {name}_{i}[{channel}]"
            elif constants[0] != neutral:
                value += f" {sign} ({constants[0]})"
        return value

    @_operation.register
    def _(self, operation: Pool, i: int) -> None:
        padded = operation.window.padding != (0, 0)
        # zeros beyond the border take part in a padded maximum
        start = (
            self.network.signals[operation.inputs[0]].low if operation.maximum and not padded else 0
        )
        take = "seen = value > seen ? value : seen;" if operation.maximum else "seen += value;"
        self._layer(i, "pool", geometry(operation) | {"start": start, "take": take})

    @_operation.register
    def _(self, operation: Add, i: int) -> None:
        terms, parameters = [], []
        for k, (source, shift) in enumerate(zip(operation.inputs, operation.shifts, strict=True)):
            values = self.layout.values[source]
            parameters.append(f"const {values.kind} *x{k}")
            terms.append(_shifted(values.at(f"x{k}[n]"), shift))
        self._layer(
            i,
            "add",
            {
                "parameters": ", ".join(parameters),
                "size": operation.output.size,
                "sum": " + ".join(terms),
            },
        )

    @_operation.register
    def _(self, operation: Delay, i: int) -> None:
        if not operation.steps:
            return
        kind, size = self.layout.values[i + 1].kind, operation.output.size
        waiting = size * (operation.steps - 1)
        self.fields.append((kind, f"delayed_{i}", size + waiting))
        self.reset.append(
            f"    for (n = 0; n < {size + waiting}u; n++) {{\n        net->delayed_{i}[n] = 0;\n   "
            " }\n"
        )
        # a loop of nothing is warned of
        move = (
            f"    for (n = 0; n < {waiting}u; n++) {{\n        line[n] = line[n + {size}u];\n   "
            " }\n"
            if waiting
            else ""
        )
        self._layer(
            i, "delay", {"size": size, "waiting": waiting, "move": move}, f"net->delayed_{i}"
        )

    @_operation.register
    def _(self, operation: GridNeuron, i: int) -> None:
        self._table(f"edges_{i}", operation.edges)
        self._table(f"leak_{i}", operation.leak)
        driven = _shifted(self._reading_of_neuron(operation), operation.shift)
        leak = f"leak_{i}[{_row_of(operation)}code]"
        self._neuron(
            operation, i, self._cell_of(operation.edges, f"edges_{i}", f"{leak} + {driven}")
        )

    @_operation.register
    def _(self, operation: TableNeuron, i: int) -> None:
        levels, thresholds = operation.reset.shape[1], operation.thresholds
        narrow = bool(np.abs(thresholds).max(initial=0) < 2**15)
        self._table(f"thresholds_{i}", thresholds.astype(np.int16) if narrow else thresholds)
        row = f"thresholds_{i} + ({_row_of(operation)}code) * {levels - 1}u"
        self._neuron(
            operation, i, self._cell(levels, row, self._reading_of_neuron(operation), narrow)
        )

    def _reading_of_neuron(self, operation: Neuron) -> str:
        """Expression for what neuron n is driven by."""
        source = operation.inputs[0]
        value, product = self.layout.values[source].at("x[n]"), self.network.operations[source - 1]
        if source in self.layout.unscaled and isinstance(product, Product):
            return self._driven(product, source - 1, value, "n")
        return value

    def _neuron(self, operation: Neuron, i: int, charged: str) -> None:
        """A layer of neurons; `charged` is the expression for the code before the reset of neuron n
        with the state `code`.
        """
        size, channels = operation.output.size, len(operation.reset)
        bits = packed_bits(operation)
        per_word = 32 // bits
        words, rest = -(-size // per_word), size % per_word
        self._helper("code")
        self.fields.append(("uint32_t", f"codes_{i}", words))
        start = sum(operation.start << shift for shift in range(0, 32, bits))
        self.reset.append(
            f"    for (n = 0; n < {words}u; n++) {{\n        net->codes_{i}[n] = 0x{start:08X}u;\n "
            "   }\n"
        )
        here = f"code_at(net->codes_{i}, n, {bits}u)"
        self.code.append(
            f"    if (n < {size}u) {{\n        return {here};\n    }}\n    n -= {size}u;\n"
        )
        self.neurons += size
        self._table(f"reset_{i}", operation.reset)
        values = {
            "size": size,
            "bits": bits,
            "mask": (1 << bits) - 1,
            "high": 32 - bits,
            "end": (
                f"{size}u - n < {per_word}u ? {size}u : n + {per_word}u"
                if rest
                else f"n + {per_word}u"
            ),
            "rest": f"    codes[-1] >>= {32 - rest * bits};\n" if rest else "",
            "charged": charged,
            "offset": _row_of(operation),
            "emitted": self._emitted(operation, i),
            **_channel_counters(channels, operation.inner),
        }
        self._layer(i, "neuron", values, f"net->codes_{i}")

    def _emitted(self, operation: Neuron, i: int) -> str:
        """Expression for what a neuron with the charged code q hands on."""
        if operation.levels is not None:
            self._table(f"levels_{i}", operation.levels)
            return f"{self.layout.values[i + 1].cast}levels_{i}[q]"
        if len(operation.reset) > 1:
            self._table(f"fire_{i}", operation.fire)
            return f"(uint8_t)((int32_t)q >= fire_{i}[channel])"
        # the sign of a difference of two codes is cheaper than a comparison
        return f"(uint8_t)((q - {operation.fire[0]}u) >> 31 ^ 1u)"


def packed_bits(operation: Neuron) -> int:
    """Bits of a code in the struct, of which a word holds a whole number."""
    return next(width for width in (1, 2, 4, 8) if width >= operation.bits)


def _channel_counters(channels: int, inner: int) -> dict[str, str]:
    """Lines before the loop over neurons and at its end, so that `channel` is `n // inner %
    channels` without a division.
    """
    if channels == 1:
        return {"first": "", "next": ""}
    first, step = (
        "    uint32_t channel = 0;\n",
        f"channel = channel == {channels - 1}u ? 0u : channel + 1u;\n",
    )
    if inner == 1:
        return {"first": first, "next": " " * 12 + step}
    counted = (
        f"            if (++place == {inner}u) {{\n                place = 0;\n               "
        f" {step}            }}\n"
    )
    return {"first": first + "    uint32_t place = 0;\n", "next": counted}


def _shifted(value: str, shift: int) -> str:
    """Expression for a value shifted to another binary point."""
    # what may be shifted by 31 is 0, and 2^31 is no number of 32 bits
    return f"({value}) * {1 << min(shift, 30)}" if shift else value


def _row_of(operation: Neuron) -> str:
    """Start of the expression for a place in a table `[C, L]`."""
    channels, levels = operation.reset.shape
    return f"channel * {levels}u + " if channels > 1 else ""
