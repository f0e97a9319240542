"""What layers and neurons hold, read as exact numbers, and why some cannot be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snnsim.deploy.dyadic import frac_bits_of
from snnsim.deploy.graph import Part, refusal
from snnsim.deploy.operations import Integers, Window
from snnsim.neurons.base import BaseNode
from snnsim.neurons.membrane import Membrane
from snnsim.neurons.readout import Readout
from snnsim.quant.codebook import Codebook

__all__ = [
    "check_finite",
    "check_fixed",
    "checked_codebook",
    "input_bits",
    "layer_window",
    "narrowest",
    "pool_divisor",
    "pool_window",
    "power_of_two_weights",
    "window_of",
]

ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
MAX_LEVELS = 256
# of weights as whole numbers
WEIGHT_TYPES = (np.int8, np.int16, np.int32)


def check_finite(part: Part, layer: Any) -> None:
    """Refuse a layer with constants that are no numbers."""
    for name, tensor in (
        *layer.named_parameters(),
        *layer.named_buffers(),
        ("weight", layer.weight),
    ):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise refusal(
                part,
                f"its {name} has NaN or infinite values; find the step of training where they"
                " arise",
            )


def check_fixed(part: Part, layer: Any) -> None:
    """Refuse a layer whose weight or bias, computed by a parametrization, is another at every
    call."""
    state = torch.get_rng_state()
    first, second = (
        [tensor.detach().clone() for tensor in (layer.weight, layer.bias) if tensor is not None]
        for _ in range(2)
    )
    drawn = not torch.equal(state, torch.get_rng_state())
    torch.set_rng_state(state)
    if drawn or not all(torch.equal(a, b) for a, b in zip(first, second, strict=True)):
        raise refusal(
            part,
            "its weight or bias is computed anew at every call, and is not the same twice; fix it"
            " with torch.nn.utils.parametrize.remove_parametrizations",
        )


def checked_codebook(part: Part, node: Membrane) -> Codebook:
    codebook = node.state_quant
    if codebook is None:
        raise refusal(
            part,
            "its state is not quantized; give it a state_quant of at most 8 bits, such as"
            " snnsim.quant.uniform(4)",
        )
    if codebook.is_learned:
        raise refusal(
            part,
            f"its codebook is a {type(codebook).__name__}; fix its levels with state_quant ="
            " state_quant.freeze()",
        )
    if type(codebook) is not Codebook:
        raise refusal(
            part,
            f"its codebook is a {type(codebook).__name__}, which no table stands for; use a plain"
            " Codebook",
        )
    if codebook.num_levels > MAX_LEVELS:
        raise refusal(
            part,
            f"its codebook has {codebook.num_levels} levels and a code has at most 8 bits; use at"
            f" most {MAX_LEVELS}",
        )
    if not isinstance(node, BaseNode | Readout):
        raise refusal(part, "it is neither a spiking neuron (BaseNode) nor a Readout")
    for name in ("forward", "forward_sequence", "step", "charge", "quantize", "transition"):
        owner = next(kind for kind in type(node).__mro__ if name in vars(kind))
        if not owner.__module__.startswith(("snnsim.", "torch.")) or name in vars(node):
            raise refusal(
                part,
                f"it has a {name} of its own, which a table of its leak, fire and reset does not"
                " show",
            )
    coupling = node._why_not_automaton()
    if coupling is not None:
        raise refusal(part, coupling)
    return codebook


def input_bits(part: Part, node: Membrane) -> int:
    """Binary digits by which a node divides its input."""
    if not node._divides_input():
        raise refusal(
            part, "it has a drive of its own; scale the input in the layer before it instead"
        )
    divisor = node._input_divisor()
    if divisor is None:
        return 0
    mantissa, exponent = torch.frexp(divisor.detach().reshape(-1)[0])
    if divisor.numel() == 1 and mantissa == 0.5:
        return int(exponent) - 1
    shown = f"{float(divisor):.6g}" if divisor.numel() == 1 else "one number per channel"
    raise refusal(
        part,
        f"it divides its input by tau ({shown}), which is exact for one power of two only; call"
        " snnsim.deploy.to_grid(net), which moves the division into the scale of the layer before"
        " it, or use decay_input=False",
    )


def power_of_two_weights(part: Part, weight: Tensor) -> tuple[Integers, Tensor]:
    """Weights that are whole numbers times one power of two per output channel."""
    bits = [frac_bits_of(row) for row in weight]
    scale = torch.tensor([2.0**-b for b in bits])
    whole = weight.double() / scale.double().reshape(-1, *[1] * (weight.ndim - 1))
    if float(whole.abs().max()) > np.iinfo(np.int16).max:
        raise refusal(
            part,
            "its weights are not quantized; call snnsim.quant.convert.quantize(net) and fine-tune"
            " before lowering",
        )
    return narrowest(part, whole.numpy()), scale


def narrowest(part: Part, whole: Any) -> Integers:
    for kind in WEIGHT_TYPES:
        if np.iinfo(kind).min <= whole.min() and whole.max() <= np.iinfo(kind).max:
            return whole.astype(kind)
    raise refusal(part, "its weights do not fit 32 bits")


def layer_window(part: Part, layer: Any) -> Window:
    if isinstance(layer, nn.Linear):
        return Window()
    if layer.padding_mode != "zeros":
        raise refusal(part, f"padding_mode={layer.padding_mode!r} is not supported; use 'zeros'")
    if layer.padding == "same" and any(
        d * (k - 1) % 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
    ):
        raise refusal(
            part, "padding='same' with an even kernel pads one side more; use an odd kernel"
        )
    return window_of(layer, 1 if isinstance(layer, nn.Conv1d) else 2)


def window_of(module: Any, spatial: int) -> Window:
    kernel, dilation = (
        _pair(module.kernel_size, spatial, 1),
        _pair(getattr(module, "dilation", 1), spatial, 1),
    )
    if module.padding == "same":
        padding = (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)
    else:
        padding = _pair(0 if module.padding == "valid" else module.padding, spatial, 0)
    return Window(kernel, _pair(module.stride, spatial, 1), padding, dilation)


def pool_window(part: Part, module: Any, shape: tuple[int, ...]) -> Window:
    """Of a pool on samples of this shape."""
    spatial = len(shape) - 1
    if not isinstance(module, ADAPTIVE):
        return window_of(module, spatial)
    asked = module.output_size
    sizes = tuple(asked) if isinstance(asked, Iterable) else (asked,) * spatial
    if any(whole % (size or whole) for size, whole in zip(sizes, shape[1:], strict=True)):
        raise refusal(
            part,
            f"its output size {asked} does not divide its input's, {shape[1:]}; its windows differ"
            " in size",
        )
    kernel = (
        (1, *(whole // (size or whole) for size, whole in zip(sizes, shape[1:], strict=True)))
    )[-2:]
    return Window((kernel[0], kernel[1]), (kernel[0], kernel[1]))


def pool_divisor(part: Part, module: Any, window: Window) -> int:
    """What an average pool divides its sums by."""
    override = getattr(module, "divisor_override", None)
    if override is None and window.padding != (0, 0) and not module.count_include_pad:
        raise refusal(
            part,
            "count_include_pad=False divides by different numbers at the border; leave it True",
        )
    return window.count if override is None else int(override)


def _pair(value: Any, spatial: int, other: int) -> tuple[int, int]:
    """(vertical, horizontal), `other` for the axis that a one-dimensional module does not have."""
    values = tuple(value) if isinstance(value, Iterable) else (value,)
    # torch takes one number for all axes, in a list too
    values = values * spatial if len(values) == 1 else values
    return (other, int(values[0])) if spatial == 1 else (int(values[0]), int(values[1]))
