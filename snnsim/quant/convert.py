"""From a plain network to a quantized one, in place and in separate steps.

    report = quantize(net, weights=4)            # prepare: the same layers, now with quantized
    weights
    calibrate_inputs(net, batches)               # only where inputs are quantized too
    ...                                          # train, with an optimizer made after quantize
    freeze(net)                                  # fix the integers

`fold_batch_norm` goes first, before the weights are quantized.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from snnsim._core.checks import check_callable, check_iterable, check_module
from snnsim._core.restore import evaluating, restoring
from snnsim.errors import InvalidTypeError, InvalidValueError, StateError, refuse
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.layers import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    QuantConvTranspose3d,
    QuantizedWeight,
    QuantLinear,
)
from snnsim.quant.quantizer import TensorQuantizer

QUANTIZED_LAYERS: dict[type[nn.Module], type[QuantizedWeight]] = {
    nn.Linear: QuantLinear,
    nn.Conv1d: QuantConv1d,
    nn.Conv2d: QuantConv2d,
    nn.Conv3d: QuantConv3d,
    nn.ConvTranspose1d: QuantConvTranspose1d,
    nn.ConvTranspose2d: QuantConvTranspose2d,
    nn.ConvTranspose3d: QuantConvTranspose3d,
}
# these read the weights of their children without calling them
OPAQUE_PARENTS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


@dataclass(frozen=True)
class LayerNote:
    """Line of a report: what happened to a layer, or why nothing did."""

    name: str
    layer: str
    note: str


@dataclass(frozen=True)
class ConversionReport:
    """Layers that a conversion changed and those it left alone; prints as a table."""

    changed: tuple[LayerNote, ...]
    left: tuple[LayerNote, ...]

    def __str__(self) -> str:
        rows = [
            (mark, *vars(note).values())
            for mark, notes in (("+", self.changed), ("-", self.left))
            for note in notes
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
        lines = [
            "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]])
            for row in rows
        ]
        return "\n".join([*lines, f"{len(self.changed)} changed, {len(self.left)} left alone"])


def weight_descriptor(num_bits: int) -> QuantDescriptor:
    """The format that `quantize(net, weights=num_bits)` gives a layer.

    Always symmetric: 1 bit is binary and 2 bits are ternary. With 8 bits and more each output
    channel has a scale, from its largest weight; with fewer there is one learned scale, which
    starts where the squared error is least. Training 64-64-64-10 networks on the digits (1 to 4
    bits, five seeds each), a learned scale was the best rule or within 0.2 points of it, and it
    needs no search at every step.
    """
    if num_bits >= 8:
        return QuantDescriptor(num_bits, axis=0, narrow_range=True)
    return QuantDescriptor(num_bits, learn_amax=True, narrow_range=num_bits > 1, calib_method="mse")


def quantize(
    net: nn.Module,
    weights: int | QuantDescriptor = 8,
    inputs: int | QuantDescriptor | None = None,
    exclude: Iterable[str | type[nn.Module]] = (),
    *,
    grid_bits: int | None = None,
) -> ConversionReport:
    """Turn the linear and convolution layers of a network into quantized ones, in place.

    Every layer stays the object it was, under its name, with its parameters (tied ones stay tied),
    its hooks and its `state_dict` keys; only its class changes. What has no quantized version is
    left alone and reported. Nothing is changed when anything is refused.

    Args:
        net: the network; a single layer too.
        weights: number of bits (see `weight_descriptor`) or a descriptor. With an axis there is one
            scale per output channel, whichever axis that is in a layer.
        inputs: number of bits, signed, or a descriptor, for the inputs of these layers; None leaves
            them, as is right for spikes.
        exclude: names of layers, or of parts of the network with all their layers; or classes.
        grid_bits: as in `QuantizedWeight`.

    Returns:
        What was changed and what was not, with the reason.

    Raises:
        InvalidTypeError: an argument of another type.
        InvalidValueError: an excluded name that does not exist, no layer to quantize, NaN or
            infinite weights, or a descriptor that does not fit a layer.

    Warns:
        UserWarning: a layer whose weights are all zero.
    """
    check_module("quantize", "net", net)
    weight_quant = _as_descriptor("weights", weights, weight_descriptor)
    input_quant = None if inputs is None else _as_descriptor("inputs", inputs, QuantDescriptor)
    if isinstance(exclude, str):
        rule = f"must be a list of them, exclude=[{exclude!r}]"
        refuse("quantize", "exclude", exclude, rule, kind=InvalidTypeError)
    plan: list[tuple[str, nn.Module, type[QuantizedWeight], QuantDescriptor]] = []
    left: list[LayerNote] = []
    for name, module, reason in _survey(net, tuple(exclude)):
        if reason:
            left.append(LayerNote(name, type(module).__name__, reason))
            continue
        kind, descriptor = QUANTIZED_LAYERS[_plain_type(module)], weight_quant
        if descriptor.axis is not None:
            descriptor = replace(descriptor, axis=kind.channel_axis)
        kind.check_quantizers(_checked_weight(name, module), descriptor, input_quant, grid_bits)
        plan.append((name, module, kind, descriptor))
    if not plan:
        seen = [f"{note.name or 'net'} ({note.layer}): {note.note}" for note in left]
        raise InvalidValueError(
            "quantize(net): there is no layer to quantize; of those with parameters:"
            f" {'; '.join(seen) or 'none'}"
        )
    changed = []
    for name, module, kind, descriptor in plan:
        note = f"{kind.__name__}, {_describe(descriptor)}"
        changed.append(LayerNote(name, type(module).__name__, note))
        _become(module, kind).attach_quantizers(descriptor, input_quant, grid_bits)
    return ConversionReport(tuple(changed), tuple(left))


def calibrate_inputs(
    net: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[Any], Any] | None = None,
    *,
    method: str = "mse",
    percentile: float = 99.99,
) -> ConversionReport:
    """Run data through a network to find the ranges of its input quantizers, and use them from then
    on.

    The network runs in eval mode, without gradient, and with its inputs not yet quantized; its
    modes are restored.

    Args:
        net: a network with quantized inputs, or with `TensorQuantizer` modules of its own.
        batches: inputs, one by one; their split into batches does not matter.
        forward: how to run one batch; None is `net(batch)`. Give the runner of a spiking network
            here.
        method: how the range is taken from a histogram: "max", "percentile", "mse" or "entropy";
            for descriptors that say "histogram". Others name their method themselves.
        percentile: in (0, 100], for that method.

    Raises:
        InvalidTypeError: an argument of another type.
        InvalidValueError: no input is quantized, a method that a quantizer does not have (before
            any batch is run), or a batch with NaN or infinite values on the way.
        StateError: no batches, or a quantizer that none of them reached.

    Warns:
        UserWarning: inputs that are 0 on all of this data.
    """
    check_module("calibrate_inputs", "net", net)
    check_iterable("calibrate_inputs", "batches", batches)
    if forward is not None:
        check_callable("calibrate_inputs", "forward", forward)
    quantizers = dict(_activation_quantizers(net))
    if not quantizers:
        raise InvalidValueError(
            "calibrate_inputs(net): no input is quantized; call quantize(net, inputs=...) first"
        )
    methods = {}
    for name, quantizer in quantizers.items():
        open_method = method if quantizer.descriptor.calib_method == "histogram" else None
        methods[name] = quantizer.calib_method(open_method, percentile=percentile)
    enabled = {name: quantizer.enabled for name, quantizer in quantizers.items()}

    def restore() -> None:
        for name, quantizer in quantizers.items():
            quantizer.enabled = enabled[name]
            quantizer.disable_calib()

    with evaluating(net), restoring(restore):
        for quantizer in quantizers.values():
            quantizer.calibrator.reset()
            quantizer.disable()
            quantizer.enable_calib()
        with torch.no_grad():
            for batch in batches:
                (net if forward is None else forward)(batch)
    unseen = [name for name, quantizer in quantizers.items() if quantizer.calibrator.empty]
    if unseen:
        raise StateError(
            f"calibrate_inputs(batches): no data reached {', '.join(unseen)}; give at least one"
            " batch that runs the whole network"
        )
    for name, quantizer in quantizers.items():
        where = f"calibrate_inputs: {name}"
        quantizer.load_calib_amax(methods[name], percentile=percentile, name=where)
    notes = [LayerNote(name, type(q).__name__, q.extra_repr()) for name, q in quantizers.items()]
    return ConversionReport(tuple(notes), ())


def freeze(net: nn.Module) -> ConversionReport:
    """Fix the integer weights of every quantized layer: the step after training.

    Integers and steps go into the `state_dict` (keys `weight_int` and `weight_step` beside
    `weight`), the layers' parameters stop training, and what the network computes does not change.
    Already frozen layers are left alone and reported.

    Raises:
        InvalidValueError: no quantized layer, or NaN weights.
        StateError: a quantized input whose range is still taken from each batch.

    Warns:
        UserWarning: a layer whose weights are all quantized to 0.
    """
    modules = dict(net.named_modules())
    layers = {name: m for name, m in modules.items() if isinstance(m, QuantizedWeight)}
    if not layers:
        raise InvalidValueError(
            "freeze(net): there is no quantized layer; call quantize(net, ...) first"
        )
    for name, quantizer in _activation_quantizers(net):
        if quantizer.enabled and quantizer.amax is None:
            raise StateError(
                f"freeze(net): {name} takes its range from each batch, so results would depend on"
                " the batch; call calibrate_inputs(net, batches) first"
            )
    for name, layer in layers.items():
        _checked_weight(name, layer)
    changed, left = [], []
    for name, layer in layers.items():
        kind = type(layer).__name__
        if layer.weight_int is not None:
            left.append(LayerNote(name, kind, "already frozen"))
            continue
        layer.freeze()
        changed.append(LayerNote(name, kind, _describe(layer.weight_quantizer.descriptor)))
        if not bool(layer.integer_weight()[0].any()):
            warnings.warn(
                f"freeze(net): every weight of {name or 'net'} is quantized to 0, so it passes"
                " nothing on; use more bits or a smaller range",
                stacklevel=2,
            )
    return ConversionReport(tuple(changed), tuple(left))


def _as_descriptor(
    argument: str, value: object, of_bits: Callable[[int], QuantDescriptor]
) -> QuantDescriptor:
    if isinstance(value, QuantDescriptor):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        rule = "must be a number of bits or a QuantDescriptor"
        refuse("quantize", argument, value, rule, kind=InvalidTypeError)
    return of_bits(value)


def _survey(
    net: nn.Module, exclude: tuple[str | type[nn.Module], ...]
) -> Iterator[tuple[str, nn.Module, str | None]]:
    """Modules with parameters of their own, and why each cannot be quantized, or None."""
    modules = dict(net.named_modules())
    for entry in exclude:
        if isinstance(entry, str) and entry not in modules:
            raise InvalidValueError(
                f"quantize(exclude={entry!r}): the network has no such part; it has"
                f" {', '.join(n for n in modules if n)}"
            )
        is_class = isinstance(entry, type) and issubclass(entry, nn.Module)
        if not isinstance(entry, str) and not is_class:
            rule = "must be names of layers or module classes"
            refuse("quantize", "exclude", entry, rule, kind=InvalidTypeError)
    names = [entry for entry in exclude if isinstance(entry, str)]
    classes = tuple(entry for entry in exclude if not isinstance(entry, str))
    for name, module in modules.items():
        if isinstance(module, TensorQuantizer) or not [*module.parameters(recurse=False)]:
            continue
        parts = name.split(".")
        above = {".".join(parts[:i]) for i in range(len(parts))} if name else set()
        around = {name, *above}
        if around.intersection(names) or any(isinstance(modules[n], classes) for n in around):
            yield name, module, "excluded"
        else:
            yield name, module, _why_not_quantized(module, [modules[n] for n in above])


def _why_not_quantized(module: nn.Module, above: list[nn.Module]) -> str | None:
    if isinstance(module, QuantizedWeight):
        return "already quantized"
    if _plain_type(module) not in QUANTIZED_LAYERS:
        if isinstance(module, tuple(QUANTIZED_LAYERS)):
            return "a subclass, whose forward a quantized layer would not keep"
        return "there is no quantized layer for it"
    if "weight" not in dict(module.named_parameters(recurse=False)):
        return "its weight is computed, not a parameter"
    if any(isinstance(parent, OPAQUE_PARENTS) for parent in above):
        return "the module around it reads its weight without calling it"
    return None


def _plain_type(module: nn.Module) -> type[nn.Module]:
    """Layer of torch that a module computes the same as: its class's `same_as`, or its type."""
    # of a subclass, which may compute something else, the attribute must be its own
    return vars(type(module)).get("same_as", type(module))


def _checked_weight(name: str, module: nn.Module) -> Tensor:
    weight = module.get_parameter("weight")
    if not bool(torch.isfinite(weight).all()):
        raise InvalidValueError(
            f"{name or 'net'}.weight has NaN or infinite values and cannot be quantized; find the"
            " step of training where they arise"
        )
    if not bool(weight.any()):
        warnings.warn(
            f"{name or 'net'}.weight is all zero, so the quantized layer passes nothing on;"
            " initialize or load it first",
            stacklevel=3,
        )
    return weight


def _activation_quantizers(net: nn.Module) -> Iterator[tuple[str, TensorQuantizer]]:
    of_weights = {
        id(module.weight_quantizer)
        for module in net.modules()
        if isinstance(module, QuantizedWeight)
    }
    for name, module in net.named_modules():
        if isinstance(module, TensorQuantizer) and id(module) not in of_weights:
            yield name, module


def _become(module: Any, kind: type[QuantizedWeight]) -> QuantizedWeight:
    # the same object of another class: references to it, its hooks and its parameters all stay
    module.__class__ = kind
    return module


def _describe(descriptor: QuantDescriptor) -> str:
    kind = "ternary" if descriptor.is_ternary else f"{descriptor.num_bits} bits"
    kind = "binary" if descriptor.is_binary else kind
    source = descriptor.calib_method if descriptor.amax is None else "given"
    source = "learned" if descriptor.learn_amax else source
    return f"{kind}, scale {source}, {'per tensor' if descriptor.axis is None else 'per channel'}"


NORM_DIMS = {nn.BatchNorm1d: (0, 1), nn.BatchNorm2d: (2,), nn.BatchNorm3d: (3,)}


def fold_batch_norm(
    net: nn.Module, pairs: Iterable[tuple[str, str]] | None = None
) -> ConversionReport:
    """Fold each batch normalization into the layer that feeds it, in place, and leave an
    `nn.Identity` under its name.

        factor = gamma / sqrt(running_var + eps)
        weight = weight * factor,   bias = (bias - running_mean) * factor + beta,   per channel

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
        reason = _why_not_folded(modules.get(layer), modules.get(norm), uses)
        if reason is None and (norm in plan or layer in plan.values()):
            reason = "named in two pairs"
        if reason is None:
            plan[norm] = layer
            del left[norm]
        elif pairs is None:
            left[norm] = reason
        else:
            raise InvalidValueError(
                f"fold_batch_norm(pairs): ({layer!r}, {norm!r}) cannot be folded: {reason}"
            )
    changed = []
    for norm, layer in plan.items():
        _fold(modules[layer], modules[norm])
        parent, _, key = norm.rpartition(".")
        setattr(modules[parent], key, nn.Identity())
        changed.append(LayerNote(norm, type(modules[norm]).__name__, f"folded into {layer}"))
    kept = [LayerNote(name, type(norms[name]).__name__, reason) for name, reason in left.items()]
    return ConversionReport(tuple(changed), tuple(kept))


def _adjacent(net: nn.Module) -> Iterator[tuple[str, str]]:
    for name, module in net.named_modules():
        if isinstance(module, nn.Sequential):
            above = f"{name}." if name else ""
            children = [(above + key, child) for key, child in module.named_children()]
            for (first, layer), (second, norm) in pairwise(children):
                if _quantized_kind(layer) and isinstance(norm, tuple(NORM_DIMS)):
                    yield first, second


def _uses(net: nn.Module) -> Counter[int]:
    """Number of places that hold each module and each parameter."""
    uses = Counter(id(module) for _, module in net.named_modules(remove_duplicate=False))
    uses.update(id(parameter) for _, parameter in net.named_parameters(remove_duplicate=False))
    return uses


def _why_not_folded(
    layer: nn.Module | None, norm: nn.Module | None, uses: Counter[int]
) -> str | None:
    if layer is None or norm is None:
        return "there is no part of that name"
    kind = _quantized_kind(layer)
    norm_dims = next((dims for kind, dims in NORM_DIMS.items() if isinstance(norm, kind)), ())
    if kind is None or kind.spatial_dims not in norm_dims:
        return (
            f"{type(layer).__name__} and {type(norm).__name__} are no layer and normalization of"
            " the same dimensions"
        )
    if not isinstance(norm.running_mean, Tensor):
        return "it keeps no running statistics"
    outputs = getattr(layer, "out_features", getattr(layer, "out_channels", None))
    if norm.running_mean.numel() != outputs:
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
    kind = _quantized_kind(layer)
    if kind is None or not kind.channel_axis:
        return weight * factor.view(-1, *[1] * (weight.ndim - 1))
    # [in, out / groups, ...]: each group of inputs has its own outputs
    grouped = weight.view(layer.groups, -1, *weight.shape[1:])
    factors = factor.view(layer.groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
    return (grouped * factors).view_as(weight)


def _quantized_kind(layer: nn.Module) -> type[QuantizedWeight] | None:
    """Quantized class of a layer, a subclass of one of torch's too; None for no such layer."""
    kinds = (kind for plain, kind in QUANTIZED_LAYERS.items() if isinstance(layer, plain))
    return next(kinds, None)
