"""What has been lowered so far, and whether its values are exact: the part of lowering that knows
no module by name.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from snnsim.deploy.dyadic import FLOAT32_EXACT
from snnsim.deploy.exactness import Stage, live_limits
from snnsim.deploy.graph import Graph, Part, refusal
from snnsim.deploy.operations import Integers, Operation, Product, Reshape, Signal
from snnsim.quant.layers import QuantizedWeight

__all__ = ["Assembly", "check_magnitude"]


class Assembly:
    """Operations in the order they run, and what the checks of later ones need to know of earlier
    ones.

    Attributes:
        graph: the network that is being lowered.
        signals, operations: so far; signal 0 is the input, i + 1 what operation i returns.
        returned: signal that each part returns, by its position in the graph.
        index: of the part being lowered.
        sums, layers: of each product, by its signal: bounds of its sums for every output channel,
            and the layer.
        off_grid: of a product on no grid, by its signal: the fractional bits it would need.
        added_bits: of each signal: fractional bits that steps of inputs and divisions have added to
            those of a layer's grid.
    """

    def __init__(self, graph: Graph, input: Signal) -> None:
        self.graph = graph
        self.signals = [input]
        self.operations: list[Operation] = []
        self.returned: dict[int, int] = {}
        self.index = 0
        self.sums: dict[int, tuple[Integers, Integers]] = {}
        self.layers: dict[int, Any] = {}
        self.off_grid: dict[int, int] = {}
        self.added_bits = [0]

    def append(self, operation: Operation, added_bits: int = 0) -> int:
        """Add an operation; returns its signal."""
        self.operations.append(operation)
        self.signals.append(operation.output)
        self.added_bits.append(added_bits)
        return len(self.operations)

    def stage(
        self,
        part: Part,
        source: int,
        edges: Tensor,
        leak: Tensor,
        frac_bits: int,
        shift: int,
        divided: int,
    ) -> Stage:
        """How exact a neuron is with the layer in front of it, whose output it divides by
        `2**divided`.
        """
        origin, unit = self.origin_of(source), 2.0 ** (shift - frac_bits)
        if origin not in self.sums:
            layer = self.operations[origin - 1].name if origin else "input"
            window = self.signals[source].magnitude * unit + float(leak.abs().max())
            return Stage(
                part.name, layer, frac_bits, window, 0, None, self.added_bits[source] + divided
            )
        product = self.product_at(origin)
        window = self.reach_of(origin) * unit + float(leak.abs().max())
        if isinstance(self.layers[origin], QuantizedWeight) and self.is_alone():
            # beyond the neuron's saturation no rounding matters
            constants = float(product.multiplier.max() + np.abs(product.offset).max()) * unit
            window = min(window, float(edges.abs().max() + leak.abs().max()) + constants)
        multiplier = int(product.multiplier.min()) << shift, int(product.multiplier.max()) << shift
        added = self.added_bits[origin] + divided
        return Stage(
            part.name, product.name, frac_bits, window, self.largest_sum(origin), multiplier, added
        )

    def limit(self, source: int, shift: int, edges: Integers, leak: Integers) -> None:
        """Clamp the sums of a product where the neuron behind it could leave 32 bits."""
        origin = self.origin_of(source)
        if origin not in self.sums:
            return
        product, (low, high) = self.product_at(origin), self.sums[origin]
        multiplier, offset = product.multiplier << shift, product.offset << shift
        limits = live_limits(multiplier, offset, edges, leak, low, high)
        if limits is not None:
            bounds = product.multiplier * limits + product.offset
            self.replace_product(
                source,
                int(bounds.min()),
                int(bounds.max()),
                product.output.frac_bits,
                limits=limits,
            )

    def replace_product(
        self, source: int, low: int, high: int, frac_bits: int, **fields: Any
    ) -> None:
        """Change the product that a signal comes from, and the bounds of the signal in every shape
        it passes through.
        """
        while True:
            operation = self.operations[source - 1]
            self.signals[source] = replace(
                operation.output, low=min(low, 0), high=max(high, 0), frac_bits=frac_bits
            )
            if not isinstance(operation, Reshape):
                self.operations[source - 1] = replace(
                    operation, output=self.signals[source], **fields
                )
                return
            self.operations[source - 1] = replace(operation, output=self.signals[source])
            (source,) = operation.inputs

    def origin_of(self, source: int) -> int:
        """The signal that a signal is, before it passed through other shapes."""
        while source and isinstance(self.operations[source - 1], Reshape):
            (source,) = self.operations[source - 1].inputs
        return source

    def product_at(self, origin: int) -> Product:
        """The product that returns a signal."""
        operation = self.operations[origin - 1]
        if not isinstance(operation, Product):
            raise TypeError(f"{operation.name!r} is no product")
        return operation

    def largest_sum(self, origin: int) -> int:
        """Largest magnitude that a sum of weights times inputs passes through."""
        low, high = self.sums[origin]
        return int(max(high.max(), -low.min()))

    def reach_of(self, origin: int) -> int:
        """Largest magnitude on the way to the value of a product, on its own grid."""
        product, (low, high) = self.product_at(origin), self.sums[origin]
        # float64: a product on no reasonable grid may leave 64 bits
        return int(
            (
                product.multiplier.astype(np.float64) * np.maximum(-low, high)
                + np.abs(product.offset)
            ).max()
        )

    def is_alone(self) -> bool:
        """Whether the neuron being lowered is the only one to see what the layer before it
        computes.
        """
        index = self.index
        while True:
            (index,) = self.graph.parts[index].inputs
            if len(self.graph.readers(index)) != 1 or index == self.graph.output:
                return False
            if self.graph.parts[index].module is self.layers.get(self.returned[index]):
                return True

    def check_value(self, source: int, part: Part, reader: str) -> None:
        """Refuse a product whose values, not only the neuron behind it, would have to be exact and
        are not.
        """
        origin = self.origin_of(source)
        if origin not in self.sums:
            return
        product = self.product_at(origin)
        stage = Stage(part.name, product.name, 0, 0.0, self.largest_sum(origin), None)
        if stage.problem is not None:
            raise refusal(part, f"{stage.problem} (layer {product.name!r})")
        what = f"what layer {product.name!r} hands to {reader}"
        if origin in self.off_grid:
            raise refusal(
                part,
                f"{what} needs {self.off_grid[origin]} fractional bits; call"
                " snnsim.deploy.to_grid(net) and fine-tune it",
            )
        magnitude = max(self.reach_of(origin), int(product.multiplier.max()))
        check_magnitude(part, magnitude, product.output.frac_bits, what, self.added_bits[origin])


def check_magnitude(
    part: Part, magnitude: int, frac_bits: int, what: str, added_bits: int = 0
) -> None:
    """Refuse values of up to `magnitude * 2**-frac_bits` that float32 does not hold exactly."""
    if magnitude > FLOAT32_EXACT:
        excess = math.ceil(math.log2(magnitude / FLOAT32_EXACT))
        grid_bits = frac_bits - added_bits - excess
        fewer = (
            f"; call snnsim.deploy.to_grid(net, grid_bits={grid_bits}) and fine-tune it"
            if grid_bits >= 0
            else ""
        )
        raise refusal(
            part,
            f"{what} needs {frac_bits} fractional bits and reaches"
            f" {magnitude * 2.0**-frac_bits:.4g}, {excess} bits more than float32 holds{fewer}",
        )
