"""File formats of event recordings: 5-byte events, AEDAT 3.1, Prophesee's `.dat` and EVT3.

Each reader is its layout; opening, whole-file checks and errors with file and byte offset are one
class.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from snnsim.data.events.array import check_events, event_array
from snnsim.data.files import FileBytes, read_content
from snnsim.data.numbers import checked_size


class EventFile(FileBytes):
    """Bytes of a recording, and (height, width) of its sensor; not checked when None."""

    def __init__(self, content: bytes, source: str, size: tuple[int, int] | None) -> None:
        super().__init__(content, source)
        self.size = size

    def rows(self, start: int, dtype: str, columns: int, what: str) -> np.ndarray:
        """Numbers from `start` to the end, `[N, columns]` int64; `what` is one row of them."""
        each = np.dtype(dtype).itemsize * columns
        left = (len(self.content) - start) % each
        if left:
            fault = f"the file is truncated; {what} has {each} bytes, {left} are left"
            self.refuse(len(self.content) - left, fault)
        numbers = np.frombuffer(self.content, dtype, offset=start)
        # in this order: a copy of rows of one number each is slow
        return numbers.astype(np.int64).reshape(-1, columns)

    def events(self, x: Any, y: Any, t: Any, p: Any, offsets: Sequence[int] | np.ndarray) -> Any:
        """Checked events, each from the byte offset that belongs to it."""

        def place(index: int) -> str:
            return f"byte offset {offsets[index]}"

        events = event_array(x, y, t, p, source=self.source, place=place)
        return check_events(events, self.size, self.source, place)


def _opened(path: Any, reader: str, size: tuple[int, int] | None) -> EventFile:
    """The file, and the size, that `reader` was given."""
    content = read_content(path, reader)
    return EventFile(content, str(path), None if size is None else checked_size(reader, size))


# a row that the sensor does not have marks that its clock passed 2**13 microseconds
_OVERFLOW_ROW = 240
_OVERFLOW = 2**13


def read_atis(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> np.ndarray:
    """Events of a file of 5-byte events: N-MNIST and N-Caltech101 (`.bin`, `.bs2`).

    Layout of an event, big-endian: 8 bits x, 8 bits y, 1 bit polarity, 23 bits time in
    microseconds.

    Args:
        path: the file.
        size: (height, width) of the sensor, (34, 34) for N-MNIST; not checked when None.

    Returns:
        Structured array `[N]` of dtype `EVENT`.

    Raises:
        DataError: not there, damaged, empty, with an event outside the sensor or time that runs
            backwards; names the byte offset.

    Source:
        Orchard, Jayawant, Cohen & Thakor 2015, "Converting Static Image Datasets to Spiking
        Neuromorphic Datasets Using Saccades", arXiv 1507.07629.
    """
    return decode_atis(_opened(path, "read_atis", size))


def decode_atis(file: EventFile) -> np.ndarray:
    """Events of the bytes of such a file."""
    raw = file.rows(0, "u1", 5, "an event")
    x, y, p = raw[:, 0], raw[:, 1], raw[:, 2] >> 7
    overflow = y == _OVERFLOW_ROW
    t = ((raw[:, 2] & 0x7F) << 16 | raw[:, 3] << 8 | raw[:, 4]) + _OVERFLOW * np.cumsum(overflow)
    kept = np.flatnonzero(~overflow)
    return file.events(x[kept], y[kept], t[kept], p[kept], 5 * kept)


_POLARITY = 1
_PACKET = struct.Struct("<HHIIIIII")
_END = b"#!END-HEADER\r\n"


def read_aedat3(
    path: str | os.PathLike[str], size: tuple[int, int] | None = (128, 128)
) -> np.ndarray:
    """Polarity events of an AEDAT 3.1 file, the format of DVS128 Gesture; other packets and events
    marked invalid are skipped.

    Layout: a text header, then packets of a 28-byte header (type, source, event size, time offset,
    time overflow, capacity, number, valid; little-endian) and their events. A polarity event is a
    uint32 with valid in bit 0, polarity in bit 1, y in 2..16, x in 17..31, and an int32 time in
    microseconds, to which overflow * 2**31 is added.

    Args:
        path: the file.
        size: (height, width) of the sensor; not checked when None.

    Returns:
        Structured array `[N]` of dtype `EVENT`.

    Raises:
        DataError: not there, damaged, empty, with an event outside the sensor or time that runs
            backwards; names the byte offset.

    Source:
        iniVation, "AEDAT 3.1 file format"; Amir et al. 2017, "A Low Power, Fully Event-Based
        Gesture Recognition System".
    """
    file = _opened(path, "read_aedat3", size)
    content = file.content
    if not content.startswith(b"#!AER-DAT3.1"):
        found = content[:14].split(b"\r")[0].decode("ascii", errors="replace") or "an empty file"
        file.refuse(0, f"expected #!AER-DAT3.1, found {found!r}; other versions are not read")
    start = content.find(_END)
    if start < 0:
        file.refuse(len(content), "the file ends inside its header, before #!END-HEADER")
    word, t, offsets = _packets(file, start + len(_END))
    valid = np.flatnonzero(word & 1)
    word, t, offsets = word[valid], t[valid], offsets[valid]
    return file.events(word >> 17 & 0x7FFF, word >> 2 & 0x7FFF, t, word >> 1 & 1, offsets)


def _packets(file: EventFile, start: int) -> list[np.ndarray]:
    """Data word, time and byte offset of every polarity event."""
    content = file.content
    words, times, offsets = ([np.empty(0, np.int64)] for _ in range(3))
    while start < len(content):
        body = start + _PACKET.size
        if body > len(content):
            file.refuse(start, "the file is truncated inside a packet header of 28 bytes")
        kind, _, event_size, _, overflow, _, number, _ = _PACKET.unpack_from(content, start)
        needed, left = event_size * number, len(content) - body
        if needed > left:
            needs = f"the packet here needs {needed} bytes of events, {left} are left"
            file.refuse(start, f"the file is truncated; {needs}")
        if kind == _POLARITY:
            if event_size != 8:
                fault = f"a polarity event has 8 bytes, this packet says {event_size}"
                file.refuse(start + 4, fault)
            raw = np.frombuffer(content, "<u4", 2 * number, body).reshape(-1, 2).astype(np.int64)
            negative = np.flatnonzero(raw[:, 1] >> 31 & raw[:, 0])
            if negative.size:
                offset = body + 8 * negative[0] + 4
                file.refuse(offset, "a time below 0; the file is damaged")
            words.append(raw[:, 0])
            times.append(raw[:, 1] + (overflow << 31))
            offsets.append(body + 8 * np.arange(number))
        start = body + needed
    return [np.concatenate(column) for column in (words, times, offsets)]


# event types of a .dat file that are changes of brightness; others are triggers
_CHANGES = (0, 12)


def read_dat(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> np.ndarray:
    """Events of Prophesee's `.dat` file with 8-byte events (N-CARS, Gen1).

    Layout: text lines that start with "% ", one byte event type, one byte event size, then per
    event, little-endian, a uint32 time in microseconds and a uint32 with x in bits 0..13, y in
    14..27 and polarity in bit 28.

    Args:
        path: the file.
        size: (height, width) of the sensor; that of the header when None, or not checked where the
            header has none.

    Returns:
        Structured array `[N]` of dtype `EVENT`; time goes on where the 32-bit counter starts again.

    Raises:
        DataError: not there, damaged, empty, with an event outside the sensor or time that runs
            backwards; names the byte offset.

    Source:
        Prophesee, "DAT file format"; Sironi et al. 2018, "HATS", arXiv 1803.07913 (N-CARS).
    """
    file = _opened(path, "read_dat", size)
    header, start = _text_header(file)
    version = re.search(r"% Version (\d{1,9})", header)
    if version and int(version[1]) < 2:
        fault = f"events of version {version[1]} have other bits; version 2 is read"
        file.refuse(version.start(), fault)
    kind = file.content[start : start + 2]
    if len(kind) == 2 and kind[0] not in _CHANGES:
        expected = "expected events of type 0 or 12, changes of brightness"
        file.refuse(start, f"{expected}, found type {kind[0]}")
    if len(kind) < 2 or kind[1] != 8:
        found = f"found {kind[1]}" if len(kind) == 2 else "the file ends here"
        file.refuse(start + 1, f"expected an event size of 8 bytes, {found}")
    start += 2
    t, word = file.rows(start, "<u4", 2, "an event").T
    x, y, p = word & 0x3FFF, word >> 14 & 0x3FFF, word >> 28 & 1
    file.size = file.size or _sensor(file, header)
    return file.events(x, y, _unwrap(t, 2**32), p, range(start, len(file.content), 8))


# word types of EVT3
_ROW, _OTHER_ROW, _SINGLE, _BASE, _VECTOR_12, _VECTOR_8, _TIME_LOW = range(7)
_TIME_HIGH = 8


def read_evt3(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> np.ndarray:
    """Events of Prophesee's EVT3 `.raw` file.

    Layout: text lines that start with "% ", then 16-bit little-endian words with their type in the
    upper 4 bits: row, single event, start of a vector, vector of 12 or 8 events, lower and upper
    half of the time. Triggers and other words are skipped, and so are events before the first time
    and those in rows of another kind.

    Args:
        path: the file.
        size: (height, width) of the sensor; that of the header when None, or not checked where the
            header has none.

    Returns:
        Structured array `[N]` of dtype `EVENT`; time goes on where the 24-bit counter starts again.

    Raises:
        DataError: not there, damaged, empty, with an event outside the sensor or time that runs
            backwards; names the byte offset.

    Source:
        Prophesee, "EVT 3.0 format".
    """
    file = _opened(path, "read_evt3", size)
    header, start = _text_header(file)
    version = re.search(r"% (?:evt |format EVT)(\d)", header)
    if version is None or version[1] != "3":
        found = f"EVT{version[1]}" if version else "none"
        file.refuse(0, f"expected a header that says evt 3, found {found}")
    word = file.rows(start, "<u2", 1, "a word")[:, 0]
    x, y, t, p, index = _decode_evt3(word)
    offsets, cameras = start + 2 * index, y >> 11
    others = np.flatnonzero(cameras != cameras[:1])
    if others.size:
        fault = "an event of a second camera; split the recording of a stereo pair into two files"
        file.refuse(offsets[others[0]], fault)
    file.size = file.size or _sensor(file, header)
    return file.events(x, y & 0x7FF, t, p, offsets)


def _decode_evt3(word: np.ndarray) -> tuple[np.ndarray, ...]:
    """Fields x, y (with the camera in bit 11), t, p of the events, and the index of the word that
    each came from.

    No loop over words: what a word means depends only on the latest row, time and vector start
    before it, and on how many vectors came since that start.
    """
    kind = word >> 12
    payload = word & 0xFFF
    row, low, base = (_latest(kind == code) for code in (_ROW, _TIME_LOW, _BASE))
    # events that are no changes of brightness have rows of their own
    row = np.where(_latest(kind == _OTHER_ROW) > row, -1, row)
    upper = np.flatnonzero(kind == _TIME_HIGH)
    # an upper half is repeated now and then; the lower one counts from 0 again where it changes
    changed = np.zeros(len(word), dtype=bool)
    changed[upper] = np.diff(payload[upper], prepend=-1) != 0
    high = _latest(changed)
    time_low = np.where(low > high, payload[low], 0)
    time_high = np.zeros_like(word)
    time_high[upper] = _unwrap(payload[upper], 2**12)
    t = time_high[high] << 12 | time_low

    width = np.select([kind == _VECTOR_12, kind == _VECTOR_8], [12, 8])
    before = np.cumsum(width) - width
    vector_x = (payload[base] & 0x7FF) + before - before[base]
    known = (row >= 0) & (high >= 0)

    single = np.flatnonzero((kind == _SINGLE) & known)
    vector = np.flatnonzero((width > 0) & known & (base >= 0))
    bit = np.arange(12)
    lit = (payload[vector, None] >> bit & 1).astype(bool) & (bit < width[vector, None])
    which, place = np.nonzero(lit)

    index = np.concatenate([single, vector[which]])
    x = np.concatenate([payload[single] & 0x7FF, vector_x[vector[which]] + place])
    p = np.concatenate([payload[single] >> 11, payload[base[vector[which]]] >> 11])
    # stable: the bits of one vector stay in order
    order = np.argsort(index, kind="stable")
    index = index[order]
    return x[order], payload[row[index]], t[index], p[order], index


def _latest(mask: np.ndarray) -> np.ndarray:
    """Index of the latest True up to each place, -1 before the first."""
    return np.maximum.accumulate(np.where(mask, np.arange(len(mask)), -1))


def _unwrap(counter: np.ndarray, period: int) -> np.ndarray:
    """A counter that starts again at `period`, counted on; only a fall by more than half of it is a
    new start.
    """
    starts = np.diff(counter, prepend=counter[:1]) < -(period // 2)
    return counter + period * np.cumsum(starts)


def _text_header(file: EventFile) -> tuple[str, int]:
    """Text lines at the start of a file, and the offset behind them."""
    content, end, last = file.content, 0, False
    while content.startswith(b"% ", end) and not last:
        newline = content.find(b"\n", end)
        stop = newline + 1 if newline >= 0 else len(content)
        last = content[end:stop].strip() == b"% end"
        end = stop
    return content[:end].decode("ascii", errors="replace"), end


def _sensor(file: EventFile, header: str) -> tuple[int, int] | None:
    """(height, width) where a header tells them, in any of the ways it may."""
    geometry = re.search(r"% geometry (?P<width>\d+)x(?P<height>\d+)", header)
    if geometry:
        height, width = geometry["height"], geometry["width"]
    else:
        high = re.search(r"height[ =](\d+)", header, re.IGNORECASE)
        wide = re.search(r"width[ =](\d+)", header, re.IGNORECASE)
        if not (high and wide):
            return None
        height, width = high[1], wide[1]
    # a sensor of more digits would be none, and Python refuses to read thousands of them
    if max(len(height), len(width)) > 9 or not (int(height) and int(width)):
        shown = f"{width[:20]} x {height[:20]} pixels"
        file.refuse(0, f"the header declares a sensor of {shown}; the file is damaged")
    return int(height), int(width)
