"""How the generated C lays out what it works on: the one place that decides type, size and place of
all its numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from snnsim.deploy.exactness import accumulator_bounds
from snnsim.deploy.operations import (
    Add,
    Delay,
    Integers,
    Neuron,
    Operation,
    Pool,
    Product,
    Reshape,
    Signal,
)
from snnsim.deploy.packing import BLOCK

if TYPE_CHECKING:
    from snnsim.deploy.network import IntegerNetwork

__all__ = [
    "CONVOLUTION",
    "DENSE",
    "PACKED",
    "Layout",
    "Values",
    "even_spacing",
    "geometry",
    "layout_of",
    "width_of",
]

# how a product is computed: weights of spikes, several to a word; every output from every input;
# tap by tap
PACKED, DENSE, CONVOLUTION = "packed", "dense", "convolution"
# events are kept as 16-bit numbers
MAX_PACKED_INPUTS = 2**16
# fields of the struct that hold values, and what each is an array of. C forbids to read and write
# the same memory as numbers of different widths, so each has one; bytes may lie in any
AREAS = {"work": "uint32_t", "halves": "int16_t"}
HOME = {"int32_t": "work", "int16_t": "halves"}
INPUT = "input"


@dataclass(frozen=True)
class Values:
    """The numbers of a signal in C; a signal that is another one in a new shape has the same ones.

    Attributes:
        kind: their type.
        size: how many there are.
        room: how many have memory: packed sums come in whole blocks.
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
        values: of each signal.
        forms: how each product is computed, by its signal.
        unscaled: signals of products that the neuron behind them scales as it reads them; their
            values are the sums themselves.
        areas: bytes of each field that holds values.
    """

    def __init__(self, network: IntegerNetwork, wide: tuple[str, ...]) -> None:
        self.network, self.wide = network, wide
        self.forms: dict[int, str] = {}
        self.unscaled: set[int] = set()
        self.areas = {HOME[kind]: 0 for kind in reversed(wide)}
        self.values = [
            Values(f"{network.input.given_as}_t", network.input.size, network.input.size)
        ]
        # a reshape, and a delay of nothing, return the values that they read
        origin = [0]
        for i, operation in enumerate(network.operations):
            origin.append(origin[operation.inputs[0]] if _is_passed_on(operation) else i + 1)
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
            values = self._values(signal, operation)
            over = {
                origin[s]
                for s in operation.inputs
                if _writes_over(operation, self.values[origin[s]], values)
            }
            live = [other for other in live if last[other] > i - (other not in over)]
            self.values.append(self._placed(values, [self.values[other] for other in live]))
            live.append(signal)

    @property
    def bytes(self) -> int:
        """Memory of all areas."""
        return sum(self.areas.values())

    def _values(self, signal: int, operation: Operation) -> Values:
        size, bounds = operation.output.size, [operation.output.low, operation.output.high]
        if not isinstance(operation, Product):
            return Values(_narrowest(("uint8_t", *self.wide), bounds), size, size)
        source = self.network.signals[operation.inputs[0]]
        form = _form(operation, source, self.values[operation.inputs[0]])
        self.forms[signal] = form
        if operation.window.places(*operation.planes[1:]) == 1 and self._goes_to_neurons_alone(
            signal
        ):
            self.unscaled.add(signal)
            bounds = []
        # the sums come first, and are scaled in place; on the way they are between 0 and their
        # bounds
        low, high = accumulator_bounds(operation.weight, source.low, source.high)
        bounds += [int(low.min()), int(high.max())]
        if form == PACKED:
            return Values("int32_t", size, -(-size // BLOCK) * BLOCK)
        return Values(_narrowest(self.wide, bounds), size, size)

    def _goes_to_neurons_alone(self, signal: int) -> bool:
        readers = [operation for operation in self.network.operations if signal in operation.inputs]
        return (
            signal != self.network.output and len(readers) == 1 and isinstance(readers[0], Neuron)
        )

    def _placed(self, values: Values, live: list[Values]) -> Values:
        """Values in the area that grows least by them, in the first gap between those that are
        needed.
        """
        choices = []
        for area in [HOME[values.kind]] if values.kind in HOME else self.areas:
            align = width_of(AREAS[area])
            start = 0
            for other in sorted(
                (other for other in live if other.area == area), key=lambda other: other.first
            ):
                if start + values.bytes <= other.first:
                    break
                start = max(start, -(-(other.first + other.bytes) // align) * align)
            end = -(-(start + values.bytes) // align) * align
            choices.append((max(self.areas[area], end) - self.areas[area], area, start))
        growth, area, start = min(choices, key=lambda choice: choice[0])
        self.areas[area] += growth
        return replace(values, area=area, first=start)


def layout_of(network: IntegerNetwork) -> Layout:
    """The layout of a network: sums and currents of up to 16 bits are kept as such where less
    memory is needed so.
    """
    return min(
        (Layout(network, wide) for wide in (("int32_t",), ("int16_t", "int32_t"))),
        key=lambda layout: layout.bytes,
    )


def width_of(kind: str) -> int:
    """Bytes of a number."""
    return np.dtype(kind.removesuffix("_t")).itemsize


def _narrowest(kinds: tuple[str, ...], numbers: list[int]) -> str:
    """The first type that holds all numbers, else the last one."""
    limits = {kind: np.iinfo(kind.removesuffix("_t")) for kind in kinds}
    fits = (
        kind
        for kind in kinds
        if limits[kind].min <= min(numbers) and max(numbers) <= limits[kind].max
    )
    return next(fits, kinds[-1])


def _is_passed_on(operation: Operation) -> bool:
    return isinstance(operation, Reshape) or (isinstance(operation, Delay) and not operation.steps)


def _form(operation: Product, source: Signal, values: Values) -> str:
    window = operation.window
    if (
        operation.planes[1:] != (1, 1)
        or window.count != 1
        or window.padding != (0, 0)
        or operation.groups != 1
    ):
        return CONVOLUTION
    is_events = source.is_binary and values.kind == "uint8_t" and source.size <= MAX_PACKED_INPUTS
    return PACKED if is_events and operation.weight.dtype == np.int8 else DENSE


def _writes_over(operation: Operation, source: Values, values: Values) -> bool:
    """Whether an operation may write where it has read: nothing it writes is wider, or comes before
    its own last reading.
    """
    if width_of(values.kind) > width_of(source.kind):
        return False
    return isinstance(operation, Neuron | Add) or (
        isinstance(operation, Pool) and _never_looks_back(operation)
    )


def _never_looks_back(operation: Pool) -> bool:
    """Whether every output sees nothing that lies before its own number."""
    _, height, width = operation.planes
    rows, columns = operation.window.firsts(height, width)
    # the number of a place is the sum of what its row and its column give
    down = (rows * width - np.arange(len(rows)) * len(columns)).min()
    right = (columns - np.arange(len(columns))).min()
    return bool(down + right >= 0) and operation.output.size <= math.prod(operation.planes)


def geometry(operation: Pool | Product) -> dict[str, Any]:
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
        **{
            f"{name}_{axis}": pair[k] for name, pair in pairs.items() for k, axis in enumerate("yx")
        },
    }


def even_spacing(edges: Integers) -> tuple[int, int, int] | None:
    """How almost evenly spaced edges are found without a search, in 32 bits: origin, multiplier and
    shift; None for others.

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
    below, lowest, highest = (
        np.arange(cells),
        edges[:-1].astype(np.int64),
        edges[1:].astype(np.int64) - 1,
    )
    first, last = ((h - origin) * multiplier >> shift for h in (lowest, highest))
    return (
        (origin, multiplier, shift)
        if (first >= below).all() and (last <= below + 1).all()
        else None
    )
