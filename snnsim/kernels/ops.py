"""Scans under torch.compile: a table as two operators that it does not look into, a linear membrane
as a loop that it fuses.

Imported while compiling only; eager mode calls the engines directly, which is several times cheaper
than an operator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnsim.kernels.codes import code_dtype
from snnsim.kernels.layout import Layout
from snnsim.kernels.scan import run_backward, run_forward, spread
from snnsim.kernels.table import LinearMembrane, Table

__all__ = ["linear_loop", "scan"]


def scan(x_seq: Tensor, carry0: Tensor, table: Table, engine: str | None) -> tuple[Tensor, Tensor]:
    """As `scan.scan`, with `carry0` of the shape of one step."""
    differentiable = (x_seq, carry0, table.out, table.carry, table.after, table.divisor)
    save = torch.is_grad_enabled() and any(
        value is not None and value.requires_grad for value in differentiable
    )
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
    """Output, state after the last step, and codes `[T, N]` (empty where they are not to be
    saved)."""
    table = Table(
        edges, out, carry, after, d_out, d_carry, d_after, low, high, clip, None, inner, divisor
    )
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
    """Gradients of (x_seq, carry0, out, carry, after, divisor), each empty where it is not
    needed."""
    table = Table(
        edges, out, out, out, d_out, d_carry, d_after, low, high, clip, None, inner, divisor
    )
    layout = Layout(tuple(grad_out.shape), None, inner)
    grads = run_backward(
        grad_out, grad_v, codes, None, x_seq, table, layout, grad_out.dtype, engine, tuple(needs)
    )
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
    ctx.save_for_backward(
        output[2],
        x_seq if ctx.needs_input_grad[9] else None,
        edges,
        out,
        d_out,
        d_carry,
        d_after,
        divisor,
    )
    ctx.needs = [bool(ctx.needs_input_grad[i]) for i in (0, 1, 3, 4, 5, 9)]


def _differentiate(
    ctx: Any, grad_out: Tensor, grad_v: Tensor, _: Tensor | None
) -> tuple[Tensor | None, ...]:
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
    x, carry0, emitted, left, after, divided = (
        grad if needed else None for grad, needed in zip(grads, ctx.needs, strict=True)
    )
    return (
        x,
        carry0,
        None,
        emitted,
        left,
        after,
        None,
        None,
        None,
        divided,
        None,
        None,
        None,
        None,
        None,
        None,
    )


scan_forward.register_autograd(_differentiate, setup_context=_remember)


def _no_codes(x_seq: Tensor, out: Tensor, clip: bool) -> Tensor:
    return x_seq.new_empty(0, dtype=code_dtype(out.shape[1], clip, plain=False))


class _Spike(torch.autograd.Function):
    """The step, NaN where the membrane is NaN, with a slope that was computed outside."""

    @staticmethod
    def forward(ctx: Any, above: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(torch.where(torch.isnan(above), 0.0, slope))
        return torch.where(torch.isnan(above), above, (above >= 0).to(above.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.saved_tensors[0], None


def linear_loop(x_seq: Tensor, v0: Tensor, membrane: LinearMembrane) -> tuple[Tensor, Tensor]:
    """As `scan.scan_linear`, with `v0` of the shape of one step, step by step in differentiable
    operations.
    """
    step = x_seq.shape[1:]
    threshold = spread(membrane.threshold, step, membrane.inner)
    tau = None if membrane.tau is None else spread(membrane.tau, step, membrane.inner)
    divisor = None if membrane.divisor is None else spread(membrane.divisor, step, membrane.inner)
    spikes, v = [], v0
    for x in x_seq.unbind(0):
        u = x.to(membrane.dtype)
        u = u if divisor is None else u / divisor
        h = u + v if tau is None else (v - (v - membrane.rest) / tau) + u
        above = h - threshold
        spike = _Spike.apply(above, membrane.derivative(above.detach()))
        kept = spike.detach() if membrane.detach_reset else spike
        target = h - threshold if membrane.reset is None else torch.full_like(h, membrane.reset)
        # the value is selected, because 0 * inf is NaN; what is added is zero and carries the
        # gradient of the spike
        by_spike = (kept - kept.detach()) * torch.nan_to_num((target - h).detach())
        v = torch.where(above >= 0, target, h) + torch.nan_to_num(by_spike)
        spikes.append(spike.to(x_seq.dtype))
    return torch.stack(spikes), v
