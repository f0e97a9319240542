from __future__ import annotations

import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from snnsim.data.events import NMNIST, DVSGesture, FramesByTime, SpokenSpikes, read_gesture_labels
from snnsim.errors import DataError, InvalidTypeError, MissingDataError


def recording(x: int) -> bytes:
    return bytes([x, 1, 0x80, 0, 5]) + bytes([33, 33, 0, 0, 9])


def listed(**changes: bytes | None) -> dict[str, bytes]:
    """Files of the layout with lists; a change of None takes a file out."""
    files: dict[str, bytes | None] = {
        "small/train3.txt": b"#sample #class\r\n1\t5\r\n2\t0\r\n\r\n10\t9\r\n",
        "small/test1.txt": b"#sample #class\n4\t3\n",
        **{f"small/{number}.bs2": recording(number) for number in (1, 2, 4, 10)},
        **changes,
    }
    return {name: content for name, content in files.items() if content is not None}


def foldered(part: str) -> dict[str, bytes]:
    return {
        f"{part}/7/00002.bin": recording(2),
        f"{part}/0/00001.bin": recording(1),
        f"{part}/notes.txt": b"",
    }


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def contents(dataset: NMNIST) -> list[tuple[int, int]]:
    return [(int(events["x"][0]), label) for events, label in dataset]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_lists_give_the_labels(tmp_path, kind):
    root = (
        write_folder(tmp_path, listed())
        if kind == "folder"
        else write_zip(tmp_path / "small.zip", listed())
    )
    assert contents(NMNIST(root)) == [(1, 5), (2, 0), (10, 9)]
    assert contents(NMNIST(root, train=False)) == [(4, 3)]


@pytest.mark.parametrize("kind", ["folder", "zip", "zips"])
def test_folders_give_the_labels(tmp_path, kind):
    if kind == "folder":
        root = write_folder(tmp_path, foldered("Train") | foldered("Test"))
    elif kind == "zip":
        root = write_zip(tmp_path / "both.zip", foldered("Train") | foldered("Test"))
    else:
        root = tmp_path
        for part in ("Train", "Test"):
            write_zip(tmp_path / f"{part}.zip", foldered(part))
    assert contents(NMNIST(root)) == [(1, 0), (2, 7)]
    assert contents(NMNIST(root, train=False)) == [(1, 0), (2, 7)]


def test_folder_of_one_part_alone_is_that_part(tmp_path):
    write_folder(tmp_path, foldered("Train"))
    assert contents(NMNIST(tmp_path / "Train")) == [(1, 0), (2, 7)]
    with pytest.raises(MissingDataError):
        NMNIST(tmp_path / "Train", train=False)


def test_pickles_for_workers(tmp_path):
    dataset = NMNIST(write_zip(tmp_path / "small.zip", listed()))
    assert contents(pickle.loads(pickle.dumps(dataset))) == contents(dataset)


@pytest.mark.parametrize("train", [True, False])
def test_missing_label_file_is_named(tmp_path, train):
    name = "train3" if train else "test1"
    root = write_zip(tmp_path / "small.zip", listed(**{f"small/{name}.txt": None}))
    part = "train" if train else "test"
    with pytest.raises(
        MissingDataError,
        match=rf'no labels in .*small.zip; .* a list {part}\*.txt of "number label" lines',
    ):
        NMNIST(root, train=train)


def test_missing_recording_is_named(tmp_path):
    root = write_zip(tmp_path / "small.zip", listed(**{"small/2.bs2": None}))
    with pytest.raises(
        MissingDataError, match=r"small/train3.txt, line 3 lists small/2.bs2, which is not there"
    ):
        NMNIST(root)


@pytest.mark.parametrize("line", [b"1", b"1 10", b"one 1", b"1 2 3", b"1 -1"])
def test_strange_line_is_named(tmp_path, line):
    root = write_folder(tmp_path, listed(**{"small/train3.txt": b"1 5\n" + line}))
    with pytest.raises(
        DataError,
        match=r"train3.txt, line 2: expected a recording's number and a label 0..9, found",
    ):
        NMNIST(root)


def test_missing_root_is_named(tmp_path):
    with pytest.raises(
        MissingDataError, match="nothing: there is neither such a folder nor such a zip archive"
    ):
        NMNIST(tmp_path / "nothing")


def test_archive_cut_short_is_refused(tmp_path):
    path = write_zip(tmp_path / "small.zip", listed())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(
        DataError, match=r"small.zip: not a zip archive, or one cut short .*; fetch it again"
    ):
        NMNIST(path)


def test_corrupt_recording_in_an_archive_is_refused(tmp_path):
    path = tmp_path / "small.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in listed().items():
            archive.writestr(name, content)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(recording(2), recording(3), 1))
    with pytest.raises(
        DataError, match=r"small.zip: small/2.bs2 in it is corrupt .*; fetch the archive again"
    ):
        NMNIST(path)[1]


def test_event_outside_the_sensor_names_file_and_offset(tmp_path):
    root = write_zip(tmp_path / "small.zip", listed(**{"small/1.bs2": recording(34)}))
    with pytest.raises(
        DataError, match=r"small.zip: small/1.bs2: byte offset 0: an event at x=34, y=1 is outside"
    ):
        NMNIST(root)[0]


def test_part_must_be_a_bool(tmp_path):
    with pytest.raises(InvalidTypeError, match=r"NMNIST\(train='test'\): expected True"):
        NMNIST(tmp_path, train="test")  # type: ignore[arg-type]


def damaged(path: Path, place: int, layout: str, *values: int) -> Path:
    """The archive with other numbers at this place of its last central entry, or of its last
    record.
    """
    content = bytearray(path.read_bytes())
    start = content.rindex(b"PK\1\2" if place < 100 else b"PK\5\6") + place % 100
    struct.pack_into(layout, content, start, *values)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("place", "layout", "values"),
    [
        (116, "<I", [100]),
        (112, "<I", [2**31]),
        (8, "<H", [1]),
        (10, "<H", [99]),
        (6, "<H", [255]),
        (42, "<I", [2**31]),
        (46, "<B", [255]),
    ],
    ids=["offset", "directory", "encrypted", "method", "version", "header", "name"],
)
def test_damaged_archive_is_refused_by_name(tmp_path, place, layout, values):
    path = damaged(
        write_zip(tmp_path / "Train.zip", {"Train/7/1.bin": recording(1)}), place, layout, *values
    )
    with pytest.raises(DataError, match=r"Train\.zip"):
        NMNIST(path)[0]


def peak_of(call) -> int:
    """Most memory that a call takes which raises a DataError."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"Train\.zip: Train/7/1.bin"):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_recording_that_expands_a_thousandfold_is_refused_by_its_size(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "Train.zip", "w", method) as archive:
        archive.writestr("Train/7/1.bin", bytes(5 * 2**24))
    dataset = NMNIST(tmp_path)
    assert peak_of(lambda: dataset[0]) < 2**22


@pytest.mark.parametrize(("size", "packed"), [(10, None), (2**31, 2**31)])
def test_size_that_is_not_the_true_one_takes_no_memory(tmp_path, size, packed):
    path = write_zip(tmp_path / "Train.zip", {"Train/7/1.bin": bytes(2**26)})
    damaged(path, 24, "<I", size)
    if packed:
        damaged(path, 20, "<I", packed)
    dataset = NMNIST(tmp_path)
    assert peak_of(lambda: dataset[0]) < 2**22


def test_recording_that_vanished_is_named(tmp_path):
    dataset = NMNIST(write_folder(tmp_path / "folder", listed()))
    (tmp_path / "folder" / "small" / "2.bs2").unlink()
    with pytest.raises(DataError, match=r"small/2.bs2'\): there is no such file"):
        dataset[1]
    dataset = NMNIST(write_zip(tmp_path / "small.zip", listed()))
    in_a_worker = pickle.loads(pickle.dumps(dataset))
    (tmp_path / "small.zip").unlink()
    assert len(dataset[0][0]) == 2
    with pytest.raises(DataError, match=r"small.zip: there is no such zip archive any more"):
        in_a_worker[0]


def test_list_reaches_no_other_folder(tmp_path):
    root = write_folder(tmp_path, listed(**{"small/train3.txt": b"../1 5\n"}))
    with pytest.raises(DataError, match=r"train3.txt, line 1: expected a recording's number"):
        NMNIST(root)


@pytest.mark.skipif(
    "SNNSIM_DATA" not in os.environ, reason="SNNSIM_DATA names no folder with N-MNIST"
)
def test_real_recordings():
    root = Path(os.environ["SNNSIM_DATA"]) / "NMNIST" / "NMNISTsmall.zip"
    train, test = (
        NMNIST(root, train=part, transforms=[FramesByTime((34, 34), 20)]) for part in (True, False)
    )
    assert (len(train), len(test)) == (1000, 100)
    assert train.labels[:5] == [5, 0, 4, 1, 9]
    assert test.labels[:5] == [7, 2, 1, 0, 4]
    frames, _ = train[0]
    assert frames.shape == (20, 2, 34, 34)
    # 5 bytes an event
    assert torch.equal(frames.sum(), torch.tensor(23405 / 5))


def test_two_files_of_one_name_in_an_archive_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("Train/3/1.bin", recording(1))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("Train/3/1.bin", recording(2))
    with pytest.raises(DataError, match=r"a\.zip: two files in it are called 'Train/3/1\.bin'"):
        NMNIST(tmp_path / "a.zip")


def test_recording_that_is_listed_twice_is_refused(tmp_path):
    (tmp_path / "train3.txt").write_text("1 5\n2 0\n1 7\n")
    for number in (1, 2):
        (tmp_path / f"{number}.bs2").write_bytes(recording(number))
    with pytest.raises(
        DataError, match=r"train3\.txt, line 3 lists 1\.bs2 again, after train3\.txt, line 1"
    ):
        NMNIST(tmp_path)


GESTURE_LABELS = "class,startTime_usec,endTime_usec\n1,0,50\n11,60,90\n"


def aedat(count: int, x: int) -> bytes:
    """One event per microsecond."""
    body = b"".join(struct.pack("<II", x << 17 | 1 << 2 | 3, t) for t in range(count))
    packet = struct.pack("<HHIIIIII", 1, 1, 8, 4, 0, count, count, count)
    return b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + packet + body


def write_gestures(root: Path) -> Path:
    (root / "trials_to_train.txt").write_text("user01_led.aedat\nuser02_led.aedat\n\n")
    (root / "trials_to_test.txt").write_text("user03_led.aedat\n")
    for number in (1, 2, 3):
        (root / f"user0{number}_led.aedat").write_bytes(aedat(100, number))
        (root / f"user0{number}_led_labels.csv").write_text(GESTURE_LABELS)
    return root


def test_gestures_are_cut_out_by_their_times(tmp_path):
    dataset = DVSGesture(write_gestures(tmp_path))
    assert dataset.labels == [0, 10, 0, 10]
    events, label = dataset[3]
    assert label == 10
    assert events["t"].tolist() == list(range(60, 90))
    assert np.unique(events["x"]).tolist() == [2]
    assert len(dataset[0][0]) == 50


def test_parts_are_not_mixed_up(tmp_path):
    dataset = DVSGesture(write_gestures(tmp_path), train=False)
    assert len(dataset) == 2
    assert dataset[0][0]["x"][0] == 3


def test_missing_list_is_named(tmp_path):
    with pytest.raises(
        MissingDataError, match=r"DVSGesture\(path='.*trials_to_train.txt'\): there is no such file"
    ):
        DVSGesture(tmp_path)


@pytest.mark.parametrize("name", ["user02_led.aedat", "user02_led_labels.csv"])
def test_missing_gesture_file_is_named(tmp_path, name):
    write_gestures(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(
        MissingDataError,
        match=rf"trials_to_train.txt lists user02_led.aedat; not there: \['{name}'\]",
    ):
        DVSGesture(tmp_path)


def test_gesture_without_events_is_refused(tmp_path):
    write_gestures(tmp_path)
    (tmp_path / "user01_led_labels.csv").write_text(
        "class,startTime_usec,endTime_usec\n1,200,300\n"
    )
    with pytest.raises(
        DataError, match=r"user01_led.aedat, 200 to 300 microseconds: the recording holds no events"
    ):
        DVSGesture(tmp_path)[0]


def test_part_of_gestures_must_be_a_bool(tmp_path):
    with pytest.raises(InvalidTypeError, match=r"DVSGesture\(train=1\): expected True"):
        DVSGesture(tmp_path, train=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected 'class,startTime_usec,endTime_usec', found 'an empty file'"),
        ("1,2,3\n", "line 1: expected .* found '1,2,3'"),
        (
            GESTURE_LABELS + "12,0,1\n",
            (
                r"line 4: expected a class 1..11, a start and a later end in microseconds, found"
                r" '12,0,1'"
            ),
        ),
        (GESTURE_LABELS + "1,5,5\n", "line 4: expected"),
        (GESTURE_LABELS + "1,5\n", "line 4: expected"),
        (GESTURE_LABELS + "one,5,6\n", "line 4: expected"),
        (GESTURE_LABELS + "1,5,6\0\n", "line 4: expected"),
        (GESTURE_LABELS + "1,5," + "9" * 5000, r"line 4: expected .* found '1,5,99*'$"),
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


def test_gesture_that_vanished_is_named(tmp_path):
    dataset = DVSGesture(write_gestures(tmp_path))
    (tmp_path / "user01_led.aedat").unlink()
    with pytest.raises(DataError, match=r"user01_led.aedat'\): there is no such file"):
        dataset[0]


def test_change_to_a_gesture_does_not_reach_the_next(tmp_path):
    dataset = DVSGesture(write_gestures(tmp_path))
    dataset.recording(0)["x"] = 9
    assert dataset.recording(0)["x"].max() == 1


def write_words(
    path: Path, labels=(3, 19), times=((0.5, 0.25), (0.0, 1.0, 1.0)), units=((699, 0), (1, 2, 3))
) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["labels"] = np.array(labels, dtype=np.uint16)
        for name, rows, dtype in (("times", times, np.float16), ("units", units, np.uint16)):
            data = file.create_dataset(f"spikes/{name}", (len(rows),), dtype=h5py.vlen_dtype(dtype))
            for index, row in enumerate(rows):
                data[index] = np.array(row, dtype=dtype)
    return path


def test_words_become_events_in_order_of_time(tmp_path):
    dataset = SpokenSpikes(write_words(tmp_path / "shd_train.h5"))
    events, label = dataset[0]
    assert events.tolist() == [(0, 0, 250_000, 1), (699, 0, 500_000, 1)]
    assert label == 3
    assert dataset.labels == [3, 19]


def test_frames_hold_the_channels(tmp_path):
    frames, _ = SpokenSpikes(write_words(tmp_path / "shd_train.h5"), [FramesByTime((1, 700), 2)])[1]
    assert frames[:, 1, 0].nonzero().tolist() == [[0, 1], [1, 2], [1, 3]]
    assert frames[:, 0].sum() == 0


def test_missing_words_say_where_to_get_them(tmp_path):
    with pytest.raises(
        MissingDataError,
        match=r"there is no such file; fetch it from https://zenkelab.org/datasets/",
    ):
        SpokenSpikes(tmp_path / "shd_train.h5")


def test_file_of_another_kind_is_refused(tmp_path):
    pytest.importorskip("h5py")
    (tmp_path / "shd_train.h5").write_bytes(b"no HDF5")
    with pytest.raises(DataError, match="not an HDF5 file, or a damaged one"):
        SpokenSpikes(tmp_path / "shd_train.h5")


def test_file_without_spikes_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["labels"] = [1]
    with pytest.raises(DataError, match="expected datasets spikes/times, spikes/units and labels"):
        SpokenSpikes(tmp_path / "other.h5")


def test_unequal_counts_are_refused(tmp_path):
    with pytest.raises(
        DataError,
        match=r"there must be one label, one times and one units per word, found .*'labels': 1",
    ):
        SpokenSpikes(write_words(tmp_path / "shd_train.h5", labels=(1,)))


def test_word_with_a_channel_missing_is_refused(tmp_path):
    with pytest.raises(DataError, match="word 0: 2 times and 1 channels"):
        SpokenSpikes(write_words(tmp_path / "shd_train.h5", units=((1,), (1, 2, 3))))[0]


def test_channel_outside_is_refused(tmp_path):
    with pytest.raises(DataError, match="word 0: event 1: an event at x=700, y=0 is outside"):
        SpokenSpikes(write_words(tmp_path / "shd_train.h5", units=((700, 1), (1, 2, 3))))[0]


def test_without_h5py_says_how_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "shd_train.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        ModuleNotFoundError, match="HDF5 files need h5py; install it with: pip install h5py"
    ):
        SpokenSpikes(tmp_path / "shd_train.h5")


def test_damaged_words_are_refused_by_name(tmp_path):
    path = write_words(tmp_path / "shd_train.h5")
    path.write_bytes(path.read_bytes().replace(b"GCOL", b"xxxx"))
    with pytest.raises(DataError, match=r"shd_train\.h5: not an HDF5 file, or a damaged one"):
        SpokenSpikes(path)[0]


@pytest.mark.parametrize("time", [np.nan, np.inf, 1e20])
def test_times_that_are_none_are_refused(tmp_path, time):
    path = write_words(tmp_path / "shd_train.h5", times=((0.5, 0.25), (0.0, 1.0, 1.0)))
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "r+") as file:
        del file["spikes/times"]
        data = file.create_dataset("spikes/times", (2,), dtype=h5py.vlen_dtype(np.float64))
        data[0] = np.array([0.5, time])
    with pytest.raises(DataError, match=r"shd_train.h5: word 0: event 1: t is"):
        SpokenSpikes(path)[0]


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
def test_data_of_other_files_are_not_read(tmp_path, kind):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "other").write_bytes(b"secret")
    path = write_words(tmp_path / "shd_train.h5")
    with h5py.File(path, "r+") as file:
        del file["labels"]
        if kind == "external link":
            file["labels"] = h5py.ExternalLink(str(write_words(tmp_path / "other.h5")), "labels")
        elif kind == "soft link":
            file["labels"] = h5py.SoftLink("/spikes/units")
        elif kind == "external storage":
            file.create_dataset("labels", (2,), "u1", external=[(str(tmp_path / "other"), 0, 2)])
        else:
            layout = h5py.VirtualLayout((2,), "u2")
            layout[:] = h5py.VirtualSource(str(write_words(tmp_path / "other.h5")), "labels", (2,))
            file.create_virtual_dataset("labels", layout)
    with pytest.raises(
        DataError,
        match=(
            r"shd_train.h5: labels is (a link to elsewhere|not an array of one dimension in this"
            r" file)"
        ),
    ):
        SpokenSpikes(path)


def test_labels_of_absurd_size_are_refused_by_what_they_declare(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "shd_train.h5", "w") as file:
        file.create_dataset("labels", (2**40,), "u1", chunks=(2**20,), compression="gzip")
        for name in ("times", "units"):
            file.create_dataset(
                f"spikes/{name}", (2**40,), h5py.vlen_dtype(np.dtype("u2")), chunks=(100,)
            )
    with pytest.raises(DataError, match=r"shd_train.h5: labels: declares 1,099,511,627,776 bytes"):
        SpokenSpikes(tmp_path / "shd_train.h5")


@pytest.mark.parametrize("labels", [(0.5, 1), (np.nan, 1)])
def test_labels_that_are_no_numbers_are_refused(tmp_path, labels):
    h5py = pytest.importorskip("h5py")
    path = write_words(tmp_path / "shd_train.h5")
    with h5py.File(path, "r+") as file:
        del file["labels"]
        file["labels"] = np.array(labels)
    with pytest.raises(
        DataError, match=r"shd_train.h5: labels: label 0 is .*; expected whole numbers"
    ):
        SpokenSpikes(path)


def test_file_that_vanished_is_named(tmp_path):
    dataset = SpokenSpikes(write_words(tmp_path / "shd_train.h5"))
    (tmp_path / "shd_train.h5").unlink()
    with pytest.raises(
        DataError, match=r"shd_train.h5: there is no such file any more; put it back"
    ):
        dataset[0]
