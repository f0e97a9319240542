"""`to_grid`: scales, biases, edges and leaks on a binary grid, so that float32 computes what integers do."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from snnsim.checks import check_int
from snnsim.deploy.dyadic import frac_bits_of, rounded
from snnsim.deploy.exactness import MAX_FRAC_BITS, Report
from snnsim.deploy.graph import Graph, network_of, read
from snnsim.deploy.lower import IDENTITIES, build
from snnsim.errors import InvalidValueError
from snnsim.neurons import IFNode, LIFNode, LIReadout, Membrane, ParametricLIFNode, Readout, SynapticNode
from snnsim.neurons.synaptic import SynapticCurrent
from snnsim.quant.codebook import Codebook
from snnsim.quant.fold import fold_batch_norm
from snnsim.quant.learned import LearnedUniform
from snnsim.quant.ste import straight_through
from snnsim.quant.weight import QuantizedWeight

__all__ = [
    "GridIFNode",
    "GridLIFNode",
    "GridLIReadout",
    "GridParametricLIFNode",
    "GridSynapticCurrent",
    "GridSynapticNode",
    "OnGrid",
    "to_grid",
]


class OnGrid(Membrane):
    """A membrane whose leaked potential is rounded to a multiple of `2**-grid_bits`, with straight-through gradient.

    To bring a neuron of your own onto the grid: `class GridMyNode(OnGrid, MyNode): pass`, and use it in the network.
    """

    grid_bits: int = 16

    def decayed(self, v: Tensor) -> Tensor:
        """What is left of `v` after one step, on the grid."""
        leaked = super().decayed(v)
        return straight_through(rounded(leaked, self.grid_bits), leaked)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, grid_bits={self.grid_bits}"


class GridIFNode(OnGrid, IFNode):
    """IFNode on a grid."""


class GridLIFNode(OnGrid, LIFNode):
    """LIFNode on a grid."""


class GridParametricLIFNode(OnGrid, ParametricLIFNode):
    """ParametricLIFNode on a grid."""


class GridLIReadout(OnGrid, LIReadout):
    """LIReadout on a grid."""


class GridSynapticNode(OnGrid, SynapticNode):
    """SynapticNode on a grid."""


class GridSynapticCurrent(OnGrid, SynapticCurrent):
    """The current of a SynapticNode on a grid."""


GRID_CLASSES: dict[type[Membrane], type[OnGrid]] = {
    IFNode: GridIFNode,
    LIFNode: GridLIFNode,
    ParametricLIFNode: GridParametricLIFNode,
    LIReadout: GridLIReadout,
    SynapticNode: GridSynapticNode,
    SynapticCurrent: GridSynapticCurrent,
}


def to_grid(
    net: nn.Module,
    grid_bits: int = 16,
    *,
    input_shape: tuple[int, ...] | None = None,
    input_range: tuple[int, int] = (0, 1),
) -> Report:
    """Put a network with quantized weights and states on the grid of multiples of `2**-grid_bits`, in place.

    Batch normalization is folded; a division of the input by a tau that is no power of two moves into the scale of the layer
    before it (a learned tau then acts on the leak alone); scales and biases are snapped, the weights being quantized with the
    snapped scale; then edges, leaks, and the levels of readouts. Every module stays the object it was and trains on, with
    straight-through gradients: fine-tune a few epochs with a new optimizer. A learned codebook is fixed as it is. Nothing is
    changed when anything is refused.

    Args:
        net: a network after `snnsim.quant.quantize`, or a runner around it.
        grid_bits: fractional bits, 0 to 24; a scale should be many times `2**-grid_bits`.
        input_shape, input_range: see `lower`.

    Returns:
        How exact every stage is; print it.

    Raises:
        InvalidValueError: what would not be exact; names the layer and the smallest change that makes it so.
    """
    network, _ = network_of(net)
    check_int("to_grid", "grid_bits", grid_bits, at_least=0)
    if grid_bits > MAX_FRAC_BITS:
        raise InvalidValueError(f"to_grid(grid_bits={grid_bits}): must be at most {MAX_FRAC_BITS}, what float32 holds; 16 is usual")
    # on a copy first, so that a refusal leaves the network as it was
    trial = copy.deepcopy(network)
    _snap(trial, grid_bits)
    report = build(trial, input_shape, input_range, bisects=False)[1]
    _snap(network, grid_bits)
    return report


def _snap(net: nn.Module, grid_bits: int) -> None:
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules()):
        fold_batch_norm(net)
    modules = dict(net.named_modules())
    _move_divisions(read(net))
    for name, module in modules.items():
        if isinstance(module, QuantizedWeight):
            _snap_layer(name, module, grid_bits)
        elif isinstance(module, Membrane):
            _snap_node(name, module, grid_bits)


def _snap_layer(name: str, layer: QuantizedWeight, grid_bits: int) -> None:
    layer.grid_bits = None
    step = layer.integer_weight()[1].detach()
    if layer.weight_int is not None:
        needed = frac_bits_of(step)
        if needed > grid_bits:
            raise InvalidValueError(
                f"to_grid: the scale of layer {name!r} is frozen and needs {needed} fractional bits; snapping it to "
                f"{grid_bits} would change what its weights stand for; call to_grid before freeze"
            )
    smallest = float(step.min())
    if smallest * 2.0**grid_bits < 0.5:
        needed = math.ceil(-math.log2(smallest))
        remedy = f"use grid_bits={needed} or more" if needed <= MAX_FRAC_BITS else "rescale its weights"
        raise InvalidValueError(
            f"to_grid(grid_bits={grid_bits}): the smallest scale of layer {name!r}, {smallest:.4g}, would vanish on this grid; "
            f"{remedy}"
        )
    layer.grid_bits = grid_bits


def _snap_node(name: str, node: Membrane, grid_bits: int) -> None:
    codebook = node.state_quant
    if codebook is None:
        # `lower` refuses it with the reason
        return
    if not isinstance(node, OnGrid):
        if type(node) not in GRID_CLASSES:
            kind = type(node).__name__
            raise InvalidValueError(
                f"to_grid: the neuron {name!r} is a {kind}, whose leak is not on a grid; derive `class Grid{kind}(OnGrid, {kind})` "
                "with OnGrid from snnsim.deploy, and use that in the network"
            )
        node.__class__ = GRID_CLASSES[type(node)]
    node.grid_bits = grid_bits
    if isinstance(codebook, LearnedUniform):
        codebook = codebook.freeze()
    if type(codebook) is not Codebook:
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
            f"to_grid(grid_bits={grid_bits}): the levels of the neuron {name!r} lie too close for this grid; {remedy} fewer levels"
        )
    return Codebook(values, edges=edges, ste=codebook.ste)


def _move_divisions(graph: Graph) -> None:
    """Move divisions of a neuron's input that are not exact into the layers before it."""
    for index, part in enumerate(graph.parts):
        node = part.module.current if isinstance(part.module, SynapticNode) else part.module
        if not isinstance(node, Membrane) or not node.divides_input():
            continue
        divisor = node.input_divisor()
        if divisor is None or (divisor.numel() == 1 and float(torch.frexp(divisor.detach())[0]) == 0.5):
            continue
        if type(node).input_divisor not in (LIFNode.input_divisor, ParametricLIFNode.input_divisor):
            raise InvalidValueError(
                f"to_grid: the neuron {part.name!r} divides its input by {divisor}; scale the layer before it instead"
            )
        _divide_sources(graph, index, divisor.detach(), part.name)
        node.decay_input = False


def _divide_sources(graph: Graph, index: int, divisor: Tensor, neuron: str) -> None:
    for source in graph.parts[index].inputs:
        part = graph.parts[source]
        if isinstance(part.module, QuantizedWeight) and len(graph.readers(source)) == 1 and _divide(part.module, divisor):
            continue
        linear = isinstance(part.module, (nn.AvgPool1d, nn.AvgPool2d, nn.Flatten, *IDENTITIES)) or (
            part.module is None and part.inputs
        )
        if not linear or len(graph.readers(source)) > 1:
            raise InvalidValueError(
                f"to_grid: the neuron {neuron!r} divides its input by tau, which is no power of two, and the division cannot move "
                f"into {part.name!r} before it; use decay_input=False, or a tau of 2, 4, ..."
            )
        _divide_sources(graph, source, divisor, neuron)


@torch.no_grad()
def _divide(layer: QuantizedWeight, divisor: Tensor) -> bool:
    """Divide what a layer computes, one number for all or one per output channel; False where it cannot."""
    quantizer, flat = layer.weight_quantizer, divisor.reshape(-1).to(layer.weight)
    per_channel = flat.numel() > 1
    if layer.weight_int is not None or (per_channel and flat.numel() != layer.weight.shape[0]):
        return False
    if per_channel and quantizer.descriptor.axis is None:
        return False
    layer.weight /= flat.reshape(-1, *[1] * (layer.weight.ndim - 1))
    if layer.bias is not None:
        layer.bias /= flat
    if quantizer.amax is not None:
        quantizer.amax = quantizer.amax / flat.to(quantizer.amax)
    return True
