"""`to_c`: an integer network as standalone C99, without floating point, memory allocation or any
library.

`Layout` decides type, size and place of all numbers, `Source` collects the text; what an operation
adds to it is the operation's own.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from string import Template
from typing import Any

import numpy as np

from snnsim._core.files import write_folder
from snnsim._version import __version__
from snnsim.deploy.c_templates import HEADER, HELPERS, MAIN, MAKEFILE, SOURCE
from snnsim.deploy.integers import (
    DECISIONS,
    NetworkData,
    input_in_words,
    layout_in_words,
    time_in_words,
)
from snnsim.deploy.ops.base import Integers, Operation
from snnsim.errors import InvalidValueError

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
# fields of the struct that hold values, and what each is an array of. C forbids to read and write
# the same memory as numbers of different widths, so each has one; bytes may lie in any
AREAS = {"work": "uint32_t", "halves": "int16_t"}
HOME = {"int32_t": "work", "int16_t": "halves"}
INPUT = "input"
# of C and C++ up to C23 and C++26, which no struct can be named
WORDS = (
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char class co_await"
    " co_return co_yield compl concept const const_cast consteval constexpr constinit continue"
    " contract_assert decltype default delete do double dynamic_cast else enum explicit export"
    " extern false float for friend goto if import inline int long module mutable namespace new"
    " noexcept not not_eq nullptr operator or or_eq private protected public register"
    " reinterpret_cast requires restrict return short signed sizeof static static_assert"
    " static_cast struct switch template this thread_local throw true try typedef typeid typename"
    " typeof typeof_unqual union unsigned using virtual void volatile wchar_t while xor xor_eq"
)
# what a header of the standard, or a compiler that is not told to be strict, replaces by something
# else
MACROS = (
    "assert complex errno imaginary math_errhandling noreturn offsetof setjmp stderr stdin stdout"
    " unreachable bfin cris far gcos hpux hppa huge host_mips i386 i486 i586 i686 interrupt linux"
    " m68k mc68000 mips near ns32000 pdp11 pixel powerpc ptx pyr sequent sgi sparc sun svr4 tahoe"
    " unix u3b vax vector"
)
# files that Windows cannot hold
DEVICES = r"aux|con|nul|prn|com\d|lpt\d"


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


def write_c(network: NetworkData, folder: str | os.PathLike[str], name: str) -> CSource:
    """Write what `generate` makes into a new folder."""
    source = generate(network, name)
    files = {file: text.encode("ascii") for file, text in source.files.items()}
    write_folder(folder, files, "IntegerNetwork.to_c")
    return source


def generate(network: NetworkData, name: str = "snn") -> CSource:
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
    return Source(network, name).written()


def why_not(network: NetworkData) -> str | None:
    """Reason that a network has no C; None where it has."""
    for operation in network.operations:
        reason = operation.why_not_c()
        if reason is not None:
            return reason
    bits = sum(neuron.output.size * neuron.packed_bits for neuron in network.neurons.values())
    if bits > COUNTED:
        return (
            f"its states take {bits} bits, and C counts up to 2^32; use fewer neurons or fewer bits"
        )
    return None


def check_name(name: str) -> None:
    """Refuse a name that files, struct and functions could not have."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "main":
        rule = "must be a C identifier of lower-case letters, digits and _;"
    elif name in WORDS.split() or name.endswith("_t"):
        rule = "is a word of C or C++, or a type's; take another,"
    elif name in MACROS.split():
        rule = "is a macro of some compilers; take another,"
    elif re.fullmatch(DEVICES, name):
        rule = "is no name for a file on Windows; take another,"
    elif name.endswith("_") or "__" in name:
        rule = "would make names with two _ in a row, which C++ keeps;"
    else:
        return
    raise InvalidValueError(f"to_c(name={name!r}): {rule} such as 'snn'")


@dataclass(frozen=True)
class Values:
    """The numbers of a signal in C; a signal that is another one in a new shape has the same ones.

    Attributes:
        kind: their type.
        size: of one sample.
        room: that have memory: packed sums come in whole blocks.
        area: the field of the struct that they lie in, or "input" for the caller's.
        first: byte of the area that they begin with.
    """

    kind: str
    size: int
    room: int
    area: str = INPUT
    first: int = 0

    @property
    def bytes(self) -> int:
        """Memory that they take."""
        return self.room * width_of(self.kind)

    @property
    def cast(self) -> str:
        """From a number of 32 bits to one of them."""
        return "" if self.kind == "int32_t" else f"({self.kind})"

    def at(self, place: str) -> str:
        """Expression for the one at a place as a number of 32 bits, also where an int has 16."""
        return f"{'' if self.kind == 'int32_t' else '(int32_t)'}{place}"

    def pointer(self, qualifier: str = "") -> str:
        """Expression for where they begin."""
        if self.area == INPUT:
            return INPUT
        begin = f"net->{self.area} + {self.first // width_of(AREAS[self.area])}"
        return begin if self.kind == AREAS[self.area] else f"({qualifier}{self.kind} *)({begin})"


class Layout:
    """Types, sizes and places of the values of a network; places are used again.

    Attributes:
        signals: of the network.
        values: of each signal.
        unscaled: signals of layers that the neurons behind them scale as they read them; their
            values are the sums themselves.
        areas: bytes of each field that holds values.
    """

    def __init__(self, network: NetworkData, wide: tuple[str, ...]) -> None:
        self.network, self.wide, self.signals = network, wide, network.signals
        self.unscaled: set[int] = set()
        self.areas = {HOME[kind]: 0 for kind in reversed(wide)}
        size = network.input.size
        self.values = [Values(f"{network.input.given_as}_t", size, size)]
        # what an operation passes on is the values that it reads
        origin = [0]
        for i, operation in enumerate(network.operations):
            origin.append(origin[operation.inputs[0]] if operation.passes_on else i + 1)
        last = dict.fromkeys(origin, 0)
        for i, operation in enumerate(network.operations):
            last |= dict.fromkeys((origin[source] for source in operation.inputs), i)
        last[origin[network.output]] = len(network.operations)
        live: list[int] = []
        for i, operation in enumerate(network.operations):
            signal = i + 1
            if origin[signal] != signal:
                self.values.append(self.values[origin[signal]])
                continue
            values = operation.c_values(self) or self._narrowest_of(operation)
            over = set()
            for read in (origin[source] for source in operation.inputs):
                # nothing that it writes is wider than what it reads
                is_wider = width_of(values.kind) > width_of(self.values[read].kind)
                if not is_wider and operation.writes_over():
                    over.add(read)
            live = [other for other in live if last[other] > i - (other not in over)]
            self.values.append(self._placed(values, [self.values[other] for other in live]))
            live.append(signal)

    @property
    def bytes(self) -> int:
        """Memory of all areas."""
        return sum(self.areas.values())

    def _narrowest_of(self, operation: Operation) -> Values:
        output = operation.output
        kind = _narrowest(("uint8_t", *self.wide), [output.low, output.high])
        return Values(kind, output.size, output.size)

    def sums(self, size: int, numbers: list[int], room: int | None = None) -> Values:
        """Values of a layer that sums in place; packed ones, with `room` for blocks, of 32 bits."""
        if room is not None:
            return Values("int32_t", size, room)
        return Values(_narrowest(self.wide, numbers), size, size)

    def goes_to_neurons_alone(self, signal: int) -> bool:
        """True where a signal is read by one operation that scales sums as it reads them."""
        readers = [op for op in self.network.operations if signal in op.inputs]
        return signal != self.network.output and len(readers) == 1 and readers[0].reads_sums

    def _placed(self, values: Values, live: list[Values]) -> Values:
        """Values in the area that grows least, in the first gap between those that are needed."""
        choices = []
        for area in [HOME[values.kind]] if values.kind in HOME else self.areas:
            align = width_of(AREAS[area])
            start = 0
            here = (other for other in live if other.area == area)
            for other in sorted(here, key=lambda other: other.first):
                if start + values.bytes <= other.first:
                    break
                start = max(start, -(-(other.first + other.bytes) // align) * align)
            end = -(-(start + values.bytes) // align) * align
            choices.append((max(self.areas[area], end) - self.areas[area], area, start))
        growth, area, start = min(choices, key=lambda choice: choice[0])
        self.areas[area] += growth
        return replace(values, area=area, first=start)


def layout_of(network: NetworkData) -> Layout:
    """The layout that needs least memory: with sums of up to 16 bits kept as such, or without."""
    layouts = (Layout(network, wide) for wide in (("int32_t",), ("int16_t", "int32_t")))
    return min(layouts, key=lambda layout: layout.bytes)


def width_of(kind: str) -> int:
    """Bytes of a number."""
    return np.dtype(kind.removesuffix("_t")).itemsize


def _narrowest(kinds: tuple[str, ...], numbers: list[int]) -> str:
    """The first type that holds all numbers, else the last one."""
    for kind in kinds:
        limits = np.iinfo(kind.removesuffix("_t"))
        if limits.min <= min(numbers) and max(numbers) <= limits.max:
            return kind
    return kinds[-1]


def even_spacing(edges: Integers) -> tuple[int, int, int] | None:
    """Origin, multiplier and shift that find almost evenly spaced edges without a search, in 32
    bits; None for others.

    With `g = (h - origin) * multiplier >> shift`, for h from the first edge up to the last, `g + (h
    >= edges[g])` is the number of edges at most h. The origin is half a cell below the first edge,
    so that g has room on both sides. As g does not decrease in h, it is enough to look at both ends
    of each cell.
    """
    cells = len(edges) - 1
    width = int(edges[-1]) - int(edges[0]) if cells > 0 else 0
    if cells < 1 or width < 2 * cells or width >= 2**30:
        return None
    origin = int(edges[0]) - width // (2 * cells)
    shift = 31
    while (cells << shift) // width * 2 * width >= 2**32:
        shift -= 1
    multiplier = (cells << shift) // width
    below, ends = np.arange(cells), (edges[:-1].astype(np.int64), edges[1:].astype(np.int64) - 1)
    first, last = ((h - origin) * multiplier >> shift for h in ends)
    finds = (first >= below).all() and (last <= below + 1).all()
    return (origin, multiplier, shift) if finds else None


class Source:
    """Tables, helpers, functions and calls of one network's C, as its operations add them.

    Attributes:
        layout: of all values.
        i: number of the operation whose turn it is.
        fields: of the struct: type, name and length of each array.
        reset: lines that put them to rest.
    """

    def __init__(self, network: NetworkData, name: str) -> None:
        self.network, self.name = network, name
        self.tables: list[str] = []
        self.functions: list[str] = []
        self.steps: list[str] = []
        self.reset: list[str] = []
        self.helpers: dict[str, str] = {}
        self.fields: list[tuple[str, str, int]] = []
        self.code: list[str] = []
        self.weight_bytes = self.table_bytes = 0
        self.neurons = 0
        self.layout = layout_of(network)
        self.i = 0

    def written(self) -> CSource:
        """The files."""
        for i, operation in enumerate(self.network.operations):
            self.i = i
            # a name may hold anything, also the end of a comment
            shown = operation.name.encode("unicode_escape").decode()
            shown = shown.replace("*/", "* /").replace("/*", "/ *")
            self.steps.append(f"    /* {shown}: {type(operation).__name__.lower()} */\n")
            operation.c(self)
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
        meaning = "spikes of one sample and time step"
        if not output.is_binary:
            meaning = f"values, in units of 2^-{output.frac_bits}"
        steps = network.time_steps
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
            "time_steps": "" if steps is None else f"#define {name.upper()}_TIME_STEPS {steps}u\n",
            "outputs": output.size,
            "neurons": self.neurons,
            "meaning": meaning + rule,
            "in_type": self.layout.values[0].kind,
            "out_type": given_as,
            "fields": "".join(f"    {kind} {field}[{count}];\n" for kind, field, count in fields),
            "tables": "".join(self.tables),
            "helpers": "\n".join(self.helpers.values()),
            "layers": "\n".join(self.functions),
            "steps": "".join(self.steps),
            "reset": "".join(
                ["    uint32_t n;\n", *self.reset] if self.reset else ["    (void)net;\n"]
            ),
            "code": "".join(
                [*(self.code or ["    (void)net;\n"]), f"    return {'0' if self.code else 'n'};\n"]
            ),
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

    def helper(self, *names: str) -> None:
        """Add functions of the templates."""
        for name in names:
            self.helpers[name] = Template(HELPERS[name]).substitute(events=EVENTS)

    def cell(self, levels: int, edges: str, h: str, narrow: bool = False) -> str:
        """Expression for the number of `levels - 1` edges (int16 if narrow) that are at most h."""
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

    def cell_of(self, edges: Integers, name: str, h: str) -> str:
        """As `cell`, for edges that are known: all but evenly spaced ones need no search."""
        spacing = even_spacing(edges)
        if spacing is None:
            return self.cell(len(edges) + 1, name, h)
        self.helper("even_cell")
        origin, multiplier, shift = spacing
        return (
            f"even_cell({name}, {len(edges) - 1}u, {origin % 2**32}u, {multiplier}u, {shift}u, {h})"
        )

    def table(self, name: str, values: Integers, weights: bool = False) -> str:
        """Add an array of constants; returns the type of its numbers."""
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
        return C_TYPES[flat.dtype.char]

    def function(self, template: str, values: dict[str, Any], *state: str) -> None:
        """Add `layer_i` and its call: it reads its inputs as `x`, or `x0` ..., and writes `y`."""
        inputs = [self.layout.values[k] for k in self.network.operations[self.i].inputs]
        output = self.layout.values[self.i + 1]
        types = {"in_type": inputs[0].kind, "out_type": output.kind, "cast": output.cast}
        self.functions.append(Template(template).substitute(values, i=self.i, **types))
        arguments = [*(read.pointer("const ") for read in inputs), output.pointer()]
        self.steps.append(f"    layer_{self.i}({', '.join([*state, *arguments])});\n")

    def codes(self, count: int, here: str) -> None:
        """Add neurons to the function that returns their codes; `here` is that of the n-th."""
        self.code.append(
            f"    if (n < {count}u) {{\n        return {here};\n    }}\n    n -= {count}u;\n"
        )
        self.neurons += count

    def reading(self, source: int) -> str:
        """Expression for what neuron n is driven by: a signal, or sums that it scales itself."""
        value = self.layout.values[source].at("x[n]")
        if source not in self.layout.unscaled:
            return value
        layer: Any = self.network.operations[source - 1]
        return layer.driven(self, source - 1, value, "n")
