"""Batch normalization folded into the layer before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from snnsim.errors import InvalidValueError
from snnsim.quant.convert import ConversionReport, LayerNote
from snnsim.quant.weight import QuantizedWeight

__all__ = ["fold_batch_norm"]

NORM_DIMS = {nn.BatchNorm1d: (0, 1), nn.BatchNorm2d: (2,), nn.BatchNorm3d: (3,)}
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYER_DIMS: dict[type[nn.Module], int] = {
    nn.Linear: 0,
    nn.Conv1d: 1,
    nn.Conv2d: 2,
    nn.Conv3d: 3,
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 2,
    nn.ConvTranspose3d: 3,
}


def fold_batch_norm(
    net: nn.Module, pairs: Iterable[tuple[str, str]] | None = None
) -> ConversionReport:
    """Fold each batch normalization into the layer that feeds it, in place, and leave an
    `nn.Identity` under its name.

        factor = gamma / sqrt(running_var + eps)
        weight = weight * factor,   bias = (bias - running_mean) * factor + beta        per output
        channel

    The result computes what the network computed in eval mode. A layer whose weights are quantized
    already keeps its integers (of a channel with a negative factor, with the other sign): there the
    factor joins the step. A linear layer is taken to feed its normalization `[B, C]`.

    Args:
        net: the network.
        pairs: (layer name, normalization name) of those to fold; None finds every normalization
            that directly follows a linear or convolution layer in an `nn.Sequential`. Name the
            others only where nothing else reads the layer's output.

    Returns:
        Which normalizations were folded, and which were left and why.

    Raises:
        InvalidValueError: a named pair that does not exist or cannot be folded.
    """
    modules = dict(net.named_modules())
    norms = {
        name: module for name, module in modules.items() if isinstance(module, tuple(NORM_DIMS))
    }
    uses = _uses(net)
    missed = (
        "not directly after a linear or convolution layer in an nn.Sequential; name it in pairs"
    )
    left = dict.fromkeys(norms, missed if pairs is None else "not named in pairs")
    plan: dict[str, str] = {}
    for layer, norm in _adjacent(net) if pairs is None else pairs:
        obstacle = _obstacle(modules.get(layer), modules.get(norm), uses)
        if obstacle is None and (norm in plan or layer in plan.values()):
            obstacle = "named in two pairs"
        if obstacle is None:
            plan[norm] = layer
            del left[norm]
        elif pairs is None:
            left[norm] = obstacle
        else:
            raise InvalidValueError(
                f"fold_batch_norm(pairs): ({layer!r}, {norm!r}) cannot be folded: {obstacle}"
            )
    changed = []
    for norm, layer in plan.items():
        _fold(modules[layer], modules[norm])
        parent, _, key = norm.rpartition(".")
        setattr(modules[parent], key, nn.Identity())
        changed.append(LayerNote(norm, type(modules[norm]).__name__, f"folded into {layer}"))
    return ConversionReport(
        tuple(changed),
        tuple(LayerNote(name, type(norms[name]).__name__, reason) for name, reason in left.items()),
    )


def _adjacent(net: nn.Module) -> Iterator[tuple[str, str]]:
    for name, module in net.named_modules():
        if isinstance(module, nn.Sequential):
            children = [
                (f"{name}.{key}" if name else key, child) for key, child in module.named_children()
            ]
            for (first, layer), (second, norm) in pairwise(children):
                if isinstance(layer, tuple(LAYER_DIMS)) and isinstance(norm, tuple(NORM_DIMS)):
                    yield first, second


def _uses(net: nn.Module) -> Counter[int]:
    """How many places hold each module and each parameter."""
    uses = Counter(id(module) for _, module in net.named_modules(remove_duplicate=False))
    uses.update(id(parameter) for _, parameter in net.named_parameters(remove_duplicate=False))
    return uses


def _obstacle(layer: nn.Module | None, norm: nn.Module | None, uses: Counter[int]) -> str | None:
    if layer is None or norm is None:
        return "there is no part of that name"
    dims = next((dims for kind, dims in LAYER_DIMS.items() if isinstance(layer, kind)), None)
    norm_dims = next((dims for kind, dims in NORM_DIMS.items() if isinstance(norm, kind)), None)
    if dims is None or norm_dims is None or dims not in norm_dims:
        return (
            f"{type(layer).__name__} and {type(norm).__name__} are no layer and normalization of"
            " the same dimensions"
        )
    if not isinstance(norm.running_mean, Tensor):
        return "it keeps no running statistics"
    if norm.running_mean.numel() != getattr(
        layer, "out_features", getattr(layer, "out_channels", None)
    ):
        return "its number of channels is not the layer's"
    parameters = dict(layer.named_parameters(recurse=False))
    if isinstance(layer, QuantizedWeight):
        # the weight stays as it is, whoever else has it
        parameters.pop("weight", None)
        if layer.channel_axis and int(getattr(layer, "groups", 1)) > 1:
            return "the channels of its groups share their steps; fold before quantize"
    elif "weight" not in parameters:
        return "the layer's weight is computed, not a parameter"
    if layer.bias is not None and "bias" not in parameters:
        return "the layer's bias is computed, not a parameter"
    if any(uses[id(shared)] > 1 for shared in (layer, norm, *parameters.values())):
        return "the layer, its weight or the normalization is used in several places"
    if any(module._forward_hooks or module._forward_pre_hooks for module in (layer, norm)):
        return "the layer or the normalization has forward hooks, which would see other values"
    return None


@torch.no_grad()
def _fold(layer: Any, norm: Any) -> None:
    weight, bias = layer.weight, layer.bias
    # float64, so that the folded values are rounded once
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    factor = torch.rsqrt(variance + norm.eps)
    held = layer.quantized_bias() if isinstance(layer, QuantizedWeight) else bias
    shift = torch.zeros_like(factor) if held is None else held.double()
    if norm.affine:
        factor = factor * norm.weight.double()
    shift = (shift - mean) * factor
    if norm.affine:
        shift = shift + norm.bias.double()
    if isinstance(layer, QuantizedWeight):
        if layer.output_factor is not None:
            # the layer multiplies its bias by this
            shift = shift / layer.output_factor.double()
        layer.scale_sums(factor)
    else:
        weight.copy_(_per_channel(layer, weight.double(), factor))
    if bias is None:
        layer.bias = nn.Parameter(
            shift.to(weight.dtype), requires_grad=any(p.requires_grad for p in layer.parameters())
        )
    else:
        bias.copy_(shift)


def _per_channel(layer: Any, weight: Tensor, factor: Tensor) -> Tensor:
    """`weight` times one factor per output channel."""
    if not isinstance(layer, TRANSPOSED):
        return weight * factor.view(-1, *[1] * (weight.ndim - 1))
    # [in, out / groups, ...]: each group of inputs has its own outputs
    grouped = weight.view(layer.groups, -1, *weight.shape[1:])
    return (
        grouped * factor.view(layer.groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
    ).view_as(weight)
