"""Ranges of quantizers: the rules that choose one, histograms, and calibrators that collect them.

A range, `amax`, is the largest magnitude that a format represents. Calibrators and weights share
these rules.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from snnsim._core.checks import (
    check_floating,
    check_int,
    check_real,
    checked_bool,
    checked_float,
    is_one_of,
)
from snnsim.errors import InvalidValueError, ShapeError, StateError, refuse
from snnsim.quant.descriptor import QuantDescriptor, check_axis
from snnsim.quant.functional import (
    MAX_BITS,
    check_bits,
    check_unsigned,
    integer_bounds,
    scaled_integers,
    wide,
)

# Li & Liu 2016, "Ternary Weight Networks", arXiv 1605.04711, equation 6
TWN_THRESHOLD = 0.7
WEIGHT_PERCENTILE = 99.99
# ranges tried by mse, in powers of two below the largest magnitude: half an octave apart, then
# finer around the best
MSE_COARSE = tuple(-i / 2 for i in range(13))
MSE_FINE = tuple(i / 8 for i in (-3, -2, -1, 1, 2, 3))
ENTROPY_CANDIDATES = 64
MOST_ENTROPY_BITS = 16


def channel_rows(x: Tensor, axis: int | None) -> Tensor:
    """`x` as `[C, N]`, one row per index along `axis`; one row of everything for None."""
    if axis is None:
        return x.reshape(1, -1)
    if not -x.ndim <= axis < x.ndim:
        raise InvalidValueError(
            f"axis={axis}: a tensor of shape {tuple(x.shape)} has no such axis; axis must be below"
            f" {x.ndim}"
        )
    return x.movedim(axis, 0).flatten(1) if x.ndim > 1 else x[:, None]


def check_percentile(where: str, percentile: object) -> None:
    """Raise unless `percentile` is a number in (0, 100]."""
    if not 0 < checked_float(where, "percentile", percentile) <= 100:
        raise InvalidValueError(
            f"{where}(percentile={percentile}): percentile must be in (0, 100]; 99.9 is usual, and"
            " 100 leaves out nothing"
        )


def percentile_amax(values: Tensor, counts: Tensor, percentile: float) -> Tensor:
    """Smallest of `values` with at least `percentile` % of the counts at or below it.

    Args:
        values: magnitudes `[C, N]`, rising along each row.
        counts: how often each occurs, integer `[C, N]`.
        percentile: in (0, 100].

    Returns:
        `[C]`.
    """
    check_percentile("percentile_amax", percentile)
    below = counts.cumsum(1)
    needed = torch.ceil(below[:, -1:].double() * (percentile / 100)).long().clamp(min=1)
    return values.gather(
        1, torch.searchsorted(below, torch.minimum(needed, below[:, -1:]))
    ).squeeze(1)


def mse_amax(
    values: Tensor, counts: Tensor | None, num_bits: int, unsigned: bool = False
) -> Tensor:
    """The range with the least mean squared quantization error, to within an eighth of an octave.

    Args:
        values: magnitudes `[C, N]`.
        counts: how often each occurs, `[C, N]`; None is once.
        num_bits: bits of the quantizer that will use the range.
        unsigned: as for `tensor_quant`.

    Returns:
        `[C]`, in the dtype of `values`; between 1/83 of the largest magnitude and 1.3 times it.
    """
    bound = integer_bounds(num_bits, unsigned)[1]

    def squared_error(amax: Tensor) -> Tensor:
        step = amax / bound
        error = (scaled_integers(values, 1.0 / step, 0, bound) * step - values).square()
        return (error if counts is None else error * counts).sum(1, keepdim=True)

    largest = (values if counts is None else values.masked_fill(counts == 0, 0.0)).amax(
        1, keepdim=True
    )
    best, least = largest, torch.full_like(largest, math.inf)
    for octaves in (MSE_COARSE, MSE_FINE):
        centre = best
        for octave in octaves:
            amax = centre * 2.0**octave
            error = squared_error(amax)
            # a range of 0 has error NaN and never wins: nothing but 0 is left to represent
            best, least = torch.where(error < least, amax, best), torch.fmin(error, least)
    return best.squeeze(1)


def entropy_bins(num_bits: int, unsigned: bool = False) -> int:
    """Fewest bins, a power of two, that `entropy_amax` can choose a range from."""
    if num_bits > MOST_ENTROPY_BITS:
        raise InvalidValueError(
            f"entropy with num_bits={num_bits}: num_bits must be <= {MOST_ENTROPY_BITS}, since"
            " every level needs bins of its own; use calib_method='mse' or 'max'"
        )
    return 4 * (integer_bounds(num_bits, unsigned)[1] + 1)


def check_entropy_bins(bins: int, num_bits: int, unsigned: bool = False) -> None:
    """Raise where so many bins are too few for `entropy_amax`."""
    needed = entropy_bins(num_bits, unsigned)
    if bins < needed:
        raise InvalidValueError(
            f"entropy with num_bits={num_bits} has {needed // 4} levels for {bins} bins: a level"
            f" needs at least 4 bins; use num_bins={needed} or more, or method='mse'"
        )


def entropy_amax(counts: Tensor, width: Tensor, num_bits: int, unsigned: bool = False) -> Tensor:
    """The range that loses the least information: smallest Kullback-Leibler divergence of the
    quantized histogram.

    For a range of n bins: P is the histogram up to n with all that lies beyond added to its last
    bin; Q is the histogram up to n, averaged over the occupied bins of each of the quantizer's
    levels. Bin 0 counts as often as bin 1, so that silence, which every range represents exactly,
    does not outvote the rest. The widest of equal ranges is taken.

    Args:
        counts: histogram of magnitudes from 0 up, integer `[C, N]`.
        width: bin width `[C, 1]`.
        num_bits: bits of the quantizer that will use the range.
        unsigned: as for `tensor_quant`.

    Returns:
        `[C]`, float64.

    Source: Migacz 2017, "8-bit inference with TensorRT", GTC San Jose.
    """
    levels, bins = integer_bounds(num_bits, unsigned)[1] + 1, counts.shape[1]
    check_entropy_bins(bins, num_bits, unsigned)
    density = counts.double()
    density[:, 0] = density[:, 1]
    best, least = torch.full_like(density[:, 0], bins), torch.full_like(density[:, 0], math.inf)
    for used in range(bins, levels - 1, -max(1, (bins - levels) // ENTROPY_CANDIDATES)):
        divergence = _clipping_divergence(density, used, levels)
        better = divergence < least
        best, least = torch.where(better, used, best), torch.where(better, divergence, least)
    return best * width.squeeze(1)


def _clipping_divergence(density: Tensor, used: int, levels: int) -> Tensor:
    """Divergence `[C]` between the density clipped to its first `used` bins and the same on
    `levels` levels.
    """
    inside = density[:, :used]
    reference = inside.clone()
    reference[:, -1] += density[:, used:].sum(1)
    level = (torch.arange(used, device=density.device) * levels // used).expand_as(inside)
    occupied = (inside > 0).double()
    zeros = torch.zeros(len(density), levels, dtype=density.dtype, device=density.device)
    mean = zeros.scatter_add(1, level, inside) / zeros.scatter_add(1, level, occupied).clamp(min=1)
    quantized = mean.gather(1, level) * occupied
    p = reference / reference.sum(1, keepdim=True).clamp(min=1)
    q = quantized / quantized.sum(1, keepdim=True).clamp(min=1)
    # p log p/q, which is infinite where something was clipped into a bin that q leaves empty
    return torch.where(p > 0, p * torch.log(p / q), torch.zeros_like(p)).sum(1)


def weight_amax(weight: Tensor, descriptor: QuantDescriptor) -> Tensor:
    """The range that the descriptor's calib_method finds for these weights.

    Binary: mean magnitude, whatever the method. "twn": twice the threshold 0.7 * mean magnitude,
    because rounding to -1, 0, 1 decides at half the range; the magnitude that goes with it is not
    this range (see `QuantizedWeight.integer_weight`).

    Args:
        weight: any shape, not empty, finite.
        descriptor: format, axis and method.

    Returns:
        Scalar, or `[C]` with an axis; no gradient.
    """
    rows = channel_rows(wide(weight.detach()), descriptor.axis).abs()
    if not torch.compiler.is_compiling() and not bool(torch.isfinite(rows).all()):
        raise InvalidValueError(
            "weight has NaN or infinite values and cannot be quantized; find the step of training"
            " where they arise"
        )
    method = descriptor.calib_method
    if descriptor.is_binary:
        amax = rows.mean(1)
    elif method == "max":
        amax = rows.amax(1)
    elif method == "twn":
        amax = 2 * TWN_THRESHOLD * rows.mean(1)
    elif method == "mse":
        amax = mse_amax(rows, None, descriptor.num_bits)
    elif method == "percentile":
        amax = percentile_amax(
            rows.sort(1).values, torch.ones_like(rows, dtype=torch.int64), WEIGHT_PERCENTILE
        )
    else:
        histogram = Histogram(max(NUM_BINS, entropy_bins(descriptor.num_bits)))
        histogram.collect(rows)
        amax = entropy_amax(
            histogram.counts[:, histogram.num_bins :], histogram.width, descriptor.num_bits
        )
        amax = torch.minimum(amax.to(rows.dtype), rows.amax(1))
    return amax.squeeze(0) if descriptor.axis is None else amax


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
    interpolated. The counts are integers and the exponent depends on the largest magnitude alone,
    so the order and size of the batches leave no trace.

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
        return self._known("counts", self._counts)

    @property
    def width(self) -> Tensor:
        """Bin width per channel, float64 `[C, 1]`."""
        exponent = self._known("width", self._exponent)
        return torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), exponent)

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

    def _known(self, name: str, value: Tensor | None) -> Tensor:
        if value is None:
            raise InvalidValueError(
                f"Histogram.{name}: nothing was collected; call collect(values) first"
            )
        return value

    def _index(self) -> Tensor:
        return torch.arange(-self.num_bins, self.num_bins, device=self.counts.device).expand_as(
            self.counts
        )


class _Calibrator:
    """Largest magnitude seen so far, by axis, and the methods that choose a range from it."""

    methods: tuple[str, ...] = ("max",)
    hint = (
        "this calibrator keeps the maximum only: collect with"
        " QuantDescriptor(calib_method='histogram')"
    )

    def __init__(self, num_bits: int = 8, axis: int | None = None, unsigned: bool = False) -> None:
        who = type(self).__name__
        check_bits(who, "num_bits", num_bits, 1, MAX_BITS)
        check_axis(who, axis)
        checked_bool(who, "unsigned", unsigned)
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
        check_floating(caller, "x", x)
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

    def check_method(self, method: str, percentile: float = 99.99) -> None:
        """Raise what `compute_amax` would of its arguments, whatever the data."""
        who = f"{type(self).__name__}.compute_amax"
        if not is_one_of(method, self.methods):
            rule = f"must be one of {', '.join(map(repr, self.methods))}"
            refuse(who, "method", method, rule, self.hint)
        check_percentile(who, percentile)

    def compute_amax(self, method: str = "max", *, percentile: float = 99.99) -> Tensor:
        """The range, float32, in a shape that broadcasts against the data; never above the largest
        magnitude seen.

        Args:
            method: "max"; of a histogram also "percentile", "mse" or "entropy".
            percentile: in (0, 100], for "percentile".

        Raises:
            StateError: no data was collected.
            InvalidValueError: an unknown method, a percentile out of range, or too few bins for
                "entropy".
        """
        self.check_method(method, percentile)
        if self._largest is None:
            raise StateError(
                f"{type(self).__name__}.compute_amax(): no data was collected; run at least one"
                " batch through it first"
            )
        largest = self._largest.float()
        if method == "max":
            return largest
        return torch.minimum(
            self._chosen(method, percentile).float().reshape(largest.shape), largest
        )

    def _count(self, magnitudes: Tensor) -> None:
        """Take in magnitudes `[C, N]` for what more than the largest is kept."""

    def _chosen(self, method: str, percentile: float) -> Tensor:
        """The range `[C]` by a method other than "max"."""
        raise NotImplementedError


class MaxCalibrator(_Calibrator):
    """The largest magnitude seen.

    Args:
        num_bits: bits of the quantizer that will use the range.
        axis: the axis that keeps its own range; None is one for the tensor.
        unsigned: the data has no negative values.
    """


class HistogramCalibrator(_Calibrator):
    """A histogram of magnitudes, from which the range is chosen afterwards, by any method.

    Args:
        num_bits, axis, unsigned: as for `MaxCalibrator`.
        num_bins: resolution, a power of two: a bin is between 1/num_bins and 2/num_bins of the
            largest magnitude.
    """

    methods = ("max", "percentile", "mse", "entropy")
    hint = ""

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
        super().check_method(method, percentile)
        if method == "entropy":
            check_entropy_bins(self.num_bins, self.num_bits, self.unsigned)

    def _chosen(self, method: str, percentile: float) -> Tensor:
        # magnitudes fill the upper half of the bins
        counts, width = self._histogram.counts[:, self.num_bins :], self._histogram.width
        lower = self._histogram.lower_edges()[:, self.num_bins :]
        if method == "percentile":
            return percentile_amax(lower + width, counts, percentile)
        if method == "mse":
            return mse_amax(lower + width / 2, counts, self.num_bits, self.unsigned)
        return entropy_amax(counts, width, self.num_bits, self.unsigned)
