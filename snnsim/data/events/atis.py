"""The 5-byte event format of N-MNIST and N-Caltech101 (`.bin`, `.bs2`)."""

from __future__ import annotations

import os

import numpy as np

from snnsim.data.events.array import check_events, event_array
from snnsim.data.files import read_content
from snnsim.data.numbers import checked_size
from snnsim.errors import DataError

__all__ = ["decode_atis", "read_atis"]

_BYTES = 5
# a row that the sensor does not have marks that its clock passed 2**13 microseconds
_OVERFLOW_ROW = 240
_OVERFLOW = 2**13


def read_atis(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> np.ndarray:
    """Events of a file of 5-byte events.

    Layout of an event, big-endian: 8 bits x, 8 bits y, 1 bit polarity, 23 bits time in
    microseconds.

    Args:
        path: the file.
        size: (height, width) of the sensor; (34, 34) for N-MNIST. Not checked when None.

    Returns:
        Structured array `[N]` with fields x, y, t, p.

    Raises:
        MissingDataError: no such file.
        DataError: truncated, empty, an event outside the sensor or time that runs backwards; names
            the byte offset.

    Source:
        Orchard, Jayawant, Cohen & Thakor 2015, "Converting Static Image Datasets to Spiking
        Neuromorphic Datasets Using Saccades", arXiv 1507.07629.
    """
    return decode_atis(
        read_content(path, "read_atis"),
        str(path),
        None if size is None else checked_size("read_atis", size),
    )


def decode_atis(content: bytes, source: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Events of the bytes of such a file; `source` names it in messages."""
    whole = len(content) // _BYTES * _BYTES
    if whole != len(content):
        raise DataError(
            f"{source}: byte offset {whole}: the file is truncated; an event has {_BYTES} bytes,"
            f" {len(content) - whole} are left"
        )
    raw = np.frombuffer(content, np.uint8).reshape(-1, _BYTES).astype(np.int64)
    y = raw[:, 1]
    overflow = y == _OVERFLOW_ROW
    t = ((raw[:, 2] & 0x7F) << 16 | raw[:, 3] << 8 | raw[:, 4]) + _OVERFLOW * np.cumsum(overflow)
    kept = np.flatnonzero(~overflow)
    events = event_array(raw[kept, 0], y[kept], t[kept], raw[kept, 2] >> 7)
    return check_events(events, size, source, lambda index: f"byte offset {_BYTES * kept[index]}")
