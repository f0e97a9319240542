"""Numbers on a binary grid: how many fractional bits they need, and the integers that stand for
them there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = ["FLOAT32_EXACT", "INT32_MAX", "frac_bits_of", "on_grid"]

# float32 holds every whole number up to this one
FLOAT32_EXACT = 2**24
INT32_MAX = 2**31 - 1
MANTISSA_BITS = 53


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
