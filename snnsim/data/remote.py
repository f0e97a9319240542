"""Downloads of datasets: resumed where they were cut off, and checked before they are used."""

from __future__ import annotations

import hashlib
import http
import itertools
import logging
import os
import re
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from typing import Any
from urllib.error import HTTPError, URLError

from snnsim._core.files import as_path, locked
from snnsim.data.mnist import PUBLISHED
from snnsim.data.numbers import whole
from snnsim.errors import (
    DataError,
    InvalidTypeError,
    InvalidValueError,
    MissingDataError,
    OutputError,
    refuse,
)

_LOG = logging.getLogger("snnsim")
_CHUNK = 1 << 18
_SECONDS = 30
_URL = re.compile(r"(https?|ftp|file)://", re.IGNORECASE)
_SHA256 = re.compile("[0-9a-fA-F]{64}")
_NETWORK = (HTTPException, URLError, TimeoutError, ConnectionError, SSLError)


@dataclass(frozen=True)
class RemoteFile:
    """A file elsewhere: its name here, its address, and its bytes and SHA-256, which tell that it
    arrived whole.
    """

    name: str
    url: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        who = "RemoteFile"
        if self.name in ("", "..") or as_path(self.name, "RemoteFile: name").name != self.name:
            refuse(who, "name", self.name, "expected a file name without folders")
        if not isinstance(self.url, str) or not _URL.match(self.url):
            rule = "expected an address that starts with https:// or the like"
            refuse(who, "url", self.url, rule)
        if whole(self.size, 0) is None:
            refuse(who, "size", self.size, "expected its number of bytes, at least 0")
        if not isinstance(self.sha256, str) or not _SHA256.fullmatch(self.sha256):
            refuse(who, "sha256", self.sha256, "expected 64 hexadecimal digits")

    def is_whole_at(self, path: Path) -> bool:
        """True where all of the file lies at `path`."""
        if path.stat().st_size != self.size:
            return False
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest() == self.sha256.lower()


_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_REMOTE = {
    "mnist": [
        RemoteFile(f"{file.name}.gz", f"{_MNIST_URL}{file.name}.gz", file.packed, file.sha256)
        for files in PUBLISHED.values()
        for file in files
    ]
}

# what has to be fetched by hand: because of a licence to accept, or because no checksum of it is
# known here
_BY_HAND = {
    "nmnist": (
        "fetch Train.zip and Test.zip from https://www.garrickorchard.com/datasets/n-mnist; "
        "read them with snnsim.data.events.NMNIST(folder)"
    ),
    "dvs-gesture": (
        "fetch DvsGesture.tar.gz from https://research.ibm.com/interactive/dvsgesture/ (IBM asks"
        " for its terms to be accepted) and unpack it; read it with"
        " snnsim.data.events.DVSGesture(folder)"
    ),
    "shd": (
        "fetch shd_train.h5.gz and shd_test.h5.gz from https://zenkelab.org/datasets/ and unpack"
        " them; read one with snnsim.data.events.SpokenSpikes(path)"
    ),
    "ssc": (
        "fetch ssc_train.h5.gz, ssc_valid.h5.gz and ssc_test.h5.gz from"
        " https://zenkelab.org/datasets/ and unpack them; read one with"
        " snnsim.data.events.SpokenSpikes(path)"
    ),
}


def download(name: str, folder: str | os.PathLike[str]) -> Path:
    """Fetch a dataset into a folder; files that are there and whole are left as they are.

    Args:
        name: "mnist"; for "nmnist", "dvs-gesture", "shd" and "ssc" the error says what to put where
            by hand.
        folder: where to; made if it is not there.

    Returns:
        The folder.

    Raises:
        InvalidValueError: an unknown name.
        MissingDataError: the network does not give it, or it has to be fetched by hand.
        DataError: what arrived is not what was published.
        OutputError: the folder cannot be written to.
    """
    folder = as_path(folder, "download: folder")
    if not isinstance(name, str):
        rule = "expected the name of one dataset, as text"
        refuse("download", "name", name, rule, kind=InvalidTypeError)
    if name in _BY_HAND:
        raise MissingDataError(
            f"download({name!r}): cannot be fetched for you; {_BY_HAND[name]}, where the folder is"
            f" {str(folder)!r}"
        )
    if name not in _REMOTE:
        known = ", ".join(sorted([*_REMOTE, *_BY_HAND]))
        raise InvalidValueError(f"download({name!r}): no such dataset; known are {known}")
    for remote in _REMOTE[name]:
        fetch(remote, folder)
    return folder


def fetch(remote: RemoteFile, folder: str | os.PathLike[str]) -> Path:
    """Fetch one file into a folder, unless it is there and whole; goes on where an earlier try was
    cut off, and raises as `download`. What is as long as it should be and yet wrong is removed.
    """
    path = as_path(folder, "fetch: folder") / remote.name
    try:
        if path.is_file() and remote.is_whole_at(path):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        # of processes that fetch one file the first does, and the others find it there
        with locked(path.with_name(f".{path.name}.lock")):
            if path.is_file() and remote.is_whole_at(path):
                return path
            size = _complete(path, remote)
    except _NETWORK as error:
        raise MissingDataError(
            f"{remote.url}: cannot be fetched ({error}); with another machine or browser fetch it"
            f" and put it there as {path}"
        ) from error
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); pick another folder"
        ) from error
    if size is not None:
        raise DataError(
            f"{remote.url}: what arrived is not what was published ({size:,} of {remote.size:,}"
            " bytes, or a wrong checksum); try again, or fetch it from elsewhere"
        )
    return path


def _complete(path: Path, remote: RemoteFile) -> int | None:
    """Receive what is missing, and move the file to its name if it is whole; else the bytes that
    there are.
    """
    partial = _partial(path)
    resumed = _receive(remote, partial, resume=True)
    is_whole = remote.is_whole_at(partial)
    if resumed and not is_whole and partial.stat().st_size >= remote.size:
        # what had arrived before does not belong to what came behind
        _receive(remote, partial, resume=False)
        is_whole = remote.is_whole_at(partial)
    if is_whole:
        partial.replace(path)
        return None
    size = partial.stat().st_size
    if size >= remote.size:
        # too short is kept, to go on from there; as long or longer and yet wrong is of no use
        partial.unlink()
    return size


def _partial(path: Path) -> Path:
    """Where a file grows until it is whole; a folder or link that has the name already is left
    alone.
    """
    names = (f"{path.name}{f'.{number}' if number else ''}.partial" for number in itertools.count())
    candidates = map(path.with_name, names)
    return next(
        partial
        for partial in candidates
        if not os.path.lexists(partial) or (partial.is_file() and not partial.is_symlink())
    )


def _receive(remote: RemoteFile, partial: Path, *, resume: bool) -> bool:
    """Write to `partial` what it still lacks, or all of it; True where what was there is kept."""
    have = partial.stat().st_size if partial.exists() else 0
    if have and (have >= remote.size or not resume):
        partial.unlink(missing_ok=True)
        have = 0
    try:
        response = _open(remote.url, have)
    except HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        error.close()
        response = _open(remote.url, 0)
    with response:
        # 206: the server goes on from there; 200: it sends everything again
        start = have if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        _LOG.info("%s: fetching from byte %d of %d", remote.url, start, remote.size)
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(partial, flags, 0o666), "wb") as file:
            place = file.seek(start)
            # one byte too many is enough to be wrong, and a server may send without end
            while place <= remote.size and (chunk := response.read(_CHUNK)):
                place += file.write(chunk)
    return start > 0


def _open(url: str, have: int) -> Any:
    headers = {"Range": f"bytes={have}-"} if have else {}
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_SECONDS)
