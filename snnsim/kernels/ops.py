"""`scan` as operators that torch.compile does not look into: one for the forward, one for the backward pass.

Imported while compiling only; eager mode calls the engines directly, which is several times cheaper than an operator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnsim.kernels.codes import code_dtype
from snnsim.kernels.layout import Layout
from snnsim.kernels.scan import run_backward, run_forward
from snnsim.kernels.table import Table

__all__ = ["scan"]


def scan(x_seq: Tensor, carry0: Tensor, table: Table, engine: str | None) -> tuple[Tensor, Tensor]:
    """As `scan.scan`, with `carry0` of the shape of one step."""
    differentiable = (x_seq, carry0, table.out, table.carry, table.after, table.divisor)
    save = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in differentiable)
    out, v, _ = scan_forward(
        x_seq.contiguous(),
        carry0.contiguous(),
        table.edges,
        table.out,
        table.carry,
        table.after,
        table.d_out,
        table.d_carry,
        table.d_after,
        table.divisor,
        table.low,
        table.high,
        table.clip,
        table.inner,
        engine,
        save,
    )
    return out, v


@torch.library.custom_op("snnsim::scan_forward", mutates_args=())
def scan_forward(
    x_seq: Tensor,
    carry0: Tensor,
    edges: Tensor,
    out: Tensor,
    carry: Tensor,
    after: Tensor,
    d_out: Tensor,
    d_carry: Tensor,
    d_after: Tensor,
    divisor: Tensor | None,
    low: float,
    high: float,
    clip: bool,
    inner: int,
    engine: str | None,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, state after the last step, and codes `[T, N]` (empty where they are not to be saved)."""
    table = Table(edges, out, carry, after, d_out, d_carry, d_after, low, high, clip, None, inner, divisor)
    # a mark in every code: whether there is a NaN decides no shape here
    out_seq, v, codes, _ = run_forward(x_seq, carry0, table, engine, save, plain=False)
    return out_seq, v, _no_codes(x_seq, out, clip) if codes is None else codes


@scan_forward.register_fake
def _(
    x_seq: Tensor,
    carry0: Tensor,
    edges: Tensor,
    out: Tensor,
    carry: Tensor,
    after: Tensor,
    d_out: Tensor,
    d_carry: Tensor,
    d_after: Tensor,
    divisor: Tensor | None,
    low: float,
    high: float,
    clip: bool,
    inner: int,
    engine: str | None,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    codes = _no_codes(x_seq, out, clip)
    if save:
        codes = codes.new_empty((x_seq.shape[0], x_seq[0].numel()))
    return x_seq.new_empty(x_seq.shape), x_seq.new_empty(x_seq.shape[1:], dtype=edges.dtype), codes


@torch.library.custom_op("snnsim::scan_backward", mutates_args=())
def scan_backward(
    grad_out: Tensor,
    grad_v: Tensor,
    codes: Tensor,
    x_seq: Tensor | None,
    edges: Tensor,
    out: Tensor,
    d_out: Tensor,
    d_carry: Tensor,
    d_after: Tensor,
    divisor: Tensor | None,
    low: float,
    high: float,
    clip: bool,
    inner: int,
    engine: str | None,
    needs: list[bool],
) -> list[Tensor]:
    """Gradients of (x_seq, carry0, out, carry, after, divisor), each empty where it is not needed."""
    table = Table(edges, out, out, out, d_out, d_carry, d_after, low, high, clip, None, inner, divisor)
    layout = Layout(tuple(grad_out.shape), None, inner)
    grads = run_backward(grad_out, grad_v, codes, None, x_seq, table, layout, grad_out.dtype, engine, tuple(needs))
    # a result of an operator must not share memory with another
    return [grad_out.new_empty(0) if grad is None else grad.contiguous() for grad in grads]


@scan_backward.register_fake
def _(
    grad_out: Tensor,
    grad_v: Tensor,
    codes: Tensor,
    x_seq: Tensor | None,
    edges: Tensor,
    out: Tensor,
    d_out: Tensor,
    d_carry: Tensor,
    d_after: Tensor,
    divisor: Tensor | None,
    low: float,
    high: float,
    clip: bool,
    inner: int,
    engine: str | None,
    needs: list[bool],
) -> list[Tensor]:
    like = (grad_out, grad_v, out, out, out, divisor)
    return [
        value.new_empty(value.shape) if needed and value is not None else grad_out.new_empty(0)
        for value, needed in zip(like, needs, strict=True)
    ]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x_seq, _, edges, out, _, _, d_out, d_carry, d_after, divisor, *ctx.constants, _ = inputs
    ctx.save_for_backward(output[2], x_seq if ctx.needs_input_grad[9] else None, edges, out, d_out, d_carry, d_after, divisor)
    ctx.needs = [bool(ctx.needs_input_grad[i]) for i in (0, 1, 3, 4, 5, 9)]


def _differentiate(ctx: Any, grad_out: Tensor, grad_v: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    codes, x_seq, edges, out, d_out, d_carry, d_after, divisor = ctx.saved_tensors
    grads = scan_backward(
        grad_out.contiguous(),
        grad_v.contiguous(),
        codes,
        x_seq,
        edges,
        out,
        d_out,
        d_carry,
        d_after,
        divisor,
        *ctx.constants,
        ctx.needs,
    )
    x, carry0, emitted, left, after, divided = (grad if needed else None for grad, needed in zip(grads, ctx.needs, strict=True))
    return x, carry0, None, emitted, left, after, None, None, None, divided, None, None, None, None, None, None


scan_forward.register_autograd(_differentiate, setup_context=_remember)


def _no_codes(x_seq: Tensor, out: Tensor, clip: bool) -> Tensor:
    return x_seq.new_empty(0, dtype=code_dtype(out.shape[1], clip, plain=False))
