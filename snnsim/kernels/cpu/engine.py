"""The CPU engine: hands tensors to the compiled kernels as records of addresses."""

from __future__ import annotations

import ctypes
import importlib.util
import math
import struct
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from snnsim.kernels.codes import code_dtype, is_marked, mark_bit, stored_nan
from snnsim.kernels.cpu import pool, threads
from snnsim.kernels.cpu.cells import CellFinder, cell_finder
from snnsim.kernels.cpu.formula import Formula, read
from snnsim.kernels.layout import stored
from snnsim.kernels.reference import RUN, ReferenceEngine, histogram_block
from snnsim.kernels.table import LinearMembrane, Table

if TYPE_CHECKING:
    from snnsim.kernels.cpu.threads import Kernel

__all__ = ["CpuEngine", "warm_up"]

# neurons whose state stays in the second-level cache while time runs
BLOCK = 1 << 15
# bytes of what is saved whose derivative is evaluated at a time: it and what torch makes on the way
# stay in the second-level cache, and the C library keeps memory of this size when it is freed,
# rather than map it afresh for every operation
DERIVATIVE_BYTES = 1 << 18

# below this, torch evaluates a derivative sooner than its formula is read
FORMULA_ELEMENTS = 1 << 15

# how a record begins: nothing taken, nobody at work
HEADER = (0, 0, 0)

# for what has no fast way and needs none
_reference = ReferenceEngine()


class CpuEngine:
    """Compiled by numba, fused over time, on torch's own threads; equal to the reference bit for
    bit.
    """

    name = "cpu"

    def why_not(self, x: Tensor, table: Table | LinearMembrane) -> str | None:
        """Why the kernels cannot run this: no numba, another device, or constants they do not
        take."""
        if x.device.type != "cpu":
            return f"the input is on {x.device}"
        if isinstance(table, LinearMembrane) and table.channels > 1:
            return "an un-quantized neuron whose constants differ between channels"
        return unavailable()

    def forward(
        self, x: Tensor, carry: Tensor, table: Table, save: bool, plain: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """As `ReferenceEngine.forward`."""
        time_steps, size = x.shape
        prepared = _prepared(table)
        dtype = prepared.dtype
        driven = _rows(x if x.dtype == dtype else x.to(dtype))
        out = pool.empty(x.shape, dtype)
        last = torch.empty(size, dtype=dtype, device=x.device)
        stored = code_dtype(prepared.levels, table.clip, plain)
        codes = pool.empty(x.shape, stored) if save else None
        if size:
            kernel, constants = prepared.forward(table, stored)
            start, start_stride = _start(carry)
            block = _block(size, time_steps)
            _run(
                kernel,
                dtype,
                "FORWARD",
                (*HEADER, time_steps, size, block)
                + (
                    driven.data_ptr(),
                    driven.stride(0),
                    start.data_ptr(),
                    start_stride,
                    out.data_ptr(),
                    last.data_ptr(),
                )
                + ((0, 0) if codes is None else (codes.data_ptr(), codes.element_size()))
                + constants,
                -(-size // block),
                time_steps * size,
            )
        return out if x.dtype == dtype else out.to(x.dtype), last, codes

    def backward(
        self,
        codes: Tensor,
        aside: Tensor | None,
        grad_out: Tensor,
        grad_v: Tensor,
        table: Table,
        divide: bool,
    ) -> tuple[Tensor, Tensor]:
        """As `ReferenceEngine.backward`."""
        if aside is not None:
            return _reference.backward(codes, aside, grad_out, grad_v, table, divide)
        time_steps, size = codes.shape
        prepared = _prepared(table)
        dtype = prepared.dtype
        incoming = _rows(grad_out.to(dtype))
        grad = pool.empty(codes.shape, dtype)
        grad_carry = torch.empty(size, dtype=dtype, device=codes.device)
        if size:
            start, start_stride = _start(grad_v.to(dtype))
            block = _block(size, time_steps)
            _run(
                "backward" if prepared.levels <= 256 else "backward_long",
                dtype,
                "BACKWARD",
                (*HEADER, time_steps, size, block)
                + (
                    incoming.data_ptr(),
                    incoming.stride(0),
                    start.data_ptr(),
                    start_stride,
                    codes.data_ptr(),
                    codes.element_size(),
                )
                + (
                    grad.data_ptr(),
                    grad_carry.data_ptr(),
                    *prepared.backward(table, codes.dtype, divide),
                ),
                -(-size // block),
                time_steps * size,
            )
        return grad, grad_carry

    def histogram(
        self, codes: Tensor, aside: Tensor | None, weights: Tensor, table: Table
    ) -> Tensor:
        """As `ReferenceEngine.histogram`."""
        if aside is not None:
            return _reference.histogram(codes, aside, weights, table)
        time_steps, size = codes.shape
        block = histogram_block(size)
        blocks = -(-size // block)
        sums = torch.empty(
            blocks, table.channels, table.levels, dtype=torch.float64, device=codes.device
        )
        if size:
            weighted = _rows(weights.to(table.dtype))
            nan = _unsigned(stored_nan(table.levels, codes.dtype), codes.dtype)
            _run(
                "histogram",
                table.dtype,
                "HISTOGRAM",
                (*HEADER, time_steps, size, block)
                + (
                    weighted.data_ptr(),
                    weighted.stride(0),
                    codes.data_ptr(),
                    codes.element_size(),
                    sums.data_ptr(),
                )
                + (table.levels, table.channels, table.inner, _mark(table.levels, codes.dtype), nan)
                + (int(is_marked(table.levels, codes.dtype)),),
                blocks,
                time_steps * size,
            )
        total = torch.zeros(table.channels, table.levels, dtype=torch.float64, device=codes.device)
        for part in sums:
            total += part
        return total

    def input_product(self, grad: Tensor, x: Tensor) -> Tensor:
        """As `ReferenceEngine.input_product`."""
        return _products(grad, x.to(grad.dtype), (0, 0, 0), (0.0, 0.0, 0.0))

    def state_product(
        self, grad: Tensor, above: Tensor, v0: Tensor, membrane: LinearMembrane
    ) -> Tensor:
        """As `ReferenceEngine.state_product`."""
        start, start_stride = _start(v0)
        reset = 0.0 if membrane.reset is None else membrane.reset
        potentials = (float(membrane.threshold), reset, membrane.rest)
        return _products(
            grad, above, (start.data_ptr(), start_stride, 1), potentials, membrane.reset is not None
        )

    def linear_forward(
        self, x: Tensor, v: Tensor, membrane: LinearMembrane, save: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """As `ReferenceEngine.linear_forward`."""
        time_steps, size = x.shape
        driven = _rows(x.to(membrane.dtype))
        spikes = pool.empty(x.shape, membrane.dtype)
        above = pool.empty(x.shape, membrane.dtype) if save else None
        last = torch.empty(size, dtype=membrane.dtype, device=x.device)
        if size:
            block = _block(size, time_steps)
            start, start_stride = _start(v)
            _run(
                "linear_forward",
                membrane.dtype,
                "LINEAR",
                (*HEADER, time_steps, size, block)
                + (driven.data_ptr(), driven.stride(0), start.data_ptr(), start_stride)
                + (0 if above is None else above.data_ptr(), size, 0, 0)
                + (
                    spikes.data_ptr(),
                    size,
                    last.data_ptr(),
                    0,
                    0,
                    0,
                    0,
                    0,
                    *_membrane_constants(membrane, divide=True),
                ),
                -(-size // block),
                time_steps * size,
            )
        return spikes.to(x.dtype), last, above

    def linear_backward(
        self,
        above: Tensor,
        grad_out: Tensor,
        grad_v: Tensor,
        membrane: LinearMembrane,
        divide: bool,
    ) -> tuple[Tensor, Tensor]:
        """As `ReferenceEngine.linear_backward`."""
        formula = _formula(membrane) if above.numel() >= FORMULA_ELEMENTS else None
        return _linear_backward(above, grad_out, grad_v, membrane, divide, formula)


def _products(
    grad: Tensor,
    x: Tensor,
    state: tuple[int, int, int],
    potentials: tuple[float, float, float],
    hard: bool = False,
) -> Tensor:
    """What the kernel adds up, over all runs of neurons; `state` says where it starts, how far
    apart, and whether it counts.
    """
    grad, x = _rows(grad), _rows(x)
    time_steps, size = grad.shape
    runs = -(-size // RUN)
    sums = torch.zeros(runs, dtype=torch.float64, device=grad.device)
    if size:
        *start, of_state = state
        _run(
            "products",
            grad.dtype,
            "PRODUCT",
            (
                *HEADER,
                time_steps,
                size,
                RUN,
                grad.data_ptr(),
                grad.stride(0),
                x.data_ptr(),
                x.stride(0),
            )
            + (*start, sums.data_ptr(), of_state, int(hard), *potentials),
            runs,
            time_steps * size,
        )
    total = torch.zeros((), dtype=torch.float64, device=grad.device)
    for part in sums:
        total += part
    return total


def _linear_backward(
    above: Tensor,
    grad_out: Tensor,
    grad_v: Tensor,
    membrane: LinearMembrane,
    divide: bool,
    formula: Formula | None,
) -> tuple[Tensor, Tensor]:
    """Gradients with a derivative that the kernel evaluates, or without a formula torch, a part of
    the neurons at a time.
    """
    time_steps, size = above.shape
    incoming = _rows(grad_out.to(membrane.dtype))
    start, start_stride = _start(grad_v.to(membrane.dtype))
    grad = pool.empty(above.shape, membrane.dtype)
    grad_v0 = torch.empty(size, dtype=membrane.dtype, device=above.device)
    program: tuple[int, ...] = (0, 0, 0, 0, 0)
    if formula is not None:
        operations, factors = (
            np.array(formula.operations, dtype=np.int64),
            np.array(formula.constants),
        )
        program = (
            operations.ctypes.data,
            len(operations),
            factors.ctypes.data,
            len(factors),
            formula.result,
        )
    constants = _membrane_constants(membrane, divide)
    columns = (
        size
        if formula
        else max(1024, DERIVATIVE_BYTES // (above.element_size() * time_steps) // 64 * 64)
    )
    for first in range(0, size, columns):
        width = min(columns, size - first)
        offset = first * above.element_size()
        slopes = None if formula else _rows(membrane.slopes(above[:, first : first + width]))
        block = _block(width, time_steps)
        _run(
            "linear_backward",
            membrane.dtype,
            "LINEAR",
            (*HEADER, time_steps, width, block)
            + (
                incoming.data_ptr() + offset,
                incoming.stride(0),
                start.data_ptr() + offset * start_stride,
                start_stride,
            )
            + (
                above.data_ptr() + offset,
                size,
                *((0, 0) if slopes is None else (slopes.data_ptr(), slopes.stride(0))),
            )
            + (grad.data_ptr() + offset, size, grad_v0.data_ptr() + offset, *program, *constants),
            -(-width // block),
            time_steps * width,
        )
    return grad, grad_v0


def unavailable() -> str | None:
    """Why the kernels cannot run here at all; None if they can."""
    # looked up each time: it costs a microsecond
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed; pip install numba"
    return _import_problem()


def warm_up() -> None:
    """Compile every kernel, or load it from disk, before it is needed."""
    from snnsim.kernels.cpu import passes

    for name in passes.__all__:
        if name.islower():
            for wide in (False, True):
                _kernel(name, wide)


@cache
def _import_problem() -> str | None:
    try:
        from snnsim.kernels.cpu import kernel_cache  # noqa: F401
    except ImportError as problem:
        return f"numba cannot be imported: {problem}"
    return None


class _Prepared:
    """What the kernels are told of a table besides its contents, found out once for the life of the
    table.
    """

    def __init__(self, table: Table) -> None:
        self.dtype, self.levels = table.dtype, table.levels
        # without a graph, and kept: the kernels are given their addresses
        self.entries = _contiguous(table.out, table.carry, table.after)
        self.slopes = _contiguous(table.d_out, table.d_carry, table.d_after)
        self.divisor, self.none = _divisors(table.divisor, self.dtype), _divisors(None, self.dtype)
        self.edges = table.edges.detach().numpy()
        self.seen = b""
        self.forwards: dict[torch.dtype, tuple[str, tuple[Any, ...]]] = {}
        self.cells: dict[torch.dtype, CellFinder] = {}
        self.backwards: dict[tuple[torch.dtype, bool], tuple[Any, ...]] = {}

    def forward(self, table: Table, stored: torch.dtype) -> tuple[str, tuple[Any, ...]]:
        """The kernel for codes of type `stored`, and the end of its record."""
        edges = self.edges.tobytes()
        if edges != self.seen:
            self.seen, self.forwards = edges, {}
        if stored not in self.forwards:
            cells = _cells(table)
            bounds = (table.low, table.high) if table.clip else (-math.inf, math.inf)
            self.forwards[stored] = (
                cells.kernel,
                (
                    (cells.edges.ctypes.data, *(value.data_ptr() for value in self.entries))
                    + (
                        self.levels,
                        table.channels,
                        table.inner,
                        self.divisor.data_ptr(),
                        self.divisor.numel(),
                    )
                    + (
                        _mark(self.levels, stored),
                        _unsigned(stored_nan(self.levels, stored), stored),
                    )
                    + (
                        0 if cells.bins is None else cells.bins.ctypes.data,
                        cells.num_bins,
                        cells.low_bin,
                        cells.shift,
                    )
                    + (*bounds, cells.origin, cells.inverse)
                ),
            )
            # the finder's arrays must live as long as their addresses are in use
            self.cells[stored] = cells
        return self.forwards[stored]

    def backward(self, table: Table, stored: torch.dtype, divide: bool) -> tuple[Any, ...]:
        """The end of the record of a backward kernel."""
        if (stored, divide) not in self.backwards:
            divisor = self.divisor if divide else self.none
            self.backwards[stored, divide] = (
                *(value.data_ptr() for value in self.slopes),
                *(
                    self.levels,
                    table.channels,
                    table.inner,
                    divisor.data_ptr(),
                    divisor.numel(),
                    _mark(self.levels, stored),
                ),
            )
        return self.backwards[stored, divide]


_known: WeakKeyDictionary[Table, _Prepared] = WeakKeyDictionary()


def _prepared(table: Table) -> _Prepared:
    found = _known.get(table)
    if found is None:
        found = _Prepared(table)
        # a copy would not follow a change of what it was made from
        tensors = (table.out, table.carry, table.after, table.d_out, table.d_carry, table.d_after)
        if all(value.is_contiguous() for value in tensors):
            _known[table] = found
    return found


def _kernel(name: str, wide: bool) -> Kernel:
    return _kernel_cache().kernel(name, wide)


@cache
def _kernel_cache() -> Any:
    # an import statement takes as long as all of a launch
    from snnsim.kernels.cpu import kernel_cache

    return kernel_cache


def _run(
    name: str, dtype: torch.dtype, record: str, fields: tuple[Any, ...], blocks: int, elements: int
) -> None:
    """Fill a record and run a kernel on it; the caller keeps what the addresses point to."""
    layout, buffer = _packing(record)
    memory = buffer()
    layout.pack_into(memory, 0, *fields)
    threads.run(_kernel(name, dtype == torch.float64), ctypes.addressof(memory), blocks, elements)


def _cells(table: Table) -> CellFinder:
    """How the cell of a value is found in this table."""
    wide = table.dtype == torch.float64
    return cell_finder(table.edges.detach().numpy().tobytes(), "float64" if wide else "float32")


@cache
def _packing(record: str) -> tuple[struct.Struct, type[ctypes.Array[ctypes.c_char]]]:
    """A record of the kernels as `struct` packs it, eight bytes a field, and memory for it; a type
    that is made once.
    """
    from snnsim.kernels.cpu import passes

    fields = getattr(passes, record).fields.values()
    layout = struct.Struct("=" + "".join("d" if kind == np.float64 else "q" for kind, _ in fields))
    return layout, ctypes.c_char * layout.size


def _block(size: int, time_steps: int) -> int:
    """Neurons of a block: as many as the cache holds, fewer where every thread would otherwise not
    get its share.
    """
    count = threads.thread_count(time_steps * size)
    return BLOCK if count == 1 else max(1024, min(BLOCK, -(-size // (4 * count * 1024)) * 1024))


def _rows(rows: Tensor) -> Tensor:
    """Rows that are dense in themselves; the conversion of a dtype may have laid them out
    otherwise.
    """
    return rows if rows.shape[1] == 0 or rows.stride(1) == 1 else rows.contiguous()


def _start(start: Tensor) -> tuple[Tensor, int]:
    """The start of each neuron, and the distance to the next one's: 0 where all share one."""
    stride = start.stride(0) if start.shape[0] > 1 else 0
    return start, stride


def _formula(membrane: LinearMembrane) -> Formula | None:
    """The formula of the derivative, where there is one and the kernel gives with it what torch
    gives.
    """
    found = read(membrane.derivative, membrane.dtype)
    if found is None:
        return None
    # by the function as well: it may do what its formula does not show, such as through numpy
    key = (membrane.derivative, found, membrane.dtype)
    try:
        if key not in _proven:
            if len(_proven) >= MOST_PROVEN:
                _proven.clear()
            _proven[key] = _is_exact(found, membrane)
        return found if _proven[key] else None
    except TypeError:
        # a function that cannot be a key
        return found if _is_exact(found, membrane) else None


_proven: dict[tuple[Any, ...], bool] = {}
MOST_PROVEN = 1024


def _is_exact(formula: Formula, membrane: LinearMembrane) -> bool:
    """Whether the kernel agrees with torch to the last bit on values of every size, and on all
    sides of every constant.
    """
    kind = torch.finfo(membrane.dtype)
    corners = [
        0.0,
        kind.smallest_normal / 4,
        float(kind.max),
        math.inf,
        math.nan,
        *formula.constants,
    ]
    with np.errstate(over="ignore"):
        sizes = np.geomspace(kind.tiny, kind.max, 257)
    # through numpy: torch may have been told to make tensors elsewhere
    x = torch.from_numpy(np.concatenate([sizes, np.linspace(0, 8, 4001), corners])).to(
        membrane.dtype
    )
    beside = [torch.nextafter(x, torch.full_like(x, side)) for side in (-math.inf, math.inf)]
    x = torch.cat([x, *beside])
    # two rows, as what it is to be used on
    x = torch.stack([x, -x])
    try:
        theirs = membrane.slopes(x).masked_fill(x.isnan(), 0.0)
    except Exception:  # noqa: BLE001
        # torch will say what is wrong with it, if anything is
        return False
    alone = LinearMembrane(torch.ones_like(x[0, :1]), membrane.derivative, detach_reset=True)
    for row, slopes in zip(x, theirs, strict=True):
        ours, _ = _linear_backward(
            row[None], torch.ones_like(row[None]), torch.zeros_like(row), alone, False, formula
        )
        if not torch.where(slopes.isnan(), ours[0].isnan(), ours[0] == slopes).all():
            return False
    return True


def _contiguous(*entries: Tensor) -> tuple[Tensor, ...]:
    return tuple(stored(value.detach()).contiguous() for value in entries)


def _divisors(divisor: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The divisors one after the other; none is no division."""
    return torch.empty(0, dtype=dtype, device="cpu") if divisor is None else _contiguous(divisor)[0]


def _mark(levels: int, dtype: torch.dtype) -> int:
    return _unsigned(mark_bit(dtype), dtype) if is_marked(levels, dtype) else 0


def _unsigned(value: int, dtype: torch.dtype) -> int:
    """A stored code as the kernels see it: without a sign."""
    return value % (1 << (8 * dtype.itemsize))


def _membrane_constants(membrane: LinearMembrane, divide: bool) -> tuple[Any, ...]:
    tau = 1.0 if membrane.tau is None else float(membrane.tau)
    divisor = float(membrane.divisor) if divide and membrane.divisor is not None else 1.0
    flags = (
        int(membrane.tau is not None),
        int(membrane.reset is not None),
        int(membrane.detach_reset),
    )
    reset = 0.0 if membrane.reset is None else membrane.reset
    return *flags, float(membrane.threshold), reset, tau, membrane.rest, divisor
