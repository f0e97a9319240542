"""Weights packed into machine words for the generated C: 4 of 8 bits, or 8 of 4 bits, to a 32-bit
word.

A block is the outputs that are summed together in registers. Each lane of a word is an unsigned
number, its weight plus a bias, so that lanes never borrow from each other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from snnsim.deploy.operations import Integers

__all__ = ["BLOCK", "fits_nibbles", "packed_bytes", "packed_nibbles"]

# outputs of one block: two words of bytes, or one of nibbles; their sums fit the registers of a
# small processor
BLOCK = 8


def fits_nibbles(weight: Integers) -> bool:
    """Whether every weight is a 4-bit number, -8 to 7."""
    return bool(weight.min() >= -8 and weight.max() <= 7)


def packed_bytes(weight: Integers) -> npt.NDArray[np.uint32]:
    """`[O, I]` weights of 8 bits as words `[O / 4, I]`; byte i is output i of its row of words,
    plus 128.
    """
    return _words(_lanes(weight, 128, 4), 8)


def packed_nibbles(weight: Integers) -> npt.NDArray[np.uint32]:
    """`[O, I]` weights of 4 bits as words `[O / 8, I]`; nibble i is output i of its row of words,
    plus 8.
    """
    return _words(_lanes(weight, 8, 8), 4)


def _lanes(weight: Integers, bias: int, per_word: int) -> npt.NDArray[np.uint32]:
    """`[O, I]` as `[O / per_word, I, per_word]`, biased; outputs that fill up the last block have
    weight 0.
    """
    outputs, inputs = weight.shape
    padded = np.zeros((-(-outputs // BLOCK) * BLOCK, inputs), np.int64)
    padded[:outputs] = weight
    return (padded + bias).astype(np.uint32).reshape(-1, per_word, inputs).transpose(0, 2, 1)


def _words(lanes: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.uint32]:
    shifts = np.arange(lanes.shape[-1], dtype=np.uint32) * np.uint32(bits)
    return np.bitwise_or.reduce(lanes << shifts, axis=-1)
