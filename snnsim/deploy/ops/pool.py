"""Pools: sums, averages and maxima over windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from snnsim.deploy.ops.base import Integers, Operation, Shape, Signal, Window
from snnsim.deploy.ops.context import Context
from snnsim.deploy.ops.product import spatial_shape, window_of
from snnsim.deploy.read import Part, refusal

AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
ROWS = (nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.MaxPool1d, nn.AdaptiveMaxPool1d)
ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)


@dataclass(frozen=True, eq=False)
class Pool(Operation):
    """Sum or maximum over a window.

    Attributes:
        planes: channels, height and width of the input.
        maximum: take the largest (for spikes: did any fire?) instead of the sum.
    """

    layers = AVERAGES + MAXIMA

    planes: tuple[int, int, int]
    window: Window
    maximum: bool

    @classmethod
    def output_shape(cls, part: Part, shape_of: Callable[[int], Shape]) -> Shape:
        module, shape = part.module, shape_of(part.inputs[0])
        if getattr(module, "ceil_mode", False):
            raise refusal(part, "ceil_mode=True is not supported; pad the input instead")
        spatial = 1 if isinstance(module, ROWS) else 2
        if len(shape) != spatial + 1:
            raise refusal(part, f"pools over {spatial} axes, and one sample has shape {shape}")
        return (shape[0], *spatial_shape(part, pool_window(part, shape), shape))

    @classmethod
    def lowered(cls, context: Context) -> int:
        part, (signal,) = context.part, context.signals
        module: Any = part.module
        shape = cls.output_shape(part, context.shape_of)
        context.check_exact("a pool")
        maximum, window = isinstance(module, MAXIMA), pool_window(part, signal.shape)
        if maximum:
            _check_maximum(context, window)
        low, high, divided = signal.low, signal.high, 0
        if not maximum:
            low, high = low * window.count, high * window.count
            divided = _divided_bits(context, window)
        frac_bits, added = signal.frac_bits + divided, context.added_bits[0] + divided
        context.check_magnitude(max(-low, high), frac_bits, "the sum of the pool", added)
        output = Signal(shape, low, high, frac_bits)
        pool = cls(context.name, context.inputs, output, signal.planes, window, maximum)
        return context.append(pool, added)

    def step(self, inputs: list[Integers], state: Integers) -> tuple[Integers, Integers]:
        batch = len(inputs[0])
        views = self.window.views(inputs[0].reshape(batch, *self.planes))
        seen = np.stack([part for _, _, part in views])
        pooled = seen.max(0) if self.maximum else seen.sum(0)
        return pooled.reshape(batch, *self.output.shape), state

    def check(self, inputs: list[Signal]) -> None:
        source, window = self.require_one(inputs), self.window
        window.check(self.name, self.planes, source)
        is_seen = self.output.size == self.planes[0] * window.places(*self.planes[1:])
        self.require(is_seen, "it returns what its window sees")
        pads_none = not self.maximum or window.padding == (0, 0) or source.low >= 0
        self.require(pads_none, "a maximum pads no negative numbers")
        count = 1 if self.maximum else window.count
        self.require_bounds(source.low * count, source.high * count)

    def instructions(self, program: Any) -> list[dict[str, Any]]:
        kind = "max_pool" if self.maximum else "sum_pool"
        return [{"kind": kind, **self.window.geometry(self.planes)}]

    def c(self, source: Any) -> None:
        padded = self.window.padding != (0, 0)
        # zeros beyond the border take part in a padded maximum
        start = source.layout.signals[self.inputs[0]].low if self.maximum and not padded else 0
        take = "seen = value > seen ? value : seen;" if self.maximum else "seen += value;"
        source.function(C, self.window.geometry(self.planes) | {"start": start, "take": take})

    def writes_over(self) -> bool:
        # no output sees anything that lies before its own number
        _, height, width = self.planes
        rows, columns = self.window.firsts(height, width)
        # the number of a place is the sum of what its row and its column give
        down = (rows * width - np.arange(len(rows)) * len(columns)).min()
        right = (columns - np.arange(len(columns))).min()
        return bool(down + right >= 0) and self.output.size <= math.prod(self.planes)


def pool_window(part: Part, shape: Shape) -> Window:
    """Window of a pool on samples of this shape."""
    module: Any = part.module
    spatial = len(shape) - 1
    if not isinstance(module, ADAPTIVE):
        return window_of(module, spatial)
    asked = module.output_size
    sizes = tuple(asked) if isinstance(asked, Iterable) else (asked,) * spatial
    pairs = [(whole, size or whole) for size, whole in zip(sizes, shape[1:], strict=True)]
    if any(whole % size for whole, size in pairs):
        raise refusal(
            part,
            f"its output size {asked} does not divide its input's, {shape[1:]}; its windows differ"
            " in size",
        )
    kernel = (1, *(whole // size for whole, size in pairs))[-2:]
    return Window((kernel[0], kernel[1]), (kernel[0], kernel[1]))


def pool_divisor(part: Part, window: Window) -> int:
    """Divisor of the sums of an average pool."""
    module: Any = part.module
    override = getattr(module, "divisor_override", None)
    if override is None and window.padding != (0, 0) and not module.count_include_pad:
        raise refusal(
            part,
            "count_include_pad=False divides by different numbers at the border; leave it True",
        )
    return window.count if override is None else int(override)


def _divided_bits(context: Context, window: Window) -> int:
    """Binary digits by which an average pool divides its sum."""
    divisor = pool_divisor(context.part, window)
    if divisor & (divisor - 1):
        remedy = (
            "make it a module of torch.nn and call"
            if context.part.is_function
            else "sum instead, with divisor_override=1, or call"
        )
        raise context.refusal(
            f"divides by {divisor}, which no binary grid holds exactly; {remedy}"
            " snnsim.deploy.to_grid(net), which moves the division into the scale of a layer next"
            " to it"
        )
    return divisor.bit_length() - 1


def _check_maximum(context: Context, window: Window) -> None:
    module, (signal,) = context.part.module, context.signals
    if getattr(module, "return_indices", False):
        raise context.refusal("return_indices=True is not supported; leave it out")
    if window.padding != (0, 0) and signal.low < 0:
        raise context.refusal(
            "pads values that may be negative; pool after the neuron, or without padding"
        )
    sizes = signal.planes[1:]
    firsts = zip(window.firsts(*sizes), sizes, strict=True)
    if any((first == size).any() for first, size in firsts):
        raise context.refusal(
            "has places that see nothing but padding, whose maximum is -inf; use less padding or"
            " dilation"
        )


# ---- average pools that leave the division to a layer next to them: sums of spikes are whole


class SumPool1d(nn.AvgPool1d):
    """Sum over windows of a row; `nn.AvgPool2d` is one of a plane with `divisor_override=1`."""

    divisor_override = 1

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, L]` to `[B, C, L']`."""
        rows: Any = self
        geometry = (1, *rows.kernel_size), (1, *rows.stride), (0, *rows.padding)
        return F.avg_pool2d(x.unsqueeze(-2), *geometry, divisor_override=1).squeeze(-2)


class AdaptiveSumPool1d(nn.AdaptiveAvgPool1d):
    """Sum over windows of equal size, as many as the output has numbers."""

    divisor_override = 1

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, L]` to `[B, C, L']`."""
        return _windows(x.unsqueeze(-2), (1, self.output_size)).squeeze(-2)


class AdaptiveSumPool2d(nn.AdaptiveAvgPool2d):
    """Sum over windows of equal size, as many as the output has numbers."""

    divisor_override = 1

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, C, H', W']`."""
        size = self.output_size
        return _windows(x, (size, size) if isinstance(size, int) else size)


def _windows(x: Tensor, sizes: Any) -> Tensor:
    kernel = [whole // (size or whole) for size, whole in zip(sizes, x.shape[-2:], strict=True)]
    return F.avg_pool2d(x, kernel, divisor_override=1)


C = """\
static void layer_$i(const $in_type *x, $out_type *y)
{
    int32_t channel, row, column, ky, kx;
    for (channel = 0; channel < $channels; channel++) {
        for (row = 0; row < $out_height; row++) {
            for (column = 0; column < $out_width; column++) {
                int32_t seen = $start;
                for (ky = 0; ky < $kernel_y; ky++) {
                    const int32_t down = row * $stride_y + ky * $dilation_y - $padding_y;
                    for (kx = 0; kx < $kernel_x; kx++) {
                        const int32_t right = column * $stride_x + kx * $dilation_x - $padding_x;
                        if (down >= 0 && down < $height && right >= 0 && right < $width) {
                            const int32_t value = x[(channel * $height + down) * $width + right];
                            $take
                        }
                    }
                }
                y[(channel * $out_height + row) * $out_width + column] = ${cast}seen;
            }
        }
    }
}
"""
