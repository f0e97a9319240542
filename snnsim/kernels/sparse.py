"""Products and convolutions of a weight with spikes, as sums over the spikes; hands tensors to the
compiled kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snnsim._core.autograd import stored
from snnsim.kernels.cpu import host
from snnsim.kernels.cpu.records import fill

# a tile of outputs, `sparse_kernels.TILE_BYTES`, must be full
LEAST_BYTES = 256
# rows that are searched for spikes as one block of work
SURVEY_ROWS = 64
# fewest of a block of sums: each turns a tile of the weight over, or copies one of the gradient
LEAST_ROWS_OF_BLOCK, LEAST_INPUTS_OF_BLOCK = 256, 128
# of a convolution: samples of a block of sums, and samples whose gradients are summed one after the
# other; the sums are then added up in order, whatever the threads did
BLOCK, SUMMED = 4, 8


@dataclass(frozen=True)
class Spikes:
    """Where the ones of a matrix `[rows, inputs]` are.

    Attributes:
        inputs: columns.
        starts: where the ones of each row begin in `active`, and the end, `[rows + 1]`.
        active: their columns, row after row.
    """

    inputs: int
    starts: Tensor
    active: Tensor

    @property
    def rows(self) -> int:
        """Rows of the matrix."""
        return len(self.starts) - 1

    @property
    def density(self) -> float:
        """Share of ones."""
        return len(self.active) / (self.rows * self.inputs)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`F.linear(x, weight, bias)` for the `x` that the spikes were found in."""
        from snnsim.kernels import sparse_kernels

        weight = weight.detach().contiguous()
        outputs, width = len(weight), sparse_kernels.TILE_BYTES // weight.element_size()
        tiles, count = -(-outputs // width), host.thread_count(self.rows * outputs)
        block = _block(self.rows, LEAST_ROWS_OF_BLOCK, tiles, count)
        out = host.empty((self.rows, outputs), weight.dtype)
        scratch = host.empty((count, self.inputs, width), weight.dtype)
        bias = None if bias is None else bias.detach().contiguous()
        record = fill(
            sparse_kernels.PRODUCT,
            rows=self.rows,
            block=block,
            inputs=self.inputs,
            outputs=outputs,
            starts=self.starts,
            active=self.active,
            weight=weight,
            bias=0 if bias is None else bias,
            out=out,
            scratch=scratch,
            slots=count,
        )
        _run("weight_sums", weight.dtype, record, tiles * -(-self.rows // block), out.numel())
        return out.view(*x.shape[:-1], outputs).to(result_dtype(weight))

    def by_input(self) -> tuple[Tensor, Tensor]:
        """The rows in which each input spikes, in chunks of rows: where they begin, `[chunks,
        inputs + 1]`, and their numbers.
        """
        from snnsim.kernels import sparse_kernels

        chunks = -(-self.rows // sparse_kernels.CHUNK)
        starts = torch.empty(chunks, self.inputs + 1, dtype=torch.int64, device="cpu")
        # the bits of uint16
        spiking = torch.empty(len(self.active), dtype=torch.int16, device="cpu")
        record = fill(
            sparse_kernels.INDEX,
            rows=self.rows,
            inputs=self.inputs,
            starts=self.starts,
            active=self.active,
            column_starts=starts,
            spiking=spiking,
        )
        _run("invert", torch.float32, record, chunks, len(spiking))
        return starts, spiking


def weight_gradient(grad: Tensor, starts: Tensor, spiking: Tensor) -> Tensor:
    """`grad.T @ x` for the `x` whose spikes `Spikes.by_input` gave."""
    from snnsim.kernels import sparse_kernels

    grad = stored(grad)
    grad = grad if grad.stride(1) == 1 else grad.contiguous()
    (rows, outputs), inputs = grad.shape, starts.shape[1] - 1
    width = sparse_kernels.TILE_BYTES // grad.element_size()
    tiles, count = -(-outputs // width), host.thread_count(grad.numel())
    block = _block(inputs, LEAST_INPUTS_OF_BLOCK, tiles, count)
    scratch = host.empty((count, sparse_kernels.CHUNK + block, width), grad.dtype)
    grad_weight = host.empty((outputs, inputs), grad.dtype)
    record = fill(
        sparse_kernels.PRODUCT,
        rows=rows,
        block=block,
        inputs=inputs,
        outputs=outputs,
        column_starts=starts,
        spiking=spiking,
        grad=grad,
        grad_stride=grad.stride(0),
        grad_weight=grad_weight,
        scratch=scratch,
        slots=count,
    )
    _run("weight_gradient", grad.dtype, record, tiles * -(-inputs // block), grad.numel())
    return grad_weight


def find_spikes(x: Tensor, limit: float) -> Spikes | str:
    """The ones of `x` `[rows, inputs]`, or why they are not to be added up."""
    from snnsim.kernels import sparse_kernels

    x = x if x.stride(1) == 1 else x.contiguous()
    rows, inputs = x.shape
    words, blocks = -(-inputs // sparse_kernels.WORD), -(-rows // SURVEY_ROWS)
    masks = torch.empty(rows, words, dtype=torch.int64, device="cpu")
    starts = torch.zeros(rows + 1, dtype=torch.int64, device="cpu")
    record = fill(
        sparse_kernels.SURVEY,
        rows=rows,
        block=SURVEY_ROWS,
        inputs=inputs,
        x=x,
        x_stride=x.stride(0),
        masks=masks,
        words=words,
        counts=starts[1:],
    )
    _run("survey", x.dtype, record, blocks, x.numel())
    if record.others:
        return "the input is not made of zeros and ones"
    torch.cumsum(starts, 0, out=starts)
    count = int(starts[-1])
    if count > limit * x.numel():
        return (
            f"{percent(count / x.numel())} of the inputs spike, and only up to {percent(limit)} pay"
        )
    active = torch.empty(count, dtype=torch.int32, device="cpu")
    record = fill(
        sparse_kernels.INDEX,
        rows=rows,
        block=SURVEY_ROWS,
        words=words,
        masks=masks,
        starts=starts,
        active=active,
    )
    _run("collect", torch.float32, record, blocks, count)
    return Spikes(inputs, starts, active)


def why_not(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """Reason that the kernels of a matrix product cannot run on this, whatever the values are; None
    if they can.
    """
    reason = why_not_tensors(x, weight, bias)
    if reason is not None:
        return reason
    if x.dim() == 0 or x.shape[-1] != weight.shape[1] or not x.numel():
        return f"an input of shape {tuple(x.shape)}"
    if len(weight) * weight.element_size() < LEAST_BYTES:
        return (
            f"{len(weight)} outputs; the sums are worked out {LEAST_BYTES // weight.element_size()}"
            " at a time"
        )
    return host.why_not()


def why_not_tensors(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """Reason that no kernel can run on tensors of these kinds, devices and dtypes; None if one
    can.
    """
    tensors = [x, weight] if bias is None else [x, weight, bias]
    if not all(type(t) in (Tensor, nn.Parameter) and t.layout == torch.strided for t in tensors):
        return "a tensor of another kind"
    if any(stored(t) is not t for t in tensors):
        return "a tensor that torch keeps with a mark, such as a negation, in place of its values"
    if any(t.device.type != "cpu" for t in tensors):
        return f"on {x.device}"
    if (
        torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
    ):
        return "operators are being transformed or recorded"
    if weight.dtype not in (torch.float32, torch.float64) or not _is_taken(x, weight):
        return f"an input of {x.dtype} with weights of {weight.dtype}"
    return None


def _is_taken(x: Tensor, weight: Tensor) -> bool:
    """Whether `F.linear` takes an input of this dtype."""
    return x.dtype == weight.dtype or (
        _is_autocast(weight) and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    )


def result_dtype(weight: Tensor) -> torch.dtype:
    """The dtype that `F.linear` gives."""
    return torch.get_autocast_dtype("cpu") if _is_autocast(weight) else weight.dtype


def competitor(x: Tensor, weight: Tensor) -> str:
    """The kind of dense product that the sparse one competes with, a key of the measured
    crossovers.
    """
    if result_dtype(weight) != weight.dtype:
        return "autocast"
    reduced = x.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return "float32, reduced precision" if reduced else "float"


def _is_autocast(weight: Tensor) -> bool:
    # float64 is left as it is
    return torch.is_autocast_enabled("cpu") and weight.dtype == torch.float32


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _block(size: int, least: int, tiles: int, count: int) -> int:
    """Size of a block: all of a tile for one thread, else such that every thread gets a few."""
    return size if count == 1 else max(least, -(-size // -(-4 * count // tiles)))


def _run(name: str, dtype: torch.dtype, record: Any, blocks: int, elements: int) -> None:
    from snnsim.kernels import sparse_kernels

    kernel = sparse_kernels.kernel(name, dtype == torch.float64)
    host.run(kernel, record, blocks, elements)


# ---- convolutions


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
    out = host.empty(size, weight.dtype)
    runs, counts = _runs(spikes, geometry)
    _run_conv(
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
    _run_conv(
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
    from snnsim.kernels import sparse_kernels

    most = len(spikes.active) * geometry.rows * geometry.columns
    runs = torch.empty(most * sparse_kernels.RUN_FIELDS, dtype=torch.int32, device="cpu")
    counts = torch.empty(spikes.rows, dtype=torch.int64, device="cpu")
    _run_conv(
        "collect_runs", torch.float32, spikes, geometry, BLOCK, most, runs=runs, counts=counts
    )
    return runs, counts


def _run_conv(
    name: str,
    dtype: torch.dtype,
    spikes: Spikes,
    geometry: Geometry,
    block: int,
    elements: int,
    **fields: Any,
) -> None:
    from snnsim.kernels import sparse_kernels

    record = fill(
        sparse_kernels.CONV,
        samples=spikes.rows,
        block=block,
        starts=spikes.starts,
        active=spikes.active,
        **geometry.fields(),
        **fields,
    )
    _run(name, dtype, record, -(-spikes.rows // block), elements)
