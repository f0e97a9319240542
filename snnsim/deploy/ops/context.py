"""A layer on its way to integers: what has been lowered before it, and whether values are exact.

Nothing here knows a kind of layer or operation by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from snnsim.deploy.bounds import FLOAT32_EXACT, Integers, Stage
from snnsim.deploy.ops.base import Operation, Shape, Signal
from snnsim.deploy.read import Graph, Part, refusal
from snnsim.errors import InvalidValueError


@dataclass
class Sums:
    """Sums of weights times inputs `[O]`, each scaled and shifted on the grid of an operation's
    output.

    Whether float32 computes them exactly depends on what reads them.

    Attributes:
        low, high: their bounds for every output channel.
        layer: that computes them.
        needed: fractional bits of a scale and bias that are on no grid; None where they are on one.
    """

    low: Integers
    high: Integers
    layer: Any
    needed: int | None = None

    @property
    def largest(self) -> int:
        """Largest magnitude that a sum passes through."""
        return int(max(self.high.max(), -self.low.min()))

    def reach(self, multiplier: Integers, offset: Integers) -> int:
        """Largest magnitude on the way to a driven current, on its own grid."""
        # float64: on no reasonable grid it may leave 64 bits
        sums = multiplier.astype(np.float64) * np.maximum(-self.low, self.high)
        return int((sums + np.abs(offset)).max())


@dataclass
class Assembly:
    """Operations in the order they run, and what the checks of later ones need to know of earlier
    ones.

    Attributes:
        graph: the network that is being lowered.
        signals: so far; signal 0 is the input, i + 1 what operation i returns.
        bisects: neurons on no grid may become tables of thresholds.
        operations: so far.
        returned: signal that each part returns, by its position in the graph.
        sums: of each layer with weights, by its signal.
        added_bits: of each signal: fractional bits that steps of inputs and divisions have added to
            those of a layer's grid.
        input_scale: that the first layer asks for.
        stages: how exact each neuron is.
    """

    graph: Graph
    signals: list[Signal]
    bisects: bool
    operations: list[Operation] = field(default_factory=list)
    returned: dict[int, int] = field(default_factory=dict)
    sums: dict[int, Sums] = field(default_factory=dict)
    added_bits: list[int] = field(default_factory=lambda: [0])
    input_scale: float | None = None
    stages: list[Stage] = field(default_factory=list)

    def origin_of(self, source: int) -> int:
        """The signal that a signal is, before it passed through other shapes."""
        while source and self.operations[source - 1].is_view:
            (source,) = self.operations[source - 1].inputs
        return source

    def change(self, source: int, output: Signal, **fields: Any) -> None:
        """Change an operation, and bounds and binary point of its signal in every shape."""
        while source:
            operation = self.operations[source - 1]
            self._bound(source, output)
            if not operation.is_view:
                self.operations[source - 1] = replace(self.operations[source - 1], **fields)
                return
            (source,) = operation.inputs

    def _bound(self, source: int, output: Signal) -> None:
        self.signals[source] = replace(output, shape=self.signals[source].shape)
        if source:
            operation = self.operations[source - 1]
            self.operations[source - 1] = replace(operation, output=self.signals[source])

    def change_input(self, last: int, low: int, high: int) -> None:
        """Give the network's input other bounds, in every shape up to the signal `last`."""
        for source in range(last + 1):
            if source == 0 or self.operations[source - 1].is_view:
                self._bound(source, replace(self.signals[source], low=low, high=high))


@dataclass(frozen=True)
class Context:
    """A layer that is being lowered: what `integer_operation(context)` and the operations of the
    package are given.

    Attributes:
        part: the layer's place in the network.
        index: its position in the graph.
        inputs: the signals that it reads, by number.
        assembly: all that was lowered before.
    """

    part: Part
    index: int
    inputs: tuple[int, ...]
    assembly: Assembly

    @property
    def name(self) -> str:
        """Name of the layer."""
        return self.part.name

    @property
    def signals(self) -> list[Signal]:
        """The signals that it reads."""
        return [self.assembly.signals[source] for source in self.inputs]

    @property
    def added_bits(self) -> list[int]:
        """Fractional bits that steps and divisions have added to each signal that it reads."""
        return [self.assembly.added_bits[source] for source in self.inputs]

    def shape_of(self, index: int) -> Shape:
        """Shape of one sample behind a part of the graph."""
        return self.assembly.signals[self.assembly.returned[index]].shape

    def refusal(self, reason: str) -> InvalidValueError:
        """The error that names the layer, with the reason why it cannot be lowered."""
        return refusal(self.part, reason)

    def append(self, operation: Operation, added_bits: int = 0) -> int:
        """Add an operation; returns its signal."""
        self.assembly.operations.append(operation)
        self.assembly.signals.append(operation.output)
        self.assembly.added_bits.append(added_bits)
        return len(self.assembly.operations)

    def check_exact(self, reader: str, *sources: int) -> None:
        """Refuse inputs whose own values are not exact; `reader` says what reads them."""
        for source in sources or self.inputs:
            origin = self.assembly.origin_of(source)
            if origin in self.assembly.sums:
                self._check_sums(origin, reader)

    def _check_sums(self, origin: int, reader: str) -> None:
        sums, operation = self.assembly.sums[origin], self.assembly.operations[origin - 1]
        reason = Stage(self.name, operation.name, 0, 0.0, sums.largest, None).why_not()
        if reason is not None:
            raise self.refusal(f"{reason} (layer {operation.name!r})")
        what = f"what layer {operation.name!r} hands to {reader}"
        if sums.needed is not None:
            raise self.refusal(
                f"{what} needs {sums.needed} fractional bits; call snnsim.deploy.to_grid(net) and"
                " fine-tune it"
            )
        scaled: Any = operation
        reach = sums.reach(scaled.multiplier, scaled.offset)
        largest = max(reach, int(scaled.multiplier.max()))
        bits = operation.output.frac_bits
        self.check_magnitude(largest, bits, what, self.assembly.added_bits[origin])

    def check_magnitude(
        self, magnitude: int, frac_bits: int, what: str, added_bits: int = 0
    ) -> None:
        """Refuse values of up to `magnitude * 2**-frac_bits` that float32 does not hold exactly."""
        if magnitude <= FLOAT32_EXACT:
            return
        excess = math.ceil(math.log2(magnitude / FLOAT32_EXACT))
        grid_bits = frac_bits - added_bits - excess
        remedy = f"; call snnsim.deploy.to_grid(net, grid_bits={grid_bits}) and fine-tune it"
        raise self.refusal(
            f"{what} needs {frac_bits} fractional bits and reaches"
            f" {magnitude * 2.0**-frac_bits:.4g}, {excess} bits more than float32"
            f" holds{remedy if grid_bits >= 0 else ''}"
        )
