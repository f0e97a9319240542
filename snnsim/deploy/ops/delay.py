"""Delays of a whole number of time steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from snnsim.deploy.ops.base import Integers, Operation, Shape, Signal
from snnsim.deploy.ops.context import Context
from snnsim.layers import Delay as DelayLayer


@dataclass(frozen=True, eq=False)
class Delay(Operation):
    """Its input of `steps` time steps ago, zeros before the first."""

    layers = (DelayLayer,)

    steps: int

    @property
    def state_shape(self) -> Shape:
        return (self.steps, *self.output.shape)

    @property
    def state_bounds(self) -> tuple[int, int]:
        return self.output.low, self.output.high

    @property
    def passes_on(self) -> bool:
        return not self.steps

    @classmethod
    def lowered(cls, context: Context) -> int:
        context.check_exact("a delay")
        steps: Any = context.part.module
        delay = cls(context.name, context.inputs, context.signals[0], steps.delay_steps)
        return context.append(delay, context.added_bits[0])

    def step(self, inputs: list[Integers], state: Integers) -> tuple[Integers, Integers]:
        line = np.concatenate([state, inputs[0][:, None]], 1)
        return line[:, 0], line[:, 1:]

    def check(self, inputs: list[Signal]) -> None:
        source = self.require_one(inputs)
        fits = self.output.shape == source.shape and self.steps >= 0
        self.require(fits, "it keeps the shape, and delays")
        self.require_bounds(source.low, source.high)

    def instructions(self, program: Any) -> list[dict[str, Any]]:
        return [{"kind": "delay", "steps": self.steps}]

    def c(self, source: Any) -> None:
        if not self.steps:
            return
        i, size = source.i, self.output.size
        waiting = size * (self.steps - 1)
        source.fields.append((source.layout.values[i + 1].kind, f"delayed_{i}", size + waiting))
        source.reset.append(
            f"    for (n = 0; n < {size + waiting}u; n++) {{\n        net->delayed_{i}[n] = 0;\n   "
            " }\n"
        )
        # a loop of nothing is warned of
        move = (
            f"    for (n = 0; n < {waiting}u; n++) {{\n        line[n] = line[n + {size}u];\n   "
            " }\n"
            if waiting
            else ""
        )
        source.function(C, {"size": size, "waiting": waiting, "move": move}, f"net->delayed_{i}")


C = """\
static void layer_$i($out_type *line, const $in_type *x, $out_type *y)
{
    uint32_t n;
    for (n = 0; n < ${size}u; n++) {
        y[n] = line[n];
    }
$move    for (n = 0; n < ${size}u; n++) {
        line[n + ${waiting}u] = ${cast}x[n];
    }
}
"""
