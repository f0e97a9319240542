from __future__ import annotations

import errno
import os

import pytest

from snnsim._core.files import claimed, is_left_over, write_folder, write_whole
from snnsim.errors import InvalidTypeError, InvalidValueError, OutputError


@pytest.mark.parametrize("durable", [False, True])
def test_file_appears_with_its_folders(tmp_path, durable):
    path = tmp_path / "a" / "b" / "file"
    write_whole(str(path), lambda file: file.write(b"content"), "test", durable=durable)
    assert path.read_bytes() == b"content"
    assert os.listdir(path.parent) == ["file"]


def test_name_is_untouched_while_writing(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = []

    def write(file):
        file.write(b"new")
        file.flush()
        seen.append(path.read_bytes())

    write_whole(path, write, "test")
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"


def test_durable_content_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path = tmp_path / "file"
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: synced.append((os.fstat(handle).st_size, path.exists()))
    )
    write_whole(path, lambda file: file.write(b"content"), "test", durable=True)
    write_whole(path, lambda file: file.write(b"again"), "test")
    assert synced == [(len(b"content"), False)]


def test_failed_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail, "test")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_full_disk_is_an_output_error(tmp_path):
    def fail(file):
        raise OSError(28, "No space left on device")

    with pytest.raises(
        OutputError,
        match=(
            r"^writer\(path='.*file'\): cannot be written \(No space left on device\); pick a"
            r" folder"
        ),
    ):
        write_whole(tmp_path / "file", fail, "writer")
    assert os.listdir(tmp_path) == []


def test_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OutputError, match=r"cannot be written .*; pick a folder that you may write to"
    ):
        write_whole(tmp_path / "file" / "inside", lambda file: None, "test")


def test_a_link_stays_one_and_its_file_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "file")
    for content in (b"first", b"second"):
        write_whole(tmp_path / "link", lambda file, content=content: file.write(content), "test")
        assert (tmp_path / "disk" / "file").read_bytes() == content
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "disk") == ["file"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX")
def test_devices_pipes_and_folders_are_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "folder", "/dev/null"):
        with pytest.raises(OutputError, match="there is something there that is no file"):
            write_whole(path, lambda file: file.write(b"content"), "test")
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_a_name_as_long_as_the_file_system_takes_is_written(tmp_path):
    write_whole(tmp_path / ("n" * 250), lambda file: file.write(b"content"), "test")
    assert os.listdir(tmp_path) == ["n" * 250]


@pytest.mark.parametrize(
    ("name", "left"),
    [
        (".0123456789abcdef.partial", True),
        (".checkpoint.pt.12-140.partial", True),
        (".lock", True),
        (".mine.partial", False),
        ("checkpoint.pt", False),
        ("0123456789abcdef.partial", False),
    ],
)
def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path, name, left):
    (tmp_path / name).touch()
    assert is_left_over(tmp_path / name) == left
    with claimed(tmp_path, "--out"):
        assert (tmp_path / name).exists() == (not left or name == ".lock")
    assert (tmp_path / name).exists() != left


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    with claimed(tmp_path / "a" / "b", "--out"):
        with (
            pytest.raises(
                OutputError,
                match=(
                    r"^--out .*b: another run is writing there; wait for its end, or give another"
                    r" --out$"
                ),
            ),
            claimed(tmp_path / "a" / "b", "--out"),
        ):
            pass
        with claimed(tmp_path / "a", "--out"):
            pass
    assert os.listdir(tmp_path) == []
    with claimed(tmp_path / "a", "--out"):
        (tmp_path / "a" / "result").touch()
    assert os.listdir(tmp_path / "a") == ["result"]


def test_a_folder_that_cannot_be_written_is_named_by_its_option(tmp_path):
    (tmp_path / "file").touch()
    for inner in ("file", "file/inside", "n" * 300):
        message = r"^--out .*: cannot be written \(.*\); pick a folder that you may write to$"
        with pytest.raises(OutputError, match=message), claimed(tmp_path / inner, "--out"):
            pass
    assert os.listdir(tmp_path) == ["file"]


def test_file_systems_without_locks_are_written_without(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def without(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with claimed(tmp_path, "--out"):
        (tmp_path / "result").touch()
    assert os.listdir(tmp_path) == ["result"]


def test_a_folder_appears_whole(tmp_path):
    write_folder(tmp_path / "a" / "b", {"one": b"1", "two": b"2"}, "test")
    assert {path.name: path.read_bytes() for path in (tmp_path / "a" / "b").iterdir()} == {
        "one": b"1",
        "two": b"2",
    }
    assert os.listdir(tmp_path / "a") == ["b"]


def test_a_folder_that_cannot_be_filled_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match=r"test\(.*\): cannot be written"):
        write_folder(tmp_path / "a", {"one": b"1", "no/such": b"2"}, "test")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "file", "link", "dangling link"])
def test_a_folder_replaces_nothing(kind, tmp_path):
    path = tmp_path / "a"
    (tmp_path / "other").mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.touch()
    else:
        path.symlink_to(tmp_path / ("other" if kind == "link" else "none"))
    with pytest.raises(OutputError, match="it exists already and is left alone; name a new folder"):
        write_folder(path, {"one": b"1"}, "test")
    assert sorted(os.listdir(tmp_path)) == ["a", "other"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_whole(path, lambda file: file.write(b"a"), "test"),
        lambda path: write_folder(path, {"a": b"a"}, "test"),
        lambda path: claimed(path, "--out").__enter__(),
    ],
    ids=["file", "folder", "claimed"],
)
def test_what_is_no_path_is_refused(write):
    for path in (None, 3, b"bytes"):
        with pytest.raises(InvalidTypeError, match=r"expected text or a pathlib\.Path"):
            write(path)
    with pytest.raises(InvalidValueError, match="no zero byte"):
        write("a\0b")


def test_lock_that_is_a_link_makes_no_file_elsewhere(tmp_path):
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="cannot be written"), claimed(tmp_path / "held", "--out"):
        pass
    assert not (tmp_path / "elsewhere").exists()
