"""Products of a weight with spikes, as sums over the spikes; hands tensors to the compiled
kernels."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snnsim.kernels.cpu import pool, threads
from snnsim.kernels.layout import stored

__all__ = [
    "Spikes",
    "competitor",
    "find_spikes",
    "make_record",
    "numba_obstacle",
    "obstacle",
    "percent",
    "result_dtype",
    "tensor_obstacle",
    "weight_gradient",
]

# a tile of outputs, `sparse_kernels.TILE_BYTES`, must be full
LEAST_BYTES = 256
# rows that are searched for spikes as one block of work
SURVEY_ROWS = 64
# fewest of a block of sums: each turns a tile of the weight over, or copies one of the gradient
LEAST_ROWS_OF_BLOCK, LEAST_INPUTS_OF_BLOCK = 256, 128


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
        tiles, count = -(-outputs // width), threads.thread_count(self.rows * outputs)
        block = _block(self.rows, LEAST_ROWS_OF_BLOCK, tiles, count)
        out = pool.empty((self.rows, outputs), weight.dtype)
        scratch = pool.empty((count, self.inputs, width), weight.dtype)
        bias = None if bias is None else bias.detach().contiguous()
        record = make_record(
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
        record = make_record(
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
    tiles, count = -(-outputs // width), threads.thread_count(grad.numel())
    block = _block(inputs, LEAST_INPUTS_OF_BLOCK, tiles, count)
    scratch = pool.empty((count, sparse_kernels.CHUNK + block, width), grad.dtype)
    grad_weight = pool.empty((outputs, inputs), grad.dtype)
    record = make_record(
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
    record = make_record(
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
    if record["others"][0]:
        return "the input is not made of zeros and ones"
    torch.cumsum(starts, 0, out=starts)
    count = int(starts[-1])
    if count > limit * x.numel():
        return (
            f"{percent(count / x.numel())} of the inputs spike, and only up to {percent(limit)} pay"
        )
    active = torch.empty(count, dtype=torch.int32, device="cpu")
    record = make_record(
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


def obstacle(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """Why the kernels of a matrix product cannot run on this, whatever the values are; None if they
    can.
    """
    reason = tensor_obstacle(x, weight, bias)
    if reason is not None:
        return reason
    if x.dim() == 0 or x.shape[-1] != weight.shape[1] or not x.numel():
        return f"an input of shape {tuple(x.shape)}"
    if len(weight) * weight.element_size() < LEAST_BYTES:
        return (
            f"{len(weight)} outputs; the sums are worked out {LEAST_BYTES // weight.element_size()}"
            " at a time"
        )
    return numba_obstacle()


def tensor_obstacle(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """Why no kernel can run on tensors of these kinds, devices and dtypes; None if one can."""
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


def numba_obstacle() -> str | None:
    """Why no kernel can be compiled here; None if they can."""
    # looked up each time: it costs a microsecond
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed; pip install numba"
    return _import_problem()


@cache
def _import_problem() -> str | None:
    try:
        from snnsim.kernels import sparse_kernels  # noqa: F401
    except ImportError as problem:
        return f"numba cannot be imported: {problem}"
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


def make_record(kind: np.dtype, **fields: Any) -> np.ndarray:
    """A record for a kernel, of numbers and of the addresses of tensors, which the caller keeps;
    all else is 0.
    """
    record = np.zeros(1, kind)
    for name, value in fields.items():
        record[name] = value.data_ptr() if isinstance(value, Tensor) else value
    return record


def _run(name: str, dtype: torch.dtype, record: np.ndarray, blocks: int, elements: int) -> None:
    from snnsim.kernels import sparse_kernels

    threads.run(
        sparse_kernels.kernel(name, dtype == torch.float64), record.ctypes.data, blocks, elements
    )
