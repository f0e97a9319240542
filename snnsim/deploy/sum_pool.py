"""Average pools that leave the division to a layer next to them: their sums of spikes are whole
numbers.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["AdaptiveSumPool1d", "AdaptiveSumPool2d", "SumPool1d"]


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
