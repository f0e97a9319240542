from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from snnsim.data.events import DVSGesture, read_gesture_labels
from snnsim.errors import DataError, InvalidTypeError, MissingDataError

LABELS = "class,startTime_usec,endTime_usec\n1,0,50\n11,60,90\n"


def aedat(count: int, x: int) -> bytes:
    """One event per microsecond."""
    body = b"".join(struct.pack("<II", x << 17 | 1 << 2 | 3, t) for t in range(count))
    packet = struct.pack("<HHIIIIII", 1, 1, 8, 4, 0, count, count, count)
    return b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + packet + body


def write(root: Path) -> Path:
    (root / "trials_to_train.txt").write_text("user01_led.aedat\nuser02_led.aedat\n\n")
    (root / "trials_to_test.txt").write_text("user03_led.aedat\n")
    for number in (1, 2, 3):
        (root / f"user0{number}_led.aedat").write_bytes(aedat(100, number))
        (root / f"user0{number}_led_labels.csv").write_text(LABELS)
    return root


def test_gestures_are_cut_out_by_their_times(tmp_path):
    dataset = DVSGesture(write(tmp_path))
    assert dataset.labels == [0, 10, 0, 10]
    events, label = dataset[3]
    assert label == 10
    assert events["t"].tolist() == list(range(60, 90))
    assert np.unique(events["x"]).tolist() == [2]
    assert len(dataset[0][0]) == 50


def test_parts_are_not_mixed_up(tmp_path):
    dataset = DVSGesture(write(tmp_path), train=False)
    assert len(dataset) == 2
    assert dataset[0][0]["x"][0] == 3


def test_missing_list_is_named(tmp_path):
    with pytest.raises(
        MissingDataError, match=r"DVSGesture\(path='.*trials_to_train.txt'\): there is no such file"
    ):
        DVSGesture(tmp_path)


@pytest.mark.parametrize("name", ["user02_led.aedat", "user02_led_labels.csv"])
def test_missing_file_is_named(tmp_path, name):
    write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(
        MissingDataError,
        match=rf"trials_to_train.txt lists user02_led.aedat; not there: \['{name}'\]",
    ):
        DVSGesture(tmp_path)


def test_gesture_without_events_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "user01_led_labels.csv").write_text(
        "class,startTime_usec,endTime_usec\n1,200,300\n"
    )
    with pytest.raises(
        DataError, match=r"user01_led.aedat, 200 to 300 microseconds: the recording holds no events"
    ):
        DVSGesture(tmp_path)[0]


def test_part_must_be_a_bool(tmp_path):
    with pytest.raises(InvalidTypeError, match=r"DVSGesture\(train=1\): expected True"):
        DVSGesture(tmp_path, train=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected 'class,startTime_usec,endTime_usec', found 'an empty file'"),
        ("1,2,3\n", "line 1: expected .* found '1,2,3'"),
        (
            LABELS + "12,0,1\n",
            (
                r"line 4: expected a class 1..11, a start and a later end in microseconds, found"
                r" '12,0,1'"
            ),
        ),
        (LABELS + "1,5,5\n", "line 4: expected"),
        (LABELS + "1,5\n", "line 4: expected"),
        (LABELS + "one,5,6\n", "line 4: expected"),
        (LABELS + "1,5,6\0\n", "line 4: expected"),
        (LABELS + "1,5," + "9" * 5000, r"line 4: expected .* found '1,5,99*'$"),
    ],
)
def test_damaged_labels_name_the_line(tmp_path, text, message):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_gesture_labels(path)


@pytest.mark.parametrize("name", ["../other.aedat", "/etc/passwd", "a/../../b.aedat", "a\0b"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    (tmp_path / "trials_to_train.txt").write_text(f"\n{name}\n")
    with pytest.raises(
        DataError,
        match=(
            r"trials_to_train.txt: line 2: expected the name of a recording in this folder, found"
        ),
    ):
        DVSGesture(tmp_path)


def test_recording_that_vanished_is_named(tmp_path):
    dataset = DVSGesture(write(tmp_path))
    (tmp_path / "user01_led.aedat").unlink()
    with pytest.raises(DataError, match=r"user01_led.aedat'\): there is no such file"):
        dataset[0]


def test_change_to_a_gesture_does_not_reach_the_next(tmp_path):
    dataset = DVSGesture(write(tmp_path))
    dataset.recording(0)["x"] = 9
    assert dataset.recording(0)["x"].max() == 1
