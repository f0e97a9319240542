"""`to_grid`: scales, biases, edges and leaks on a binary grid, so that float32 computes what
integers do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snnsim._core.checks import check_int
from snnsim._core.restore import evaluating
from snnsim.deploy.bounds import MAX_FRAC_BITS, Report, frac_bits_of
from snnsim.deploy.lower import build, kind_of, output_shape
from snnsim.deploy.ops import Delay, Pool, Product
from snnsim.deploy.ops.pool import (
    AVERAGES,
    AdaptiveSumPool1d,
    AdaptiveSumPool2d,
    SumPool1d,
    pool_divisor,
    pool_window,
)
from snnsim.deploy.ops.product import check_finite
from snnsim.deploy.ops.reshape import RESHAPES
from snnsim.deploy.read import (
    IDENTITIES,
    IDLE,
    Graph,
    Part,
    at_rest,
    check_method,
    input_shape_of,
    network_of,
    own_method,
    read,
    refusal,
)
from snnsim.errors import InvalidValueError
from snnsim.layers import Scale
from snnsim.neurons import Membrane, Readout
from snnsim.neurons.leaky import Leaky
from snnsim.quant.codebook import Codebook
from snnsim.quant.convert import fold_batch_norm
from snnsim.quant.layers import QuantizedWeight
from snnsim.quant.ranges import channel_rows
from snnsim.quant.ste import rounded

# what a positive factor passes through: before and behind them it is the same
COMMUTING = (*Pool.layers, *RESHAPES, *IDENTITIES, *Delay.layers)
SUMMING: dict[type[nn.Module], type[nn.Module]] = {
    nn.AvgPool1d: SumPool1d,
    nn.AdaptiveAvgPool1d: AdaptiveSumPool1d,
    nn.AdaptiveAvgPool2d: AdaptiveSumPool2d,
}


class OnGrid(Membrane):
    """A membrane that is on a grid from the start: its leaked potential is a multiple of
    `2**-grid_bits`, with straight-through gradient.

    `to_grid` puts every neuron there. `class GridMyNode(OnGrid, MyNode): pass` is for networks that
    are trained so from the beginning.
    """

    grid_bits: int | None = 16


def to_grid(
    net: nn.Module,
    grid_bits: int = 16,
    *,
    input_shape: tuple[int, ...] | None = None,
    input_range: tuple[int, int] = (0, 1),
) -> Report:
    """Put a network with quantized weights and states on the grid of multiples of `2**-grid_bits`,
    in place.

    Batch normalization is folded; what no binary grid holds moves into a factor of a layer next to
    it, whose weights stay as they are: the division of a neuron's input by a tau that is no power
        of two (a learned tau then acts on the leak alone), the
    division of an average pool (which sums from then on), and the constants of a converted network.
    Scales and biases are snapped, the weights being quantized with the snapped scale; then edges,
    leaks, and the levels of readouts. Every module stays the object it was and trains on, with
    straight-through gradients: fine-tune a few epochs with a new optimizer. A learned codebook is
    fixed as it is. Nothing is changed when anything is refused.

    Args:
        net: a network after `snnsim.quant.quantize`, or a runner around it.
        grid_bits: fractional bits, 0 to 24; a scale should be many times `2**-grid_bits`.
        input_shape, input_range: see `lower`.

    Returns:
        How exact every stage is; print it.

    Raises:
        InvalidValueError: what would not be exact; names the layer and the smallest change that
            makes it so.
    """
    network, _ = network_of(net)
    check_int("to_grid", "grid_bits", grid_bits, at_least=0)
    if grid_bits > MAX_FRAC_BITS:
        raise InvalidValueError(
            f"to_grid(grid_bits={grid_bits}): must be at most {MAX_FRAC_BITS}, what float32 holds;"
            " 16 is usual"
        )
    # on a copy first, so that a refusal leaves the network as it was
    trial = at_rest(network)
    _snap(trial, grid_bits, input_shape)
    report = build(read(trial), input_shape, input_range, bisects=False)[1]
    # a parametrization may compute another weight in every step of training
    with evaluating(network):
        _snap(network, grid_bits, input_shape)
    return report


def _snap(net: nn.Module, grid_bits: int, input_shape: tuple[int, ...] | None) -> None:
    graph = read(net)
    norms = _norms_behind_layers(graph)
    if norms:
        fold_batch_norm(net, norms)
        graph = read(net)
    move_factors(graph, input_shape)
    for name, module in net.named_modules():
        if isinstance(module, QuantizedWeight):
            _snap_layer(name, module, grid_bits)
        elif isinstance(module, Membrane):
            _snap_node(name, module, grid_bits)


def _norms_behind_layers(graph: Graph) -> list[tuple[str, str]]:
    """Names of every layer whose output a batch normalization alone reads, and of that."""
    pairs = []
    for part in graph.parts:
        if isinstance(part.module, nn.modules.batchnorm._BatchNorm):
            (source,) = part.inputs
            layer = graph.parts[source]
            calls = [p for p in graph.parts if p.module in (layer.module, part.module)]
            is_alone = graph.readers(source) == [graph.parts.index(part)]
            if kind_of(layer.module) is Product and layer.module and len(calls) == 2 and is_alone:
                check_method(layer, layer.module, IDLE)
                check_method(part, part.module)
                pairs.append((layer.name, part.name))
    return pairs


def _snap_layer(name: str, layer: QuantizedWeight, grid_bits: int) -> None:
    check_finite(Part(name, layer, ()), layer)
    layer.grid_bits = None
    w_int, step = (tensor.detach() for tensor in layer.integer_weight())
    if layer.weight_int is not None:
        needed = frac_bits_of(step)
        if needed > grid_bits:
            raise InvalidValueError(
                f"to_grid: the scale of layer {name!r} is frozen and needs {needed} fractional"
                f" bits; snapping it to {grid_bits} would change what its weights stand for; call"
                " to_grid before freeze"
            )
    # what multiplies sums of 0 may be anything
    live = channel_rows(w_int, layer.channel_axis).any(1)
    scale = step * layer.input_unit()
    smallest = float(scale.expand(len(live))[live].min()) if bool(live.any()) else 1.0
    if smallest * 2.0**grid_bits < 0.5:
        needed = math.ceil(-math.log2(smallest))
        remedy = (
            f"use grid_bits={needed} or more" if needed <= MAX_FRAC_BITS else "rescale its weights"
        )
        raise InvalidValueError(
            f"to_grid(grid_bits={grid_bits}): the smallest scale of layer {name!r}, {smallest:.4g},"
            f" would vanish on this grid; {remedy}"
        )
    layer.grid_bits = grid_bits


def _snap_node(name: str, node: Membrane, grid_bits: int) -> None:
    codebook = node.state_quant
    if codebook is None:
        # `lower` refuses it with the reason
        return
    node.grid_bits = grid_bits
    codebook = codebook.freeze()
    if codebook.why_not_tabular() is not None:
        # one that draws, or of the user's own, would become another: `lower` refuses it
        return
    node.state_quant = _snapped(name, codebook, grid_bits, levels=isinstance(node, Readout))


def _snapped(name: str, codebook: Codebook, grid_bits: int, levels: bool) -> Codebook:
    """A codebook with its edges, and its levels where asked, on the grid."""
    for bits in range(grid_bits, MAX_FRAC_BITS + 1):
        values = rounded(codebook.levels, bits) if levels else codebook.levels
        edges = rounded(codebook.edges, bits)
        # an edge that lies on its level (rounding down) must not move above it
        edges = torch.where(edges > values[1:], edges - 2.0**-bits, edges)
        if bool(((values[:-1] < edges) & (edges <= values[1:])).all()):
            break
    else:
        bits = MAX_FRAC_BITS + 1
    if bits != grid_bits:
        remedy = f"use grid_bits={bits}, or" if bits <= MAX_FRAC_BITS else "use"
        raise InvalidValueError(
            f"to_grid(grid_bits={grid_bits}): the levels of the neuron {name!r} lie too close for"
            f" this grid; {remedy} fewer levels"
        )
    return Codebook(values, edges=edges, ste=codebook.ste)


# ---- factors that move into the layers next to them


@dataclass(frozen=True)
class _Factor:
    """A factor of what one use of a layer computes.

    Attributes:
        use: position of the layer in the graph.
        value: float64; a number, or one per output channel.
        of_output: of sums and bias, not of the sums alone.
        origin: the part that it was moved from.
    """

    use: int
    value: Tensor
    of_output: bool
    origin: Part


class _CannotMoveError(Exception):
    """A factor meets the part of this name, and passes neither through nor into it."""


def move_factors(graph: Graph, input_shape: tuple[int, ...] | None) -> None:
    """Move divisions by tau and by pools, and constants, into layers, or change nothing."""
    _Mover(graph, input_shape).move()


class _Mover:
    def __init__(self, graph: Graph, input_shape: tuple[int, ...] | None) -> None:
        self.graph = graph
        self.shapes: list[tuple[int, ...]] = []
        for part in graph.parts:
            self.shapes.append(
                output_shape(part, self.shapes.__getitem__)
                if part.inputs
                else input_shape_of(graph, input_shape)
            )
        self.factors: list[_Factor] = []
        # pools that divide by no power of two somewhere, by identity
        self.summing: set[int] = set()

    def move(self) -> None:
        """Find all factors, then apply them."""
        parts = self.graph.parts
        self.summing = {
            id(part.module)
            for part in parts
            if isinstance(part.module, AVERAGES) and not _is_power_of_two(self._divisor(part))
        }
        moved = {id(p.module): p.module for index, p in enumerate(parts) if self._find(index, p)}
        layers = self._by_layer()
        for module in moved.values():
            _without_factor(module)
        for layer, factors in layers:
            for factor in factors:
                (layer.scale_output if factor.of_output else layer.scale_sums)(factor.value)

    def _find(self, index: int, part: Part) -> bool:
        """True for a part with a factor that has to move; where to is remembered."""
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
        divisor = self._divisor(part)
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

    def _divisor(self, part: Part) -> Tensor:
        window = pool_window(part, self.shapes[part.inputs[0]])
        return torch.tensor(pool_divisor(part, window), dtype=torch.float64)

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
        """A constant behind a change of shape as one before it, of channels where they stay."""
        shape = self.shapes[part.inputs[0]]
        ones = [1] * (len(shape) - 1)
        if per_channel is None or (per_channel.dim() and shape != (len(per_channel), *ones)):
            raise _CannotMoveError(part.name)
        return per_channel.reshape(-1, *ones) if per_channel.dim() else per_channel

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
            wanted = _products(self._of_use(places[0]))
            for place in places[1:]:
                pairs = zip(wanted, _products(self._of_use(place)), strict=True)
                if not all(torch.equal(*torch.broadcast_tensors(*pair)) for pair in pairs):
                    first, second = (self._reason(use) for use in (places[0], place))
                    raise InvalidValueError(
                        f"to_grid: the layer {self.graph.parts[place].name!r} is used in several"
                        f" places, and {first} and {second} ask for different factors of what it"
                        " computes; give each place a layer of its own, whose weights may be tied,"
                        " or one tau to both neurons"
                    )
            layer: Any = self.graph.parts[places[0]].module
            layers.append((layer, self._of_use(places[0])))
        return layers

    def _of_use(self, use: int) -> list[_Factor]:
        return [factor for factor in self.factors if factor.use == use]

    def _reason(self, use: int) -> str:
        """The parts that a use of a layer has its factors from; without any, what reads it."""
        origins = [repr(factor.origin.name) for factor in self._of_use(use)]
        readers = [repr(self.graph.parts[reader].name) for reader in self.graph.readers(use)]
        return " and ".join(origins or readers or ["the output"])


def _takes_factors(module: Any) -> bool:
    """True where a factor of what a layer computes is one of what it returns."""
    return isinstance(module, QuantizedWeight) and own_method(module, IDLE) is None


def _products(factors: list[_Factor]) -> tuple[Tensor, Tensor]:
    """The product of the factors of an output, and of the sums."""
    products = [torch.ones((), dtype=torch.float64)] * 2
    for factor in factors:
        products[not factor.of_output] = products[not factor.of_output] * factor.value.cpu()
    return products[0], products[1]


def _per_channel(value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """A constant of samples of this shape as one number or `[C]`; None where it is neither."""
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
