from __future__ import annotations

import struct

import pytest

from snnsim.data.events import read_aedat3
from snnsim.errors import DataError

HEADER = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n"


def event(x: int, y: int, t: int, p: int, valid: int = 1) -> bytes:
    return struct.pack("<II", x << 17 | y << 2 | p << 1 | valid, t)


def packet(*events: bytes, kind: int = 1, size: int = 8, overflow: int = 0) -> bytes:
    return struct.pack(
        "<HHIIIIII", kind, 1, size, 4, overflow, len(events), len(events), len(events)
    ) + b"".join(events)


def write(folder, *parts):
    path = folder / "recording.aedat"
    path.write_bytes(b"".join(parts))
    return path


def test_bits_of_an_event(tmp_path):
    path = write(
        tmp_path,
        HEADER,
        packet(event(127, 3, 10, 1), event(0, 127, 11, 0)),
        packet(event(1, 2, 12, 1)),
    )
    assert read_aedat3(path).tolist() == [(127, 3, 10, 1), (0, 127, 11, 0), (1, 2, 12, 1)]


def test_overflow_of_the_clock_is_added(tmp_path):
    path = write(
        tmp_path, HEADER, packet(event(1, 1, 2**31 - 1, 1)), packet(event(1, 1, 0, 1), overflow=1)
    )
    assert read_aedat3(path)["t"].tolist() == [2**31 - 1, 2**31]


def test_invalid_events_and_other_packets_are_skipped(tmp_path):
    special = packet(b"x" * 12, b"y" * 12, kind=0, size=12)
    path = write(tmp_path, HEADER, special, packet(event(1, 1, 1, 1, valid=0), event(2, 2, 2, 0)))
    assert read_aedat3(path).tolist() == [(2, 2, 2, 0)]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            (b"#!AER-DAT2.0\r\n",),
            "byte offset 0: expected #!AER-DAT3.1, found '#!AER-DAT2.0'; other versions",
        ),
        ((), "found 'an empty file'"),
        ((HEADER[:20],), "byte offset 20: the file ends inside its header, before #!END-HEADER"),
        (
            (HEADER, packet(event(1, 1, 1, 1)), b"abc"),
            "byte offset 78: the file is truncated inside a packet header",
        ),
        (
            (HEADER, packet(event(1, 1, 1, 1))[:-1]),
            "byte offset 42: .* needs 8 bytes of events, 7 are left",
        ),
        (
            (HEADER, packet(b"x" * 4, size=4)),
            "byte offset 46: a polarity event has 8 bytes, this packet says 4",
        ),
        (
            (HEADER, packet(event(1, 1, 1, 1), event(128, 0, 2, 1))),
            "byte offset 78: an event at x=128, y=0 is outside",
        ),
        (
            (
                HEADER,
                packet(event(1, 1, 9, 1), event(1, 1, 9, 1, valid=0)),
                packet(event(1, 1, 8, 1)),
            ),
            "byte offset 114: time runs backwards, from 9 to 8",
        ),
        (
            (HEADER, packet(event(1, 1, 2**31, 1))),
            "byte offset 74: a time below 0; the file is damaged",
        ),
        (
            (HEADER, packet(event(1, 1, 0, 1), overflow=2**31)),
            "byte offset 70: t is 4611686018427387904, outside",
        ),
        ((HEADER,), "holds no events"),
    ],
)
def test_damaged_recording_is_refused(tmp_path, parts, message):
    assert len(HEADER) == 42
    with pytest.raises(DataError, match=message):
        read_aedat3(write(tmp_path, *parts))
