from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from snnsim.data.events import read_atis
from snnsim.errors import DataError, MissingDataError


def event(x: int, y: int, t: int, p: int) -> bytes:
    return bytes([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255])


def write(folder: Path, *events: bytes) -> Path:
    path = folder / "recording.bin"
    path.write_bytes(b"".join(events))
    return path


def test_bits_of_an_event(tmp_path):
    path = write(tmp_path, event(33, 7, 0, 1), event(1, 33, 0x7F1234, 0))
    assert read_atis(path, (34, 34)).tolist() == [(33, 7, 0, 1), (1, 33, 0x7F1234, 0)]


def test_overflow_mark_moves_later_events(tmp_path):
    path = write(tmp_path, event(1, 1, 8000, 1), event(0, 240, 0, 0), event(2, 2, 5, 0))
    assert read_atis(path).tolist() == [(1, 1, 8000, 1), (2, 2, 8197, 0)]


def test_truncated_file_names_the_offset(tmp_path):
    with pytest.raises(
        DataError, match=r"recording.bin: byte offset 5: the file is truncated; .* 2 are left"
    ):
        read_atis(write(tmp_path, event(1, 1, 1, 1), b"ab"))


def test_event_outside_the_sensor_names_the_offset(tmp_path):
    path = write(tmp_path, event(1, 1, 1, 1), event(0, 240, 0, 0), event(34, 1, 2, 1))
    with pytest.raises(
        DataError, match="byte offset 10: an event at x=34, y=1 is outside the sensor of 34 x 34"
    ):
        read_atis(path, (34, 34))


def test_time_backwards_names_the_offset(tmp_path):
    with pytest.raises(DataError, match="byte offset 5: time runs backwards, from 9 to 8"):
        read_atis(write(tmp_path, event(1, 1, 9, 1), event(1, 1, 8, 1)))


def test_empty_recording_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no events"):
        read_atis(write(tmp_path))


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
def test_real_recording(name, count, last):
    events = read_atis(Path(os.environ["SNNSIM_DATA"]) / "events" / name, (180, 240))
    assert len(events) == count
    assert events["t"][-1] == last
    assert np.unique(events["p"]).tolist() == [0, 1]
