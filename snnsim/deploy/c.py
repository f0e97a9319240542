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
    Signal,
    TableNeuron,
)
from snnsim.deploy.packing import BLOCK, fits_nibbles, packed_bytes, packed_nibbles
from snnsim.errors import InvalidValueError, OutputError
from snnsim.files import write_whole

if TYPE_CHECKING:
    from snnsim.deploy.network import IntegerNetwork

__all__ = ["CSource", "generate", "write_c"]

NUMBERS_PER_LINE = 16
C_TYPES = {"b": "int8_t", "B": "uint8_t", "h": "int16_t", "H": "uint16_t", "i": "int32_t", "I": "uint32_t"}
# events are kept as 16-bit numbers
MAX_PACKED_INPUTS = 2**16


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
        InvalidValueError: a name that C could not use.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "main":
        raise InvalidValueError(f"to_c(name={name!r}): must be a C identifier of lower-case letters, digits and _; such as 'snn'")
    return _Generator(network, name).source()


class _Generator:
    """Collects tables, helpers, layers and calls of one network."""

    def __init__(self, network: IntegerNetwork, name: str) -> None:
        self.network, self.name = network, name
        self.tables: list[str] = []
        self.layers: list[str] = []
        self.steps: list[str] = []
        self.reset: list[str] = []
        self.helpers: list[str] = []
        self.fields: list[str] = []
        self.code: list[str] = []
        self.weight_bytes = self.table_bytes = self.state_bytes = 0
        self.neurons = 0
        self.places, self.work_words = _plan(network)

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
            "in_type": _type(network.input),
            "out_type": _type(output),
            "fields": "".join(self.fields),
            "tables": "".join(self.tables),
            "helpers": "\n".join(HELPERS[helper] for helper in self.helpers),
            "layers": "\n".join(self.layers),
            "steps": "".join(self.steps),
            "reset": self._reset_body(),
            "code": self._code_body(),
        }
        files = {
            f"{name}.h": Template(HEADER).substitute(values),
            f"{name}.c": Template(SOURCE).substitute(values),
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
        shown = operation.name.encode("ascii", "backslashreplace").decode().replace("*/", "* /")
        self.steps.append(f"    /* {shown}: {type(operation).__name__.lower()} */\n")

    def _helper(self, *names: str) -> None:
        self.helpers.extend(name for name in names if name not in self.helpers)

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
        place, kind = self.places[signal], _type(self.network.signals[signal])
        return f"({kind} *)(net->work + {place})"

    def _reading(self, signal: int) -> str:
        if signal not in self.places:
            return "input"
        return f"(const {_type(self.network.signals[signal])} *)(net->work + {self.places[signal]})"

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
        geometry = _geometry(operation)
        values = geometry | {
            "i": i,
            "in_type": _type(source),
            "inputs": source.size,
            "scale": self._scale(operation, i, geometry["places"]),
            "group_in": operation.weight.shape[1],
            "group_out": outputs // operation.groups,
            "outputs": outputs,
            "padded": _padded_size(operation),
        }
        dense = operation.weight[:, :, 0, 0]
        if _is_packed(operation, source):
            nibbles = fits_nibbles(dense)
            self._table(f"weights_{i}", packed_nibbles(dense) if nibbles else packed_bytes(dense), weights=True)
            self._helper("nibbles" if nibbles else "bytes")
            kind, values["kernel"] = "packed", "sum_nibbles" if nibbles else "sum_bytes"
        else:
            kind = "dense" if _is_dense(operation) else "convolution"
            self._table(f"weights_{i}", operation.weight.transpose(1, 2, 3, 0), weights=True)
            values["weight_type"] = C_TYPES[operation.weight.dtype.char]
        self.layers.append(Template(LAYERS[kind]).substitute(values))
        self._call(i, self._reading(operation.inputs[0]), self._pointer(i + 1))

    def _scale(self, operation: Product, i: int, places: int) -> str:
        """Lines that turn sums into driven currents, in place."""
        value = "y[o]"
        # channel of output o
        channel = "o" if places == 1 else f"o / {places}"
        lines = []
        if operation.limits is not None:
            self._table(f"low_{i}", operation.limits[0])
            self._table(f"high_{i}", operation.limits[1])
            lines.append(f"y[o] = y[o] < low_{i}[{channel}] ? low_{i}[{channel}] : y[o];")
            lines.append(f"y[o] = y[o] > high_{i}[{channel}] ? high_{i}[{channel}] : y[o];")
        for name, constants, neutral, sign in (("scale", operation.multiplier, 1, "*"), ("bias", operation.offset, 0, "+")):
            if len(np.unique(constants)) > 1:
                self._table(f"{name}_{i}", constants)
                value += f" {sign} {name}_{i}[{channel}]"
            elif constants[0] != neutral:
                value += f" {sign} ({constants[0]})"
        if value != "y[o]":
            lines.append(f"y[o] = {value};")
        if not lines:
            # the loop variable of a packed layer would be unused
            return "    (void)o;\n" if _is_packed(operation, self.network.signals[operation.inputs[0]]) else ""
        # the loop variable of a convolution is signed
        end = f"{operation.output.size}{'u' * _is_dense(operation)}"
        return "".join(
            [f"    for (o = 0; o < {end}; o++) {{\n", *(f"        {line}\n" for line in lines), "    }\n"],
        )

    @_operation.register
    def _(self, operation: Pool, i: int) -> None:
        source = self.network.signals[operation.inputs[0]]
        padded = operation.window.padding != (0, 0)
        maximum = "seen = value > seen ? value : seen;"
        values = _geometry(operation) | {
            "i": i,
            "in_type": _type(source),
            "out_type": _type(operation.output),
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
            kind = _type(self.network.signals[source])
            parameters.append(f"const {kind} *x{k}")
            terms.append(f"(int32_t)x{k}[n]" + (f" * {1 << shift}" if shift else ""))
        values = {
            "i": i,
            "parameters": ", ".join(parameters),
            "out_type": _type(operation.output),
            "size": operation.output.size,
            "sum": " + ".join(terms),
        }
        self.layers.append(Template(LAYERS["add"]).substitute(values))
        self._call(i, *(self._reading(source) for source in operation.inputs), self._pointer(i + 1))

    @_operation.register
    def _(self, operation: Delay, i: int) -> None:
        kind, size = _type(operation.output), operation.output.size
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
        levels = operation.reset.shape[1]
        self._table(f"edges_{i}", operation.edges)
        self._table(f"leak_{i}", operation.leak)
        driven = "x[n]" + (f" * {1 << operation.shift}" if operation.shift else "")
        leak = f"leak_{i}[{_row_of(operation)}code]"
        self._neuron(operation, i, f"cell(edges_{i}, {levels - 1}u, {leak} + {driven})")

    @_operation.register
    def _(self, operation: TableNeuron, i: int) -> None:
        levels = operation.reset.shape[1]
        self._table(f"thresholds_{i}", operation.thresholds)
        self._neuron(operation, i, f"cell(thresholds_{i} + ({_row_of(operation)}code) * {levels - 1}u, {levels - 1}u, x[n])")

    def _neuron(self, operation: Neuron, i: int, charged: str) -> None:
        """A layer of neurons; `charged` is the expression for the code before the reset of neuron n with the state `code`."""
        size, channels = operation.output.size, len(operation.reset)
        bits = next(width for width in (1, 2, 4, 8) if width >= operation.bits)
        count = -(-size * bits // 8)
        self._helper("code", "cell")
        self.fields.append(f"    uint8_t codes_{i}[{count}];\n")
        self.state_bytes += count
        self.reset.append(
            f"    for (n = 0; n < {size}u; n++) {{\n        set_code(net->codes_{i}, n, {bits}u, {operation.start}u);\n    }}\n"
        )
        here = f"get_code(net->codes_{i}, n, {bits}u)"
        self.code.append(f"    if (n < {size}u) {{\n        return {here};\n    }}\n    n -= {size}u;\n")
        self.neurons += size
        self._table(f"reset_{i}", operation.reset)
        if operation.levels is not None:
            self._table(f"levels_{i}", operation.levels)
            emitted = f"levels_{i}[q]"
        elif channels > 1:
            self._table(f"fire_{i}", operation.fire)
            emitted = f"(uint8_t)((int32_t)q >= fire_{i}[channel])"
        else:
            emitted = f"(uint8_t)(q >= {operation.fire[0]}u)"
        if operation.levels is not None and _type(operation.output) == "uint8_t":
            emitted = f"(uint8_t){emitted}"
        channel = f"n / {operation.inner}u % {channels}u" if operation.inner > 1 else f"n % {channels}u"
        values = {
            "i": i,
            "in_type": _type(self.network.signals[operation.inputs[0]]),
            "out_type": _type(operation.output),
            "size": size,
            "bits": bits,
            "charged": charged,
            "channel": f"        const uint32_t channel = {channel};\n" if channels > 1 else "",
            "offset": _row_of(operation),
            "emitted": emitted,
        }
        self.layers.append(Template(LAYERS["neuron"]).substitute(values))
        self._call(i, f"net->codes_{i}", self._reading(operation.inputs[0]), self._pointer(i + 1))


def _row_of(operation: Neuron) -> str:
    """Start of the expression for a place in a table `[C, L]`."""
    channels, levels = operation.reset.shape
    return f"channel * {levels}u + " if channels > 1 else ""


def _plan(network: IntegerNetwork) -> tuple[dict[int, int], int]:
    """Where each signal lies in the work area, in words, and how many words that has; places are used again."""
    signals, operations = network.signals, network.operations
    # a reshape, and a delay of nothing, return the place that they read
    origin = list(range(len(signals)))
    for i, operation in enumerate(operations):
        if isinstance(operation, Reshape) or (isinstance(operation, Delay) and not operation.steps):
            origin[i + 1] = origin[operation.inputs[0]]
    last = dict.fromkeys(origin, 0)
    for i, operation in enumerate(operations):
        for source in operation.inputs:
            last[origin[source]] = i
    last[origin[network.output]] = len(operations)
    live: dict[int, tuple[int, int]] = {}
    places: dict[int, int] = {}
    words = 0
    for i, operation in enumerate(operations):
        signal = i + 1
        if origin[signal] != signal:
            if origin[signal]:
                places[signal] = places[origin[signal]]
            continue
        live = {other: span for other, span in live.items() if last[other] >= i}
        size = _padded_size(operation) if isinstance(operation, Product) else operation.output.size
        need = size if _type(operation.output) == "int32_t" else -(-size // 4)
        start = 0
        for begin, end in sorted(live.values()):
            if start + need <= begin:
                break
            start = max(start, end)
        live[signal], places[signal] = (start, start + need), start
        words = max(words, start + need)
    return places, words


def _type(signal: Signal) -> str:
    return "uint8_t" if signal.low >= 0 and signal.high <= 255 else "int32_t"


def _is_dense(operation: Product) -> bool:
    return operation.planes[1:] == (1, 1) and operation.window.count == 1 and operation.groups == 1


def _is_packed(operation: Product, source: Signal) -> bool:
    """Whether a layer's weights are summed several to a word: small weights, and inputs of 0 or 1."""
    binary = source.low >= 0 and source.high <= 1
    return _is_dense(operation) and binary and operation.weight.dtype == np.int8 and source.size <= MAX_PACKED_INPUTS


def _padded_size(operation: Product) -> int:
    """Sums that a layer writes; packed ones come in whole blocks."""
    size = operation.output.size
    return -(-size // BLOCK) * BLOCK if _is_dense(operation) else size


def _geometry(operation: Pool | Product) -> dict[str, int]:
    window = operation.window
    channels, height, width = operation.planes
    out_height, out_width = window.output_size(height, width)
    pairs = {name: getattr(window, name) for name in ("kernel", "stride", "padding", "dilation")}
    return {
        "channels": channels,
        "height": height,
        "width": width,
        "out_height": out_height,
        "out_width": out_width,
        "places": out_height * out_width,
        **{f"{name}_{axis}": pair[k] for name, pair in pairs.items() for k, axis in enumerate("yx")},
    }
