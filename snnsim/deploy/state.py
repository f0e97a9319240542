"""What a network holds from one time step to the next, packed: as many bits for each number as its
bounds need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from snnsim.deploy.operations import Integers, Operation
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError

__all__ = ["Packed", "Part", "StateLayout"]

# bytes `[B, S]`, little end first; every operation's numbers begin with a byte of their own
Packed = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """Where the state of one operation lies.

    Attributes:
        name: of the operation.
        shape: of one sample.
        low, high: smallest and largest number; what is stored is the number minus the smallest.
        first: byte that it begins with.
    """

    name: str
    shape: tuple[int, ...]
    low: int
    high: int
    first: int

    @property
    def bits(self) -> int:
        """Bits of a number."""
        return max(1, (self.high - self.low).bit_length())

    @property
    def count(self) -> int:
        """Numbers of one sample."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of one sample."""
        return -(-self.count * self.bits // 8)


class StateLayout:
    """How the states of a network's operations are packed behind each other.

    Attributes:
        parts: one for each operation, empty where it holds nothing.
        size: bytes of one sample.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.parts: list[Part] = []
        self.size = 0
        for operation in operations:
            part = Part(operation.name, operation.state_shape, *operation.state_bounds, self.size)
            self.parts.append(part)
            self.size += part.size

    def checked(self, packed: Packed) -> Packed:
        """The packed state of some samples, if it is one.

        Raises:
            InvalidTypeError: no array of uint8.
            ShapeError: not `[B, size]`.
            InvalidValueError: a number in it that is no state.
        """
        if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8:
            kind = getattr(packed, "dtype", type(packed).__name__)
            raise InvalidTypeError(
                f"state: must be a uint8 array [B, {self.size}], got {kind}; set what `state`"
                " returned"
            )
        if packed.ndim != 2 or packed.shape[1] != self.size:
            raise ShapeError(
                f"state of shape {packed.shape}: must be [B, {self.size}]; set what `state` of this"
                " network returned"
            )
        for part, numbers in zip(self.parts, self.unpack(packed), strict=True):
            if numbers.size and numbers.max() > part.high:
                raise InvalidValueError(
                    f"state: operation {part.name!r} would hold {numbers.max()}, and its states are"
                    f" {part.low} to {part.high}; set what `state` of this network returned"
                )
        return packed

    def pack(self, states: Sequence[Integers]) -> Packed:
        """States `[B, *shape]` of each operation as bytes `[B, size]`."""
        batch = len(states[0]) if states else 1
        packed = [np.zeros((batch, 0), np.uint8)]
        for part, state in zip(self.parts, states, strict=True):
            offset = (state.reshape(batch, part.count) - part.low).astype(np.uint64)
            bits = (offset[..., None] >> np.arange(part.bits, dtype=np.uint64)) & np.uint64(1)
            packed.append(
                np.packbits(bits.astype(np.uint8).reshape(batch, -1), axis=1, bitorder="little")
            )
        return np.concatenate(packed, 1)

    def unpack(self, packed: Packed) -> list[Integers]:
        """What `pack` packed, int64."""
        states: list[Integers] = []
        for part in self.parts:
            mine = packed[:, part.first : part.first + part.size]
            bits = np.unpackbits(mine, axis=1, count=part.count * part.bits, bitorder="little")
            numbers = bits.reshape(len(packed), part.count, part.bits).astype(
                np.int64
            ) << np.arange(part.bits)
            states.append((numbers.sum(-1) + part.low).reshape(len(packed), *part.shape))
        return states
