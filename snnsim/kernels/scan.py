"""`scan`: the one way to run a table over time, forward and backward; `scan_linear` for neurons
that are not quantized.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from snnsim._core.autograd import differentiable_once
from snnsim.errors import InvalidTypeError, ShapeError
from snnsim.kernels import gradients as parameters
from snnsim.kernels.codes import is_marked
from snnsim.kernels.launch import choose
from snnsim.kernels.layout import Layout
from snnsim.kernels.reference import per_neuron
from snnsim.kernels.table import LinearMembrane, Table

__all__ = [
    "linear_forward",
    "run_backward",
    "run_forward",
    "run_linear_backward",
    "scan",
    "scan_linear",
    "spread",
]


def scan(
    x_seq: Tensor, carry0: Tensor, table: Table, engine: str | None = None
) -> tuple[Tensor, Tensor]:
    """Run a quantized neuron over a sequence.

    Differentiable once, with respect to `x_seq`, `carry0`, the table's `out`, `carry`, `after` and
    `divisor`, and what its codebook learns.

    Args:
        x_seq: input `[T, *n]`, T >= 1, in the unit of the levels; no wider than the table's dtype,
            in which the scan computes.
        carry0: what is left of the state before the first input: `[*n]`, or one number for each
            channel (`[C]`, `[1]` or `[]`), in the table's dtype.
        table: the neuron.
        engine: "cpu", "gpu" or "reference"; the fastest that can by default.

    Returns:
        Output `[T, *n]` in the dtype of `x_seq`, and the state after the reset of the last step
        `[*n]` in the table's dtype.

    Raises:
        ShapeError, InvalidTypeError: arguments that do not fit together.
        EngineError: the engine asked for cannot run here.
    """
    _check_input(x_seq, table.dtype, table.edges.device)
    carry_full = _per_neuron_start("carry0", carry0, x_seq, table)
    if torch.compiler.is_compiling():
        from snnsim.kernels import ops

        return ops.scan(x_seq, carry_full, table, engine)
    if torch.is_grad_enabled():
        learned = () if table.learned is None else table.learned.parameters
        constants = (table.out, table.carry, table.after, table.divisor)
        if any(value is not None and value.requires_grad for value in (*constants, *learned)):
            return _Scan.apply(x_seq, carry_full, *constants, table, engine, *learned)
        if x_seq.requires_grad or carry_full.requires_grad:
            return _ScanFixed.apply(x_seq, carry_full, table, engine)
    return run_forward(x_seq, carry_full, table, engine, save=False)[:2]


def scan_linear(
    x_seq: Tensor, v0: Tensor, membrane: LinearMembrane, engine: str | None = None
) -> tuple[Tensor, Tensor]:
    """Run an un-quantized neuron over a sequence.

    Differentiable once, with respect to `x_seq`, `v0` and the membrane's `threshold`, `tau` and
    `divisor`. While compiling it is a plain loop, which the compiler fuses.

    Args:
        x_seq: input `[T, *n]`, T >= 1, in the unit of the threshold; no wider than the membrane's
            dtype.
        v0: state before the first step: `[*n]`, or one number for each channel (`[C]`, `[1]` or
            `[]`).
        membrane: the neuron.
        engine: "cpu", "gpu" or "reference"; the fastest that can by default.

    Returns:
        Spikes `[T, *n]` in the dtype of `x_seq`, and the state after the last step `[*n]`.

    Raises:
        ShapeError, InvalidTypeError: arguments that do not fit together.
        EngineError: the engine asked for cannot run here.
    """
    _check_input(x_seq, membrane.dtype, membrane.threshold.device)
    v_full = _per_neuron_start("v0", v0, x_seq, membrane)
    if torch.compiler.is_compiling():
        from snnsim.kernels import ops

        return ops.linear_loop(x_seq, v_full, membrane)
    inputs = (x_seq, v_full, membrane.threshold, membrane.tau, membrane.divisor)
    if torch.is_grad_enabled() and any(
        value is not None and value.requires_grad for value in inputs
    ):
        return _ScanLinear.apply(*inputs, membrane, engine)
    return linear_forward(x_seq, v_full, membrane, engine, save=False)[:2]


class _Scan(torch.autograd.Function):
    """The autograd node of `scan`; keeps the codes and nothing else (the input too where its
    divisor or the codebook learns).
    """

    # one method with a context: torch takes a hundred microseconds to bind the arguments of the
    # two-method form

    @staticmethod
    def forward(
        ctx: Any,
        x_seq: Tensor,
        carry: Tensor,
        out: Tensor,
        left: Tensor,
        after: Tensor,
        divisor: Tensor | None,
        table: Table,
        engine: str | None,
        *learned: Tensor,
    ) -> tuple[Tensor, Tensor]:
        out_seq, v, codes, aside = run_forward(x_seq, carry, table, engine, save=True)
        learns = any(ctx.needs_input_grad[8:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            codes,
            aside,
            x_seq if learns or ctx.needs_input_grad[5] else None,
            carry if learns else None,
            *learned,
        )
        ctx.layout = Layout.of(x_seq, table.channels, table.inner)
        ctx.table, ctx.engine, ctx.dtype = table, engine, x_seq.dtype
        # not as views: torch refuses to modify a view that a function returned in place, as
        # residual sums do
        return out_seq.data, v.data

    @staticmethod
    @differentiable_once("a fused neuron")
    def backward(ctx: Any, grad_out: Tensor | None, grad_v: Tensor | None) -> tuple[Any, ...]:
        codes, aside, x_seq, carry, *learned = ctx.saved_tensors
        if grad_out is None and grad_v is None:
            return (None,) * (8 + len(learned))
        needs = ctx.needs_input_grad[:6]
        grads = run_backward(
            grad_out,
            grad_v,
            codes,
            aside,
            x_seq,
            ctx.table,
            ctx.layout,
            ctx.dtype,
            ctx.engine,
            needs,
            carry,
        )
        return *grads[:6], None, None, *(grads[6:] or [None] * len(learned))


class _ScanFixed(torch.autograd.Function):
    """`_Scan` of a table that learns nothing, which has less to do for each call."""

    @staticmethod
    def forward(
        ctx: Any, x_seq: Tensor, carry: Tensor, table: Table, engine: str | None
    ) -> tuple[Tensor, Tensor]:
        out_seq, v, codes, aside = run_forward(x_seq, carry, table, engine, save=True)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(codes, aside)
        ctx.layout = Layout.of(x_seq, table.channels, table.inner)
        ctx.table, ctx.engine, ctx.dtype = table, engine, x_seq.dtype
        return out_seq.data, v.data

    @staticmethod
    @differentiable_once("a fused neuron")
    def backward(
        ctx: Any, grad_out: Tensor | None, grad_v: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if grad_out is None and grad_v is None:
            return None, None, None, None
        codes, aside = ctx.saved_tensors
        layout, table = ctx.layout, _there(ctx.table, ctx.layout)
        rows_out, row_v = _incoming(grad_out, grad_v, layout, ctx.dtype, table.dtype, codes.device)
        chosen = choose(rows_out, table, ctx.engine)
        grad, grad_carry = chosen.backward(
            codes, aside, rows_out, row_v, table, table.divisor is not None
        )
        needs_x, needs_carry, _, _ = ctx.needs_input_grad
        return (
            layout.unrows(grad).to(ctx.dtype) if needs_x else None,
            layout.unrow(grad_carry) if needs_carry else None,
            None,
            None,
        )


class _ScanLinear(torch.autograd.Function):
    """The autograd node of `scan_linear`; keeps how far the charged membrane was from the
    threshold.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_seq: Tensor,
        v: Tensor,
        threshold: Tensor,
        tau: Tensor | None,
        divisor: Tensor | None,
        membrane: LinearMembrane,
        engine: str | None,
    ) -> tuple[Tensor, Tensor]:
        spikes, after, above = linear_forward(x_seq, v, membrane, engine, save=True)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            above,
            v if ctx.needs_input_grad[3] else None,
            x_seq if ctx.needs_input_grad[4] else None,
        )
        ctx.layout = Layout.of(x_seq, membrane.channels, membrane.inner)
        ctx.membrane, ctx.engine, ctx.dtype = membrane, engine, x_seq.dtype
        return spikes.data, after.data

    @staticmethod
    @differentiable_once("a fused neuron")
    def backward(ctx: Any, grad_out: Tensor | None, grad_v: Tensor | None) -> tuple[Any, ...]:
        if grad_out is None and grad_v is None:
            return (None,) * 7
        above, v0, x_seq = ctx.saved_tensors
        grads = run_linear_backward(
            grad_out,
            grad_v,
            above,
            v0,
            x_seq,
            ctx.membrane,
            ctx.layout,
            ctx.dtype,
            ctx.engine,
            ctx.needs_input_grad[:5],
        )
        return *grads, None, None


def run_forward(
    x_seq: Tensor, carry: Tensor, table: Table, engine: str | None, save: bool, plain: bool = True
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Output, last state, codes `[T, N]`, and where the membrane was NaN if the codes cannot say
    so.
    """
    layout = Layout.of(x_seq, table.channels, table.inner)
    table = _there(table, layout)
    chosen = choose(x_seq, table, engine)
    out, v, codes = chosen.forward(layout.rows(x_seq), layout.row(carry), table, save, plain)
    aside = None
    if (
        codes is not None
        and not is_marked(table.levels, codes.dtype)
        and bool(torch.isnan(v).any())
    ):
        # NaN stays to the end, so a last state without NaN means there was none
        aside = torch.isnan(out)
    return layout.unrows(out), layout.unrow(v), codes, aside


def run_backward(
    grad_out: Tensor | None,
    grad_v: Tensor | None,
    codes: Tensor,
    aside: Tensor | None,
    x_seq: Tensor | None,
    table: Table,
    layout: Layout,
    dtype: torch.dtype,
    engine: str | None,
    needs: tuple[bool, ...],
    carry0: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of (x_seq, carry, table.out, table.carry, table.after, table.divisor), None where
    `needs` is False.

    With `carry0`, what was left of the state before the first input, also those of what the
    codebook learns.
    """
    needs_x, needs_carry0, needs_out, needs_carry, needs_after, needs_divisor = needs
    table = _there(table, layout)
    rows_out, row_v = _incoming(grad_out, grad_v, layout, dtype, table.dtype, codes.device)
    chosen = choose(rows_out, table, engine)
    divide = table.divisor is not None and not (needs_carry or needs_divisor or carry0 is not None)
    grad, grad_carry0 = chosen.backward(codes, aside, rows_out, row_v, table, divide)

    def sums(steps: slice, weights: Tensor) -> Tensor:
        return chosen.histogram(
            codes[steps], None if aside is None else aside[steps], weights, table
        )

    learns = carry0 is not None
    emitted = sums(slice(None), rows_out) if needs_out or learns else None
    carried = sums(slice(None, -1), grad[1:]) if needs_carry or learns else None
    kept = sums(slice(-1, None), row_v[None]) if needs_after or learns else None
    of_levels: tuple[Tensor, ...] = ()
    if (
        carry0 is not None
        and x_seq is not None
        and emitted is not None
        and carried is not None
        and kept is not None
    ):
        divisors = 1 if table.divisor is None else table.divisor.numel()
        driven = parameters.input_sums(grad, layout.rows(x_seq), divisors, table.inner, chosen)
        start = chosen.input_product(grad[:1], layout.row(carry0)[None])
        of_levels = parameters.level_gradients(
            sums(slice(None), grad), emitted, carried, kept, driven, start, table
        )
    grad_of_out, grad_of_carry, grad_of_after = (
        total.to(table.dtype) if needed and total is not None else None
        for total, needed in ((emitted, needs_out), (carried, needs_carry), (kept, needs_after))
    )
    grad_divisor = None
    if table.divisor is not None and not divide:
        if needs_divisor and x_seq is not None:
            grad_divisor = parameters.divisor_gradient(
                grad, layout.rows(x_seq), table.divisor, table.inner, chosen
            )
        grad = grad / per_neuron(table.divisor, grad.shape[1], table.inner)
    grad_x = layout.unrows(grad).to(dtype) if needs_x else None
    grad_of_carry0 = layout.unrow(grad_carry0) if needs_carry0 else None
    return (
        grad_x,
        grad_of_carry0,
        grad_of_out,
        grad_of_carry,
        grad_of_after,
        grad_divisor,
        *of_levels,
    )


def linear_forward(
    x_seq: Tensor, v: Tensor, membrane: LinearMembrane, engine: str | None, save: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Spikes, last state, and distances to the threshold `[T, N]`."""
    layout = Layout.of(x_seq, membrane.channels, membrane.inner)
    membrane = _there(membrane, layout)
    spikes, after, above = choose(x_seq, membrane, engine).linear_forward(
        layout.rows(x_seq), layout.row(v), membrane, save
    )
    return layout.unrows(spikes), layout.unrow(after), above


def run_linear_backward(
    grad_out: Tensor | None,
    grad_v: Tensor | None,
    above: Tensor,
    v0: Tensor | None,
    x_seq: Tensor | None,
    membrane: LinearMembrane,
    layout: Layout,
    dtype: torch.dtype,
    engine: str | None,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients of (x_seq, v0, threshold, tau, divisor) of a linear membrane, None where `needs` is
    False.
    """
    needs_x, needs_v, needs_threshold, needs_tau, needs_divisor = needs
    membrane = _there(membrane, layout)
    rows_out, row_v = _incoming(grad_out, grad_v, layout, dtype, membrane.dtype, above.device)
    divide = membrane.divisor is not None and not (needs_threshold or needs_tau or needs_divisor)
    chosen = choose(above, membrane, engine)
    grad, grad_v0 = chosen.linear_backward(above, rows_out, row_v, membrane, divide)
    grad_threshold = grad_tau = grad_divisor = None
    if needs_threshold:
        grad_threshold = parameters.threshold_gradient(grad, above, rows_out, row_v, membrane)
    if needs_tau and v0 is not None:
        grad_tau = parameters.tau_gradient(grad, above, layout.row(v0), membrane, chosen)
    if membrane.divisor is not None and not divide:
        if needs_divisor and x_seq is not None:
            grad_divisor = parameters.divisor_gradient(
                grad, layout.rows(x_seq), membrane.divisor, membrane.inner, chosen
            )
        grad = grad / per_neuron(membrane.divisor, grad.shape[1], membrane.inner)
    # saved distances and gradients are rows already
    grad_x = layout.unrows(grad).to(dtype) if needs_x else None
    return (
        grad_x,
        layout.unrow(grad_v0) if needs_v else None,
        grad_threshold,
        grad_tau,
        grad_divisor,
    )


def _incoming(
    grad_out: Tensor | None,
    grad_v: Tensor | None,
    layout: Layout,
    dtype: torch.dtype,
    state: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Incoming gradients as rows, zeros where there is none."""
    time_steps, size = layout.shape[0], layout.size
    rows_out = (
        torch.zeros((), dtype=dtype, device=device).expand(time_steps, size)
        if grad_out is None
        else layout.rows(grad_out)
    )
    row_v = (
        torch.zeros((), dtype=state, device=device).expand(size)
        if grad_v is None
        else layout.row(grad_v)
    )
    return rows_out, row_v


def _there(neuron: Any, layout: Layout) -> Any:
    """The table or membrane as seen in the order of memory."""
    return (
        neuron if neuron.inner == layout.inner else dataclasses.replace(neuron, inner=layout.inner)
    )


def _check_input(x_seq: Tensor, dtype: torch.dtype, device: torch.device) -> None:
    if x_seq.dtype != dtype and (
        not x_seq.dtype.is_floating_point or torch.promote_types(x_seq.dtype, dtype) != dtype
    ):
        raise InvalidTypeError(
            f"x_seq: is {x_seq.dtype} and the neuron computes in {dtype}; give a floating-point"
            " input that is no wider, or a neuron in float64"
        )
    if x_seq.device != device:
        raise InvalidTypeError(
            f"x_seq: is on {x_seq.device} and the neuron on {device}; move one of them with .to()"
        )
    if x_seq.dim() < 1 or x_seq.shape[0] == 0:
        raise ShapeError(
            f"x_seq: needs shape [T, *n] with T >= 1, got {tuple(x_seq.shape)}; the first axis is"
            " time"
        )


def _per_neuron_start(
    name: str, start: Tensor, x_seq: Tensor, neuron: Table | LinearMembrane
) -> Tensor:
    """The start of every neuron `[*n]`, a view wherever it can be one."""
    if start.dtype != neuron.dtype or start.device != x_seq.device:
        raise InvalidTypeError(
            f"{name}: is {start.dtype} on {start.device} and must be {neuron.dtype} on"
            f" {x_seq.device}; convert it with .to()"
        )
    step = x_seq.shape[1:]
    if start.shape == step:
        return start
    if start.dim() <= 1 and start.numel() in (1, neuron.channels):
        return spread(start, step, neuron.inner)
    raise ShapeError(
        f"{name}: has shape {tuple(start.shape)} and must be {tuple(step)}, one step of x_seq, or"
        " one number per channel"
    )


def spread(value: Tensor, step: torch.Size, inner: int) -> Tensor:
    """One number for all (`[1]` or `[]`) or per channel (`[C]`) as one step of neurons, a view
    where it can be, differentiable.
    """
    if value.numel() == 1:
        return value.reshape(()).expand(step)
    groups = step.numel() // (value.numel() * inner)
    return value[:, None].expand(-1, inner).reshape(1, -1).expand(groups, -1).reshape(step)
