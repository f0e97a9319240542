"""Layers that return what they are given, in another shape or in the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from snnsim.deploy.ops.base import Integers, Operation, Shape, Signal
from snnsim.deploy.ops.context import Context
from snnsim.deploy.read import IDENTITIES, MAX_AXES, Part, Reshaping, refusal
from snnsim.layers import Scale

RESHAPES = (nn.Flatten, nn.Unflatten, Reshaping)


@dataclass(frozen=True, eq=False)
class Reshape(Operation):
    """The same integers in another shape."""

    layers = (*RESHAPES, *IDENTITIES, Scale)
    is_view = True

    @classmethod
    def lowered(cls, context: Context) -> int:
        module, (source,), (signal,) = context.part.module, context.inputs, context.signals
        if isinstance(module, Scale) and not (module.factor.numel() == 1 and module.factor == 1):
            raise context.refusal(
                "it multiplies by a constant; call snnsim.deploy.to_grid(net), which moves one"
                " number for all channels into the scales of the layers behind it"
            )
        shape = cls.output_shape(context.part, context.shape_of)
        if shape == signal.shape:
            return source
        view = cls(context.name, (source,), replace(signal, shape=shape))
        return context.append(view, context.added_bits[0])

    @classmethod
    def output_shape(cls, part: Part, shape_of: Callable[[int], Shape]) -> Shape:
        if not isinstance(part.module, RESHAPES):
            return shape_of(part.inputs[0])
        # of one sample and of seven: does the first axis stay the batch?
        first, other = (_reshaped(part, shape_of, batch) for batch in (1, 7))
        if first[:1] != (1,) or other[:1] != (7,) or first[1:] != other[1:]:
            raise refusal(
                part,
                "it flattens the batch axis, or changes it otherwise; let the first axis stay, as"
                " in x.flatten(1)",
            )
        if not 1 <= len(first) - 1 <= MAX_AXES:
            raise refusal(
                part,
                f"it gives one sample the shape {first[1:]}; an integer network knows 1 to"
                f" {MAX_AXES} axes",
            )
        return first[1:]

    def step(self, inputs: list[Integers], state: Integers) -> tuple[Integers, Integers]:
        return inputs[0].reshape(len(inputs[0]), *self.output.shape), state

    def check(self, inputs: list[Signal]) -> None:
        source = self.require_one(inputs)
        self.require(self.output.size == source.size, "it keeps the number of integers")
        self.require_bounds(source.low, source.high)

    def c(self, source: Any) -> None:
        """Nothing to do: the same numbers in the same place."""


def _reshaped(part: Part, shape_of: Callable[[int], Shape], batch: int) -> Shape:
    module: Any = part.module

    def batched(index: int) -> Shape:
        return (batch, *shape_of(index))

    try:
        if isinstance(module, Reshaping):
            return module.reshaped(batched)
        return tuple(module(torch.empty(batched(part.inputs[0]), device="meta")).shape)
    except (RuntimeError, TypeError, ValueError, IndexError) as problem:
        raise refusal(
            part, f"it does not fit one sample of shape {shape_of(part.inputs[0])} ({problem})"
        ) from problem
