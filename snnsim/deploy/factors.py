"""Moving what no binary grid holds, divisions and constants, into factors of the layers next to
it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snnsim.calibrate.conversion import Scale
from snnsim.deploy.constants import pool_divisor, pool_window
from snnsim.deploy.graph import IDLE, Graph, Part, check_method, own_method, refusal
from snnsim.deploy.shapes import (
    AVERAGES,
    IDENTITIES,
    MAXIMA,
    RESHAPES,
    input_shape_of,
    output_shape,
)
from snnsim.deploy.sum_pool import AdaptiveSumPool1d, AdaptiveSumPool2d, SumPool1d
from snnsim.errors import InvalidValueError
from snnsim.layers import Delay
from snnsim.neurons.leaky import Leaky
from snnsim.neurons.membrane import Membrane
from snnsim.quant.weight import QuantizedWeight

__all__ = ["move_factors"]

# what a positive factor passes through: before and behind them it is the same
COMMUTING = (*AVERAGES, *MAXIMA, *RESHAPES, *IDENTITIES, Delay)
SUMMING: dict[type[nn.Module], type[nn.Module]] = {
    nn.AvgPool1d: SumPool1d,
    nn.AdaptiveAvgPool1d: AdaptiveSumPool1d,
    nn.AdaptiveAvgPool2d: AdaptiveSumPool2d,
}


@dataclass(frozen=True)
class _Factor:
    """A factor of what one use of a layer computes.

    Attributes:
        use: position of the layer in the graph.
        value: float64; a number, or one per output channel.
        of_output: whether of sums and bias, not of the sums alone.
        origin: the part that it was moved from.
    """

    use: int
    value: Tensor
    of_output: bool
    origin: Part


class _CannotMoveError(Exception):
    """A factor meets a part that it passes neither through nor into; its argument is the name of
    that part.
    """


def move_factors(graph: Graph, input_shape: tuple[int, ...] | None) -> None:
    """Move divisions by tau, by the sizes of average pools, and the constants of converted networks
    into layers, in place.

    Raises:
        InvalidValueError: one that cannot move, or a layer whose uses would need different ones;
            nothing is changed then.
    """
    _Mover(graph, input_shape).move()


class _Mover:
    def __init__(self, graph: Graph, input_shape: tuple[int, ...] | None) -> None:
        self.graph = graph
        self.shapes: list[tuple[int, ...]] = []
        for part in graph.parts:
            shape = (
                output_shape(part, self.shapes.__getitem__)
                if part.inputs
                else input_shape_of(graph, input_shape)
            )
            self.shapes.append(shape)
        self.factors: list[_Factor] = []
        # pools that divide by no power of two somewhere, by identity
        self.summing: set[int] = set()

    def move(self) -> None:
        """Find all factors, then apply them."""
        self.summing = {
            id(part.module)
            for index, part in enumerate(self.graph.parts)
            if isinstance(part.module, AVERAGES)
            and not _is_power_of_two(self._divisor(index, part))
        }
        moved = {
            id(part.module): part.module
            for index, part in enumerate(self.graph.parts)
            if self._find(index, part)
        }
        layers = self._by_layer()
        for module in moved.values():
            _without_factor(module)
        for layer, factors in layers:
            for factor in factors:
                (layer.scale_output if factor.of_output else layer.scale_sums)(factor.value)

    def _find(self, index: int, part: Part) -> bool:
        """Whether a part has a factor that has to move; where to is remembered."""
        module = part.module
        if isinstance(module, Membrane):
            return self._find_division(index, part, module._stages()[0])
        if isinstance(module, AVERAGES):
            return self._find_average(index, part, module)
        if isinstance(module, Scale) and not bool((module.factor == 1).all()):
            self._find_scale(index, part, module)
            return True
        return False

    def _find_division(self, index: int, part: Part, node: Membrane) -> bool:
        divisor = node._input_divisor() if node._divides_input() else None
        if divisor is None or _is_power_of_two(divisor):
            return False
        if node._has_own(Leaky._input_divisor):
            raise InvalidValueError(
                f"to_grid: the neuron {part.name!r} divides its input by {divisor}; scale the layer"
                " before it instead"
            )
        try:
            self.factors += self._before(index, 1 / divisor.detach().double(), part)
        except _CannotMoveError as stuck:
            raise InvalidValueError(
                f"to_grid: the neuron {part.name!r} divides its input by tau, which is no power of"
                f" two, and the division cannot move into {stuck.args[0]!r} before it; use"
                " decay_input=False, a tau of 2, 4, ..., or one for each output channel"
            ) from None
        return True

    def _find_average(self, index: int, part: Part, pool: Any) -> bool:
        # one that is to sum sums wherever it is used
        if id(pool) not in self.summing:
            return False
        divisor = self._divisor(index, part)
        check_method(part, pool)
        if part.is_function or type(pool) not in (*SUMMING, nn.AvgPool2d):
            raise refusal(
                part,
                f"divides by {int(divisor)}, which no binary grid holds exactly; make it a module"
                " of torch.nn, whose division to_grid can move into a layer next to it",
            )
        try:
            self.factors += self._before(index, 1 / divisor, part)
        except _CannotMoveError as before:
            try:
                self.factors += self._behind(index, 1 / divisor, part)
            except _CannotMoveError as behind:
                raise InvalidValueError(
                    f"to_grid: the pool {part.name!r} divides by {int(divisor)}, which no binary"
                    f" grid holds, and the division can move neither into {before.args[0]!r} before"
                    f" it nor into {behind.args[0]!r} behind it; sum instead, with"
                    " divisor_override=1, or pool over 2, 4, ... places"
                ) from None
        return True

    def _divisor(self, index: int, part: Part) -> Tensor:
        window = pool_window(part, part.module, self.shapes[part.inputs[0]])
        return torch.tensor(pool_divisor(part, part.module, window), dtype=torch.float64)

    def _find_scale(self, index: int, part: Part, scale: Scale) -> None:
        check_method(part, scale)
        factor = scale.factor.detach().double()
        try:
            if factor.numel() > 1 or not bool(factor > 0):
                raise _CannotMoveError(part.name)
            self.factors += self._behind(index, factor, part)
        except _CannotMoveError as stuck:
            raise InvalidValueError(
                f"to_grid: {part.name!r} multiplies by a constant, which cannot move into"
                f" {stuck.args[0]!r}; let it be one positive number for all channels"
                " (per_channel=False of calibrate.convert), with quantized layers alone behind it"
            ) from None

    def _before(self, index: int, value: Tensor, origin: Part) -> list[_Factor]:
        """The factors of the layers in front of a part that stand for one of its input."""
        found = []
        # once also where a sum reads a layer twice
        for source in dict.fromkeys(self.graph.parts[index].inputs):
            part, shape = self.graph.parts[source], self.shapes[source]
            if set(self.graph.readers(source)) != {index} or source == self.graph.output:
                raise _CannotMoveError(part.name)
            per_channel = _per_channel(value, shape)
            if _takes_factors(part.module) and per_channel is not None:
                found.append(_Factor(source, per_channel, True, origin))
            elif isinstance(part.module, RESHAPES):
                found += self._before(source, self._before_reshape(part, per_channel), origin)
            elif isinstance(part.module, COMMUTING) or (part.module is None and part.inputs):
                found += self._before(source, value, origin)
            else:
                raise _CannotMoveError(part.name)
        return found

    def _before_reshape(self, part: Part, per_channel: Tensor | None) -> Tensor:
        """A constant of what a part returns in another shape, as one of what it is given: of its
        channels where they stay.
        """
        shape = self.shapes[part.inputs[0]]
        if per_channel is None or (
            per_channel.dim() and shape != (len(per_channel), *[1] * (len(shape) - 1))
        ):
            raise _CannotMoveError(part.name)
        return (
            per_channel.reshape(-1, *[1] * (len(shape) - 1)) if per_channel.dim() else per_channel
        )

    def _behind(self, index: int, value: Tensor, origin: Part) -> list[_Factor]:
        """The factors of the layers behind a part that stand for one number times its output."""
        found = []
        readers = self.graph.readers(index)
        if not readers or index == self.graph.output:
            raise _CannotMoveError("the output")
        for reader in readers:
            part = self.graph.parts[reader]
            module: Any = part.module
            if _takes_factors(module) and module.input_quantizer is None:
                found.append(_Factor(reader, value, False, origin))
            elif isinstance(part.module, COMMUTING):
                found += self._behind(reader, value, origin)
            else:
                raise _CannotMoveError(part.name)
        return found

    def _by_layer(self) -> list[tuple[QuantizedWeight, list[_Factor]]]:
        """The factors of every layer; those of all its uses are the same."""
        uses: dict[int, list[int]] = {}
        for index, part in enumerate(self.graph.parts):
            if isinstance(part.module, QuantizedWeight):
                uses.setdefault(id(part.module), []).append(index)
        layers = []
        for places in uses.values():
            products = [
                _products([factor for factor in self.factors if factor.use == place])
                for place in places
            ]
            for place, product in zip(places[1:], products[1:], strict=True):
                if not all(
                    torch.equal(*torch.broadcast_tensors(a, b))
                    for a, b in zip(products[0], product, strict=True)
                ):
                    first, second = (self._reason(use) for use in (places[0], place))
                    raise InvalidValueError(
                        f"to_grid: the layer {self.graph.parts[place].name!r} is used in several"
                        f" places, and {first} and {second} ask for different factors of what it"
                        " computes; give each place a layer of its own, whose weights may be tied,"
                        " or one tau to both neurons"
                    )
            layer: Any = self.graph.parts[places[0]].module
            layers.append((layer, [factor for factor in self.factors if factor.use == places[0]]))
        return layers

    def _reason(self, use: int) -> str:
        """The parts that a use of a layer has its factors from; without any, what reads it."""
        origins = [repr(factor.origin.name) for factor in self.factors if factor.use == use]
        return " and ".join(
            origins
            or [repr(self.graph.parts[reader].name) for reader in self.graph.readers(use)]
            or ["the output"]
        )


def _takes_factors(module: Any) -> bool:
    """Whether a factor of what a layer computes is one of what it returns."""
    return isinstance(module, QuantizedWeight) and own_method(module, IDLE) is None


def _products(factors: list[_Factor]) -> tuple[Tensor, Tensor]:
    """The product of the factors of an output, and of the sums."""
    products = [torch.ones((), dtype=torch.float64)] * 2
    for factor in factors:
        products[not factor.of_output] = products[not factor.of_output] * factor.value.cpu()
    return products[0], products[1]


def _per_channel(value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """A constant that broadcasts against samples of this shape as one number or `[C]`; None where
    it differs within a channel.
    """
    if value.numel() == 1:
        return value.reshape(())
    sizes = (*[1] * (len(shape) - value.dim()), *value.shape)
    return value.reshape(-1) if sizes == (shape[0], *[1] * (len(shape) - 1)) else None


def _is_power_of_two(divisor: Tensor) -> bool:
    return divisor.numel() == 1 and float(torch.frexp(divisor.detach())[0]) == 0.5


def _without_factor(module: Any) -> None:
    """Take away what was moved."""
    if isinstance(module, Membrane):
        module.decay_input = False
    elif isinstance(module, Scale):
        module.factor = torch.ones_like(module.factor)
    elif type(module) is nn.AvgPool2d:
        module.divisor_override = 1
    else:
        module.__class__ = SUMMING[type(module)]
