"""An integer network packed into flat arrays: what the compiled engine runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

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

if TYPE_CHECKING:
    from snnsim.deploy.network import IntegerNetwork

__all__ = ["KINDS", "Program", "Row"]

KINDS = {kind: number for number, kind in enumerate(("product", "sum_pool", "max_pool", "add", "copy", "delay", "neuron", "table"))}


class Row:
    """Columns of a program's table: what each number of an instruction means."""

    (
        KIND,
        SOURCE,  # first value of the input
        SIZE,  # values of the input
        TARGET,  # first value of the output
        COUNT,  # values of the output
        STATE,  # first code, or first delayed value, of this operation in a sample's state
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
        INNER,
        NUM_CHANNELS,
        STEPS,
        IS_DENSE,  # every output sees every input
        IS_BINARY,  # the input is 0 or 1
    ) = range(31)
    WIDTH_OF_TABLE = 31


@dataclass
class Program:
    """A network in flat arrays.

    Attributes:
        table: `[instructions, columns]` int64, see Row.
        narrow, wide: weights of int8, and of more bits as int32, each layer as `[I / groups, ky, kx, O]`.
        constants: int32 tables of every instruction.
        values: how many integers all signals of one sample take together.
        codes: how many neuron states one sample has.
        delayed: how many values wait in one sample's delays.
        scratch: largest number of values that one instruction returns.
        output: first value of the network's output, and their number.
    """

    network: IntegerNetwork
    table: npt.NDArray[np.int64] = field(init=False)
    narrow: Integers = field(init=False)
    wide: Integers = field(init=False)
    constants: Integers = field(init=False)

    def __post_init__(self) -> None:
        signals = self.network.signals
        self._starts = np.concatenate([[0], np.cumsum([signal.size for signal in signals])])
        self._narrow: list[Integers] = [np.zeros(0, np.int8)]
        self._wide: list[Integers] = [np.zeros(0, np.int32)]
        self._constants: list[Integers] = [np.zeros(0, np.int32)]
        self._rows: list[npt.NDArray[np.int64]] = []
        self.codes = self.delayed = 0
        for i, operation in enumerate(self.network.operations):
            row = self._row("copy", operation, operation.inputs[0], signals, i)
            self._pack(operation, row)
            self._rows.append(row)
            if isinstance(operation, Add):
                # a sum is its first input, then each further one added to it
                for source, shift in zip(operation.inputs[1:], operation.shifts[1:], strict=True):
                    more = self._row("add", operation, source, signals, i)
                    more[Row.SHIFT] = shift
                    self._rows.append(more)
        self.table = np.stack(self._rows) if self._rows else np.zeros((0, Row.WIDTH_OF_TABLE), np.int64)
        self.narrow, self.wide = np.concatenate(self._narrow), np.concatenate(self._wide)
        self.constants = np.concatenate(self._constants)
        self.values = int(self._starts[-1])
        self.scratch = max(signal.size for signal in signals)
        output = self.network.output
        self.output = int(self._starts[output]), signals[output].size

    def _row(self, kind: str, operation: Operation, source: int, signals: tuple[Signal, ...], i: int) -> npt.NDArray[np.int64]:
        row = np.zeros(Row.WIDTH_OF_TABLE, np.int64)
        row[Row.KIND] = KINDS[kind]
        row[Row.SOURCE], row[Row.SIZE] = self._starts[source], signals[source].size
        row[Row.TARGET], row[Row.COUNT] = self._starts[i + 1], operation.output.size
        return row

    def _constant(self, *tables: Integers) -> int:
        first = sum(map(len, self._constants))
        self._constants.extend(np.ascontiguousarray(table, dtype=np.int32).reshape(-1) for table in tables)
        return first

    @singledispatchmethod
    def _pack(self, operation: Operation, row: npt.NDArray[np.int64]) -> None:
        raise NotImplementedError(type(operation).__name__)

    @_pack.register
    def _(self, operation: Reshape, row: npt.NDArray[np.int64]) -> None:
        pass

    @_pack.register
    def _(self, operation: Add, row: npt.NDArray[np.int64]) -> None:
        row[Row.SHIFT] = operation.shifts[0]

    @_pack.register
    def _(self, operation: Delay, row: npt.NDArray[np.int64]) -> None:
        if operation.steps:
            row[Row.KIND], row[Row.STEPS], row[Row.STATE] = KINDS["delay"], operation.steps, self.delayed
            self.delayed += operation.steps * operation.output.size

    @_pack.register
    def _(self, operation: Pool, row: npt.NDArray[np.int64]) -> None:
        row[Row.KIND] = KINDS["max_pool" if operation.maximum else "sum_pool"]
        self._geometry(operation, row)

    @_pack.register
    def _(self, operation: Product, row: npt.NDArray[np.int64]) -> None:
        row[Row.KIND] = KINDS["product"]
        self._geometry(operation, row)
        weight = operation.weight
        is_narrow = weight.dtype == np.int8
        store = self._narrow if is_narrow else self._wide
        row[Row.WEIGHTS], row[Row.IS_NARROW], row[Row.GROUPS] = sum(map(len, store)), is_narrow, operation.groups
        store.append(weight.transpose(1, 2, 3, 0).astype(store[0].dtype).reshape(-1))
        row[Row.CONSTANTS] = self._constant(operation.multiplier, operation.offset)
        row[Row.LIMITS] = -1 if operation.limits is None else self._constant(operation.limits)
        row[Row.NUM_CHANNELS] = len(weight)
        row[Row.IS_DENSE] = operation.planes[1:] == (1, 1) and operation.window == Window() and operation.groups == 1
        source = self.network.signals[operation.inputs[0]]
        row[Row.IS_BINARY] = source.low >= 0 and source.high <= 1

    @_pack.register
    def _(self, operation: GridNeuron, row: npt.NDArray[np.int64]) -> None:
        row[Row.KIND], row[Row.SHIFT] = KINDS["neuron"], operation.shift
        self._neuron(operation, row, operation.edges, operation.leak)

    @_pack.register
    def _(self, operation: TableNeuron, row: npt.NDArray[np.int64]) -> None:
        row[Row.KIND] = KINDS["table"]
        self._neuron(operation, row, operation.thresholds)

    def _neuron(self, operation: Neuron, row: npt.NDArray[np.int64], *tables: Integers) -> None:
        """Constants: what every code emits, its reset, then the tables of the charge."""
        channels, levels = operation.reset.shape
        row[Row.LEVELS], row[Row.NUM_CHANNELS], row[Row.INNER], row[Row.STATE] = levels, channels, operation.inner, self.codes
        self.codes += operation.output.size
        fires = np.arange(levels) >= operation.fire[:, None]
        emitted = fires if operation.levels is None else np.broadcast_to(operation.levels, (channels, levels))
        row[Row.CONSTANTS] = self._constant(emitted, operation.reset, *tables)

    def _geometry(self, operation: Pool | Product, row: npt.NDArray[np.int64]) -> None:
        window = operation.window
        row[Row.CHANNELS : Row.WIDTH + 1] = operation.planes
        row[Row.OUT_HEIGHT : Row.OUT_WIDTH + 1] = window.output_size(*operation.planes[1:])
        pairs = (window.kernel, window.stride, window.padding, window.dilation)
        row[Row.KERNEL_Y : Row.DILATION_X + 1] = [size for pair in pairs for size in pair]
