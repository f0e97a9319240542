"""Sums of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from snnsim.deploy.ops.base import Integers, Operation, Signal
from snnsim.deploy.ops.context import Context


@dataclass(frozen=True, eq=False)
class Add(Operation):
    """Sum of its inputs, each shifted left to the binary point of the output."""

    # a sum is a part without a module
    layers = (type(None),)

    shifts: tuple[int, ...]

    @classmethod
    def lowered(cls, context: Context) -> int:
        signals = context.signals
        if len({signal.shape for signal in signals}) > 1:
            shapes = [signal.shape for signal in signals]
            raise context.refusal(
                f"adds tensors of shapes {shapes}; an integer network does not broadcast"
            )
        context.check_exact("a sum")
        frac_bits = max(signal.frac_bits for signal in signals)
        shifts = tuple(frac_bits - signal.frac_bits for signal in signals)
        low, high = _bounds(signals, shifts)
        added = max(
            bits for bits, shift in zip(context.added_bits, shifts, strict=True) if not shift
        )
        context.check_magnitude(max(-low, high), frac_bits, "the sum", added)
        output = Signal(signals[0].shape, low, high, frac_bits)
        return context.append(cls(context.name, context.inputs, output, shifts), added)

    def step(self, inputs: list[Integers], state: Integers) -> tuple[Integers, Integers]:
        shifted = (x << shift for x, shift in zip(inputs, self.shifts, strict=True))
        return np.asarray(sum(shifted)), state

    def check(self, inputs: list[Signal]) -> None:
        self.require(len(inputs) == len(self.shifts) >= 1, "it has one shift per input")
        same = all(source.shape == self.output.shape for source in inputs)
        self.require(same, "its inputs have the shape of its output")
        self.require_shift(*self.shifts)
        self.require_bounds(*_bounds(inputs, self.shifts))

    def instructions(self, program: Any) -> list[dict[str, Any]]:
        # its first input, then each further one added to it
        kinds = ["copy", *["add"] * (len(self.shifts) - 1)]
        return [
            {"kind": kind, "input": k, "shift": shift}
            for k, (kind, shift) in enumerate(zip(kinds, self.shifts, strict=True))
        ]

    def c(self, source: Any) -> None:
        values = [source.layout.values[i] for i in self.inputs]
        parameters = ", ".join(f"const {x.kind} *x{k}" for k, x in enumerate(values))
        terms = (shifted(x.at(f"x{k}[n]"), self.shifts[k]) for k, x in enumerate(values))
        source.function(
            C, {"parameters": parameters, "size": self.output.size, "sum": " + ".join(terms)}
        )

    def writes_over(self) -> bool:
        return True


def _bounds(signals: list[Signal], shifts: tuple[int, ...]) -> tuple[int, int]:
    pairs = list(zip(signals, shifts, strict=True))
    return sum(x.low << shift for x, shift in pairs), sum(x.high << shift for x, shift in pairs)


def shifted(value: str, shift: int) -> str:
    """C expression for a value shifted to another binary point."""
    # what may be shifted by 31 is 0, and 2^31 is no number of 32 bits
    return f"({value}) * {1 << min(shift, 30)}" if shift else value


C = """\
static void layer_$i($parameters, $out_type *y)
{
    uint32_t n;
    for (n = 0; n < ${size}u; n++) {
        y[n] = $cast($sum);
    }
}
"""
