from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from snnsim.data.events import read_aedat3, read_atis, read_dat, read_evt3
from snnsim.errors import DataError, InvalidValueError, MissingDataError


def atis_event(x: int, y: int, t: int, p: int) -> bytes:
    return bytes([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255])


def write_atis(folder: Path, *events: bytes) -> Path:
    path = folder / "recording.bin"
    path.write_bytes(b"".join(events))
    return path


def test_bits_of_a_five_byte_event(tmp_path):
    path = write_atis(tmp_path, atis_event(33, 7, 0, 1), atis_event(1, 33, 0x7F1234, 0))
    assert read_atis(path, (34, 34)).tolist() == [(33, 7, 0, 1), (1, 33, 0x7F1234, 0)]


def test_overflow_mark_moves_later_events(tmp_path):
    path = write_atis(
        tmp_path, atis_event(1, 1, 8000, 1), atis_event(0, 240, 0, 0), atis_event(2, 2, 5, 0)
    )
    assert read_atis(path).tolist() == [(1, 1, 8000, 1), (2, 2, 8197, 0)]


def test_truncated_file_names_the_offset(tmp_path):
    with pytest.raises(
        DataError, match=r"recording.bin: byte offset 5: the file is truncated; .* 2 are left"
    ):
        read_atis(write_atis(tmp_path, atis_event(1, 1, 1, 1), b"ab"))


def test_event_outside_the_sensor_names_the_offset(tmp_path):
    path = write_atis(
        tmp_path, atis_event(1, 1, 1, 1), atis_event(0, 240, 0, 0), atis_event(34, 1, 2, 1)
    )
    with pytest.raises(
        DataError, match="byte offset 10: an event at x=34, y=1 is outside the sensor of 34 x 34"
    ):
        read_atis(path, (34, 34))


def test_time_backwards_names_the_offset(tmp_path):
    with pytest.raises(DataError, match="byte offset 5: time runs backwards, from 9 to 8"):
        read_atis(write_atis(tmp_path, atis_event(1, 1, 9, 1), atis_event(1, 1, 8, 1)))


def test_empty_recording_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no events"):
        read_atis(write_atis(tmp_path))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"read_atis\(path='.*nothing.bin'\)"):
        read_atis(tmp_path / "nothing.bin")


@pytest.mark.skipif(
    "SNNSIM_DATA" not in os.environ, reason="SNNSIM_DATA names no folder with recordings"
)
@pytest.mark.parametrize(
    ("name", "count", "last"),
    [("1.bs2", 63471, 1449996), ("ncaltech101_faces_easy_0001.bin", 67445, 299364)],
)
def test_real_atis_recording(name, count, last):
    events = read_atis(Path(os.environ["SNNSIM_DATA"]) / "events" / name, (180, 240))
    assert len(events) == count
    assert events["t"][-1] == last
    assert np.unique(events["p"]).tolist() == [0, 1]


AEDAT_HEADER = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n"


def aedat_event(x: int, y: int, t: int, p: int, valid: int = 1) -> bytes:
    return struct.pack("<II", x << 17 | y << 2 | p << 1 | valid, t)


def packet(*events: bytes, kind: int = 1, size: int = 8, overflow: int = 0) -> bytes:
    return struct.pack(
        "<HHIIIIII", kind, 1, size, 4, overflow, len(events), len(events), len(events)
    ) + b"".join(events)


def write_aedat(folder, *parts):
    path = folder / "recording.aedat"
    path.write_bytes(b"".join(parts))
    return path


def test_bits_of_an_aedat_event(tmp_path):
    path = write_aedat(
        tmp_path,
        AEDAT_HEADER,
        packet(aedat_event(127, 3, 10, 1), aedat_event(0, 127, 11, 0)),
        packet(aedat_event(1, 2, 12, 1)),
    )
    assert read_aedat3(path).tolist() == [(127, 3, 10, 1), (0, 127, 11, 0), (1, 2, 12, 1)]


def test_overflow_of_the_clock_is_added(tmp_path):
    path = write_aedat(
        tmp_path,
        AEDAT_HEADER,
        packet(aedat_event(1, 1, 2**31 - 1, 1)),
        packet(aedat_event(1, 1, 0, 1), overflow=1),
    )
    assert read_aedat3(path)["t"].tolist() == [2**31 - 1, 2**31]


def test_invalid_events_and_other_packets_are_skipped(tmp_path):
    special = packet(b"x" * 12, b"y" * 12, kind=0, size=12)
    path = write_aedat(
        tmp_path,
        AEDAT_HEADER,
        special,
        packet(aedat_event(1, 1, 1, 1, valid=0), aedat_event(2, 2, 2, 0)),
    )
    assert read_aedat3(path).tolist() == [(2, 2, 2, 0)]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            (b"#!AER-DAT2.0\r\n",),
            "byte offset 0: expected #!AER-DAT3.1, found '#!AER-DAT2.0'; other versions",
        ),
        ((), "found 'an empty file'"),
        (
            (AEDAT_HEADER[:20],),
            "byte offset 20: the file ends inside its header, before #!END-HEADER",
        ),
        (
            (AEDAT_HEADER, packet(aedat_event(1, 1, 1, 1)), b"abc"),
            "byte offset 78: the file is truncated inside a packet header",
        ),
        (
            (AEDAT_HEADER, packet(aedat_event(1, 1, 1, 1))[:-1]),
            "byte offset 42: .* needs 8 bytes of events, 7 are left",
        ),
        (
            (AEDAT_HEADER, packet(b"x" * 4, size=4)),
            "byte offset 46: a polarity event has 8 bytes, this packet says 4",
        ),
        (
            (AEDAT_HEADER, packet(aedat_event(1, 1, 1, 1), aedat_event(128, 0, 2, 1))),
            "byte offset 78: an event at x=128, y=0 is outside",
        ),
        (
            (
                AEDAT_HEADER,
                packet(aedat_event(1, 1, 9, 1), aedat_event(1, 1, 9, 1, valid=0)),
                packet(aedat_event(1, 1, 8, 1)),
            ),
            "byte offset 114: time runs backwards, from 9 to 8",
        ),
        (
            (AEDAT_HEADER, packet(aedat_event(1, 1, 2**31, 1))),
            "byte offset 74: a time below 0; the file is damaged",
        ),
        (
            (AEDAT_HEADER, packet(aedat_event(1, 1, 0, 1), overflow=2**31)),
            "byte offset 70: t is 4611686018427387904, outside",
        ),
        ((AEDAT_HEADER,), "holds no events"),
    ],
)
def test_damaged_aedat_is_refused(tmp_path, parts, message):
    assert len(AEDAT_HEADER) == 42
    with pytest.raises(DataError, match=message):
        read_aedat3(write_aedat(tmp_path, *parts))


DAT_HEADER = b"% Data file containing CD events.\n% Version 2\n"


EVT3_HEADER = b"% Date 2026-01-01\n% evt 3.0\n% geometry 1280x720\n"


ROW, SINGLE, BASE, VECTOR_12, VECTOR_8, LOW, HIGH, TRIGGER = 0, 2, 3, 4, 5, 6, 8, 10


def dat_event(x: int, y: int, t: int, p: int) -> bytes:
    return struct.pack("<II", t, p << 28 | y << 14 | x)


def write(folder: Path, *parts: bytes) -> Path:
    path = folder / "recording"
    path.write_bytes(b"".join(parts))
    return path


def evt3(*words: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("<H", kind << 12 | payload) for kind, payload in words)


def test_dat_bits_of_an_event(tmp_path):
    path = write(
        tmp_path, DAT_HEADER, b"\0\x08", dat_event(303, 239, 5, 1), dat_event(0, 1, 2**31, 0)
    )
    assert read_dat(path).tolist() == [(303, 239, 5, 1), (0, 1, 2**31, 0)]


def test_dat_time_goes_on_behind_32_bits(tmp_path):
    path = write(
        tmp_path, DAT_HEADER, b"\0\x08", dat_event(0, 0, 2**32 - 1, 1), dat_event(0, 0, 3, 1)
    )
    assert read_dat(path)["t"].tolist() == [2**32 - 1, 2**32 + 3]


def test_dat_header_tells_the_size(tmp_path):
    header = DAT_HEADER + b"% Height 240\n% Width 304\n"
    path = write(tmp_path, header, b"\0\x08", dat_event(304, 0, 0, 1))
    with pytest.raises(
        DataError,
        match=f"byte offset {len(header) + 2}: .*x=304, y=0 is outside the sensor of 304 x 240",
    ):
        read_dat(path)
    assert len(read_dat(path, (240, 305))) == 1


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((b"\0\x0c" + bytes(12),), "byte offset 47: expected an event size of 8 bytes, found 12"),
        ((b"\0",), "byte offset 47: expected an event size of 8 bytes, the file ends here"),
        (
            (b"\0\x08", dat_event(0, 0, 0, 0), b"abc"),
            "byte offset 56: the file is truncated; .* 3 are left",
        ),
        (
            (b"\0\x08", dat_event(0, 0, 9, 0), dat_event(0, 0, 8, 0)),
            "byte offset 56: time runs backwards, from 9 to 8",
        ),
        ((b"\0\x08",), "holds no events"),
    ],
)
def test_damaged_dat_is_refused(tmp_path, parts, message):
    assert len(DAT_HEADER) == 46
    with pytest.raises(DataError, match=message):
        read_dat(write(tmp_path, DAT_HEADER, *parts))


def test_evt3_single_events(tmp_path):
    words = evt3(
        (HIGH, 2),
        (LOW, 3),
        (ROW, 700),
        (SINGLE, 1 << 11 | 1279),
        (LOW, 4),
        (SINGLE, 5),
        (ROW, 1),
        (SINGLE, 6),
    )
    t = 2 << 12
    assert read_evt3(write(tmp_path, EVT3_HEADER, words)).tolist() == [
        (1279, 700, t + 3, 1),
        (5, 700, t + 4, 0),
        (6, 1, t + 4, 0),
    ]


def test_evt3_vectors_move_on_from_their_start(tmp_path):
    words = evt3(
        (HIGH, 0),
        (LOW, 9),
        (ROW, 8),
        (BASE, 1 << 11 | 100),
        (VECTOR_12, 0b100000000001),
        (VECTOR_8, 0xF02),
        (SINGLE, 7),
        (VECTOR_12, 1),
        (BASE, 200),
        (VECTOR_8, 0x80),
    )
    events = read_evt3(write(tmp_path, EVT3_HEADER, words))
    # the upper bits of a vector of 8 mean nothing
    assert events["x"].tolist() == [100, 111, 113, 7, 120, 207]
    assert events["p"].tolist() == [1, 1, 1, 0, 1, 0]


def test_evt3_lower_time_starts_again_with_the_upper(tmp_path):
    words = evt3(
        (HIGH, 1), (LOW, 4000), (ROW, 0), (SINGLE, 0), (HIGH, 2), (SINGLE, 0), (LOW, 1), (SINGLE, 0)
    )
    assert read_evt3(write(tmp_path, EVT3_HEADER, words))["t"].tolist() == [8096, 8192, 8193]


def test_evt3_time_goes_on_behind_24_bits(tmp_path):
    words = evt3((HIGH, 4095), (LOW, 4095), (ROW, 0), (SINGLE, 0), (HIGH, 0), (LOW, 1), (SINGLE, 0))
    assert read_evt3(write(tmp_path, EVT3_HEADER, words))["t"].tolist() == [2**24 - 1, 2**24 + 1]


def test_evt3_events_before_the_first_time_are_skipped(tmp_path):
    words = evt3((ROW, 1), (SINGLE, 1), (HIGH, 0), (SINGLE, 2), (TRIGGER, 1), (VECTOR_8, 0xFF))
    assert read_evt3(write(tmp_path, EVT3_HEADER, words))["x"].tolist() == [2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"% evt 2.0\n", "expected a header that says evt 3, found EVT2"),
        (b"% format EVT21;height=720\n", "expected a header that says evt 3, found EVT2"),
        (evt3((HIGH, 0)), "expected a header that says evt 3, found none"),
        (
            EVT3_HEADER + evt3((HIGH, 0)) + b"!",
            f"byte offset {len(EVT3_HEADER) + 2}: the file is truncated; a word has 2 bytes, 1 are",
        ),
        (EVT3_HEADER, "holds no events"),
        (
            EVT3_HEADER + evt3((HIGH, 0), (ROW, 720), (SINGLE, 0)),
            (
                f"byte offset {len(EVT3_HEADER) + 4}: an event at x=0, y=720 is outside the sensor"
                " of 1280 x 720"
            ),
        ),
        (
            EVT3_HEADER + evt3((HIGH, 0), (ROW, 0), (LOW, 5), (SINGLE, 0), (LOW, 4), (SINGLE, 0)),
            f"byte offset {len(EVT3_HEADER) + 10}: time runs backwards, from 5 to 4",
        ),
    ],
)
def test_damaged_evt3_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_evt3(write(tmp_path, content))


def test_header_of_the_newer_format_ends_at_end(tmp_path):
    header = b"% format EVT3;height=4;width=3\n% end\n"
    words = evt3((HIGH, 0), (ROW, 3), (SINGLE, 2))
    assert read_evt3(write(tmp_path, header, words)).tolist() == [(2, 3, 0, 0)]
    with pytest.raises(DataError, match="outside the sensor of 3 x 4 pixels"):
        read_evt3(write(tmp_path, header, evt3((HIGH, 0), (ROW, 4), (SINGLE, 2))))


def test_evt3_upper_time_that_stays_keeps_the_lower_half(tmp_path):
    words = evt3(
        (HIGH, 5),
        (LOW, 100),
        (ROW, 10),
        (HIGH, 5),
        (SINGLE, 20),
        (HIGH, 6),
        (HIGH, 6),
        (SINGLE, 20),
        (LOW, 3),
        (SINGLE, 20),
    )
    times = [5 << 12 | 100, 6 << 12, 6 << 12 | 3]
    assert read_evt3(write(tmp_path, EVT3_HEADER, words))["t"].tolist() == times


def test_evt3_rows_of_another_kind_are_skipped(tmp_path):
    # a row of type 1 begins events that are no change of brightness
    words = evt3(
        (HIGH, 0),
        (LOW, 1),
        (ROW, 10),
        (SINGLE, 20),
        (1, 30),
        (SINGLE, 21),
        (BASE, 40),
        (VECTOR_8, 1),
        (ROW, 12),
        (SINGLE, 22),
    )
    assert read_evt3(write(tmp_path, EVT3_HEADER, words))[["x", "y"]].tolist() == [
        (20, 10),
        (22, 12),
    ]


def test_evt3_of_two_cameras_is_refused(tmp_path):
    second = 1 << 11
    both = evt3((HIGH, 0), (ROW, 1), (SINGLE, 1), (ROW, second | 1), (SINGLE, 1))
    with pytest.raises(
        DataError,
        match=(
            f"byte offset {len(EVT3_HEADER) + 8}: an event of a second camera; split the recording"
        ),
    ):
        read_evt3(write(tmp_path, EVT3_HEADER, both))
    alone = evt3((HIGH, 0), (ROW, second | 7), (SINGLE, 1))
    assert read_evt3(write(tmp_path, EVT3_HEADER, alone))["y"].tolist() == [7]


def test_evt3_vectors_beyond_any_sensor_name_the_offset(tmp_path):
    words = evt3((HIGH, 0), (ROW, 1), (BASE, 0), *[(VECTOR_12, 0)] * 5462, (VECTOR_12, 1))
    offset = len(b"% evt 3.0\n") + 2 * 5465
    with pytest.raises(DataError, match=f"recording: byte offset {offset}: x is 65544, outside"):
        read_evt3(write(tmp_path, b"% evt 3.0\n", words))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            14,
            "byte offset 46: expected events of type 0 or 12, changes of brightness, found type 14",
        ),
        (12, None),
    ],
)
def test_dat_of_triggers_is_refused(tmp_path, kind, message):
    path = write(tmp_path, DAT_HEADER, bytes([kind, 8]), dat_event(1, 2, 3, 1))
    if message is None:
        assert read_dat(path).tolist() == [(1, 2, 3, 1)]
        return
    with pytest.raises(DataError, match=message):
        read_dat(path)


def test_dat_of_the_first_version_is_refused(tmp_path):
    with pytest.raises(
        DataError, match="byte offset 0: events of version 1 have other bits; version 2 is read"
    ):
        read_dat(write(tmp_path, b"% Version 1\n\0\x08", dat_event(1, 2, 3, 1)))


@pytest.mark.parametrize("number", ["0", "9" * 5000])
@pytest.mark.parametrize("line", ["% geometry {}x5\n", "% Height 5\n% Width {}\n"])
def test_header_of_no_sensor_is_refused(tmp_path, number, line):
    header = line.format(number).encode()
    for read, parts in (
        (read_dat, (header, b"\0\x08", dat_event(0, 0, 0, 0))),
        (read_evt3, (header, b"% evt 3.0\n", evt3((HIGH, 0)))),
    ):
        with pytest.raises(
            DataError,
            match=(
                r"byte offset 0: the header declares a sensor of .* x 5 pixels; the file is damaged"
            ),
        ):
            read(write(tmp_path, *parts))


@pytest.mark.parametrize("read", [read_dat, read_evt3])
def test_size_given_is_checked(tmp_path, read):
    with pytest.raises(InvalidValueError, match=rf"{read.__name__}\(size=\(4,\)\): size must be"):
        read(write(tmp_path, b""), (4,))


needs_data = pytest.mark.skipif(
    "SNNSIM_DATA" not in os.environ, reason="SNNSIM_DATA names no folder with recordings"
)


@needs_data
def test_real_evt3_recording():
    folder = Path(os.environ["SNNSIM_DATA"]) / "events"
    events, recorded = (
        read_evt3(folder / "evt3_sample.raw", (720, 1280)),
        np.load(folder / "evt3_sample.npy"),
    )
    for name in "xyp":
        assert np.array_equal(events[name], recorded[name])
    # the lower time of this file steps back a little behind some upper times, without events
    # between; the array beside it takes each step for a turn of the counter and runs ahead, past
    # every upper time in the file
    assert np.array_equal(events["t"][:20121], recorded["t"][:20121])
    assert np.array_equal(np.unique(events["t"] >> 12), [2861, 2862, 2863])


@needs_data
def test_real_dat_recording():
    events = read_dat(Path(os.environ["SNNSIM_DATA"]) / "events" / "sample_ncars.dat", (100, 120))
    assert len(events) == 2009
    assert events["t"][-1] == 99952
    assert events["p"].sum() == 1350
