"""Rules that choose the range of a quantizer: from magnitudes with counts, or from weights.

The range, `amax`, is the largest magnitude that the format represents. Calibrators and weights
share these rules.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from snnsim._core.checks import checked_float
from snnsim.errors import InvalidValueError
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.functional import integer_bounds, scaled_integers, wide
from snnsim.quant.histogram import NUM_BINS, Histogram

__all__ = [
    "channel_rows",
    "check_entropy_bins",
    "check_percentile",
    "entropy_amax",
    "entropy_bins",
    "mse_amax",
    "percentile_amax",
    "weight_amax",
]

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
    """`x` as `[C, N]`, one row per index along `axis`; one row of everything for None.

    Raises:
        InvalidValueError: `x` has no such axis.
    """
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

    Raises:
        InvalidValueError: `percentile` outside (0, 100].
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
    """The fewest bins, a power of two, that `entropy_amax` can choose a range from.

    Raises:
        InvalidValueError: more bits than a histogram can be made for.
    """
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
        bin; Q is the
    histogram up to n, averaged over the occupied bins of each of the quantizer's levels. Bin 0
    counts as often as bin 1, so that silence, which every range represents exactly, does not
    outvote the rest. The widest of equal ranges is taken.

    Args:
        counts: histogram of magnitudes from 0 up, integer `[C, N]`.
        width: bin width `[C, 1]`.
        num_bits: bits of the quantizer that will use the range.
        unsigned: as for `tensor_quant`.

    Returns:
        `[C]`, float64.

    Raises:
        InvalidValueError: fewer than four bins per level.

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
        because rounding to
    -1, 0, 1 decides at half the range; the magnitude that goes with it is not this range (see
    `QuantizedWeight.integer_weight`).

    Args:
        weight: any shape, not empty, finite.
        descriptor: format, axis and method.

    Returns:
        Scalar, or `[C]` with an axis; no gradient.

    Raises:
        InvalidValueError: weights NaN or infinite.
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
