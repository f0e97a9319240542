from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch

from snnsim.data.events import NMNIST, FramesByTime
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
