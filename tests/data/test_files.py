from __future__ import annotations

import pytest

from snnsim.data.files import read_content
from snnsim.errors import MissingDataError


def test_content_is_read_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert read_content(path, "test") == b"content"


def test_missing_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"reader\(path='.*nothing'\): there is no such file; check the path"):
        read_content(tmp_path / "nothing", "reader")
