"""Convolutions of spikes, as sums over the spikes; hands tensors to the compiled kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnsim.kernels.cpu import pool, threads
from snnsim.kernels.layout import stored
from snnsim.kernels.sparse import Spikes, find_spikes, make_record, result_dtype

__all__ = ["Geometry", "convolve", "find_events", "input_gradient", "is_last", "kernel_gradient"]

# samples of a block of sums
BLOCK = 4
# samples whose gradients are summed one after the other; the sums are then added up in order,
# whatever the threads did
SUMMED = 8


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution.

    Attributes:
        channels, height, width: of a sample.
        input_last: whether the channels of the input lie side by side.
        rows, columns: of the window.
        stride, padding, dilation: down and across; padding at the top and at the left.
        out: height and width of the output.
        outputs: channels of the output.
    """

    channels: int
    height: int
    width: int
    input_last: bool
    rows: int
    columns: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    out: tuple[int, int]
    outputs: int

    @property
    def taps(self) -> int:
        """Weights of one output channel."""
        return self.channels * self.rows * self.columns

    def fields(self) -> dict[str, Any]:
        """For a kernel's record."""
        return {
            "channels": self.channels,
            "height": self.height,
            "width": self.width,
            "input_last": self.input_last,
            "rows": self.rows,
            "columns": self.columns,
            "stride_y": self.stride[0],
            "stride_x": self.stride[1],
            "pad_y": self.padding[0],
            "pad_x": self.padding[1],
            "apart_y": self.dilation[0],
            "apart_x": self.dilation[1],
            "out_height": self.out[0],
            "out_width": self.out[1],
            "outputs": self.outputs,
        }


def is_last(x: Tensor) -> bool:
    """Whether the channels of `x` `[N, C, H, W]` lie side by side, told from its strides as torch
    does.
    """
    next_to, apart = x.stride(1) == 1, x.stride(3) >= x.shape[1] and x.stride(0) > 1
    return next_to and apart and x.is_contiguous(memory_format=torch.channels_last)


def find_events(x: Tensor, dtype: torch.dtype, limit: float) -> Spikes | str:
    """The ones of `x` `[N, C, H, W]`, a row for each sample in the order of memory, or why they are
    not to be added up.
    """
    ordered = x.detach().permute(0, 2, 3, 1) if is_last(x) else x.detach()
    return find_spikes(ordered.reshape(len(x), -1).to(dtype), limit)


def convolve(
    spikes: Spikes, geometry: Geometry, weight: Tensor, bias: Tensor | None, last: bool
) -> Tensor:
    """`F.conv2d` of the input that the spikes were found in; with `last`, with channels side by
    side.
    """
    weight = weight.detach().flip(3)
    # [C, rows, columns, O] or [O, C, rows, columns]
    packed = (weight.permute(1, 2, 3, 0) if last else weight).contiguous()
    bias = None if bias is None else bias.detach().contiguous()
    size = (
        (spikes.rows, *geometry.out, geometry.outputs)
        if last
        else (spikes.rows, geometry.outputs, *geometry.out)
    )
    out = pool.empty(size, weight.dtype)
    runs, counts = _runs(spikes, geometry)
    _run(
        "add_windows",
        weight.dtype,
        spikes,
        geometry,
        BLOCK,
        out.numel(),
        output_last=last,
        runs=runs,
        counts=counts,
        weight=packed,
        bias=0 if bias is None else bias,
        out=out,
    )
    return (out.permute(0, 3, 1, 2) if last else out).to(result_dtype(weight))


def kernel_gradient(spikes: Spikes, geometry: Geometry, grad: Tensor) -> Tensor:
    """Gradient of the weight `[O, C, rows, columns]` for an incoming one `[N, O, *out]`."""
    grad, last = stored(grad), is_last(grad)
    grad = grad if last else grad.contiguous()
    runs, counts = _runs(spikes, geometry)
    sums = torch.empty(
        -(-spikes.rows // SUMMED), geometry.taps * geometry.outputs, dtype=grad.dtype, device="cpu"
    )
    _run(
        "gradient_windows",
        grad.dtype,
        spikes,
        geometry,
        SUMMED,
        grad.numel(),
        output_last=last,
        runs=runs,
        counts=counts,
        grad=grad,
        sums=sums,
    )
    total, window = sums.sum(0), (geometry.channels, geometry.rows, geometry.columns)
    whole = (
        total.view(*window, geometry.outputs).permute(3, 0, 1, 2)
        if last
        else total.view(geometry.outputs, *window)
    )
    return whole.flip(3).contiguous()


def input_gradient(geometry: Geometry, shape: torch.Size, weight: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the input, of which only the shape is known: a dense product."""
    # never read; its strides are those of the result
    form = torch.channels_last if geometry.input_last or is_last(grad) else torch.contiguous_format
    x = torch.empty(shape, dtype=grad.dtype, memory_format=form, device="cpu")
    sizes = geometry.stride, geometry.padding, geometry.dilation
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, *sizes, False, (0, 0), 1, (True, False, False)
    )[0]


def _runs(spikes: Spikes, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """What each spike adds to, sample after sample, and how many runs each sample has."""
    from snnsim.kernels import sparse_conv_kernels

    most = len(spikes.active) * geometry.rows * geometry.columns
    runs = torch.empty(most * sparse_conv_kernels.RUN_FIELDS, dtype=torch.int32, device="cpu")
    counts = torch.empty(spikes.rows, dtype=torch.int64, device="cpu")
    _run("collect_runs", torch.float32, spikes, geometry, BLOCK, most, runs=runs, counts=counts)
    return runs, counts


def _run(
    name: str,
    dtype: torch.dtype,
    spikes: Spikes,
    geometry: Geometry,
    block: int,
    elements: int,
    **fields: Any,
) -> None:
    from snnsim.kernels import sparse_conv_kernels

    record: np.ndarray = make_record(
        sparse_conv_kernels.CONV,
        samples=spikes.rows,
        block=block,
        starts=spikes.starts,
        active=spikes.active,
        **geometry.fields(),
        **fields,
    )
    kernel = sparse_conv_kernels.kernel(name, dtype == torch.float64)
    threads.run(kernel, record.ctypes.data, -(-spikes.rows // block), elements)
