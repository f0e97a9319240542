"""What the passes of every engine have in common: gradients of what a neuron is made of, as sums
over all neurons and steps, in float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from snnsim.automaton.automaton import Automaton
from snnsim.errors import InvalidValueError
from snnsim.kernels.linear import LinearMembrane

# what a forward pass keeps for the backward pass, and gradients of the entries of a neuron
Saved: TypeAlias = Sequence[Any]
Entries: TypeAlias = tuple[Tensor | None, ...]

# neurons summed by one thread in one go: fixed, so that no thread count changes a rounding
RUN = 4096


class Passes(ABC):
    """A neuron on one engine, on rows `[T, N]` of neurons; what does not change from call to call
    is found out once. The classes of `reference` say what each method computes.
    """

    # of the entries of a neuron, those whose gradients read the input, and the start
    READ_INPUT: ClassVar[slice]
    READ_START: ClassVar[slice]

    @abstractmethod
    def forward(
        self, x: Tensor, start: Tensor, save: bool, plain: bool = True
    ) -> tuple[Tensor, Tensor, Saved]:
        """Run a sequence."""

    @abstractmethod
    def backward(
        self, saved: Saved, grad_out: Tensor, grad_v: Tensor, divide: bool
    ) -> tuple[Tensor, Tensor]:
        """Gradients of `forward`."""

    @abstractmethod
    def gradients(
        self,
        saved: Saved,
        grad: Tensor,
        grad_out: Tensor,
        grad_v: Tensor,
        x: Tensor | None,
        start: Tensor | None,
        needs: Sequence[bool],
    ) -> Entries:
        """Gradients of the entries of the neuron, None where they are not needed.

        Args:
            saved: what `forward` kept.
            grad: of the charged membrane, `[T, N]`.
            grad_out, grad_v: as for `backward`.
            x: input `[T, N]`, where a gradient reads it.
            start: as for `forward`, where a gradient reads it.
            needs: of each entry.
        """

    @abstractmethod
    def input_product(self, grad: Tensor, x: Tensor) -> Tensor:
        """Sum of gradients times inputs."""

    def input_sums(self, grad: Tensor, x: Tensor, channels: int, inner: int) -> Tensor:
        """Sum of `grad * x`, both `[T, N]`, over time and the neurons of each channel, `[C]`
        float64.
        """
        if channels == 1:
            return self.input_product(grad, x).reshape(1)
        total = torch.zeros(channels, dtype=torch.float64, device=grad.device)
        for g, x_t in zip(grad.unbind(0), x.unbind(0), strict=True):
            # what gets no gradient adds nothing, NaN and infinite inputs included
            part = torch.where(g == 0, 0.0, g.double() * x_t.double())
            total += channel_sums(part, channels, inner)
        return total


class AutomatonPasses(Passes):
    """An automaton on one engine. A forward pass saves codes, and where the membrane was NaN if
    codes cannot say so.
    """

    READ_INPUT, READ_START = slice(3, None), slice(4, None)

    def __init__(self, automaton: Automaton) -> None:
        self.automaton = automaton

    @abstractmethod
    def histogram(self, codes: Tensor, aside: Tensor | None, weights: Tensor) -> Tensor:
        """Sum of the weights of each code of each channel."""

    def gradients(
        self,
        saved: Saved,
        grad: Tensor,
        grad_out: Tensor,
        grad_v: Tensor,
        x: Tensor | None,
        start: Tensor | None,
        needs: Sequence[bool],
    ) -> Entries:
        """As `Passes.gradients`, of (out, carry, after, divisor, *what the codebook learns)."""
        automaton = self.automaton
        (codes, aside), (needs_out, needs_carry, needs_after, needs_divisor, *needs_levels) = (
            saved,
            needs,
        )
        moves = any(needs_levels)
        sums: list[Tensor | None] = []
        found: list[Tensor | None] = []
        for needed, steps, weights in (
            (needs_out, slice(None), grad_out),
            (needs_carry, slice(None, -1), grad[1:]),
            (needs_after, slice(-1, None), grad_v[None]),
        ):
            total = None
            if needed or moves:
                nan = None if aside is None else aside[steps]
                total = self.histogram(codes[steps], nan, weights)
            sums.append(total)
            found.append(total.to(automaton.dtype) if needed and total is not None else None)
        driven = None
        if x is not None:
            channels = 1 if automaton.divisor is None else automaton.divisor.numel()
            driven = self.input_sums(grad, x, channels, automaton.inner)
        found.append(_divisor_gradient(driven, automaton.divisor) if needs_divisor else None)
        if not moves or start is None or driven is None:
            return (*found, *[None] * len(needs_levels))
        charged = self.histogram(codes, aside, grad)
        first = self.input_product(grad[:1], start[None])
        return (*found, *self._level_gradients(charged, sums, driven, first))

    def _level_gradients(
        self, charged: Tensor, sums: Sequence[Any], driven: Tensor, first: Tensor
    ) -> list[Tensor]:
        """Gradients of what a codebook learns, from sums over each code: no charged membrane is
        kept or computed again.

        The gradient of a quantized state is that of its charged membrane where it passes, so what
        was clipped away is the rest:

            clipped[k] = d_out[k] * emitted[k] + d_carry[k] * carried[k] + d_after[k] * kept[k]
                         - charged[k]

        and the charged membrane is what the code before left behind plus the input.

        Args:
            charged: gradient of the charged membrane, summed by code, `[C, L]` float64.
            sums: the same of the output, of what is left before the next input, and of the last
                state: emitted, carried, kept.
            driven: sum of the charged membrane's gradient times the input, `[C]` float64.
            first: sum of the first gradient times what was left before the first input, `[]`.
        """
        automaton, learned = self.automaton, self.automaton.learned
        if learned is None:
            raise InvalidValueError("gradients: the levels of this automaton are fixed")
        emitted, carried, kept = sums
        clipped = (
            automaton.d_out.detach().double() * emitted
            + automaton.d_carry.detach().double() * carried
            + automaton.d_after.detach().double() * kept
            - charged
        )
        divisor = 1.0 if automaton.divisor is None else automaton.divisor.detach().double()
        left = (automaton.carry.detach().double() * carried).sum()
        membrane = (driven / divisor).sum() + first + left
        totals = (
            learned.inside @ charged.sum(0)
            + learned.by_membrane * membrane
            + learned.outside @ clipped.sum(0)
        )
        found = []
        for total, value in zip(totals, learned.parameters, strict=True):
            found.append(total.to(value.dtype).reshape(value.shape))
        return found


class MembranePasses(Passes):
    """A linear membrane on one engine. A forward pass saves the distance to the threshold."""

    READ_INPUT, READ_START = slice(2, None), slice(1, 2)

    def __init__(self, membrane: LinearMembrane) -> None:
        self.membrane = membrane

    @abstractmethod
    def state_product(self, grad: Tensor, above: Tensor, v0: Tensor) -> Tensor:
        """Sum of gradients times the states before each step."""

    def gradients(
        self,
        saved: Saved,
        grad: Tensor,
        grad_out: Tensor,
        grad_v: Tensor,
        x: Tensor | None,
        start: Tensor | None,
        needs: Sequence[bool],
    ) -> Entries:
        """As `Passes.gradients`, of (threshold, tau, divisor)."""
        membrane, above = self.membrane, saved[0]
        needs_threshold, needs_tau, needs_divisor = needs
        divisor = None
        if needs_divisor and x is not None and membrane.divisor is not None:
            driven = self.input_sums(grad, x, membrane.divisor.numel(), membrane.inner)
            divisor = _divisor_gradient(driven, membrane.divisor)
        return (
            self._threshold_gradient(grad, above, grad_out, grad_v) if needs_threshold else None,
            self._tau_gradient(grad, above, start) if needs_tau and start is not None else None,
            divisor,
        )

    def _threshold_gradient(
        self, grad: Tensor, above: Tensor, grad_out: Tensor, grad_v: Tensor
    ) -> Tensor:
        membrane = self.membrane
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
            part = torch.where(torch.isnan(d), 0.0, part)
            total += channel_sums(part, len(total), membrane.inner)
            g = leaked_gradient(grad[t], membrane)
        return total.to(membrane.dtype)

    def _tau_gradient(self, grad: Tensor, above: Tensor, v0: Tensor) -> Tensor:
        """Sum of `grad * (v - rest) / tau**2`, `v` the state before each step."""
        membrane, tau = self.membrane, self.membrane.tau
        if tau is None:
            raise InvalidValueError("gradients: this membrane does not leak (tau is None)")
        if membrane.channels == 1:
            total = self.state_product(grad, above, v0).reshape(1)
            return (total / tau.detach().double() ** 2).to(membrane.dtype)
        threshold = per_neuron(membrane.threshold, above.shape[1], membrane.inner)
        total = torch.zeros(tau.numel(), dtype=torch.float64, device=above.device)
        for t in range(len(above)):
            d = above[t - 1]
            reset = d if membrane.reset is None else membrane.reset
            v = v0 if t == 0 else torch.where(d >= 0, reset, d + threshold)
            part = torch.where(
                torch.isnan(above[t]), 0.0, grad[t].double() * (v.double() - membrane.rest)
            )
            total += channel_sums(part, len(total), membrane.inner)
        return (total / tau.detach().double() ** 2).to(membrane.dtype)


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


def channel_sums(values: Tensor, channels: int, inner: int) -> Tensor:
    """Sum of `[N]` over the neurons of each channel, `[C]` float64."""
    values = values.double()
    if channels > 1:
        return values.view(-1, channels, inner).sum(2).sum(0)
    whole = len(values) // RUN * RUN
    return (values[:whole].view(-1, RUN).sum(1).sum(0) + values[whole:].sum()).reshape(1)


def leaked_gradient(grad: Tensor, membrane: LinearMembrane) -> Tensor:
    """Gradient of the state before a step, from that of the charged membrane `[N]`."""
    if membrane.tau is None:
        return grad
    return grad - grad / per_neuron(membrane.tau, grad.shape[0], membrane.inner)


def _divisor_gradient(driven: Tensor | None, divisor: Tensor | None) -> Tensor | None:
    """Gradient of the divisor of an input, from sums of the quotient's gradient times the input."""
    if driven is None or divisor is None:
        return None
    return (-driven / divisor.detach().double() ** 2).to(divisor.dtype)
