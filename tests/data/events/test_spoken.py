from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from snnsim.data.events import FramesByTime, SpokenSpikes
from snnsim.errors import DataError, MissingDataError


def write(
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
    dataset = SpokenSpikes(write(tmp_path / "shd_train.h5"))
    events, label = dataset[0]
    assert events.tolist() == [(0, 0, 250_000, 1), (699, 0, 500_000, 1)]
    assert label == 3
    assert dataset.labels == [3, 19]


def test_frames_hold_the_channels(tmp_path):
    frames, _ = SpokenSpikes(write(tmp_path / "shd_train.h5"), [FramesByTime((1, 700), 2)])[1]
    assert frames[:, 1, 0].nonzero().tolist() == [[0, 1], [1, 2], [1, 3]]
    assert frames[:, 0].sum() == 0


def test_missing_file_says_where_to_get_it(tmp_path):
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
        SpokenSpikes(write(tmp_path / "shd_train.h5", labels=(1,)))


def test_word_with_a_channel_missing_is_refused(tmp_path):
    with pytest.raises(DataError, match="word 0: 2 times and 1 channels"):
        SpokenSpikes(write(tmp_path / "shd_train.h5", units=((1,), (1, 2, 3))))[0]


def test_channel_outside_is_refused(tmp_path):
    with pytest.raises(DataError, match="word 0: event 1: an event at x=700, y=0 is outside"):
        SpokenSpikes(write(tmp_path / "shd_train.h5", units=((700, 1), (1, 2, 3))))[0]


def test_without_h5py_says_how_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "shd_train.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        ModuleNotFoundError, match="HDF5 files need h5py; install it with: pip install h5py"
    ):
        SpokenSpikes(tmp_path / "shd_train.h5")


def test_damaged_recording_is_refused_by_name(tmp_path):
    path = write(tmp_path / "shd_train.h5")
    path.write_bytes(path.read_bytes().replace(b"GCOL", b"xxxx"))
    with pytest.raises(DataError, match=r"shd_train\.h5: not an HDF5 file, or a damaged one"):
        SpokenSpikes(path)[0]


@pytest.mark.parametrize("time", [np.nan, np.inf, 1e20])
def test_times_that_are_none_are_refused(tmp_path, time):
    path = write(tmp_path / "shd_train.h5", times=((0.5, 0.25), (0.0, 1.0, 1.0)))
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
    path = write(tmp_path / "shd_train.h5")
    with h5py.File(path, "r+") as file:
        del file["labels"]
        if kind == "external link":
            file["labels"] = h5py.ExternalLink(str(write(tmp_path / "other.h5")), "labels")
        elif kind == "soft link":
            file["labels"] = h5py.SoftLink("/spikes/units")
        elif kind == "external storage":
            file.create_dataset("labels", (2,), "u1", external=[(str(tmp_path / "other"), 0, 2)])
        else:
            layout = h5py.VirtualLayout((2,), "u2")
            layout[:] = h5py.VirtualSource(str(write(tmp_path / "other.h5")), "labels", (2,))
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
    path = write(tmp_path / "shd_train.h5")
    with h5py.File(path, "r+") as file:
        del file["labels"]
        file["labels"] = np.array(labels)
    with pytest.raises(
        DataError, match=r"shd_train.h5: labels: label 0 is .*; expected whole numbers"
    ):
        SpokenSpikes(path)


def test_file_that_vanished_is_named(tmp_path):
    dataset = SpokenSpikes(write(tmp_path / "shd_train.h5"))
    (tmp_path / "shd_train.h5").unlink()
    with pytest.raises(
        DataError, match=r"shd_train.h5: there is no such file any more; put it back"
    ):
        dataset[0]
