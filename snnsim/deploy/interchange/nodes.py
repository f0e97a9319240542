"""One NIR node for one module: its fields, without what only our metadata holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from snnsim.deploy.interchange.equations import delay_time, fields_of, scale_field, threshold_field
from snnsim.deploy.interchange.fields import Node
from snnsim.deploy.interchange.optional import optional
from snnsim.deploy.sum_pool import AdaptiveSumPool2d
from snnsim.errors import InvalidValueError
from snnsim.layers import Delay, Driven, Scale, SpikeConv2d, SpikeLinear, Threshold
from snnsim.neurons import Membrane
from snnsim.quant.layers import QuantConv1d, QuantConv2d, QuantizedWeight, QuantLinear

__all__ = ["node_of", "same_fields"]

Array = npt.NDArray[Any]
LINEAR = (nn.Linear, QuantLinear, SpikeLinear)
CONVOLUTIONS: dict[type[nn.Module], int] = {
    nn.Conv1d: 1,
    QuantConv1d: 1,
    nn.Conv2d: 2,
    QuantConv2d: 2,
    SpikeConv2d: 2,
}


def node_of(module: nn.Module, shape: tuple[int, ...], dt: float) -> Any:
    """The node of a module whose input is `[B, *shape]`.

    Raises:
        InvalidValueError: NIR has no node for it, or none with these settings.
    """
    nir = optional("nir")
    kind = type(module)
    if kind in LINEAR:
        if len(shape) != 1:
            raise InvalidValueError(
                f"NIR's Linear takes vectors, and one sample has shape {shape} here; flatten it"
                " first"
            )
        weight, bias = _weight(module)
        return nir.Linear(weight) if bias is None else nir.Affine(weight, bias)
    if kind in CONVOLUTIONS:
        return _convolution(module, shape, CONVOLUTIONS[kind])
    if isinstance(module, Membrane | Driven):
        name, fields = fields_of(module, shape, dt)
        return getattr(nir, name)(**fields)
    if isinstance(module, nn.Flatten):
        axes = len(shape) + 1
        start, end = module.start_dim % axes, module.end_dim % axes
        if start == 0:
            raise InvalidValueError(
                f"it flattens the batch axis (start_dim={module.start_dim}); use start_dim=1"
            )
        # NIR counts the axes of one sample
        return nir.Flatten(np.array(shape), start - 1, end - 1)
    if isinstance(module, Delay):
        return nir.Delay(delay_time(module.delay_steps, shape, dt))
    if isinstance(module, Scale):
        return nir.Scale(scale_field(module, shape))
    if isinstance(module, Threshold):
        return nir.Threshold(threshold_field(module, shape))
    if kind is nn.AvgPool2d:
        return _pool(module)
    if kind in (nn.AdaptiveAvgPool2d, AdaptiveSumPool2d):
        return _pool(
            nn.AvgPool2d(
                _adapted(module, shape), divisor_override=getattr(module, "divisor_override", None)
            )
        )
    raise InvalidValueError(f"NIR has no node for it{_remedy(module)}")


def same_fields(a: Node, b: Node) -> bool:
    """Whether two nodes are of one kind and have equal fields, whatever shapes they declare."""
    names = a.fields.keys() - {"shape", "input_shape"}
    return a.kind == b.kind and all(np.array_equal(a[name], b[name]) for name in names)


def _weight(layer: Any) -> tuple[Array, Array | None]:
    weight, bias = layer.weight, layer.bias
    if isinstance(layer, QuantizedWeight):
        bias = layer.quantized_bias()
        weight = (
            layer.quantized_weight() if layer.weight_quantizer.enabled else layer.scaled_weight()
        )
    return _array(weight), None if bias is None else _array(bias)


def _array(tensor: Tensor) -> Array:
    if str(tensor.dtype) == "torch.bfloat16":
        raise InvalidValueError(
            "NIR's arrays have no bfloat16; convert the network with net.float()"
        )
    return tensor.detach().numpy()


def _convolution(layer: Any, shape: tuple[int, ...], spatial: int) -> Any:
    nir = optional("nir")
    if layer.padding_mode != "zeros":
        raise InvalidValueError(f"NIR pads with zeros, not padding_mode={layer.padding_mode!r}")
    weight, bias = _weight(layer)
    bias = np.zeros(len(weight), weight.dtype) if bias is None else bias
    geometry = {name: getattr(layer, name) for name in ("stride", "padding", "dilation")}
    if spatial == 1:
        geometry = {
            name: value if isinstance(value, str) else int(value[0])
            for name, value in geometry.items()
        }
        return nir.Conv1d(shape[-1], weight, groups=layer.groups, bias=bias, **geometry)
    return nir.Conv2d(tuple(shape[-2:]), weight, groups=layer.groups, bias=bias, **geometry)


def _pool(module: Any) -> Any:
    nir = optional("nir")
    kernel, stride, padding = (
        _pair(getattr(module, name)) for name in ("kernel_size", "stride", "padding")
    )
    divisor, padded = module.divisor_override, bool(padding.any())
    if module.ceil_mode or (padded and not module.count_include_pad and divisor is None):
        raise InvalidValueError(
            "NIR's pools know neither ceil_mode=True nor count_include_pad=False"
        )
    if divisor == 1 and kernel.prod() != 1:
        return nir.SumPool2d(kernel, stride, padding)
    if divisor not in (None, kernel.prod()):
        raise InvalidValueError(
            f"NIR's pools sum or average, and divisor_override={divisor} does neither; use 1 and"
            " scale the layer"
        )
    return nir.AvgPool2d(kernel, stride, padding)


def _adapted(module: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """The windows that an adaptive pool averages over, where they lie side by side."""
    wanted = [
        size if given is None else given
        for given, size in zip(_both(module.output_size), shape[-2:], strict=True)
    ]
    if any(size % out for size, out in zip(shape[-2:], wanted, strict=True)):
        raise InvalidValueError(
            f"NIR's pools have windows of one size, and {tuple(shape[-2:])} to {tuple(wanted)}"
            " takes several; choose an output that divides the input"
        )
    return shape[-2] // wanted[0], shape[-1] // wanted[1]


def _both(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)


def _pair(value: Any) -> Array:
    return np.broadcast_to(np.asarray(value), 2).copy()


def _remedy(module: nn.Module) -> str:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "; fold it with snnsim.quant.fold_batch_norm(net)"
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d | nn.AvgPool1d):
        return "; it has SumPool2d and AvgPool2d"
    return ""
