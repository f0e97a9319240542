"""Calibrators: from data seen in any number of batches to the range a quantizer should use."""

from __future__ import annotations

import torch
from torch import Tensor

from snnsim._core.checks import check_real, checked_bool, is_one_of
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, StateError
from snnsim.quant.functional import MAX_BITS, check_bits, check_unsigned
from snnsim.quant.histogram import NUM_BINS, Histogram
from snnsim.quant.ranges import (
    channel_rows,
    check_entropy_bins,
    check_percentile,
    entropy_amax,
    mse_amax,
    percentile_amax,
)

__all__ = ["HistogramCalibrator", "MaxCalibrator"]

METHODS = ("max", "percentile", "mse", "entropy")


class _Calibrator:
    """What both calibrators share: the checks, the axis, the largest magnitude, and the shape of
    the answer.
    """

    def __init__(self, num_bits: int = 8, axis: int | None = None, unsigned: bool = False) -> None:
        check_bits(type(self).__name__, "num_bits", num_bits, MAX_BITS)
        if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int)):
            raise InvalidTypeError(
                f"{type(self).__name__}(axis={axis!r}): axis must be one int or None; give the axis"
                " that keeps its own range"
            )
        checked_bool(type(self).__name__, "unsigned", unsigned)
        self.num_bits, self.axis, self.unsigned = num_bits, axis, unsigned
        self.reset()

    def __repr__(self) -> str:
        seen = (
            "nothing seen" if self._largest is None else f"largest {float(self._largest.max()):g}"
        )
        return (
            f"{type(self).__name__}(num_bits={self.num_bits}, axis={self.axis},"
            f" unsigned={self.unsigned}): {seen}"
        )

    @property
    def empty(self) -> bool:
        """Nothing was collected yet."""
        return self._largest is None

    def reset(self) -> None:
        """Forget all data."""
        # broadcasts against the data: one per channel, size 1 along the other axes
        self._largest: Tensor | None = None

    def collect(self, x: Tensor) -> None:
        """Take in a batch; an empty one is nothing.

        Raises:
            InvalidTypeError: `x` is not floating point, or negative where unsigned.
            InvalidValueError: `x` has NaN or infinite values, or no such axis.
            ShapeError: another number of channels or axes than before.
        """
        caller = f"{type(self).__name__}.collect"
        check_real(caller, "x", x)
        if not x.is_floating_point():
            raise InvalidTypeError(
                f"{caller}(x of {x.dtype}): x must be floating point; convert it with x.float()"
            )
        if x.numel() == 0:
            return
        magnitudes = channel_rows(x.detach(), self.axis).abs()
        if not bool(torch.isfinite(magnitudes).all()):
            raise InvalidValueError(
                f"{caller}(x): x has NaN or infinite values, which have no range; find where they"
                " arise"
            )
        if self.unsigned:
            check_unsigned(caller, x)
        axis = None if self.axis is None else self.axis % x.ndim
        shape = (
            ()
            if axis is None
            else tuple(size if i == axis else 1 for i, size in enumerate(x.shape))
        )
        largest = magnitudes.amax(1).reshape(shape)
        if self._largest is not None and self._largest.shape != shape:
            raise ShapeError(
                f"{caller}(x of shape {tuple(x.shape)}): gives a range of shape {shape}, earlier"
                f" data one of {tuple(self._largest.shape)}; call reset() before data of another"
                " shape"
            )
        self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)
        self._count(magnitudes)

    def _count(self, magnitudes: Tensor) -> None:
        """Hook for calibrators that keep more than the largest magnitude `[C, N]`."""

    def _max(self) -> Tensor:
        if self._largest is None:
            raise StateError(
                f"{type(self).__name__}.compute_amax(): no data was collected; run at least one"
                " batch through it first"
            )
        return self._largest.float()


class MaxCalibrator(_Calibrator):
    """The largest magnitude seen.

    Args:
        num_bits: bits of the quantizer that will use the range.
        axis: the axis that keeps its own range; None is one for the tensor.
        unsigned: the data has no negative values.
    """

    def compute_amax(self) -> Tensor:
        """The range, float32, in a shape that broadcasts against the data.

        Raises:
            StateError: no data was collected.
        """
        return self._max()


class HistogramCalibrator(_Calibrator):
    """Keeps a histogram of magnitudes and chooses the range from it; per tensor or per channel.

    The same data gives the same answer in any split into batches, bit for bit.

    Args:
        num_bits: bits of the quantizer that will use the range.
        axis: the axis that keeps its own range; None is one for the tensor.
        unsigned: the data has no negative values.
        num_bins: resolution, a power of two: a bin is between 1/num_bins and 2/num_bins of the
            largest magnitude.
    """

    def __init__(
        self,
        num_bits: int = 8,
        axis: int | None = None,
        unsigned: bool = False,
        *,
        num_bins: int = NUM_BINS,
    ) -> None:
        self.num_bins = num_bins
        super().__init__(num_bits, axis, unsigned)

    def reset(self) -> None:
        """Forget all data."""
        super().reset()
        self._histogram = Histogram(self.num_bins)

    def _count(self, magnitudes: Tensor) -> None:
        self._histogram.collect(magnitudes)

    def check_method(self, method: str, percentile: float = 99.99) -> None:
        """Raise what `compute_amax` would of its arguments, whatever the data."""
        if not is_one_of(method, METHODS):
            raise InvalidValueError(
                f"HistogramCalibrator.compute_amax(method={method!r}): must be 'max', 'percentile',"
                " 'mse' or 'entropy'"
            )
        if method == "entropy":
            check_entropy_bins(self.num_bins, self.num_bits, self.unsigned)
        check_percentile("HistogramCalibrator.compute_amax", percentile)

    def compute_amax(self, method: str, *, percentile: float = 99.99) -> Tensor:
        """The range, float32, in a shape that broadcasts against the data; never above the largest
        magnitude seen.

        Args:
            method: "max", "percentile", "mse" or "entropy".
            percentile: in (0, 100], for "percentile".

        Raises:
            StateError: no data was collected.
            InvalidValueError: an unknown method, a percentile out of range, or too few bins for
                "entropy".
        """
        self.check_method(method, percentile)
        largest = self._max()
        # magnitudes fill the upper half of the bins
        counts, width = self._histogram.counts[:, self.num_bins :], self._histogram.width
        lower = self._histogram.lower_edges()[:, self.num_bins :]
        if method == "max":
            return largest
        if method == "percentile":
            amax = percentile_amax(lower + width, counts, percentile)
        elif method == "mse":
            amax = mse_amax(lower + width / 2, counts, self.num_bits, self.unsigned)
        else:
            amax = entropy_amax(counts, width, self.num_bits, self.unsigned)
        return torch.minimum(amax.float().reshape(largest.shape), largest)
