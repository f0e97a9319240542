from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from snnsim.data.files import read_array, read_content, refuse_bomb
from snnsim.errors import DataError, MissingDataError


def test_content_is_read_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert read_content(path, "test") == b"content"


def test_missing_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"reader\(path='.*nothing'\): there is no such file; check the path"):
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
    with pytest.raises(DataError, match=r"file: cannot be read \(Permission denied\); check the file"):
        read_content(path, "reader")


def test_a_missing_file_is_what_both_users_expect():
    assert issubclass(MissingDataError, DataError)
    assert issubclass(MissingDataError, FileNotFoundError)


def test_size_is_refused_only_where_it_is_large_and_absurd():
    refuse_bomb("here", 2**26 - 1, 1)
    refuse_bomb("here", 2**40, 2**34)
    with pytest.raises(DataError, match=r"^here: declares 67,108,864 bytes and is 1,000 bytes compressed, as no real data is"):
        refuse_bomb("here", 2**26, 1000)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "array", [np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(3), np.zeros((0, 3))], ids=repr
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
