"""The definition of a scan: plain torch, one time step after the other. Every other engine
reproduces it bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from snnsim.automaton.automaton import Automaton
from snnsim.kernels.codes import code_dtype, is_marked, mark_bit, nan_aside, stored_nan, unpack
from snnsim.kernels.gradients import (
    AutomatonPasses,
    MembranePasses,
    Saved,
    channel_of,
    per_neuron,
)
from snnsim.kernels.linear import LinearMembrane

# neurons whose products are added up together, neurons of a strip of them, and sums that grow side
# by side: fixed, so that no thread count changes a rounding
RUN, STRIP, LANES = 4096, 512, 16


class ReferenceAutomaton(AutomatonPasses):
    """An automaton in plain torch."""

    def forward(
        self, x: Tensor, start: Tensor, save: bool, plain: bool = True
    ) -> tuple[Tensor, Tensor, Saved]:
        """Run an automaton over a sequence.

        Args:
            x: input `[T, N]`, T >= 1, in the unit of the levels.
            start: `[N]`, what is left of the state before the first input, in the automaton's
                dtype.
            save: keep the codes for the backward pass.
            plain: see `codes.code_dtype`.

        Returns:
            Output `[T, N]` in the dtype of `x`, state after the reset of the last step `[N]`, and
            what is kept: codes `[T, N]`, and where the membrane was NaN if they cannot say so.
        """
        automaton, carry = self.automaton, start
        time_steps, size = x.shape
        offset = self._rows(size, x.device)
        divisor = self._divisor(size)
        out_seq = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        stored = code_dtype(automaton.levels, automaton.clip, plain)
        codes = torch.empty(x.shape, dtype=stored, device=x.device) if save else None
        out, after, left = (
            entries.detach().reshape(-1)
            for entries in (automaton.out, automaton.after, automaton.carry)
        )
        for t in range(time_steps):
            u = x[t].to(automaton.dtype)
            if divisor is not None:
                u = u / divisor
            # one add and no multiply: nothing to contract, so every engine rounds alike
            h = carry + u
            nan = torch.isnan(h)
            code = torch.bucketize(h, automaton.edges, right=True).masked_fill(nan, 0)
            row = offset + code
            out_seq[t] = torch.where(nan, h, out[row]).to(x.dtype)
            carry = torch.where(nan, h, (left if t < time_steps - 1 else after)[row])
            if codes is not None:
                codes[t] = _pack(code, h, nan, automaton, stored)
        return out_seq, carry, nan_aside(codes, automaton.levels, out_seq, carry)

    def backward(
        self, saved: Saved, grad_out: Tensor, grad_v: Tensor, divide: bool
    ) -> tuple[Tensor, Tensor]:
        """Gradients of a scan.

        Args:
            saved: what `forward` kept.
            grad_out: of the output, `[T, N]`, any floating dtype.
            grad_v: of the last state, `[N]`.
            divide: return the gradient of the input, not that of the charged membrane.

        Returns:
            Gradient of the input or of the charged membrane `[T, N]`, and of the start `[N]`, in
            the automaton's dtype.
        """
        (codes, aside), automaton = saved, self.automaton
        time_steps, size = codes.shape
        offset = self._rows(size, codes.device)
        divisor = self._divisor(size) if divide else None
        d_out, d_carry, d_after = (
            slope.detach().reshape(-1)
            for slope in (automaton.d_out, automaton.d_carry, automaton.d_after)
        )
        grad = torch.empty(codes.shape, dtype=automaton.dtype, device=codes.device)
        g, d_next = grad_v.to(automaton.dtype), d_after
        for t in reversed(range(time_steps)):
            step = None if aside is None else aside[t]
            code, blocked, _ = unpack(codes[t], automaton.levels, step)
            row = offset + code
            # two products and one sum, in this order; a select, because 0 * inf is NaN
            total = d_out[row] * grad_out[t].to(automaton.dtype) + d_next[row] * g
            g = torch.where(blocked, 0.0, total)
            grad[t] = g if divisor is None else g / divisor
            d_next = d_carry
        return grad, g

    def histogram(self, codes: Tensor, aside: Tensor | None, weights: Tensor) -> Tensor:
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
        automaton, size = self.automaton, codes.shape[1]
        bins = automaton.channels * automaton.levels
        total = torch.zeros(bins, dtype=torch.float64, device=codes.device)
        offset, block = self._rows(size, codes.device), histogram_block(size)
        for first in range(0, size, block):
            part = slice(first, first + block)
            code, _, nan = unpack(
                codes[:, part], automaton.levels, None if aside is None else aside[:, part]
            )
            row = torch.where(nan, bins, offset[part] + code)
            sums = torch.bincount(
                row.reshape(-1), weights[:, part].reshape(-1).double(), minlength=bins + 1
            )
            total += sums[:bins]
        return total.reshape(automaton.channels, automaton.levels)

    def input_product(self, grad: Tensor, x: Tensor) -> Tensor:
        """As `input_product` of this module."""
        return input_product(grad, x)

    def _rows(self, size: int, device: torch.device) -> Tensor:
        """First entry of the row of each neuron."""
        automaton = self.automaton
        return channel_of(size, automaton.channels, automaton.inner, device) * automaton.levels

    def _divisor(self, size: int) -> Tensor | None:
        divisor = self.automaton.divisor
        return None if divisor is None else per_neuron(divisor, size, self.automaton.inner)


class ReferenceMembrane(MembranePasses):
    """A linear membrane in plain torch."""

    def forward(
        self, x: Tensor, start: Tensor, save: bool, plain: bool = True
    ) -> tuple[Tensor, Tensor, Saved]:
        """Run an un-quantized neuron over a sequence.

        Args:
            x: input `[T, N]`, T >= 1, in the unit of the threshold.
            start: `[N]`, state before the first step, in the membrane's dtype.
            save: keep the distance to the threshold for the backward pass.
            plain: of no meaning here.

        Returns:
            Spikes `[T, N]` in the dtype of `x`, state after the last step `[N]`, and what is kept:
            `h - threshold`, `[T, N]`.
        """
        membrane, v = self.membrane, start
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
        return spikes, v, (kept,)

    def backward(
        self, saved: Saved, grad_out: Tensor, grad_v: Tensor, divide: bool
    ) -> tuple[Tensor, Tensor]:
        """Gradients of a scan of an un-quantized neuron.

        Args:
            saved: what `forward` kept.
            grad_out: of the spikes, `[T, N]`.
            grad_v: of the state after the last step, `[N]`.
            divide: return the gradient of the input, not that of the charged membrane.

        Returns:
            Gradient of the input or of the charged membrane `[T, N]`, and of the state before the
            first step `[N]`.
        """
        above, membrane = saved[0], self.membrane
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

    def state_product(self, grad: Tensor, above: Tensor, v0: Tensor) -> Tensor:
        """Sum of `grad * (v - rest)` over all steps, `v` the state before each, in float64 and the
        order of `input_product`; of one channel.

        Args:
            grad: of the charged membrane, `[T, N]`.
            above: as saved by `forward`, `[T, N]`; NaN adds nothing.
            v0: state before the first step, `[N]`.
        """
        membrane = self.membrane

        def part(neurons: slice) -> Tensor:
            v = torch.cat([v0[neurons][None], state_after(above[:-1, neurons], membrane)])
            return state_products(grad[:, neurons], above[:, neurons], v, membrane)

        return _in_lanes(part, grad)

    def input_product(self, grad: Tensor, x: Tensor) -> Tensor:
        """As `input_product` of this module."""
        return input_product(grad, x)


class ReferenceEngine:
    """Runs everything, on every device; slow, because it goes through Python once per time step."""

    name = "reference"
    automaton, membrane = ReferenceAutomaton, ReferenceMembrane

    def why_not(self, x: Tensor, neuron: Automaton | LinearMembrane) -> str | None:
        """Reason that this engine cannot run here: none, ever."""
        return None


def input_product(grad: Tensor, x: Tensor) -> Tensor:
    """Sum of `grad * x`, both `[T, N]`, in float64; what has no gradient adds nothing, NaN and
    infinite inputs included.

    Every strip of a run of neurons is folded in half down to LANES numbers, which are added to as
    many sums, in the order of time and place; those are folded down to one; then runs are added.
    """
    return _in_lanes(lambda neurons: input_products(grad[:, neurons], x[:, neurons]), grad)


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


def _pack(code: Tensor, h: Tensor, nan: Tensor, automaton: Automaton, dtype: torch.dtype) -> Tensor:
    """Codes in the form they are stored."""
    if is_marked(automaton.levels, dtype) and automaton.clip:
        beyond = (h < automaton.low) | (h > automaton.high)
        code = torch.where(beyond, code + mark_bit(dtype), code)
    return torch.where(nan, stored_nan(automaton.levels, dtype), code).to(dtype)
