"""A histogram of everything seen so far, the same however the data was split into batches."""

from __future__ import annotations

import torch
from torch import Tensor

from snnsim._core.checks import check_int, check_real
from snnsim.errors import InvalidValueError, ShapeError

__all__ = ["Histogram"]

# bins no finer than this: data that is all zero would ask for infinitely fine ones
MIN_EXPONENT = -126
NUM_BINS = 2048
# 256 MB of counts a channel
MOST_BINS = 2**24


class Histogram:
    """Counts per channel over bins whose width is a power of two.

    Bin i covers [i * width, (i + 1) * width), width = 2^exponent, i from -num_bins to num_bins - 1,
    each channel with an exponent of its own. Data that does not fit doubles the width, which merges
    bins in pairs: both borders of the new bin were borders before, so nothing is split or
        interpolated. The counts are integers and the exponent depends
    on the largest magnitude alone, so the order and size of the batches leave no trace.

    Args:
        num_bins: bins on each side of zero, a power of two from 2 to 2**24; of those, more than
            half are in use.
    """

    def __init__(self, num_bins: int = NUM_BINS) -> None:
        check_int("Histogram", "num_bins", num_bins, at_least=0, at_most=MOST_BINS)
        if num_bins < 2 or num_bins & (num_bins - 1):
            raise InvalidValueError(
                f"Histogram(num_bins={num_bins}): must be a power of two >= 2, so that bins merge"
                " exactly; for example 2048"
            )
        self.num_bins = num_bins
        self._counts: Tensor | None = None
        self._exponent: Tensor | None = None

    @property
    def empty(self) -> bool:
        """Nothing was collected yet."""
        return self._counts is None

    @property
    def counts(self) -> Tensor:
        """int64 `[C, 2 * num_bins]`, from the most negative bin up."""
        if self._counts is None:
            raise InvalidValueError(
                "Histogram.counts: nothing was collected; call collect(values) first"
            )
        return self._counts

    @property
    def width(self) -> Tensor:
        """Bin width per channel, float64 `[C, 1]`."""
        if self._exponent is None:
            raise InvalidValueError(
                "Histogram.width: nothing was collected; call collect(values) first"
            )
        return torch.ldexp(torch.ones_like(self._exponent, dtype=torch.float64), self._exponent)

    def lower_edges(self) -> Tensor:
        """Lower border of every bin, float64 `[C, 2 * num_bins]`."""
        return self._index() * self.width

    def collect(self, values: Tensor) -> None:
        """Count `values`.

        Args:
            values: `[C, N]`, finite.

        Raises:
            InvalidTypeError: no tensor, or a complex one.
            ShapeError: another number of channels than before.
            InvalidValueError: NaN or infinite values.
        """
        check_real("Histogram.collect", "values", values)
        if values.ndim != 2 or (
            self._counts is not None and values.shape[0] != self._counts.shape[0]
        ):
            known = "[C, N]" if self._counts is None else f"[{self._counts.shape[0]}, N] as before"
            raise ShapeError(
                f"Histogram.collect(values of shape {tuple(values.shape)}): must be {known}"
            )
        if values.numel() == 0:
            return
        # float64 divides by any of the widths without underflow
        values = values.detach().double()
        if not torch.compiler.is_compiling() and not bool(torch.isfinite(values).all()):
            raise InvalidValueError(
                "Histogram.collect(values): NaN or infinite values have no bin; remove them first"
            )
        self._widen(self._needed_exponent(values))
        index = torch.floor(values / self.width).long() + self.num_bins
        index += torch.arange(len(index), device=index.device)[:, None] * (2 * self.num_bins)
        ones = torch.ones(1, dtype=torch.int64, device=index.device).expand(index.numel())
        self._counts = (
            self.counts.flatten().scatter_add(0, index.flatten(), ones).view_as(self.counts)
        )

    def _needed_exponent(self, values: Tensor) -> Tensor:
        """Smallest exponent `[C, 1]` at which all of `values` fall strictly inside the outermost
        borders.
        """
        largest = values.abs().amax(dim=1, keepdim=True)
        # largest = m * 2**e with m < 1, so largest < num_bins * width exactly when width >= 2**e /
        # num_bins
        exponent = torch.frexp(largest / self.num_bins).exponent
        return torch.where(largest > 0, exponent, MIN_EXPONENT).clamp(min=MIN_EXPONENT)

    def _widen(self, exponent: Tensor) -> None:
        if self._counts is None or self._exponent is None:
            self._exponent = exponent
            self._counts = torch.zeros(
                len(exponent), 2 * self.num_bins, dtype=torch.int64, device=exponent.device
            )
            return
        exponent = torch.maximum(exponent, self._exponent)
        # an arithmetic shift is division rounded down, also below zero
        merged = (self._index() >> (exponent - self._exponent).clamp(max=62)) + self.num_bins
        self._counts = torch.zeros_like(self._counts).scatter_add_(1, merged, self._counts)
        self._exponent = exponent

    def _index(self) -> Tensor:
        return torch.arange(-self.num_bins, self.num_bins, device=self.counts.device).expand_as(
            self.counts
        )
