"""AEDAT 3.1 recordings, the format of DVS128 Gesture."""

from __future__ import annotations

import os
import struct

import numpy as np

from snnsim.data.events.array import check_events, make_events
from snnsim.data.files import read_content
from snnsim.data.numbers import checked_size
from snnsim.errors import DataError

__all__ = ["read_aedat3"]

_POLARITY = 1
_PACKET = struct.Struct("<HHIIIIII")
_END = b"#!END-HEADER\r\n"


def read_aedat3(
    path: str | os.PathLike[str], size: tuple[int, int] | None = (128, 128)
) -> np.ndarray:
    """Polarity events of an AEDAT 3.1 file; other packets and events marked invalid are skipped.

    Layout: a text header, then packets of a 28-byte header (type, source, event size, time offset,
        time overflow, capacity,
    number, valid; little-endian) and their events. A polarity event is a uint32 with valid in bit
    0, polarity in bit 1, y in 2..16, x in 17..31, and an int32 time in microseconds, to which
    overflow * 2**31 is added.

    Args:
        path: the file.
        size: (height, width) of the sensor; not checked when None.

    Returns:
        Structured array `[N]` with fields x, y, t, p.

    Raises:
        MissingDataError: no such file.
        DataError: another version, truncated, empty, an event outside the sensor or time that runs
            backwards.

    Source:
        iniVation, "AEDAT 3.1 file format"; Amir et al. 2017, "A Low Power, Fully Event-Based
        Gesture Recognition System".
    """
    content, source = read_content(path, "read_aedat3"), str(path)
    size = None if size is None else checked_size("read_aedat3", size)
    if not content.startswith(b"#!AER-DAT3.1"):
        found = content[:14].split(b"\r")[0].decode("ascii", errors="replace") or "an empty file"
        raise DataError(
            f"{source}: byte offset 0: expected #!AER-DAT3.1, found {found!r}; other versions are"
            " not read"
        )
    start = content.find(_END)
    if start < 0:
        raise DataError(
            f"{source}: byte offset {len(content)}: the file ends inside its header, before"
            " #!END-HEADER"
        )
    words, times, places = _packets(content, start + len(_END), source)
    valid = np.flatnonzero(words & 1)
    words, times, places = words[valid], times[valid], places[valid]

    def place(index: int) -> str:
        return f"byte offset {places[index]}"

    events = make_events(
        words >> 17 & 0x7FFF, words >> 2 & 0x7FFF, times, words >> 1 & 1, source, place
    )
    return check_events(events, size, source, place)


def _packets(content: bytes, start: int, source: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Data word, time and byte offset of every polarity event."""
    words, times, places = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    while start < len(content):
        if len(content) - start < _PACKET.size:
            raise DataError(
                f"{source}: byte offset {start}: the file is truncated inside a packet header of 28"
                " bytes"
            )
        kind, _, event_size, _, overflow, _, number, _ = _PACKET.unpack_from(content, start)
        body = start + _PACKET.size
        if body + event_size * number > len(content):
            raise DataError(
                f"{source}: byte offset {start}: the file is truncated; the packet here needs "
                f"{event_size * number} bytes of events, {len(content) - body} are left"
            )
        if kind == _POLARITY:
            if event_size != 8:
                raise DataError(
                    f"{source}: byte offset {start + 4}: a polarity event has 8 bytes, this packet"
                    f" says {event_size}"
                )
            raw = np.frombuffer(content, "<u4", 2 * number, body).reshape(-1, 2).astype(np.int64)
            negative = np.flatnonzero(raw[:, 1] >> 31 & raw[:, 0])
            if negative.size:
                raise DataError(
                    f"{source}: byte offset {body + 8 * negative[0] + 4}: a time below 0; the file"
                    " is damaged"
                )
            words.append(raw[:, 0])
            times.append(raw[:, 1] + (overflow << 31))
            places.append(body + 8 * np.arange(number))
        start = body + event_size * number
    return np.concatenate(words), np.concatenate(times), np.concatenate(places)
