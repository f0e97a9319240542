"""`to_grid`: scales, biases, edges and leaks on a binary grid, so that float32 computes what
integers do.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from snnsim._core.checks import check_int
from snnsim.deploy.constants import check_finite
from snnsim.deploy.dyadic import frac_bits_of
from snnsim.deploy.exactness import MAX_FRAC_BITS, Report
from snnsim.deploy.factors import move_factors
from snnsim.deploy.graph import IDLE, Graph, Part, at_rest, check_method, network_of, read
from snnsim.deploy.lower import build
from snnsim.deploy.shapes import LINEAR_LAYERS
from snnsim.errors import InvalidValueError
from snnsim.neurons import Membrane, Readout
from snnsim.quant.codebook import Codebook
from snnsim.quant.fold import fold_batch_norm
from snnsim.quant.learned import LearnedUniform
from snnsim.quant.ranges import channel_rows
from snnsim.quant.ste import rounded
from snnsim.quant.weight import QuantizedWeight

__all__ = ["OnGrid", "to_grid"]


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
    modes = {module: module.training for module in network.modules()}
    try:
        # a parametrization may compute another weight in every step of training
        _snap(network.eval(), grid_bits, input_shape)
    finally:
        for module, training in modes.items():
            module.training = training
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
            if (
                isinstance(layer.module, LINEAR_LAYERS)
                and len(calls) == 2
                and graph.readers(source) == [graph.parts.index(part)]
            ):
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
            f"to_grid(grid_bits={grid_bits}): the levels of the neuron {name!r} lie too close for"
            f" this grid; {remedy} fewer levels"
        )
    return Codebook(values, edges=edges, ste=codebook.ste)
