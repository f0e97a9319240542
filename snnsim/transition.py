"""The automaton of a node: its own equations, evaluated once on the levels of its codebook, as a kernel table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from snnsim.errors import InvalidValueError
from snnsim.kernels.table import LearnedLevels, Table
from snnsim.quant.codebook import Codebook
from snnsim.quant.learned import LearnedUniform

__all__ = ["Equations", "build_table", "channel_constants", "constants_shape"]

# what a node says of itself: quantized state -> (output, state after the reset, what is left of that one step later)
Equations = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def build_table(
    equations: Equations,
    codebook: Codebook,
    neurons: Sequence[int],
    dtype: torch.dtype,
    divisor: Tensor | None = None,
    checked: torch.Size | None = None,
) -> Table:
    """Evaluate a node's equations on its levels.

    Constants that differ between neurons make a row for each. The entries keep their graph to whatever the node learns.

    Args:
        equations: elementwise functions of the quantized state.
        codebook: its levels, edges and straight-through gradient.
        neurons: shape `[*n]` of one sample, against which the node's constants broadcast.
        dtype: of the state, float32 or float64.
        divisor: what the input is divided by, one number or broadcasting against `[*n]`.
        checked: `constants_shape` of these equations, where an earlier table of theirs has shown that they are elementwise; only
            the values of what they learn have changed since.

    Raises:
        InvalidValueError: equations that are not elementwise, so that no table can stand for them.
    """
    # a table outlives the call: it must not be made of inference tensors, and what is saved while it is made is none of the
    # business of hooks around the call (gradient checkpointing counts what they see)
    with torch.inference_mode(False), torch.enable_grad(), saved_tensors_hooks(_itself, _itself):
        levels = codebook.levels.detach().to(dtype)
        column = levels.clone().reshape(-1, *[1] * len(neurons))
        constants = _constants(equations, column, divisor) if checked is None else checked
        shape, inner = _channels(constants, neurons)
        # every channel has levels of its own: slopes of shared ones would be summed over the channels
        q = column.expand(-1, *shape).clone().requires_grad_()
        d_out, d_after, d_carry = (_rows(_slope(value, q)) for value in equations(q))
        q = q.detach()
        # once more, now with a graph to what the node learns and to nothing else
        with _learning(codebook, neurons):
            values = [value.expand_as(q) for value in equations(q)]
        if checked is None:
            _check_elementwise(equations, q, values)
        out, after, carry = (_rows(value) for value in values)
        edges = codebook.edges.detach().to(dtype).clone()
        low, high = codebook.limits
        if divisor is not None:
            # a copy: what it was made from may change before the backward pass
            divisor = divisor.to(dtype, copy=True)
            divisor = divisor.reshape(1) if divisor.numel() == 1 else divisor.expand(shape).reshape(-1)
        return Table(
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
            learned=_learned_levels(codebook, neurons),
        )


def _learning(codebook: Codebook, neurons: Sequence[int]) -> AbstractContextManager[None]:
    return codebook.seen_by(math.prod(neurons)) if isinstance(codebook, LearnedUniform) else nullcontext()


def _learned_levels(codebook: Codebook, neurons: Sequence[int]) -> LearnedLevels | None:
    if not isinstance(codebook, LearnedUniform):
        return None
    return LearnedLevels(codebook.scaled_parameters(math.prod(neurons)), *codebook.slopes())


def constants_shape(
    equations: Equations, codebook: Codebook, axes: int, dtype: torch.dtype, divisor: Tensor | None = None
) -> torch.Size:
    """Shape of the constants of a node whose samples have so many axes: 1 where neurons share them."""
    column = codebook.levels.detach().to(dtype).reshape(-1, *[1] * axes)
    return _constants(equations, column, divisor)


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _rows(values: Tensor) -> Tensor:
    """`[L, *channels] -> [C, L]`."""
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


def _check_elementwise(equations: Equations, q: Tensor, values: Sequence[Tensor]) -> None:
    # every other state backwards, and the lowest third: neither place nor company may matter
    backwards = torch.arange(len(q) - 1, -1, -2, device=q.device)
    with torch.no_grad():
        for chosen in (backwards, backwards[2 * len(backwards) // 3 :]):
            for name, value, again in zip(("spike", "reset", "leak"), values, equations(q[chosen]), strict=True):
                # an ulp of slack: torch's vectorized functions differ from their scalar tails
                if not torch.allclose(value[chosen], again, rtol=1e-5, atol=1e-7, equal_nan=True):
                    raise InvalidValueError(
                        f"its {name} is not elementwise: what follows from a state must depend on that state alone"
                    )


def _channels(constants: Sequence[int], neurons: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Shape to expand the constants to so that one run of axes tells channels apart, and the neurons behind that run."""
    axes = [axis for axis, size in enumerate(constants) if size != 1]
    if not axes:
        return tuple(constants), max(1, math.prod(neurons))
    first, last = axes[0], axes[-1]
    shape = tuple(n if first <= axis <= last else 1 for axis, n in enumerate(neurons))
    return shape, max(1, math.prod(neurons[last + 1 :]))


def channel_constants(
    constants: Mapping[str, float | Tensor | None], x: Tensor, dtype: torch.dtype
) -> tuple[dict[str, Tensor], int]:
    """Constants of a node as `[1]` or `[C]`, None left out, and how many neurons in a row share a channel.

    Args:
        constants: numbers, or tensors that broadcast against one neuron's place `[*n]`.
        x: one step of input, `[B, *n]`.
        dtype: of the result.
    """
    # copies: what they were made from may change before the backward pass
    tensors = {
        name: c.to(x.device, dtype, copy=True) if isinstance(c, Tensor) else torch.tensor(c, dtype=dtype, device=x.device)
        for name, c in constants.items()
        if c is not None
    }
    neurons = x.shape[1:]
    shape, inner = _channels(torch.broadcast_shapes((1,) * len(neurons), *(t.shape for t in tensors.values())), neurons)
    return {n: t.reshape(1) if t.numel() == 1 else t.expand(shape).reshape(-1) for n, t in tensors.items()}, inner


def _spacing(edges: Tensor) -> tuple[float, float] | None:
    """First edge and step where edges are evenly spaced up to rounding; an engine checks before it relies on that."""
    if len(edges) < 2:
        return None
    step = float(edges[-1] - edges[0]) / (len(edges) - 1)
    grid = edges[0].double() + step * torch.arange(len(edges), dtype=torch.float64, device=edges.device)
    even = (edges.double() - grid).abs().max() <= 1e-3 * step
    return (float(edges[0]), step) if even else None
