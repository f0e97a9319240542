"""An integer network as plain data: signals and operations, its state between time steps, and what
whoever runs it has to know besides: time, input, and the meaning of its outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from snnsim._core.checks import check_int, checked_number
from snnsim.deploy.ops.base import Integers, Operation, Signal
from snnsim.deploy.ops.neuron import Neuron
from snnsim.errors import InvalidTypeError, InvalidValueError, RunError, ShapeError

# bytes `[B, S]`, little end first; every operation's numbers begin with a byte of their own
Packed = npt.NDArray[np.uint8]
DECISIONS = {
    "rate": "the class is the output whose sum over the time steps is largest, the first of equals",
    "membrane": (
        "the class is the output whose largest value over the time steps is largest, the first of"
        " equals"
    ),
}
AXES = {1: "[value]", 2: "[channel][place]", 3: "[channel][row][column]"}


def checked_decision(caller: str, decision: str | None) -> str | None:
    """A decision rule, or None for outputs that are no classes."""
    if decision is not None and decision not in DECISIONS:
        raise InvalidValueError(
            f"{caller}(decision={decision!r}): must be {', '.join(map(repr, DECISIONS))} or None"
        )
    return decision


class NetworkData:
    """A network of integer operations, checked: every engine can run it without looking.

    Args:
        input: the signal that it reads.
        operations: in the order they run.
        output: which signal it returns: 0 is the input, i + 1 what operation i returns.
        time_steps: of a static input; None takes sequences.
        input_scale: a real input is multiplied by this, rounded (halves to even) and clamped to the
            bounds of `input`; None takes integers as they are.
        decision: how outputs become a class: "rate", the largest sum over time, or "membrane", the
            largest value over time, of equals the first; None where they stand for no classes.
    """

    def __init__(
        self,
        input: Signal,
        operations: Sequence[Operation],
        output: int,
        time_steps: int | None = None,
        input_scale: float | None = None,
        decision: str | None = None,
    ) -> None:
        input.check("input")
        signals = [input]
        for operation in operations:
            if not all(0 <= source < len(signals) for source in operation.inputs):
                raise InvalidValueError(
                    f"IntegerNetwork(operations): {operation.name!r} reads a signal that comes"
                    " after it"
                )
            operation.check_sound([signals[source] for source in operation.inputs])
            signals.append(operation.output)
        if not 0 <= output < len(signals):
            raise InvalidValueError(
                f"IntegerNetwork(output={output}): must be one of its {len(signals)} signals"
            )
        names = [operation.name for operation in operations if isinstance(operation, Neuron)]
        if len(names) != len(set(names)):
            raise InvalidValueError(
                f"IntegerNetwork(operations): two neurons of one name, of {sorted(names)}; name"
                " each of its own"
            )
        if time_steps is not None:
            check_int("IntegerNetwork", "time_steps", time_steps, at_least=1)
        if input_scale is not None:
            input_scale = checked_number("IntegerNetwork", "input_scale", input_scale, above=0)
        self.input = input
        self.operations = tuple(operations)
        self.output = output
        self.time_steps = time_steps
        self.input_scale = input_scale
        self.decision = checked_decision("IntegerNetwork", decision)

    @cached_property
    def signals(self) -> tuple[Signal, ...]:
        """The input, then what each operation returns."""
        return (self.input, *(operation.output for operation in self.operations))

    @property
    def neurons(self) -> dict[str, Neuron]:
        """The neuron layers by name."""
        return {op.name: op for op in self.operations if isinstance(op, Neuron)}

    @cached_property
    def layout(self) -> StateLayout:
        """Places of the states of a sample."""
        return StateLayout(self.operations)

    @cached_property
    def rest(self) -> Packed:
        """The state of one sample before the first step, `[1, S]`."""
        return self.layout.pack([operation.rest()[None] for operation in self.operations])

    def run_by_definition(self, x_seq: Integers, state: Packed) -> tuple[Integers, Packed]:
        """Run integers `[T, B, *n]` from a packed state `[B, S]`, by the operations' definitions.

        Returns:
            Outputs `[T, B, *m]` and the new state.

        Raises:
            RunError: an operation that returns what its output cannot be.
        """
        outputs, states = [], self.layout.unpack(state)
        for x in x_seq:
            values, states = self.step_by_definition(x, states)
            outputs.append(values[self.output])
        return np.stack(outputs), self.layout.pack(states) if states else state

    def step_by_definition(
        self, x: Integers, states: list[Integers]
    ) -> tuple[list[Integers], list[Integers]]:
        """Every signal of one time step, and the new states of the operations."""
        values, after = [x.astype(np.int64)], []
        for operation, state in zip(self.operations, states, strict=True):
            inputs = [values[source] for source in operation.inputs]
            out, state = operation.step(inputs, state)
            _check_output(operation, out)
            values.append(out)
            after.append(state)
        return values, after


def _check_output(operation: Operation, out: Integers) -> None:
    low, high = operation.output.low, operation.output.high
    fits = out.shape[1:] == operation.output.shape
    if not fits or (out.size and (out.min() < low or out.max() > high)):
        found = f"{out.min()} to {out.max()}" if fits else f"samples of shape {out.shape[1:]}"
        raise RunError(
            f"integer operation {operation.name!r} ({type(operation).__name__}) returns {found},"
            f" and its output is {low} to {high} of shape {operation.output.shape}; give `output`"
            " the bounds and shape of all that `step` can return"
        )


@dataclass(frozen=True)
class StatePart:
    """Where the state of one operation lies.

    Attributes:
        name: of the operation.
        shape: of one sample.
        low, high: smallest and largest number; what is stored is the number minus the smallest.
        first: byte that it begins with.
    """

    name: str
    shape: tuple[int, ...]
    low: int
    high: int
    first: int

    @property
    def bits(self) -> int:
        """Bits of a number."""
        return max(1, (self.high - self.low).bit_length())

    @property
    def count(self) -> int:
        """Numbers of one sample."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of one sample."""
        return -(-self.count * self.bits // 8)


class StateLayout:
    """How the states of a network's operations are packed behind each other.

    Attributes:
        parts: one for each operation, empty where it holds nothing.
        size: bytes of one sample.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.parts: list[StatePart] = []
        self.size = 0
        for operation in operations:
            bounds = operation.state_bounds
            part = StatePart(operation.name, operation.state_shape, *bounds, self.size)
            self.parts.append(part)
            self.size += part.size

    def checked(self, packed: Packed) -> Packed:
        """The packed state of some samples, if it is one.

        Raises:
            InvalidTypeError: no array of uint8.
            ShapeError: not `[B, size]`.
            InvalidValueError: a number in it that is no state.
        """
        if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8:
            kind = getattr(packed, "dtype", type(packed).__name__)
            raise InvalidTypeError(
                f"state: must be a uint8 array [B, {self.size}], got {kind}; set what `state`"
                " returned"
            )
        if packed.ndim != 2 or packed.shape[1] != self.size:
            raise ShapeError(
                f"state of shape {packed.shape}: must be [B, {self.size}]; set what `state` of this"
                " network returned"
            )
        for part, numbers in zip(self.parts, self.unpack(packed), strict=True):
            if numbers.size and numbers.max() > part.high:
                raise InvalidValueError(
                    f"state: operation {part.name!r} would hold {numbers.max()}, and its states are"
                    f" {part.low} to {part.high}; set what `state` of this network returned"
                )
        return packed

    def pack(self, states: Sequence[Integers]) -> Packed:
        """States `[B, *shape]` of each operation as bytes `[B, size]`."""
        batch = len(states[0]) if states else 1
        packed = [np.zeros((batch, 0), np.uint8)]
        for part, state in zip(self.parts, states, strict=True):
            offset = (state.reshape(batch, part.count) - part.low).astype(np.uint64)
            bits = (offset[..., None] >> np.arange(part.bits, dtype=np.uint64)) & np.uint64(1)
            packed.append(
                np.packbits(bits.astype(np.uint8).reshape(batch, -1), axis=1, bitorder="little")
            )
        return np.concatenate(packed, 1)

    def unpack(self, packed: Packed) -> list[Integers]:
        """What `pack` packed, int64."""
        states: list[Integers] = []
        for part in self.parts:
            mine = packed[:, part.first : part.first + part.size]
            bits = np.unpackbits(mine, axis=1, count=part.count * part.bits, bitorder="little")
            numbers = bits.reshape(len(packed), part.count, part.bits).astype(
                np.int64
            ) << np.arange(part.bits)
            states.append((numbers.sum(-1) + part.low).reshape(len(packed), *part.shape))
        return states


def interface_of(network: NetworkData) -> dict[str, Any]:
    """Time, input and decision rule as numbers and words, for JSON."""
    return {
        "time_steps": network.time_steps,
        "input_scale": network.input_scale,
        "input_range": [network.input.low, network.input.high],
        "layout": layout_in_words(network),
        "decision": network.decision,
    }


def layout_in_words(network: NetworkData) -> str:
    """Layout of the values of one sample and time step."""
    shape = network.input.shape
    return f"{AXES[len(shape)]} = {''.join(f'[{size}]' for size in shape)}, the last index fastest"


def input_in_words(network: NetworkData) -> str:
    """The way from a real input to the integers that the network reads."""
    if network.input_scale is None:
        return "whole numbers as they are"
    return (
        f"a real input times {network.input_scale:.17g}, rounded, halves to even, and cut off at"
        " these bounds"
    )


def time_in_words(network: NetworkData) -> str:
    """Time steps of a sample."""
    if network.time_steps is None:
        return "a sample is a sequence of any number of time steps, from rest"
    return f"a sample is {network.time_steps} time steps, from rest, with the same input at each"
