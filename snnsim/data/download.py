"""Fetching datasets: resumed where it was cut off, and checked before it is used."""

from __future__ import annotations

import hashlib
import http
import http.client
import itertools
import logging
import os
import re
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from snnsim._core.files import as_path, locked
from snnsim.data.numbers import whole
from snnsim.errors import (
    DataError,
    InvalidTypeError,
    InvalidValueError,
    MissingDataError,
    OutputError,
)

__all__ = ["RemoteFile", "download", "fetch"]

_LOG = logging.getLogger("snnsim")
_CHUNK = 1 << 18
_SECONDS = 30
_URL = re.compile(r"(https?|ftp|file)://", re.IGNORECASE)
_SHA256 = re.compile("[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class RemoteFile:
    """A file somewhere else: what to call it, where it is, and how to tell that it arrived whole.

    Args:
        name: file name in the folder it is fetched to.
        url: where it is.
        size: its bytes.
        sha256: its SHA-256, in hexadecimal.
    """

    name: str
    url: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        if self.name in ("", "..") or as_path(self.name, "RemoteFile: name").name != self.name:
            raise InvalidValueError(
                f"RemoteFile(name={self.name!r}): expected a file name without folders"
            )
        if not isinstance(self.url, str) or not _URL.match(self.url):
            raise InvalidValueError(
                f"RemoteFile(url={self.url!r}): expected an address that starts with https:// or"
                " the like"
            )
        if whole(self.size, 0) is None:
            raise InvalidValueError(
                f"RemoteFile(size={self.size!r}): expected its number of bytes, at least 0"
            )
        if not isinstance(self.sha256, str) or not _SHA256.fullmatch(self.sha256):
            raise InvalidValueError(
                f"RemoteFile(sha256={self.sha256!r}): expected 64 hexadecimal digits"
            )


_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST = [
    (
        "train-images-idx3-ubyte.gz",
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    (
        "train-labels-idx1-ubyte.gz",
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    (
        "t10k-images-idx3-ubyte.gz",
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    (
        "t10k-labels-idx1-ubyte.gz",
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
]

_REMOTE = {
    "mnist": [RemoteFile(name, _MNIST_URL + name, size, sha256) for name, size, sha256 in _MNIST]
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
        InvalidValueError: a name that is not one of these.
        MissingDataError: the network does not give it, or it has to be fetched by hand; says what
            to put where.
        DataError: what arrived is not what was published.
        OutputError: the folder cannot be written to.
    """
    folder = as_path(folder, "download: folder")
    if not isinstance(name, str):
        raise InvalidTypeError(
            f"download(name={name!r}): expected the name of one dataset, as text"
        )
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
    cut off.

    Returns:
        Path of the file.

    Raises:
        MissingDataError: the network does not give it; says what to put where.
        DataError: what arrived is not what was published; removed, unless it is only too short.
        OutputError: the folder cannot be written to.
    """
    path = as_path(folder, "fetch: folder") / remote.name
    try:
        if path.is_file() and _is_whole(path, remote):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        # of processes that fetch one file the first does, and the others find it there
        with locked(path.with_name(f".{path.name}.lock")):
            if path.is_file() and _is_whole(path, remote):
                return path
            size, whole = _complete(path, remote)
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        TimeoutError,
        ConnectionError,
        ssl.SSLError,
    ) as error:
        raise MissingDataError(
            f"{remote.url}: cannot be fetched ({error}); with another machine or browser fetch it"
            f" and put it there as {path}"
        ) from error
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); pick another folder"
        ) from error
    if not whole:
        raise DataError(
            f"{remote.url}: what arrived is not what was published ({size:,} of {remote.size:,}"
            " bytes, or a wrong checksum); try again, or fetch it from elsewhere"
        )
    return path


def _complete(path: Path, remote: RemoteFile) -> tuple[int, bool]:
    """Receive what is missing, and move the file to its name if it is whole: its bytes, and whether
    it is.
    """
    partial = _partial(path)
    resumed = _receive(remote, partial, resume=True)
    whole = _is_whole(partial, remote)
    if resumed and not whole and partial.stat().st_size >= remote.size:
        # what had arrived before does not belong to what came behind
        _receive(remote, partial, resume=False)
        whole = _is_whole(partial, remote)
    size = partial.stat().st_size
    if whole:
        partial.replace(path)
    elif size >= remote.size:
        # too short is kept, to go on from there; as long or longer and yet wrong is of no use
        partial.unlink()
    return size, whole


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
    """Write to `partial` what it still lacks, or all of it; whether what was there is kept."""
    try:
        have = partial.stat().st_size
    except FileNotFoundError:
        have = 0
    if have and (have >= remote.size or not resume):
        partial.unlink(missing_ok=True)
        have = 0
    try:
        response = urllib.request.urlopen(_request(remote, have), timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        error.close()
        response = urllib.request.urlopen(_request(remote, 0), timeout=_SECONDS)
    with response:
        # 206: the server goes on from there; 200: it sends everything again
        place = have if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        _LOG.info("%s: fetching from byte %d of %d", remote.url, place, remote.size)
        resumed = place > 0
        with os.fdopen(
            os.open(partial, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "wb"
        ) as file:
            file.seek(place)
            # one byte too many is enough to be wrong, and a server may send without end
            while place <= remote.size and (chunk := response.read(_CHUNK)):
                file.write(chunk)
                place += len(chunk)
    return resumed


def _request(remote: RemoteFile, have: int) -> urllib.request.Request:
    return urllib.request.Request(remote.url, headers={"Range": f"bytes={have}-"} if have else {})


def _is_whole(path: Path, remote: RemoteFile) -> bool:
    if path.stat().st_size != remote.size:
        return False
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == remote.sha256.lower()
