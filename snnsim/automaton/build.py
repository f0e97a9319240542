"""The automaton of a node, made from its equations: evaluated once on the levels of its
codebook.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from snnsim.automaton.automaton import Automaton, LearnedLevels
from snnsim.quant.codebook import Codebook

# what a node says of itself: quantized state -> (output, state after the reset, what is left of
# that one step later)
Equations = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]

# neurons along an axis that no constant tells apart, where it is to be seen whether they look at
# each other
COMPANY = 3


class NoTable(Exception):
    """Reason that no automaton can stand for some equations. Private: their caller runs them as
    they are, or says what to do.
    """


def build(
    equations: Equations,
    codebook: Codebook,
    neurons: Sequence[int],
    dtype: torch.dtype,
    divisor: Tensor | None = None,
    company: bool = False,
) -> Automaton:
    """Evaluate a node's equations on its levels.

    Constants that differ between neurons make a row for each. The entries keep their graph to
    whatever the node learns.

    Args:
        equations: elementwise functions of the quantized state.
        codebook: its levels, edges and straight-through gradient.
        neurons: shape `[*n]` of one sample, against which the node's constants broadcast.
        dtype: of the state, float32 or float64.
        divisor: what the input is divided by, one number or broadcasting against `[*n]`.
        company: whether each level is evaluated beside others and in several places: of equations
            that are not ours, which may look at the neurons around them, draw numbers or keep a
            state.

    Raises:
        NoTable: what follows from a level is not the same in every place.
    """
    size = math.prod(neurons)
    # an automaton outlives the call: it must not be made of inference tensors, and what is saved
    # while it is made is none of the business of hooks around the call (gradient checkpointing
    # counts what they see)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        saved_tensors_hooks(_itself, _itself),
        codebook.seen_by(size),
    ):
        levels = codebook.levels.detach().to(dtype)
        shape, inner = _channels(
            _constants(equations, levels.reshape(-1, *[1] * len(neurons)), divisor), neurons
        )
        # every channel has levels of its own: slopes of shared ones would be summed over the
        # channels
        codes = _codes(levels, neurons, shape) if company else None
        q = (
            levels.reshape(-1, *[1] * len(shape)).expand(-1, *shape).clone()
            if codes is None
            else levels[codes]
        )
        values, slopes = _differentiated(equations, q.requires_grad_())
        q = q.detach()
        # once more, now with a graph to what the node learns and to nothing else
        again = [value.expand_as(q) for value in equations(q)]
        if company and not all(_alike(a, b.detach()) for a, b in zip(values, again, strict=True)):
            raise NoTable(
                "its equations do not give the same twice: they draw random numbers or keep a state"
                " of their own"
            )
        names = ("spike", "reset", "leak")
        out, after, carry = (
            _rows(value, codes, shape, name) for value, name in zip(again, names, strict=True)
        )
        d_out, d_after, d_carry = (_rows(slope, codes, shape, "slope") for slope in slopes)
        edges = codebook.edges.detach().to(dtype).clone()
        low, high = codebook.limits
        if divisor is not None:
            # a copy: what it was made from may change before the backward pass
            divisor = divisor.to(dtype, copy=True)
            divisor = (
                divisor.reshape(1) if divisor.numel() == 1 else divisor.expand(shape).reshape(-1)
            )
        learned = None
        if codebook.is_learned:
            learned = LearnedLevels(codebook.scaled_parameters(size), *codebook.slopes())
        return Automaton(
            edges=edges,
            out=out,
            carry=carry,
            after=after,
            d_out=d_out,
            d_carry=d_carry,
            d_after=d_after,
            low=low,
            high=high,
            clip=codebook.ste == "clip",
            uniform=_spacing(edges),
            inner=inner,
            divisor=divisor,
            learned=learned,
        )


def sample(
    equations: Equations,
    codebook: Codebook,
    shape: Sequence[int],
    dtype: torch.dtype,
    level: int | None = None,
) -> Sample:
    """Evaluate equations on one step `[B, *n]` of random levels, or of one level alone, as a run
    without a table would.
    """
    with torch.inference_mode(False), torch.enable_grad(), saved_tensors_hooks(_itself, _itself):
        levels = codebook.levels.detach().to(dtype)
        draw = torch.Generator("cpu").manual_seed(0)
        low, high = (0, len(levels)) if level is None else (level, level + 1)
        codes = torch.randint(low, high, tuple(shape), generator=draw, device="cpu").to(
            levels.device
        )
        return Sample(codes, *_differentiated(equations, levels[codes].requires_grad_()))


class Sample(NamedTuple):
    """What equations give on one step of levels.

    Attributes:
        codes: of the levels, `[B, *n]`.
        values: output, state after the reset, leaked state.
        slopes: derivatives of those with respect to the state of the same neuron.
    """

    codes: Tensor
    values: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]

    def compare(self, automaton: Automaton) -> None:
        """Raise NoTable where the automaton does not give the same."""
        if not self.codes.numel():
            return
        size = math.prod(self.codes.shape[1:])
        channel = (
            torch.arange(size, device=self.codes.device) // automaton.inner % automaton.channels
        )
        flat = channel * automaton.levels + self.codes.reshape(-1, size)
        rows = (
            automaton.out,
            automaton.after,
            automaton.carry,
            automaton.d_out,
            automaton.d_after,
            automaton.d_carry,
        )
        for name, found, row in zip(
            ("spike", "reset", "leak", *["slope"] * 3),
            (*self.values, *self.slopes),
            rows,
            strict=True,
        ):
            if not _alike(found.reshape(-1, size).to(row.dtype), row.detach().reshape(-1)[flat]):
                raise NoTable(
                    f"its {name} is not elementwise: what follows from a state must depend on that"
                    " state alone"
                )


def _codes(levels: Tensor, neurons: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Codes `[L, *places]` such that every place has every code, beside other codes in other
    places.
    """
    places = [
        min(n, COMPANY) if size == 1 else size for n, size in zip(neurons, shape, strict=True)
    ]
    shift = torch.arange(math.prod(places), device=levels.device).reshape(places) * (
        len(levels) // COMPANY + 1
    )
    column = torch.arange(len(levels), device=levels.device).reshape(-1, *[1] * len(places))
    return (column + shift) % len(levels)


def _differentiated(
    equations: Equations, q: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Values of equations, and the slope of each with respect to its own state."""
    values = tuple(value.expand_as(q) for value in equations(q))
    slopes = tuple(_slope(value, q) for value in values)
    return tuple(value.detach() for value in values), slopes


def _alike(a: Tensor, b: Tensor) -> bool:
    # an ulp of slack: torch's vectorized functions differ from their scalar tails
    return torch.allclose(a, b, rtol=1e-5, atol=1e-7, equal_nan=True)


def constants_shape(
    equations: Equations,
    codebook: Codebook,
    axes: int,
    dtype: torch.dtype,
    divisor: Tensor | None = None,
) -> torch.Size:
    """Shape of the constants of a node whose samples have so many axes: 1 where neurons share
    them."""
    column = codebook.levels.detach().to(dtype).reshape(-1, *[1] * axes)
    return _constants(equations, column, divisor)


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _rows(values: Tensor, codes: Tensor | None, shape: Sequence[int], name: str) -> Tensor:
    """`[L, *places] -> [C, L]`, by code; places that share a channel must hold the same."""
    if codes is not None:
        values = values.gather(0, codes.argsort(0))
        first = values[tuple(slice(None) if size > 1 else slice(1) for size in (2, *shape))]
        if not _alike(first.detach().expand_as(values), values.detach()):
            raise NoTable(
                f"its {name} is not elementwise: what follows from a state must depend on that"
                " state alone"
            )
        values = first
    return values.reshape(values.shape[0], -1).T.contiguous()


def _constants(equations: Equations, column: Tensor, divisor: Tensor | None) -> torch.Size:
    """Shape to which a node's constants broadcast one neuron."""
    with torch.no_grad():
        shapes = [value.shape for value in equations(column)]
    if divisor is not None:
        shapes.append(divisor.shape)
    return torch.broadcast_shapes(*shapes, column.shape)[1:]


def _slope(value: Tensor, q: Tensor) -> Tensor:
    """Derivative of each value with respect to its own state."""
    if not value.requires_grad:
        return torch.zeros_like(q)
    (slope,) = torch.autograd.grad(value.sum(), q, retain_graph=True, allow_unused=True)
    return torch.zeros_like(q) if slope is None else slope


def _channels(constants: Sequence[int], neurons: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Shape to expand the constants to so that one run of axes tells channels apart, and the
    neurons behind that run.
    """
    axes = [axis for axis, size in enumerate(constants) if size != 1]
    if not axes:
        return tuple(constants), max(1, math.prod(neurons))
    first, last = axes[0], axes[-1]
    shape = tuple(n if first <= axis <= last else 1 for axis, n in enumerate(neurons))
    return shape, max(1, math.prod(neurons[last + 1 :]))


def channel_constants(
    constants: Mapping[str, float | Tensor | None], x: Tensor, dtype: torch.dtype
) -> tuple[dict[str, Tensor], int]:
    """Constants of a node as `[1]` or `[C]`, None left out, and how many neurons in a row share a
    channel.

    Args:
        constants: numbers, or tensors that broadcast against one neuron's place `[*n]`.
        x: one step of input, `[B, *n]`.
        dtype: of the result.
    """
    # copies: what they were made from may change before the backward pass
    tensors = {
        name: (
            c.to(x.device, dtype, copy=True)
            if isinstance(c, Tensor)
            else torch.tensor(c, dtype=dtype, device=x.device)
        )
        for name, c in constants.items()
        if c is not None
    }
    neurons = x.shape[1:]
    shape, inner = _channels(
        torch.broadcast_shapes((1,) * len(neurons), *(t.shape for t in tensors.values())), neurons
    )
    return {
        n: t.reshape(1) if t.numel() == 1 else t.expand(shape).reshape(-1)
        for n, t in tensors.items()
    }, inner


def _spacing(edges: Tensor) -> tuple[float, float] | None:
    """First edge and step where edges are evenly spaced up to rounding; an engine checks before it
    relies on that.
    """
    if len(edges) < 2:
        return None
    step = float(edges[-1] - edges[0]) / (len(edges) - 1)
    grid = edges[0].double() + step * torch.arange(
        len(edges), dtype=torch.float64, device=edges.device
    )
    even = (edges.double() - grid).abs().max() <= 1e-3 * step
    return (float(edges[0]), step) if even else None
