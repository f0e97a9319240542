"""Linear and convolution layers with quantized weights: the torch layers with
`weight.QuantizedWeight` in front.

Arguments are those of the torch layer, and by keyword `weight_quant`, `input_quant` and `grid_bits`
of `QuantizedWeight`, where the arithmetic is written down.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from snnsim.quant.weight import QuantizedWeight

__all__ = [
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantLinear",
]


class QuantLinear(QuantizedWeight, nn.Linear):
    """`nn.Linear` with quantized weights."""

    def _product(self, x: Tensor, w_int: Tensor, *args: Any) -> Tensor:
        return F.linear(x, w_int)


class _QuantConv(QuantizedWeight):
    _conv_forward: Any

    def _product(self, x: Tensor, w_int: Tensor, *args: Any) -> Tensor:
        # the torch layer's own: it knows the padding modes
        return self._conv_forward(x, w_int, None)


class QuantConv1d(_QuantConv, nn.Conv1d):
    """`nn.Conv1d` with quantized weights."""

    spatial_dims = 1


class QuantConv2d(_QuantConv, nn.Conv2d):
    """`nn.Conv2d` with quantized weights."""

    spatial_dims = 2


class QuantConv3d(_QuantConv, nn.Conv3d):
    """`nn.Conv3d` with quantized weights."""

    spatial_dims = 3


class _QuantConvTranspose(QuantizedWeight):
    channel_axis = 1
    stride: Any
    padding: Any
    dilation: Any
    kernel_size: Any
    groups: int
    _output_padding: Any

    def _output_step(self, step: Tensor) -> Tensor:
        # axis 1 of the weight counts the output channels of one group
        return step if step.ndim == 0 else step.repeat(self.groups)

    def _product(self, x: Tensor, w_int: Tensor, *args: Any) -> Tensor:
        dims = self.spatial_dims
        output_size = args[0] if args else None
        output_padding = self._output_padding(
            x, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation
        )
        transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        return transposed(
            x, w_int, None, self.stride, self.padding, output_padding, self.groups, self.dilation
        )


class QuantConvTranspose1d(_QuantConvTranspose, nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` with quantized weights."""

    spatial_dims = 1


class QuantConvTranspose2d(_QuantConvTranspose, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` with quantized weights."""

    spatial_dims = 2


class QuantConvTranspose3d(_QuantConvTranspose, nn.ConvTranspose3d):
    """`nn.ConvTranspose3d` with quantized weights."""

    spatial_dims = 3
