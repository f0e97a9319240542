"""An integer network packed into flat arrays: what the compiled engine runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

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
from snnsim.deploy.presets import LoihiLIF
from snnsim.kernels.cpu.records import fill, record_kind

if TYPE_CHECKING:
    from snnsim.deploy.network import IntegerNetwork

__all__ = ["KINDS", "RECORD", "Program", "Row", "tile_width"]

KINDS = {
    kind: number
    for number, kind in enumerate(
        (
            "product",
            "sum_pool",
            "max_pool",
            "add",
            "copy",
            "delay",
            "neuron",
            "table",
            "loihi",
            "speck",
            "xylo",
        )
    )
}
# outputs that are summed at once, most and fewest
LARGEST_TILE, SMALLEST_TILE = 128, 16
INT16_MAX = 2**15 - 1
# of the kernel's record, what the program says; the rest differs from call to call
FIXED = (
    "inputs copies_input table rows narrow wide constants parts num_parts state_bytes"
    " slot_size held sums events charged found out_first out_count"
)
RECORD = record_kind(f"batch time_steps x_bytes x_step slots out_bytes x state scratch out {FIXED}")


def tile_width(outputs: Any) -> Any:
    """Outputs of the next tile where so many are left, the empty ones that fill it up included."""
    width = LARGEST_TILE
    while width > SMALLEST_TILE and width // 2 >= outputs:
        width //= 2
    return width


class Row:
    """Columns of a program's table: what each number of an instruction means."""

    (
        KIND,
        SOURCE,  # first value of the input
        SIZE,  # values of the input
        TARGET,  # first value of the output
        COUNT,  # values of the output
        STATE,  # first of this operation's numbers in a sample's state
        SHIFT,
        CHANNELS,
        HEIGHT,
        WIDTH,
        OUT_HEIGHT,
        OUT_WIDTH,
        KERNEL_Y,
        KERNEL_X,
        STRIDE_Y,
        STRIDE_X,
        PADDING_Y,
        PADDING_X,
        DILATION_Y,
        DILATION_X,
        GROUPS,
        WEIGHTS,  # first weight, among the int8 ones where IS_NARROW
        IS_NARROW,
        CONSTANTS,  # first constant
        LIMITS,  # first limit, -1 for none
        LEVELS,  # of a codebook
        CHANNEL_OFFSETS,  # first constant of where the tables of each channel begin
        NUM_CHANNELS,
        STEPS,
        IS_TILED,  # weights are int8 and every output sees every input
        IS_BINARY,  # the input is 0 or 1
        IS_STATIC,  # depends on the input of this time step alone
        TERMS,  # how many weights at once can be added in 16 bits; 0 for none
        FIRE,  # first code that fires; -1 where it differs by channel, or for a readout
        HAS_RUNS,  # weights of a kernel's row lie in the order of the places that they go to
    ) = range(35)
    WIDTH_OF_TABLE = 35


@dataclass
class Program:
    """A network in flat arrays.

    Attributes:
        table: `[instructions, columns]` int64, see Row.
        narrow, wide: weights of int8, and of more bits as int32: a layer in tiles as `[I, width]`
            each, any other as `[I / groups, ky, kx, O]`.
        constants: int32 tables of every instruction.
        parts: `[P, 5]` int64, the states of one sample: first byte, first number, count, bits and
            smallest number.
        held: how many numbers the states of one sample take.
        values: how many integers all signals of one sample take together.
        scratch: largest number of values that one instruction reads or returns, tiles filled up.
        slot_size: how many integers a thread needs to work in.
        fixed: the second part of the kernel's record.
    """

    network: IntegerNetwork
    table: npt.NDArray[np.int64] = field(init=False)
    narrow: Integers = field(init=False)
    wide: Integers = field(init=False)
    constants: Integers = field(init=False)
    parts: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        signals, operations = self.network.signals, self.network.operations
        self._place(signals, operations)
        self._narrow: list[Integers] = [np.zeros(0, np.int8)]
        self._wide: list[Integers] = [np.zeros(0, np.int32)]
        self._constants: list[Integers] = [np.zeros(0, np.int32)]
        self._rows: list[npt.NDArray[np.int64]] = []
        for i, operation in enumerate(operations):
            if isinstance(operation, Reshape):
                continue
            row = self._row("copy", operation, operation.inputs[0], signals, i)
            self._pack(operation, row)
            self._rows.append(row)
            if isinstance(operation, Add):
                # a sum is its first input, then each further one added to it
                for source, shift in zip(operation.inputs[1:], operation.shifts[1:], strict=True):
                    more = self._row("add", operation, source, signals, i)
                    more[Row.SHIFT] = shift
                    self._rows.append(more)
        self.table = (
            np.stack(self._rows) if self._rows else np.zeros((0, Row.WIDTH_OF_TABLE), np.int64)
        )
        self.narrow, self.wide = np.concatenate(self._narrow), np.concatenate(self._wide)
        # a short table is read as a whole vector
        self.constants = np.concatenate([*self._constants, np.zeros(SMALLEST_TILE, np.int32)])
        self.scratch = max(signal.size for signal in signals) + LARGEST_TILE
        reads = self.table[self.table[:, Row.SOURCE] == 0]
        finds = (reads[:, Row.KIND] == KINDS["product"]) & (reads[:, Row.IS_BINARY] == 1)
        # nothing but layers of spikes, which find them where they are, reads the input
        copies_input = bool((~finds).any()) or self._starts[self.network.output] == 0
        # what one thread works in: values, state, sums, events, charged membranes and the codes
        # found for them
        starts = np.cumsum([0, self.values, self.held, *[self.scratch] * 4])
        self.slot_size = int(starts[-1])
        fields = dict(
            zip(("held", "sums", "events", "charged", "found"), starts[1:-1].tolist(), strict=True)
        )
        fields |= {
            name: getattr(self, name).ctypes.data
            for name in ("table", "narrow", "wide", "constants", "parts")
        }
        fields |= {"inputs": signals[0].size, "copies_input": copies_input, "rows": len(self.table)}
        fields |= {
            "num_parts": len(self.parts),
            "state_bytes": self.network.layout.size,
            "slot_size": self.slot_size,
        }
        fields |= {
            "out_first": self._starts[self.network.output],
            "out_count": signals[self.network.output].size,
        }
        self.fixed = fill(RECORD, **{name: int(fields[name]) for name in FIXED.split()})

    def _place(self, signals: tuple[Signal, ...], operations: tuple[Operation, ...]) -> None:
        """Where the values and the state of every operation begin; a reshaped signal is the signal
        that it was.
        """
        self._starts, self.values = [0], signals[0].size
        self._is_static, self._held = [True], [0]
        for operation in operations:
            if isinstance(operation, Reshape):
                self._starts.append(self._starts[operation.inputs[0]])
            else:
                self._starts.append(self.values)
                self.values += operation.output.size
            count = math.prod(operation.state_shape)
            self._is_static.append(
                not count and all(self._is_static[source] for source in operation.inputs)
            )
            # vectors that a kernel writes whole end before the next operation's numbers
            self._held.append(self._held[-1] + -(-count // SMALLEST_TILE) * SMALLEST_TILE)
        self.held = self._held[-1]
        layout = self.network.layout
        rows = [
            (part.first, first, part.count, part.bits, part.low)
            for part, first in zip(layout.parts, self._held, strict=False)
            if part.count
        ]
        self.parts = np.array(rows, np.int64).reshape(-1, 5)

    def _row(
        self, kind: str, operation: Operation, source: int, signals: tuple[Signal, ...], i: int
    ) -> npt.NDArray[np.int64]:
        row = np.zeros(Row.WIDTH_OF_TABLE, np.int64)
        row[Row.KIND] = KINDS[kind]
        row[Row.SOURCE], row[Row.SIZE] = self._starts[source], signals[source].size
        row[Row.TARGET], row[Row.COUNT] = self._starts[i + 1], operation.output.size
        row[Row.IS_STATIC], row[Row.STATE] = self._is_static[i + 1], self._held[i]
        return row

    def _constant(self, *tables: Integers) -> int:
        first = sum(map(len, self._constants))
        self._constants.extend(
            np.ascontiguousarray(table, dtype=np.int32).reshape(-1) for table in tables
        )
        return first

    @singledispatchmethod
    def _pack(self, operation: Operation, row: npt.NDArray[np.int64]) -> None:
        raise NotImplementedError(type(operation).__name__)

    @_pack.register
    def _(self, operation: Add, row: npt.NDArray[np.int64]) -> None:
        row[Row.SHIFT] = operation.shifts[0]

    @_pack.register
    def _(self, operation: Delay, row: npt.NDArray[np.int64]) -> None:
        if operation.steps:
            row[Row.KIND], row[Row.STEPS] = KINDS["delay"], operation.steps

    @_pack.register
    def _(self, operation: Pool, row: npt.NDArray[np.int64]) -> None:
        row[Row.KIND] = KINDS["max_pool" if operation.maximum else "sum_pool"]
        self._geometry(operation, row)

    @_pack.register
    def _(self, operation: Product, row: npt.NDArray[np.int64]) -> None:
        row[Row.KIND] = KINDS["product"]
        self._geometry(operation, row)
        weight, window, source = (
            operation.weight,
            operation.window,
            self.network.signals[operation.inputs[0]],
        )
        row[Row.CONSTANTS] = self._constant(operation.multiplier, operation.offset)
        row[Row.LIMITS] = -1 if operation.limits is None else self._constant(operation.limits)
        row[Row.NUM_CHANNELS], row[Row.GROUPS] = len(weight), operation.groups
        row[Row.IS_BINARY] = binary = source.is_binary
        row[Row.IS_NARROW] = narrow = weight.dtype == np.int8
        row[Row.IS_TILED] = (
            narrow
            and operation.planes[1:] == (1, 1)
            and window == Window()
            and operation.groups == 1
        )
        row[Row.HAS_RUNS] = operation.groups == 1 and window.stride[1] == window.dilation[1] == 1
        store = self._narrow if narrow else self._wide
        row[Row.WEIGHTS] = sum(map(len, store))
        if row[Row.IS_TILED]:
            store.extend(_tiles(weight.reshape(len(weight), -1), in_pairs=binary))
        else:
            turned = weight[..., ::-1] if row[Row.HAS_RUNS] else weight
            store.append(turned.transpose(1, 2, 3, 0).astype(store[0].dtype).reshape(-1))
        low, high = accumulator_bounds(weight, source.low, source.high)
        if max(-low.min(), high.max()) <= INT16_MAX and (binary or not row[Row.IS_TILED]):
            row[Row.TERMS] = row[Row.SIZE]
        elif row[Row.IS_TILED] and binary:
            row[Row.TERMS] = INT16_MAX // int(np.abs(weight.astype(np.int64)).max())

    @_pack.register
    def _(self, operation: GridNeuron, row: npt.NDArray[np.int64]) -> None:
        row[Row.KIND], row[Row.SHIFT] = KINDS["neuron"], operation.shift
        # filled up to a whole vector
        tops = np.concatenate([_tops(operation.edges), np.full(SMALLEST_TILE, INT32_MAX)])
        self._neuron(operation, row, operation.leak, tops)

    @_pack.register
    def _(self, operation: TableNeuron, row: npt.NDArray[np.int64]) -> None:
        row[Row.KIND] = KINDS["table"]
        self._neuron(operation, row, _tops(operation.thresholds))

    @_pack.register
    def _(self, operation: PresetNeuron, row: npt.NDArray[np.int64]) -> None:
        row[Row.KIND] = KINDS["loihi" if isinstance(operation.neuron, LoihiLIF) else "speck"]
        row[Row.CONSTANTS] = self._constant(np.array(operation.neuron.constants))

    @_pack.register
    def _(self, operation: PresetLayer, row: npt.NDArray[np.int64]) -> None:
        row[Row.KIND], row[Row.WEIGHTS] = KINDS["xylo"], sum(map(len, self._narrow))
        row[Row.CONSTANTS] = self._constant(np.array(operation.neuron.constants))
        self._narrow.append(operation.weight.reshape(-1))

    def _neuron(self, operation: Neuron, row: npt.NDArray[np.int64], *tables: Integers) -> None:
        """Constants: what every code emits, its reset, then the tables of the charge."""
        channels, levels = operation.reset.shape
        row[Row.LEVELS], row[Row.NUM_CHANNELS] = levels, channels
        fires = np.arange(levels) >= operation.fire[:, None]
        emitted = (
            fires
            if operation.levels is None
            else np.broadcast_to(operation.levels, (channels, levels))
        )
        row[Row.CONSTANTS] = self._constant(emitted, operation.reset, *tables)
        row[Row.FIRE] = operation.fire[0] if operation.levels is None and channels == 1 else -1
        if channels > 1:
            row[Row.CHANNEL_OFFSETS] = self._constant(operation.channel() * levels)

    def _geometry(self, operation: Pool | Product, row: npt.NDArray[np.int64]) -> None:
        window = operation.window
        row[Row.CHANNELS : Row.WIDTH + 1] = operation.planes
        row[Row.OUT_HEIGHT : Row.OUT_WIDTH + 1] = window.output_size(*operation.planes[1:])
        pairs = (window.kernel, window.stride, window.padding, window.dilation)
        row[Row.KERNEL_Y : Row.DILATION_X + 1] = [size for pair in pairs for size in pair]


def _tops(edges: Integers) -> Integers:
    """The last integer below each edge: what a value is compared with, so that nothing lies above
    the largest integer.
    """
    return edges.astype(np.int64) - 1


def _tiles(weight: Integers, in_pairs: bool) -> list[Integers]:
    """Weights `[O, I]` as tiles `[I, width]`, flat; outputs that fill up the last tile have weight
    0.

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
            tile = (
                (tile.view(np.uint8) ^ np.uint8(128))
                .reshape(-1, 2, width // 2)
                .transpose(0, 2, 1)
                .view(np.int8)
            )
        tiles.append(tile.reshape(-1))
        first += width
    return tiles
