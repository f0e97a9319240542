"""The definition of a scan: plain torch, one time step after the other. Every other engine
reproduces it bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from snnsim.kernels.codes import code_dtype, is_marked, mark_bit, stored_nan, unpack
from snnsim.kernels.table import LinearMembrane, Table

__all__ = [
    "RUN",
    "ReferenceEngine",
    "channel_of",
    "histogram_block",
    "input_products",
    "per_neuron",
    "state_after",
    "state_products",
]

# neurons whose products are added up together, neurons of a strip of them, and sums that grow side
# by side: fixed, so that no thread count changes a rounding
RUN, STRIP, LANES = 4096, 512, 16


class ReferenceEngine:
    """Runs everything, on every device; slow, because it goes through Python once per time step."""

    name = "reference"

    def why_not(self, x: Tensor, table: Table | LinearMembrane) -> str | None:
        """Why this engine cannot run here: never."""
        return None

    def forward(
        self, x: Tensor, carry: Tensor, table: Table, save: bool, plain: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run a table over a sequence.

        Args:
            x: input `[T, N]`, T >= 1, in the unit of the levels.
            carry: `[N]`, what is left of the state before the first input, in the table's dtype.
            table: the automaton.
            save: keep the codes for the backward pass.
            plain: see `codes.code_dtype`.

        Returns:
            Output `[T, N]` in the dtype of `x`, state after the reset of the last step `[N]`, and
            codes `[T, N]` or None.
        """
        time_steps, size = x.shape
        offset = channel_of(size, table.channels, table.inner, x.device) * table.levels
        divisor = None if table.divisor is None else per_neuron(table.divisor, size, table.inner)
        out_seq = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        stored = code_dtype(table.levels, table.clip, plain)
        codes = torch.empty(x.shape, dtype=stored, device=x.device) if save else None
        out, after, left = (
            entries.detach().reshape(-1) for entries in (table.out, table.after, table.carry)
        )
        for t in range(time_steps):
            u = x[t].to(table.dtype)
            if divisor is not None:
                u = u / divisor
            # one add and no multiply: nothing to contract, so every engine rounds alike
            h = carry + u
            nan = torch.isnan(h)
            code = torch.bucketize(h, table.edges, right=True).masked_fill(nan, 0)
            row = offset + code
            out_seq[t] = torch.where(nan, h, out[row]).to(x.dtype)
            carry = torch.where(nan, h, (left if t < time_steps - 1 else after)[row])
            if codes is not None:
                codes[t] = _pack(code, h, nan, table, stored)
        return out_seq, carry, codes

    def backward(
        self,
        codes: Tensor,
        aside: Tensor | None,
        grad_out: Tensor,
        grad_v: Tensor,
        table: Table,
        divide: bool,
    ) -> tuple[Tensor, Tensor]:
        """Gradients of a scan.

        Args:
            codes: as saved by `forward`, `[T, N]`.
            aside: where the membrane was NaN, for codes without a mark.
            grad_out: of the output, `[T, N]`, any floating dtype.
            grad_v: of the last state, `[N]`.
            table: the automaton.
            divide: return the gradient of the input, not that of the charged membrane.

        Returns:
            Gradient of the input or of the charged membrane `[T, N]`, and of the first carry `[N]`,
            in the table's dtype.
        """
        time_steps, size = codes.shape
        offset = channel_of(size, table.channels, table.inner, codes.device) * table.levels
        divisor = (
            per_neuron(table.divisor, size, table.inner)
            if divide and table.divisor is not None
            else None
        )
        d_out, d_carry, d_after = (
            slope.detach().reshape(-1) for slope in (table.d_out, table.d_carry, table.d_after)
        )
        grad = torch.empty(codes.shape, dtype=table.dtype, device=codes.device)
        g, d_next = grad_v.to(table.dtype), d_after
        for t in reversed(range(time_steps)):
            code, blocked, _ = unpack(codes[t], table.levels, None if aside is None else aside[t])
            row = offset + code
            # two products and one sum, in this order; a select, because 0 * inf is NaN
            g = torch.where(
                blocked, 0.0, d_out[row] * grad_out[t].to(table.dtype) + d_next[row] * g
            )
            grad[t] = g if divisor is None else g / divisor
            d_next = d_carry
        return grad, g

    def histogram(
        self, codes: Tensor, aside: Tensor | None, weights: Tensor, table: Table
    ) -> Tensor:
        """Sum of the weights of each code of each channel; NaN counts nowhere.

        Sums run in float64, over the neurons of one block, then over its time steps, then over
        blocks.

        Args:
            codes: as saved by `forward`, `[T, N]`.
            aside: where the membrane was NaN, for codes without a mark.
            weights: `[T, N]`, any floating dtype.

        Returns:
            `[C, L]` float64.
        """
        size = codes.shape[1]
        bins = table.channels * table.levels
        total = torch.zeros(bins, dtype=torch.float64, device=codes.device)
        offset = channel_of(size, table.channels, table.inner, codes.device) * table.levels
        block = histogram_block(size)
        for start in range(0, size, block):
            part = slice(start, start + block)
            code, _, nan = unpack(
                codes[:, part], table.levels, None if aside is None else aside[:, part]
            )
            row = torch.where(nan, bins, offset[part] + code)
            sums = torch.bincount(
                row.reshape(-1), weights[:, part].reshape(-1).double(), minlength=bins + 1
            )
            total += sums[:bins]
        return total.reshape(table.channels, table.levels)

    def input_product(self, grad: Tensor, x: Tensor) -> Tensor:
        """Sum of `grad * x`, both `[T, N]`, in float64; what has no gradient adds nothing, NaN and
        infinite inputs included.

        Every strip of a run of neurons is folded in half down to LANES numbers, which are added to
        as many sums, in the order of time and place; those are folded down to one; then runs are
        added.
        """

        return _in_lanes(lambda neurons: input_products(grad[:, neurons], x[:, neurons]), grad)

    def state_product(
        self, grad: Tensor, above: Tensor, v0: Tensor, membrane: LinearMembrane
    ) -> Tensor:
        """Sum of `grad * (v - rest)` over all steps, `v` the state before each, in float64 and the
        order of `input_product`.

        Args:
            grad: of the charged membrane, `[T, N]`.
            above: as saved by `linear_forward`, `[T, N]`; NaN adds nothing.
            v0: state before the first step, `[N]`.
            membrane: one channel.
        """

        def part(neurons: slice) -> Tensor:
            v = torch.cat([v0[neurons][None], state_after(above[:-1, neurons], membrane)])
            return state_products(grad[:, neurons], above[:, neurons], v, membrane)

        return _in_lanes(part, grad)

    def linear_forward(
        self, x: Tensor, v: Tensor, membrane: LinearMembrane, save: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run an un-quantized neuron over a sequence.

        Args:
            x: input `[T, N]`, T >= 1, in the unit of the threshold.
            v: `[N]`, state before the first step, in the membrane's dtype.
            membrane: its constants.
            save: keep the distance to the threshold for the backward pass.

        Returns:
            Spikes `[T, N]` in the dtype of `x`, state after the last step `[N]`, and `h -
            threshold` `[T, N]` or None.
        """
        threshold, tau, divisor = _constants(membrane, x.shape[1])
        spikes = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        kept = torch.empty(x.shape, dtype=membrane.dtype, device=x.device) if save else None
        for t in range(x.shape[0]):
            u = x[t].to(membrane.dtype)
            if divisor is not None:
                u = u / divisor
            h = u + v if tau is None else (v - (v - membrane.rest) / tau) + u
            fired = h >= threshold
            spikes[t] = torch.where(torch.isnan(h), h, fired.to(h.dtype)).to(x.dtype)
            above = h - threshold
            v = torch.where(fired, above if membrane.reset is None else membrane.reset, h)
            if kept is not None:
                kept[t] = above
        return spikes, v, kept

    def linear_backward(
        self,
        above: Tensor,
        grad_out: Tensor,
        grad_v: Tensor,
        membrane: LinearMembrane,
        divide: bool,
    ) -> tuple[Tensor, Tensor]:
        """Gradients of a scan of an un-quantized neuron.

        Args:
            above: distance of the charged membrane to the threshold, as saved by `linear_forward`,
                `[T, N]`.
            grad_out: of the spikes, `[T, N]`.
            grad_v: of the state after the last step, `[N]`.
            membrane: its constants.
            divide: return the gradient of the input, not that of the charged membrane.

        Returns:
            Gradient of the input or of the charged membrane `[T, N]`, and of the state before the
            first step `[N]`.
        """
        threshold, tau, divisor = _constants(membrane, above.shape[1])
        grad = torch.empty_like(above)
        g = grad_v.to(membrane.dtype)
        for t in reversed(range(above.shape[0])):
            d, gs = above[t], grad_out[t].to(membrane.dtype)
            if membrane.reset is None:
                past = g
                gs = gs if membrane.detach_reset else gs - g * threshold
            else:
                past = torch.where(d >= 0, 0.0, g)
                gs = (
                    gs if membrane.detach_reset else (gs - g * (d + threshold)) + g * membrane.reset
                )
            gh = torch.where(torch.isnan(d), 0.0, gs * membrane.slopes(d) + past)
            grad[t] = gh if divisor is None or not divide else gh / divisor
            g = gh if tau is None else gh - gh / tau
        return grad, g


def channel_of(size: int, channels: int, inner: int, device: torch.device) -> Tensor:
    """Channel of each of `size` flat neurons, int64 `[size]`."""
    if channels == 1:
        return torch.zeros(size, dtype=torch.int64, device=device)
    return torch.arange(size, device=device) // inner % channels


def per_neuron(value: Tensor, size: int, inner: int) -> Tensor:
    """A constant `[1]` or `[C]`, without its graph, in a shape that broadcasts against `[size]`
    neurons.
    """
    value = value.detach()
    return (
        value if value.numel() == 1 else value[channel_of(size, value.numel(), inner, value.device)]
    )


def histogram_block(size: int) -> int:
    """Neurons whose sums are taken together: a function of the size alone, so that no thread count
    changes a rounding.
    """
    return max(4096, -(-size // 8))


def input_products(grad: Tensor, x: Tensor) -> Tensor:
    """`grad * x` in float64, 0 where there is no gradient."""
    return torch.where(grad == 0, 0.0, grad.double() * x.double())


def state_products(grad: Tensor, above: Tensor, v: Tensor, membrane: LinearMembrane) -> Tensor:
    """`grad * (v - rest)` in float64, 0 where the charged membrane is NaN."""
    return torch.where(torch.isnan(above), 0.0, grad.double() * (v.double() - membrane.rest))


def state_after(above: Tensor, membrane: LinearMembrane) -> Tensor:
    """The state that a step of a neuron of one channel leaves, from the distance of its charged
    membrane to the threshold.
    """
    after = above if membrane.reset is None else torch.full_like(above, membrane.reset)
    return torch.where(above >= 0, after, above + membrane.threshold.detach())


def _in_lanes(part: Callable[[slice], Tensor], like: Tensor) -> Tensor:
    """Sum of `[T, N]` products, of which `part` gives those of some neurons."""
    total = torch.zeros((), dtype=torch.float64, device=like.device)
    for first in range(0, like.shape[1], RUN):
        products = part(slice(first, first + RUN))
        strips = nn.functional.pad(products, (0, -products.shape[1] % STRIP)).reshape(-1, STRIP)
        lanes = _folded(strips, LANES).cumsum(0)[-1:]
        total += _folded(lanes, 1)[0, 0]
    return total


def _folded(rows: Tensor, width: int) -> Tensor:
    while rows.shape[1] > width:
        half = rows.shape[1] // 2
        rows = rows[:, :half] + rows[:, half:]
    return rows


def _constants(membrane: LinearMembrane, size: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    threshold, tau, divisor = membrane.threshold, membrane.tau, membrane.divisor
    return (
        per_neuron(threshold, size, membrane.inner),
        None if tau is None else per_neuron(tau, size, membrane.inner),
        None if divisor is None else per_neuron(divisor, size, membrane.inner),
    )


def _pack(code: Tensor, h: Tensor, nan: Tensor, table: Table, dtype: torch.dtype) -> Tensor:
    """Codes in the form they are stored."""
    if is_marked(table.levels, dtype) and table.clip:
        code = torch.where((h < table.low) | (h > table.high), code + mark_bit(dtype), code)
    return torch.where(nan, stored_nan(table.levels, dtype), code).to(dtype)
