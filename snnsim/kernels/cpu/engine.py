"""The CPU engine: hands tensors to the compiled kernels, in records with named fields."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnsim._core.autograd import stored
from snnsim.automaton.automaton import Automaton
from snnsim.kernels.codes import (
    CellFinder,
    cell_finder,
    code_dtype,
    is_marked,
    mark_bit,
    nan_aside,
    stored_nan,
)
from snnsim.kernels.cpu import host, records
from snnsim.kernels.cpu.formula import Formula, read
from snnsim.kernels.gradients import Saved
from snnsim.kernels.linear import LinearMembrane
from snnsim.kernels.reference import RUN, ReferenceAutomaton, ReferenceMembrane, histogram_block

__all__ = ["CpuEngine", "warm_up"]

# neurons whose state stays in the second-level cache while time runs
BLOCK = 1 << 15
# bytes of what is saved whose derivative is evaluated at a time: it and what torch makes on the way
# stay in the second-level cache, and the C library keeps memory of this size when it is freed,
# rather than map it afresh for every operation
DERIVATIVE_BYTES = 1 << 18

# below this, torch evaluates a derivative sooner than its formula is read
FORMULA_ELEMENTS = 1 << 15


class CpuAutomaton(ReferenceAutomaton):
    """An automaton on torch's own threads, fused over time, as `ReferenceAutomaton`."""

    def __init__(self, automaton: Automaton) -> None:
        super().__init__(automaton)
        self.dtype, self.wide = automaton.dtype, automaton.dtype == torch.float64
        # without a graph, and kept: records hold their addresses
        self.entries = _contiguous(automaton.out, automaton.carry, automaton.after)
        self.slopes = _contiguous(automaton.d_out, automaton.d_carry, automaton.d_after)
        self.divisor = _divisors(automaton.divisor, self.dtype)
        self.cells = _cells(automaton)
        kernels = _kernels()
        self.forward_kernel = kernels.kernel(self.cells.kernel, self.wide)
        name = "backward" if automaton.levels <= 256 else "backward_long"
        self.backward_kernel = kernels.kernel(name, self.wide)
        # the part of a record that no call changes, by the dtype of codes
        self.forwards: dict[torch.dtype, Any] = {}
        self.backwards: dict[torch.dtype, Any] = {}
        self.histograms: dict[torch.dtype, Any] = {}
        levels = automaton.levels
        self.code_dtypes = [code_dtype(levels, automaton.clip, plain) for plain in (False, True)]
        self.marked = {dtype: is_marked(levels, dtype) for dtype in self.code_dtypes}

    def forward(
        self, x: Tensor, start: Tensor, save: bool, plain: bool = True
    ) -> tuple[Tensor, Tensor, Saved]:
        """As `ReferenceAutomaton.forward`."""
        time_steps, size = x.shape
        elements = time_steps * size
        dtype, stored_dtype = self.dtype, self.code_dtypes[plain]
        driven = x if x.dtype == dtype else _dense(x.to(dtype))
        out, codes = host.empty(x.shape, dtype), None
        last = torch.empty(size, dtype=dtype, device=x.device)
        if save:
            codes = host.empty(x.shape, stored_dtype)
        if size:
            fixed = self.forwards.get(stored_dtype) or self._fixed_forward(stored_dtype)
            record = records.FORWARD.from_buffer_copy(fixed)
            record.time_steps, record.size = time_steps, size
            record.block = block = (
                _block(size, elements) if elements >= host.SERIAL_ELEMENTS else BLOCK
            )
            record.x, record.x_stride = driven.data_ptr(), driven.stride(0)
            record.start, record.start_stride = start.data_ptr(), start.stride(0) if size > 1 else 0
            record.out, record.last = out.data_ptr(), last.data_ptr()
            if codes is not None:
                record.codes, record.code_bytes = codes.data_ptr(), codes.element_size()
            host.run(self.forward_kernel, record, -(-size // block), elements)
        saved: Saved = (codes, None)
        if codes is not None and not self.marked[stored_dtype]:
            saved = nan_aside(codes, self.automaton.levels, out, last)
        return out if x.dtype == dtype else out.to(x.dtype), last, saved

    def _fixed_forward(self, stored_dtype: torch.dtype) -> Any:
        automaton, cells = self.automaton, self.cells
        out, carry, after = self.entries
        low, high = (automaton.low, automaton.high) if automaton.clip else (-math.inf, math.inf)
        self.forwards[stored_dtype] = fixed = records.fill(
            records.FORWARD,
            edges=cells.edges.ctypes.data,
            emitted=out,
            carry=carry,
            after=after,
            levels=automaton.levels,
            channels=automaton.channels,
            inner=automaton.inner,
            divisor=self.divisor,
            divisors=self.divisor.numel(),
            mark=_mark(automaton.levels, stored_dtype),
            nan=_unsigned(stored_nan(automaton.levels, stored_dtype), stored_dtype),
            bins=0 if cells.bins is None else cells.bins.ctypes.data,
            num_bins=cells.num_bins,
            low_bin=cells.low_bin,
            shift=cells.shift,
            low=low,
            high=high,
            origin=cells.origin,
            inverse=cells.inverse,
        )
        return fixed

    def backward(
        self, saved: Saved, grad_out: Tensor, grad_v: Tensor, divide: bool
    ) -> tuple[Tensor, Tensor]:
        """As `ReferenceAutomaton.backward`."""
        codes, aside = saved
        if aside is not None:
            return super().backward(saved, grad_out, grad_v, divide)
        time_steps, size = codes.shape
        elements = time_steps * size
        dtype = self.dtype
        incoming = grad_out if grad_out.dtype == dtype else _dense(grad_out.to(dtype))
        start = grad_v.to(dtype)
        grad = host.empty(codes.shape, dtype)
        grad_start = torch.empty(size, dtype=dtype, device=codes.device)
        if size:
            fixed = self.backwards.get(codes.dtype) or self._fixed_backward(codes.dtype)
            record = records.BACKWARD.from_buffer_copy(fixed)
            record.time_steps, record.size = time_steps, size
            record.block = block = (
                _block(size, elements) if elements >= host.SERIAL_ELEMENTS else BLOCK
            )
            record.grad_out, record.grad_out_stride = incoming.data_ptr(), incoming.stride(0)
            record.start, record.start_stride = start.data_ptr(), start.stride(0) if size > 1 else 0
            record.codes, record.code_bytes = codes.data_ptr(), codes.element_size()
            record.grad, record.state = grad.data_ptr(), grad_start.data_ptr()
            if not divide:
                record.divisors = 0
            host.run(self.backward_kernel, record, -(-size // block), elements)
        return grad, grad_start

    def _fixed_backward(self, stored_dtype: torch.dtype) -> Any:
        automaton = self.automaton
        d_out, d_carry, d_after = self.slopes
        self.backwards[stored_dtype] = fixed = records.fill(
            records.BACKWARD,
            d_out=d_out,
            d_carry=d_carry,
            d_after=d_after,
            levels=automaton.levels,
            channels=automaton.channels,
            inner=automaton.inner,
            divisor=self.divisor,
            divisors=self.divisor.numel(),
            mark=_mark(automaton.levels, stored_dtype),
        )
        return fixed

    def histogram(self, codes: Tensor, aside: Tensor | None, weights: Tensor) -> Tensor:
        """As `ReferenceAutomaton.histogram`."""
        if aside is not None:
            return super().histogram(codes, aside, weights)
        automaton, (time_steps, size) = self.automaton, codes.shape
        levels, channels = automaton.levels, automaton.channels
        block = histogram_block(size)
        blocks = -(-size // block)
        sums = torch.empty(blocks, channels, levels, dtype=torch.float64, device=codes.device)
        if size:
            if weights.dtype != self.dtype or weights.stride(1) != 1:
                weights = _dense(weights.to(self.dtype))
            fixed = self.histograms.get(codes.dtype) or self._fixed_histogram(codes.dtype)
            record = records.HISTOGRAM.from_buffer_copy(fixed)
            record.time_steps, record.size, record.block = time_steps, size, block
            record.weights, record.weights_stride = weights.data_ptr(), weights.stride(0)
            record.codes, record.code_bytes = codes.data_ptr(), codes.element_size()
            record.sums = sums.data_ptr()
            host.run(self.histogram_kernel, record, blocks, time_steps * size)
        return _in_order(sums)

    def _fixed_histogram(self, stored_dtype: torch.dtype) -> Any:
        automaton = self.automaton
        self.histogram_kernel = _kernels().kernel("histogram", self.wide)
        self.histograms[stored_dtype] = fixed = records.fill(
            records.HISTOGRAM,
            levels=automaton.levels,
            channels=automaton.channels,
            inner=automaton.inner,
            mark=_mark(automaton.levels, stored_dtype),
            nan=_unsigned(stored_nan(automaton.levels, stored_dtype), stored_dtype),
            marked=is_marked(automaton.levels, stored_dtype),
        )
        return fixed

    def input_product(self, grad: Tensor, x: Tensor) -> Tensor:
        """As `ReferenceAutomaton.input_product`."""
        return _products(grad, x.to(grad.dtype))


class CpuMembrane(ReferenceMembrane):
    """A linear membrane of one channel on torch's own threads, fused over time, as
    `ReferenceMembrane`.
    """

    def __init__(self, membrane: LinearMembrane) -> None:
        super().__init__(membrane)
        self.dtype, self.wide = membrane.dtype, membrane.dtype == torch.float64
        tau, divisor, reset = membrane.tau, membrane.divisor, membrane.reset
        self.fixed = records.fill(
            records.LINEAR,
            leaks=tau is not None,
            hard=reset is not None,
            detach=membrane.detach_reset,
            threshold=float(membrane.threshold.detach()),
            reset=0.0 if reset is None else reset,
            tau=1.0 if tau is None else float(tau.detach()),
            rest=membrane.rest,
            divisor=1.0 if divisor is None else float(divisor.detach()),
        )
        self.forward_kernel = _kernels().kernel("linear_forward", self.wide)
        self.backward_kernel = _kernels().kernel("linear_backward", self.wide)

    def forward(
        self, x: Tensor, start: Tensor, save: bool, plain: bool = True
    ) -> tuple[Tensor, Tensor, Saved]:
        """As `ReferenceMembrane.forward`."""
        time_steps, size = x.shape
        elements = time_steps * size
        dtype = self.dtype
        driven = x if x.dtype == dtype else _dense(x.to(dtype))
        spikes = host.empty(x.shape, dtype)
        above = host.empty(x.shape, dtype) if save else None
        last = torch.empty(size, dtype=dtype, device=x.device)
        if size:
            record = records.LINEAR.from_buffer_copy(self.fixed)
            record.time_steps, record.size = time_steps, size
            record.block = block = (
                _block(size, elements) if elements >= host.SERIAL_ELEMENTS else BLOCK
            )
            record.x, record.x_stride = driven.data_ptr(), driven.stride(0)
            record.start, record.start_stride = start.data_ptr(), start.stride(0) if size > 1 else 0
            if above is not None:
                record.above, record.above_stride = above.data_ptr(), size
            record.out, record.out_stride = spikes.data_ptr(), size
            record.state = last.data_ptr()
            host.run(self.forward_kernel, record, -(-size // block), elements)
        return spikes if x.dtype == dtype else spikes.to(x.dtype), last, (above,)

    def backward(
        self, saved: Saved, grad_out: Tensor, grad_v: Tensor, divide: bool
    ) -> tuple[Tensor, Tensor]:
        """As `ReferenceMembrane.backward`."""
        above, *_ = saved
        formula = _formula(self.membrane) if above.numel() >= FORMULA_ELEMENTS else None
        return self.backward_with(formula, above, grad_out, grad_v, divide)

    def backward_with(
        self,
        formula: Formula | None,
        above: Tensor,
        grad_out: Tensor,
        grad_v: Tensor,
        divide: bool,
    ) -> tuple[Tensor, Tensor]:
        """Gradients with a derivative that the kernel evaluates, or without a formula torch, a part
        of the neurons at a time.
        """
        time_steps, size = above.shape
        incoming, start = _dense(grad_out.to(self.dtype)), grad_v.to(self.dtype)
        grad = host.empty(above.shape, self.dtype)
        grad_start = torch.empty(size, dtype=self.dtype, device=above.device)
        fixed, width = records.LINEAR.from_buffer_copy(self.fixed), above.element_size()
        if not divide:
            fixed.divisor = 1.0
        columns = max(1024, DERIVATIVE_BYTES // (width * time_steps) // 64 * 64)
        if formula is not None:
            columns = size
            operations = np.array(formula.operations, dtype=np.int64)
            factors = np.array(formula.constants)
            fixed.operations, fixed.num_operations = operations.ctypes.data, len(operations)
            fixed.constants, fixed.num_constants = factors.ctypes.data, len(factors)
            fixed.result = formula.result
        for first in range(0, size, columns):
            count = min(columns, size - first)
            record = records.LINEAR.from_buffer_copy(fixed)
            if formula is None:
                slopes = _dense(self.membrane.slopes(above[:, first : first + count]))
                record.slopes, record.slopes_stride = slopes.data_ptr(), slopes.stride(0)
            offset = first * width
            record.time_steps, record.size = time_steps, count
            elements = time_steps * count
            record.block = block = (
                _block(count, elements) if elements >= host.SERIAL_ELEMENTS else BLOCK
            )
            record.x, record.x_stride = incoming.data_ptr() + offset, incoming.stride(0)
            record.start_stride = start.stride(0) if size > 1 else 0
            record.start = start.data_ptr() + offset * record.start_stride
            record.above, record.above_stride = above.data_ptr() + offset, size
            record.out, record.out_stride = grad.data_ptr() + offset, size
            record.state = grad_start.data_ptr() + offset
            host.run(self.backward_kernel, record, -(-count // block), elements)
        return grad, grad_start

    def input_product(self, grad: Tensor, x: Tensor) -> Tensor:
        """As `ReferenceMembrane.input_product`."""
        return _products(grad, x.to(grad.dtype))

    def state_product(self, grad: Tensor, above: Tensor, v0: Tensor) -> Tensor:
        """As `ReferenceMembrane.state_product`."""
        membrane, reset = self.membrane, self.membrane.reset
        return _products(
            grad,
            above,
            start=v0,
            start_stride=v0.stride(0) if len(v0) > 1 else 0,
            of_state=True,
            hard=reset is not None,
            threshold=float(membrane.threshold.detach()),
            reset=0.0 if reset is None else reset,
            rest=membrane.rest,
        )


class CpuEngine:
    """Compiled by numba, fused over time, on torch's own threads; equal to the reference bit for
    bit.
    """

    name = "cpu"
    automaton, membrane = CpuAutomaton, CpuMembrane

    def why_not(self, x: Tensor, neuron: Automaton | LinearMembrane) -> str | None:
        """Reason that the kernels cannot run this: another device, constants that they do not take,
        or no numba.
        """
        if x.device.type != "cpu":
            return f"the input is on {x.device}"
        if isinstance(neuron, LinearMembrane) and neuron.channels > 1:
            return "an un-quantized neuron whose constants differ between channels"
        return host.why_not()


def warm_up() -> None:
    """Compile every kernel, or load it from disk, before it is needed."""
    kernels = _kernels()
    for name in kernels.passes.__all__:
        for wide in (False, True):
            kernels.kernel(name, wide)


@cache
def _kernels() -> Any:
    # an import statement takes as long as all of a launch
    from snnsim.kernels.cpu import cache as kernels

    return kernels


def _products(grad: Tensor, x: Tensor, **state: Any) -> Tensor:
    """Sum over all runs of neurons of `grad` times `x`, or times the state that `state` says how to
    find.
    """
    x = x if x.stride(1) == 1 else _dense(x)
    time_steps, size = grad.shape
    runs = -(-size // RUN)
    sums = torch.zeros(runs, dtype=torch.float64, device=grad.device)
    if size:
        record = records.fill(
            records.PRODUCT,
            time_steps=time_steps,
            size=size,
            block=RUN,
            grad=grad,
            grad_stride=grad.stride(0),
            x=x,
            x_stride=x.stride(0),
            sums=sums,
            **state,
        )
        kernel = _kernels().kernel("products", grad.dtype == torch.float64)
        host.run(kernel, record, runs, time_steps * size)
    return _in_order(sums)


def _in_order(parts: Tensor) -> Tensor:
    """Sum over the first axis, one after the other."""
    total = torch.zeros_like(parts[0]) if len(parts) else parts.new_zeros(parts.shape[1:])
    for part in parts:
        total += part
    return total


def _cells(automaton: Automaton) -> CellFinder:
    """How the cell of a value is found."""
    edges = automaton.edges.detach().numpy()
    return cell_finder(edges.tobytes(), "float64" if edges.itemsize == 8 else "float32")


def _block(size: int, elements: int) -> int:
    """Neurons of a block: as many as the cache holds, fewer where every thread would otherwise not
    get its share.
    """
    count = host.thread_count(elements)
    return BLOCK if count == 1 else max(1024, min(BLOCK, -(-size // (4 * count * 1024)) * 1024))


def _dense(rows: Tensor) -> Tensor:
    """Rows that are dense in themselves; the conversion of a dtype may have laid them out
    otherwise.
    """
    return rows if rows.shape[1] == 0 or rows.stride(1) == 1 else rows.contiguous()


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
    """The kernel agrees with torch to the last bit on values of every size, and on all sides of
    every constant.
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
    theirs = membrane.slopes(x).masked_fill(x.isnan(), 0.0)
    alone = CpuMembrane(
        LinearMembrane(torch.ones_like(x[0, :1]), membrane.derivative, detach_reset=True)
    )
    for row, slopes in zip(x, theirs, strict=True):
        ours, _ = alone.backward_with(
            formula, row[None], torch.ones_like(row[None]), torch.zeros_like(row), divide=False
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
