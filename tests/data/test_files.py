from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

from snnsim.data import MNIST, read_idx
from snnsim.data.events import (
    NMNIST,
    DVSGesture,
    SpokenSpikes,
    read_aedat3,
    read_atis,
    read_dat,
    read_evt3,
    read_gesture_labels,
)
from snnsim.data.files import open_archive, read_array, read_content, refuse_bomb
from snnsim.errors import DataError, InvalidTypeError, InvalidValueError, MissingDataError


def test_content_is_read_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert read_content(path, "test") == b"content"


def test_missing_file_is_named(tmp_path):
    with pytest.raises(
        MissingDataError, match=r"reader\(path='.*nothing'\): there is no such file; check the path"
    ):
        read_content(tmp_path / "nothing", "reader")


def test_folder_is_no_file(tmp_path):
    with pytest.raises(MissingDataError, match="there is no such file"):
        read_content(tmp_path, "reader")


def test_file_that_vanishes_while_it_is_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    path.unlink()
    with pytest.raises(DataError, match=r"reader\(path='.*file'\): there is no such file"):
        read_content(path, "reader")


def test_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"content")

    def fail(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(
        DataError, match=r"file: cannot be read \(Permission denied\); check the file"
    ):
        read_content(path, "reader")


def test_a_missing_file_is_what_both_users_expect():
    assert issubclass(MissingDataError, DataError)
    assert issubclass(MissingDataError, FileNotFoundError)


def test_size_is_refused_only_where_it_is_large_and_absurd():
    refuse_bomb("here", 2**26 - 1, 1)
    refuse_bomb("here", 2**40, 2**34)
    with pytest.raises(
        DataError,
        match=r"^here: declares 67,108,864 bytes and is 1,000 bytes compressed, as no real data is",
    ):
        refuse_bomb("here", 2**26, 1000)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(3),
        np.zeros((0, 3)),
    ],
    ids=repr,
)
def test_array_is_read_as_it_was(array):
    found = read_array(npy(array), "here")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)
    assert found.flags.writeable


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        npy(np.arange(3))[:-1],
        npy(np.arange(3)) + b"!",
        npy(np.arange(3)).replace(b"(3,)", b"(9,)"),
        npy(np.arange(3)).replace(b"(3,)", b"(-3"),
        npy(np.array(["a"], object)),
        npy(np.arange(3)).replace(b"<i8", b"<q9"),
    ],
)
def test_damaged_array_is_refused(content):
    with pytest.raises(DataError, match=r"^here in it is corrupt"):
        read_array(content, "here")


READERS = [
    read_idx,
    read_atis,
    read_dat,
    read_evt3,
    read_aedat3,
    read_gesture_labels,
    MNIST,
    NMNIST,
    DVSGesture,
    SpokenSpikes,
]


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_what_is_no_path_is_refused_by_name(read):
    for path in (None, 3, b"bytes"):
        with pytest.raises(
            InvalidTypeError,
            match=rf"{read.__name__}: (path|root) = .*: expected text or a pathlib.Path",
        ):
            read(path)
    with pytest.raises(InvalidValueError, match="a name of a file has no zero byte"):
        read("a\0b")


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_names_that_cannot_be_looked_at_are_data_errors(read):
    with pytest.raises(DataError, match="File name too long"):
        read("x" * 300)


def test_list_of_names_that_are_too_long_is_refused(tmp_path):
    (tmp_path / "trials_to_train.txt").write_text("x" * 300 + ".aedat\n")
    with pytest.raises(DataError, match="cannot be looked at"):
        DVSGesture(tmp_path)


def test_file_beyond_memory_is_refused(tmp_path, monkeypatch):
    (tmp_path / "large").write_bytes(b"12345")

    def fail(_: Path) -> bytes:
        raise MemoryError

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(DataError, match="large: has 5 bytes, for which there is no memory"):
        read_content(tmp_path / "large", "test")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name")
def test_pipe_is_no_archive(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="there is something there that is no file"):
        open_archive(tmp_path / "pipe")
