"""Binary grids and exactness: when float32 computes exactly what the integers compute.

A layer `u = a * scale + bias` in front of a neuron is exact if scale, bias, edges and leaks are
multiples of `2**-F` and either every value on the way stays below `2**(24-F)`, or the layer feeds
the neuron alone and its *live window*, largest edge + largest leak + largest bias + largest scale,
does: float32 rounds beyond it, but rounding is monotone and the neuron saturated there. The sum `a`
itself must stay below 2**24.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

# an array of some integer type
Integers = npt.NDArray[Any]
# float32 holds every whole number up to this one
FLOAT32_EXACT = 2**24
INT32_MAX = 2**31 - 1
MANTISSA_BITS = 53
# beyond this many fractional bits nothing of use fits below the exact range
MAX_FRAC_BITS = 24
# larger ones are refused wherever they are met, and what is computed with them must not leave 64
# bits
LARGEST_SUM = 2**60


def frac_bits_of(*values: Tensor | float) -> int:
    """Smallest F >= 0 such that every value is a multiple of `2**-F`."""
    numbers = np.concatenate([_float64(value).reshape(-1) for value in values])
    mantissa, exponent = np.frexp(numbers[numbers != 0])
    whole = np.abs(mantissa * 2.0**MANTISSA_BITS).astype(np.int64)
    lowest_bit = np.log2((whole & -whole).astype(np.float64)).astype(np.int64)
    return int(max(0, *(MANTISSA_BITS - exponent - lowest_bit), 0))


def on_grid(values: Tensor | float, frac_bits: int) -> npt.NDArray[np.int64]:
    """The integers `values * 2**frac_bits`, for values that are on that grid."""
    return np.asarray(np.ldexp(_float64(values), frac_bits)).astype(np.int64)


def _float64(values: Tensor | float) -> npt.NDArray[np.float64]:
    return np.asarray(
        values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values, np.float64
    )


@dataclass(frozen=True)
class Stage:
    """How exact a neuron and the layers in front of it are.

    Attributes:
        name: of the neuron.
        layer: that feeds it.
        frac_bits: F, fractional bits that its scales, biases, edges and leaks need.
        window: largest value at which a rounding could matter, in the unit of the threshold.
        accumulator: largest sum of weights times inputs.
        multiplier: smallest and largest scale in units of `2**-frac_bits`; None where the input is
            no single layer.
        added_bits: fractional bits among them that the steps of the input and divisions add to
            those of the layer's grid.
    """

    name: str
    layer: str
    frac_bits: int
    window: float
    accumulator: int
    multiplier: tuple[int, int] | None
    added_bits: int = 0

    @property
    def limit(self) -> float:
        """Largest window that is exact."""
        return FLOAT32_EXACT * 2.0**-self.frac_bits

    @property
    def headroom_bits(self) -> int:
        """Further fractional bits that are exact; negative where too many are needed already."""
        return self.largest_frac_bits - self.frac_bits

    @property
    def largest_frac_bits(self) -> int:
        """The most fractional bits that are exact with this window."""
        if not self.window:
            return MAX_FRAC_BITS
        return min(MAX_FRAC_BITS, math.floor(math.log2(FLOAT32_EXACT / self.window)))

    @property
    def accumulator_bits(self) -> int:
        """Bits of the accumulator, sign included."""
        return self.accumulator.bit_length() + 1

    def why_not(self) -> str | None:
        """Reason that float32 is not exact here, with what would help; None where it is."""
        if self.accumulator > FLOAT32_EXACT:
            return (
                f"sums of weights times inputs reach {self.accumulator}, and float32 is exact up to"
                f" 2^24; use {math.ceil(math.log2(self.accumulator / FLOAT32_EXACT))} bits less for"
                " the weights or for the inputs"
            )
        if self.window > self.limit:
            most = self.largest_frac_bits
            grid_bits = min(16, most - self.added_bits)
            remedy = (
                f"call snnsim.deploy.to_grid(net, grid_bits={grid_bits}) and fine-tune it"
                if grid_bits >= 0
                else "use smaller scales or fewer levels"
            )
            added = (
                f" ({self.added_bits} of them for the step of its input)" if self.added_bits else ""
            )
            return (
                f"scale, bias, edges and leak need {self.frac_bits} fractional bits{added}, and"
                f" with a live window of {self.window:.4g} float32 is exact for at most {most};"
                f" {remedy}"
            )
        return None


@dataclass(frozen=True)
class Report:
    """The stages of a network; prints as a table."""

    stages: tuple[Stage, ...]

    def __str__(self) -> str:
        head = "neuron,layer,fractional bits,live window,limit,accumulator bits,multiplier"
        rows = [tuple(head.split(","))]
        for s in self.stages:
            bits, window, limit = str(s.frac_bits), f"{s.window:.4g}", f"{s.limit:.4g}"
            multiplier = "" if s.multiplier is None else f"{s.multiplier[0]}..{s.multiplier[1]}"
            rows.append((s.name, s.layer, bits, window, limit, str(s.accumulator_bits), multiplier))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )


def accumulator_bounds(weight: Integers, low: int, high: int) -> tuple[Integers, Integers]:
    """Smallest and largest sum of weights times inputs of each output channel, for inputs in [low,
    high] that may be 0.

    Sums beyond 2^60 are given as that.
    """
    flat = weight.astype(np.int64).reshape(len(weight), -1)
    # Python's whole numbers have no end
    positive, negative = (part.sum(1).astype(object) for part in (flat.clip(0), flat.clip(max=0)))
    bounds = positive * low + negative * high, positive * high + negative * low
    least, most = (np.clip(bound, -LARGEST_SUM, LARGEST_SUM).astype(np.int64) for bound in bounds)
    return least, most


def live_limits(
    multiplier: Integers,
    offset: Integers,
    edges: Integers,
    leak: Integers,
    low: Integers,
    high: Integers,
) -> Integers | None:
    """Limits `[2, O]` of the sum `a` beyond which the neuron is saturated; None if no sum in [low,
    high] can leave 32 bits.

    All other arguments on the grid of the edges.
    """
    reach = (
        np.maximum(np.abs(low), np.abs(high)).astype(np.float64) * multiplier
        + np.abs(offset)
        + np.abs(leak).max()
    )
    if (reach <= INT32_MAX).all():
        return None
    top = -((leak.min() + offset - edges[-1]) // multiplier)
    bottom = (edges[0] - 1 - leak.max() - offset) // multiplier
    # a channel may be saturated by every sum that it can have
    return np.stack([bottom.clip(low, high), top.clip(low, high)]).astype(np.int32)
