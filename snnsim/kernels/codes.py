"""How a code is stored for the backward pass: the smallest integer that holds it, with a mark where
no gradient passes.

The top bit is the mark: the charged membrane lay outside the levels of a clipped codebook, or was
NaN. Clipping marks the outermost codes only, so a marked code in between says NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["code_dtype", "is_marked", "mark_bit", "stored_nan", "unpack"]


def code_dtype(levels: int, clip: bool, plain: bool = True) -> torch.dtype:
    """Integer type of one stored code.

    Args:
        levels: number of codes, L.
        clip: whether the codebook clips the gradient.
        plain: let 129 to 256 unclipped levels take one byte, which leaves no bit for the mark; NaN
            must then be kept aside.
    """
    if levels <= 128 or (plain and levels <= 256 and not clip):
        return torch.uint8
    return torch.int16 if levels <= 2**15 else torch.int32


def is_marked(levels: int, dtype: torch.dtype) -> bool:
    """Whether codes of `dtype` have a bit to spare for the mark."""
    return dtype != torch.uint8 or levels <= 128


def mark_bit(dtype: torch.dtype) -> int:
    """The top bit of `dtype`, as a value of that dtype."""
    return 128 if dtype == torch.uint8 else torch.iinfo(dtype).min


def stored_nan(levels: int, dtype: torch.dtype) -> int:
    """What is stored for NaN: the mark with a code that is not outermost, or 0 where there is no
    mark.
    """
    between = 1 if levels > 2 else 2
    return mark_bit(dtype) + between if is_marked(levels, dtype) else 0


def unpack(stored: Tensor, levels: int, aside: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Codes as int64 (0 for NaN), where no gradient passes, and where the value was NaN.

    Args:
        stored: codes as saved, any shape.
        levels: number of codes, L.
        aside: where the value was NaN, for codes without a mark; None if nowhere.
    """
    if not is_marked(levels, stored.dtype):
        nan = torch.zeros_like(stored, dtype=torch.bool) if aside is None else aside
        return stored.long(), nan, nan
    mark = mark_bit(stored.dtype)
    marked = (stored & mark) != 0
    nan = stored == stored_nan(levels, stored.dtype)
    code = (stored & (127 if mark == 128 else ~mark)).long()
    return torch.where(nan, 0, code), marked, nan
