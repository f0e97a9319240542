from __future__ import annotations

import hashlib
import http.server
import os
import threading
from collections.abc import Iterator

import pytest

from snnsim.data import download
from snnsim.data.remote import RemoteFile, fetch
from snnsim.errors import (
    DataError,
    InvalidTypeError,
    InvalidValueError,
    MissingDataError,
    OutputError,
)

CONTENT = bytes(range(256)) * 40


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT: /ranges as asked for, /whole always from the start, /cut only half.

    And /refused gives no ranges, /endless more and more; anything else is not there.
    """

    asked: list[str | None]

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.asked.append(wanted)
        if self.path not in ("/ranges", "/whole", "/cut", "/refused", "/endless"):
            self.send_error(404)
            return
        if self.path == "/refused" and wanted:
            self.send_error(416)
            return
        body = CONTENT
        if self.path == "/ranges" and wanted:
            body = CONTENT[int(wanted.removeprefix("bytes=").removesuffix("-")) :]
            self.send_response(206)
        else:
            self.send_response(200)
        if self.path == "/cut":
            body = CONTENT[:5000]
        if self.path != "/endless":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        while self.path == "/endless":
            try:
                self.wfile.write(bytes(2**16))
            except OSError:
                return

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def remote(url: str, content: bytes = CONTENT) -> RemoteFile:
    return RemoteFile("data.bin", url, len(content), hashlib.sha256(content).hexdigest())


def test_fetches_into_a_new_folder(server, tmp_path):
    path = fetch(remote(server + "/ranges"), tmp_path / "new")
    assert path == tmp_path / "new" / "data.bin"
    assert path.read_bytes() == CONTENT


def test_whole_file_is_not_fetched_again(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(CONTENT)
    fetch(remote(server + "/ranges"), tmp_path)
    assert Handler.asked == []


def test_damaged_file_is_fetched_again(server, tmp_path):
    (tmp_path / "data.bin").write_bytes(CONTENT[:-1] + b"!")
    assert fetch(remote(server + "/ranges"), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("route", ["/ranges", "/whole"])
def test_goes_on_where_it_was_cut_off(server, tmp_path, route):
    (tmp_path / "data.bin.partial").write_bytes(CONTENT[:1000])
    assert fetch(remote(server + route), tmp_path).read_bytes() == CONTENT
    assert Handler.asked == ["bytes=1000-"]
    assert not (tmp_path / "data.bin.partial").exists()


def test_short_answer_is_refused_and_kept(server, tmp_path):
    with pytest.raises(
        DataError, match=r"not what was published \(5,000 of 10,240 bytes.*; try again"
    ):
        fetch(remote(server + "/cut"), tmp_path)
    assert (tmp_path / "data.bin.partial").read_bytes() == CONTENT[:5000]
    assert not (tmp_path / "data.bin").exists()


def test_wrong_content_is_refused_and_removed(server, tmp_path):
    with pytest.raises(DataError, match=r"or a wrong checksum"):
        fetch(remote(server + "/whole", bytes(len(CONTENT))), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_failing_network_says_what_to_put_where(server, tmp_path):
    with pytest.raises(
        MissingDataError, match=r"/gone: cannot be fetched .*404.* put it there as .*data.bin"
    ):
        fetch(remote(server + "/gone"), tmp_path)


def test_folder_that_is_a_file_is_refused(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written .*; pick another folder"):
        fetch(remote(server + "/ranges"), tmp_path / "file")


def test_unknown_dataset_lists_the_known():
    with pytest.raises(
        InvalidValueError,
        match=r"download\('imagenet'\): .* known are dvs-gesture, mnist, nmnist, shd, ssc",
    ):
        download("imagenet", ".")


@pytest.mark.parametrize("name", ["nmnist", "dvs-gesture", "shd", "ssc"])
def test_dataset_to_fetch_by_hand_says_how(name):
    with pytest.raises(
        MissingDataError,
        match=r"cannot be fetched for you; fetch .* https://.* where the folder is 'here'",
    ):
        download(name, "here")


def test_download_fetches_every_file(server, tmp_path, monkeypatch):
    monkeypatch.setitem(
        __import__("sys").modules["snnsim.data.remote"]._REMOTE,
        "mnist",
        [remote(server + "/whole")],
    )
    assert download("mnist", tmp_path) == tmp_path
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("route", ["/ranges", "/whole", "/refused"])
@pytest.mark.parametrize("left", [bytes(1000), bytes(len(CONTENT)), bytes(2 * len(CONTENT)), b""])
def test_leftover_of_something_else_does_not_block(server, tmp_path, route, left):
    (tmp_path / "data.bin.partial").write_bytes(left)
    assert fetch(remote(server + route), tmp_path).read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]


def test_folder_in_place_of_the_partial_file_does_not_block(server, tmp_path):
    (tmp_path / "data.bin.partial" / "inside").mkdir(parents=True)
    assert fetch(remote(server + "/ranges"), tmp_path).read_bytes() == CONTENT
    assert (tmp_path / "data.bin.partial" / "inside").is_dir()


@pytest.mark.parametrize("is_there", [True, False])
def test_link_in_place_of_the_partial_file_is_not_followed(server, tmp_path, is_there):
    other = tmp_path / "other"
    if is_there:
        other.write_text("of someone else")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "data.bin.partial").symlink_to(other)
    assert fetch(remote(server + "/ranges"), folder).read_bytes() == CONTENT
    assert other.exists() == is_there
    assert not is_there or other.read_text() == "of someone else"


def test_interrupted_download_goes_on_beside_a_folder_of_its_name(server, tmp_path):
    (tmp_path / "data.bin.partial").mkdir()
    with pytest.raises(DataError, match="try again"):
        fetch(remote(server + "/cut"), tmp_path)
    assert fetch(remote(server + "/ranges"), tmp_path).read_bytes() == CONTENT
    assert Handler.asked == [None, "bytes=5000-"]


def test_server_that_sends_without_end_is_cut_off(server, tmp_path):
    with pytest.raises(DataError, match="not what was published"):
        fetch(remote(server + "/endless"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_of_those_that_fetch_a_file_at_once_does_and_the_others_find_it(server, tmp_path):
    for i in range(20):
        folder = tmp_path / str(i)
        threads = [
            threading.Thread(target=fetch, args=(remote(server + "/whole"), folder))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [path.read_bytes() for path in folder.iterdir()] == [CONTENT]
    assert Handler.asked == [None] * 20


@pytest.mark.parametrize("name", ["../data.bin", "/data.bin", "a/b", "", ".."])
def test_name_that_leads_to_another_folder_is_refused(name):
    with pytest.raises(InvalidValueError, match="expected a file name without folders"):
        RemoteFile(name, "http://here", 1, "")


def test_full_disk_keeps_what_arrived(server, tmp_path, monkeypatch):
    def fail(handle, mode):
        os.close(handle)
        raise OSError(28, "No space left on device")

    (tmp_path / "data.bin.partial").write_bytes(CONTENT[:1000])
    with monkeypatch.context() as patched:
        patched.setattr("os.fdopen", fail)
        with pytest.raises(OutputError, match="No space left on device"):
            fetch(remote(server + "/ranges"), tmp_path)
    assert (tmp_path / "data.bin.partial").read_bytes() == CONTENT[:1000]
    assert fetch(remote(server + "/ranges"), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": 3}, InvalidTypeError),
        ({"url": "example.org/file"}, InvalidValueError),
        ({"url": "foo://example.org"}, InvalidValueError),
        ({"url": None}, InvalidValueError),
        ({"size": "3"}, InvalidValueError),
        ({"size": -1}, InvalidValueError),
        ({"sha256": "abc"}, InvalidValueError),
    ],
)
def test_description_of_a_file_is_checked(change, error):
    with pytest.raises(error, match="RemoteFile"):
        RemoteFile(
            **{"name": "a", "url": "https://example.org/a", "size": 3, "sha256": "0" * 64, **change}
        )


def test_checksum_may_have_large_letters(tmp_path):
    (tmp_path / "source").write_bytes(b"abc")
    remote = RemoteFile(
        "a", (tmp_path / "source").as_uri(), 3, hashlib.sha256(b"abc").hexdigest().upper()
    )
    assert fetch(remote, tmp_path / "folder").read_bytes() == b"abc"


def test_name_of_a_dataset_and_folder_are_text(tmp_path):
    with pytest.raises(InvalidTypeError, match="expected the name of one dataset"):
        download(["mnist"], tmp_path)
    with pytest.raises(InvalidTypeError, match="download: folder = None"):
        download("mnist", None)
