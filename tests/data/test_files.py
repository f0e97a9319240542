from __future__ import annotations

import os

import pytest

from snnsim.data.files import read_content, write_whole
from snnsim.errors import MissingDataError, OutputError


def test_written_file_is_read_back(tmp_path):
    path = tmp_path / "a" / "file"
    write_whole(path, lambda file: file.write(b"content"))
    assert read_content(path, "test") == b"content"


def test_failed_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written .* pick a folder that you may write to"):
        write_whole(tmp_path / "file" / "inside", lambda file: None)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"reader\(path='.*nothing'\): there is no such file; check the path"):
        read_content(tmp_path / "nothing", "reader")
