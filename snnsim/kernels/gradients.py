"""Gradients of what a table or a membrane is made of: sums over all neurons and steps, in
float64."""

from __future__ import annotations

import torch
from torch import Tensor

from snnsim.errors import InvalidValueError
from snnsim.kernels.launch import Engine
from snnsim.kernels.reference import per_neuron
from snnsim.kernels.table import LinearMembrane, Table

__all__ = [
    "channel_sums",
    "divisor_gradient",
    "input_sums",
    "leaked_gradient",
    "level_gradients",
    "tau_gradient",
    "threshold_gradient",
]

# neurons summed by one thread in one go: fixed, so that no thread count changes a rounding
RUN = 4096


def channel_sums(values: Tensor, channels: int, inner: int) -> Tensor:
    """Sum of `[N]` over the neurons of each channel, `[C]` float64."""
    values = values.double()
    if channels > 1:
        return values.view(-1, channels, inner).sum(2).sum(0)
    whole = len(values) // RUN * RUN
    return (values[:whole].view(-1, RUN).sum(1).sum(0) + values[whole:].sum()).reshape(1)


def divisor_gradient(
    grad: Tensor, x: Tensor, divisor: Tensor, inner: int, engine: Engine
) -> Tensor:
    """Gradient of the divisor of an input: sum of `grad * -x / divisor**2`.

    Args:
        grad: of the quotient, `[T, N]`.
        x: input, `[T, N]`.
        divisor: `[1]` or `[C]`.
        inner: neurons in a row that share a channel.
        engine: that adds up.

    Returns:
        Same shape and dtype as `divisor`.
    """
    return (
        -input_sums(grad, x, divisor.numel(), inner, engine) / divisor.detach().double() ** 2
    ).to(divisor.dtype)


def input_sums(grad: Tensor, x: Tensor, channels: int, inner: int, engine: Engine) -> Tensor:
    """Sum of `grad * x`, both `[T, N]`, over time and the neurons of each channel, `[C]`
    float64."""
    if channels == 1:
        return engine.input_product(grad, x).reshape(1)
    total = torch.zeros(channels, dtype=torch.float64, device=grad.device)
    for g, x_t in zip(grad.unbind(0), x.unbind(0), strict=True):
        # what gets no gradient adds nothing, NaN and infinite inputs included
        part = torch.where(g == 0, 0.0, g.double() * x_t.double())
        total += channel_sums(part, channels, inner)
    return total


def level_gradients(
    charged: Tensor,
    emitted: Tensor,
    carried: Tensor,
    kept: Tensor,
    driven: Tensor,
    start: Tensor,
    table: Table,
) -> tuple[Tensor, ...]:
    """Gradients of what a codebook learns, from sums over each code: no charged membrane is kept or
    computed again.

    The gradient of a quantized state is that of its charged membrane where it passes, so what was
    clipped away is the rest:

        clipped[k] = d_out[k] * emitted[k] + d_carry[k] * carried[k] + d_after[k] * kept[k] -
        charged[k]

    and the charged membrane is what the code before left behind plus the input.

    Args:
        charged: gradient of the charged membrane, summed by code, `[C, L]` float64.
        emitted, carried, kept: the same of the output, of what is left before the next input, and
            of the last state.
        driven: sum of the charged membrane's gradient times the input, `[C]` float64.
        start: sum of the first gradient times what was left before the first input, `[]` float64.
        table: the neuron; its codebook learns.

    Returns:
        A gradient for each of `table.learned.parameters`.
    """
    learned = table.learned
    if learned is None:
        raise InvalidValueError(
            "level_gradients: the levels of this table are fixed (learned is None)"
        )
    d_out, d_carry, d_after = (
        slope.detach().double() for slope in (table.d_out, table.d_carry, table.d_after)
    )
    clipped = d_out * emitted + d_carry * carried + d_after * kept - charged
    divisor = 1.0 if table.divisor is None else table.divisor.detach().double()
    membrane = (driven / divisor).sum() + start + (table.carry.detach().double() * carried).sum()
    totals = (
        learned.inside @ charged.sum(0)
        + learned.by_membrane * membrane
        + learned.outside @ clipped.sum(0)
    )
    return tuple(
        total.to(value.dtype).reshape(value.shape)
        for total, value in zip(totals, learned.parameters, strict=True)
    )


def threshold_gradient(
    grad: Tensor, above: Tensor, grad_out: Tensor, grad_v: Tensor, membrane: LinearMembrane
) -> Tensor:
    """Gradient of an un-quantized neuron's threshold.

    Args:
        grad: of the charged membrane, `[T, N]`.
        above, grad_out, grad_v, membrane: as for `ReferenceEngine.linear_backward`.

    Returns:
        Same shape and dtype as `membrane.threshold`.
    """
    threshold = per_neuron(membrane.threshold, above.shape[1], membrane.inner)
    total = torch.zeros(membrane.threshold.numel(), dtype=torch.float64, device=above.device)
    g = grad_v.to(membrane.dtype)
    for t in reversed(range(len(above))):
        d = above[t]
        through_spike = grad_out[t].to(d.dtype)
        if not membrane.detach_reset:
            through_spike = through_spike + g * (
                -threshold if membrane.reset is None else membrane.reset - (d + threshold)
            )
        part = -(through_spike * membrane.slopes(d))
        if membrane.reset is None:
            part = part - torch.where(d >= 0, g, 0.0)
        total += channel_sums(torch.where(torch.isnan(d), 0.0, part), len(total), membrane.inner)
        g = leaked_gradient(grad[t], membrane)
    return total.to(membrane.dtype)


def tau_gradient(
    grad: Tensor, above: Tensor, v0: Tensor, membrane: LinearMembrane, engine: Engine
) -> Tensor:
    """Gradient of an un-quantized neuron's time constant: sum of `grad * (v - rest) / tau**2`, `v`
    the state before each step.

    Args:
        grad: of the charged membrane, `[T, N]`.
        above: distance of the charged membrane to the threshold, `[T, N]`.
        v0: state before the first step, `[N]`.
        membrane: its constants; leaks.
        engine: that adds up.

    Returns:
        Same shape and dtype as `membrane.tau`.
    """
    if membrane.tau is None:
        raise InvalidValueError("tau_gradient: this membrane does not leak (tau is None)")
    if membrane.channels == 1:
        total = engine.state_product(grad, above, v0, membrane).reshape(1)
        return (total / membrane.tau.detach().double() ** 2).to(membrane.dtype)
    threshold = per_neuron(membrane.threshold, above.shape[1], membrane.inner)
    total = torch.zeros(membrane.tau.numel(), dtype=torch.float64, device=above.device)
    for t in range(len(above)):
        d = above[t - 1]
        v = (
            v0
            if t == 0
            else torch.where(d >= 0, d if membrane.reset is None else membrane.reset, d + threshold)
        )
        part = torch.where(
            torch.isnan(above[t]), 0.0, grad[t].double() * (v.double() - membrane.rest)
        )
        total += channel_sums(part, len(total), membrane.inner)
    return (total / membrane.tau.detach().double() ** 2).to(membrane.dtype)


def leaked_gradient(grad: Tensor, membrane: LinearMembrane) -> Tensor:
    """Gradient of the state before a step, from that of the charged membrane `[N]`."""
    if membrane.tau is None:
        return grad
    return grad - grad / per_neuron(membrane.tau, grad.shape[0], membrane.inner)
