"""Prophesee's recordings: `.dat` with 8-byte events (N-CARS, Gen1) and EVT3 `.raw`."""

from __future__ import annotations

import os
import re

import numpy as np

from snnsim.data.events.array import check_events, event_array, make_events
from snnsim.data.files import read_content
from snnsim.data.numbers import checked_size
from snnsim.errors import DataError

__all__ = ["read_dat", "read_evt3"]


def read_dat(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> np.ndarray:
    """Events of a `.dat` file.

    Layout: text lines that start with "% ", one byte event type, one byte event size, then per
        event, little-endian,
    a uint32 time in microseconds and a uint32 with x in bits 0..13, y in 14..27 and polarity in bit
    28.

    Args:
        path: the file.
        size: (height, width) of the sensor; that of the header when None, or not checked where the
            header has none.

    Returns:
        Structured array `[N]` with fields x, y, t, p; time goes on where the 32-bit counter starts
        again.

    Raises:
        MissingDataError: no such file.
        DataError: truncated, empty, of another event size, an event outside the sensor or time that
            runs backwards.

    Source:
        Prophesee, "DAT file format"; Sironi et al. 2018, "HATS", arXiv 1803.07913 (N-CARS).
    """
    content, source = read_content(path, "read_dat"), str(path)
    size = None if size is None else checked_size("read_dat", size)
    header, start = _header(content)
    version = re.search(r"% Version (\d{1,9})", header)
    if version and int(version[1]) < 2:
        raise DataError(
            f"{source}: byte offset {version.start()}: events of version {version[1]} have other"
            " bits; version 2 is read"
        )
    if len(content) > start + 1 and content[start] not in _CHANGES:
        raise DataError(
            f"{source}: byte offset {start}: expected events of type 0 or 12, changes of"
            f" brightness, found type {content[start]}"
        )
    if len(content) < start + 2 or content[start + 1] != 8:
        found = f"found {content[start + 1]}" if len(content) > start + 1 else "the file ends here"
        raise DataError(
            f"{source}: byte offset {start + 1}: expected an event size of 8 bytes, {found}"
        )
    start += 2
    left = (len(content) - start) % 8
    if left:
        raise DataError(
            f"{source}: byte offset {len(content) - left}: the file is truncated; an event has 8"
            f" bytes, {left} are left"
        )
    t, word = np.frombuffer(content, "<u4", offset=start).reshape(-1, 2).astype(np.int64).T
    events = event_array(word & 0x3FFF, word >> 14 & 0x3FFF, _unwrap(t, 2**32), word >> 28 & 1)
    return check_events(
        events,
        size or _size(header, source),
        source,
        lambda index: f"byte offset {start + 8 * index}",
    )


def read_evt3(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> np.ndarray:
    """Events of an EVT3 `.raw` file.

    Layout: text lines that start with "% ", then 16-bit little-endian words with their type in the
        upper 4 bits: row, single
    event, start of a vector, vector of 12 or 8 events, lower and upper half of the time. Triggers
    and other words are skipped, and so are events before the first time and those in rows of
    another kind.

    Args:
        path: the file.
        size: (height, width) of the sensor; that of the header when None, or not checked where the
            header has none.

    Returns:
        Structured array `[N]` with fields x, y, t, p; time goes on where the 24-bit counter starts
        again.

    Raises:
        MissingDataError: no such file.
        DataError: another encoding, truncated, empty, an event outside the sensor or time that runs
            backwards.

    Source:
        Prophesee, "EVT 3.0 format".
    """
    content, source = read_content(path, "read_evt3"), str(path)
    size = None if size is None else checked_size("read_evt3", size)
    header, start = _header(content)
    version = re.search(r"% (?:evt |format EVT)(\d)", header)
    if version is None or version[1] != "3":
        found = f"EVT{version[1]}" if version else "none"
        raise DataError(
            f"{source}: byte offset 0: expected a header that says evt 3, found {found}"
        )
    if (len(content) - start) % 2:
        raise DataError(
            f"{source}: byte offset {len(content) - 1}: the file is truncated in the middle of a"
            " 16-bit word"
        )
    word = np.frombuffer(content, "<u2", offset=start).astype(np.int64)
    x, y, t, p, index = _decode_evt3(word)

    def place(event: int) -> str:
        return f"byte offset {start + 2 * index[event]}"

    cameras = y >> 11
    if cameras.size and cameras.min() != cameras.max():
        other = place(int((cameras != cameras[0]).argmax()))
        raise DataError(
            f"{source}: {other}: an event of a second camera; split the recording of a stereo pair"
            " into two files"
        )
    events = make_events(x, y & 0x7FF, t, p, source, place)
    return check_events(events, size or _size(header, source), source, place)


# event types of a .dat file that are changes of brightness; others are triggers
_CHANGES = (0, 12)

# word types of EVT3
_ROW, _OTHER_ROW, _SINGLE, _BASE, _VECTOR_12, _VECTOR_8, _TIME_LOW, _TIME_HIGH = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    8,
)


def _decode_evt3(
    word: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fields x, y (with the camera in bit 11), t, p of the events, and the index of the word that
    each came from.

    No loop over words: what a word means depends only on the latest row, time and vector start
        before it, and on how many
    vectors came since that start.
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
    return (
        np.maximum.accumulate(np.where(mask, np.arange(len(mask)), -1))
        if len(mask)
        else np.empty(0, np.int64)
    )


def _unwrap(counter: np.ndarray, period: int) -> np.ndarray:
    """A counter that starts again at `period`, counted on; only a fall by more than half of it is a
    new start.
    """
    starts = np.diff(counter, prepend=counter[:1]) < -(period // 2)
    return counter + period * np.cumsum(starts)


def _header(content: bytes) -> tuple[str, int]:
    """Text lines at the start of a file, and the offset behind them."""
    end = 0
    while content.startswith(b"% ", end):
        newline = content.find(b"\n", end)
        line_end = newline + 1 if newline >= 0 else len(content)
        last = content[end:line_end].strip() == b"% end"
        end = line_end
        if last:
            break
    return content[:end].decode("ascii", errors="replace"), end


def _size(header: str, source: str) -> tuple[int, int] | None:
    """(height, width) where a header tells them, in any of the ways it may."""
    geometry = re.search(r"% geometry (\d+)x(\d+)", header)
    if geometry:
        height, width = geometry[2], geometry[1]
    else:
        found = [
            re.search(rf"{name}[ =](\d+)", header, re.IGNORECASE) for name in ("height", "width")
        ]
        if not (found[0] and found[1]):
            return None
        height, width = found[0][1], found[1][1]
    # a sensor of more digits would be none, and Python refuses to read thousands of them
    if max(len(height), len(width)) > 9 or not (int(height) and int(width)):
        raise DataError(
            f"{source}: byte offset 0: the header declares a sensor of {width[:20]} x {height[:20]}"
            " pixels; the file is damaged"
        )
    return int(height), int(width)
