"""Whole files, folders and archives to read; what is missing, damaged or far too large is named."""

from __future__ import annotations

import ast
import gzip
import io
import itertools
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from snnsim._core.files import as_path
from snnsim.errors import DataError, MissingDataError, refuse

# what Python's own readers raise on damaged archives: negative offsets, names that are no text,
# unknown versions, ...
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)

# no recording, image or label that is real shrinks to a hundredth; of little content it does no
# harm
_RATIO = 100
_HARMLESS = 2**26


class FileBytes:
    """Bytes of a file, and errors that name the file (`source`) and the place in it."""

    def __init__(self, content: bytes, source: str) -> None:
        self.content = content
        self.source = source

    def refuse(self, offset: int, fault: str) -> NoReturn:
        """Raise an error for what is wrong at a byte offset."""
        raise DataError(f"{self.source}: byte offset {offset}: {fault}")


def read_content(path: str | os.PathLike[str], caller: str) -> bytes:
    """Bytes of the file that `caller` was given as its `path`."""
    path = as_path(path, f"{caller}: path")
    try:
        if path.is_file():
            return path.read_bytes()
    except FileNotFoundError:
        # deleted since it was looked at
        pass
    except MemoryError as error:
        size = path.stat().st_size
        raise DataError(
            f"{path}: has {size:,} bytes, for which there is no memory; check the file"
        ) from error
    except OSError as error:
        raise _closed(path, "read", error) from error
    refuse(
        caller, "path", str(path), "there is no such file", "check the path", kind=MissingDataError
    )


def numbered_lines(content: bytes, encoding: str = "ascii") -> Iterator[tuple[int, str]]:
    """Lines of a text that are not empty, with their numbers from 1 on."""
    text = content.decode(encoding, errors="replace")
    return ((i, line) for i, line in enumerate(text.splitlines(), start=1) if line.strip())


def has_file(path: Path) -> bool:
    """True where there is a file; refuses a closed folder and a name that is too long."""
    try:
        return path.is_file()
    except OSError as error:
        raise _closed(path, "looked at", error) from error


def has_folder(path: Path) -> bool:
    """True where there is a folder; refuses as `has_file`."""
    try:
        return path.is_dir()
    except OSError as error:
        raise _closed(path, "looked at", error) from error


def _closed(path: Path, done: str, error: OSError) -> DataError:
    what = "file" if done == "read" else "path"
    reason = error.strerror or error
    return DataError(f"{path}: cannot be {done} ({reason}); check the {what} and who may read it")


def refuse_bomb(source: str, size: int, packed: int) -> None:
    """Refuse what would become absurdly large, `size` bytes out of `packed`, before it takes
    memory.
    """
    if size >= _HARMLESS and size > _RATIO * packed:
        raise DataError(
            f"{source}: declares {size:,} bytes and is {packed:,} bytes compressed, as no real data"
            " is; decompress it with another tool if it is to be trusted"
        )


def read_gzip(content: bytes, size: int, source: str) -> bytes:
    """The first `size` bytes of gzip-compressed content, or as many as there are; checked where
    they reach its end.
    """
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(content)).read(size)
    except DAMAGED as error:
        raise DataError(
            f"{source}: corrupt gzip data somewhere in byte offsets 0..{len(content)} ({error});"
            " fetch the file again"
        ) from error


class Store:
    """A folder or a zip archive, read alike: files by their path in it with forward slashes.

    Pickles, and opens the archive once per process, so that workers of a DataLoader do not share a
    file position.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: tuple[int, zipfile.ZipFile] | None = None
        if has_folder(path):
            files = filter(has_file, path.rglob("*"))
            self.names = sorted(file.relative_to(path).as_posix() for file in files)
        elif has_file(path):
            names = self._opened().namelist()
            self.names = sorted(name for name in names if not name.endswith("/"))
        else:
            raise MissingDataError(f"{path}: there is neither such a folder nor such a zip archive")
        for name, following in itertools.pairwise(self.names):
            if name == following:
                raise DataError(
                    f"{path}: two files in it are called {name!r}; fetch the archive again"
                )

    def read(self, name: str) -> bytes:
        """Content of one file."""
        if has_folder(self.path):
            return read_content(self.path / name, "read")
        return read_member(self._opened(), name)

    def _opened(self) -> zipfile.ZipFile:
        if self._archive is None or self._archive[0] != os.getpid():
            self._archive = os.getpid(), open_archive(self.path)
        return self._archive[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}


def open_archive(path: Path) -> zipfile.ZipFile:
    """A zip archive, open to read."""
    try:
        if path.exists() and not path.is_file():
            # one that is a pipe would wait for a writer
            raise zipfile.BadZipFile("there is something there that is no file")
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        gone = "there is no such zip archive any more; put it back"
        raise MissingDataError(f"{path}: {gone}") from error
    except DAMAGED as error:
        fault = f"not a zip archive, or one cut short ({error}); fetch it again"
        raise DataError(f"{path}: {fault}") from error


def read_member(archive: zipfile.ZipFile, name: str, *, trusted: bool = False) -> bytes:
    """Content of one member of an open archive; never more of it than it declares. Of one that is
    `trusted`, written here, any ratio of compression will do.
    """
    source = f"{archive.filename}: {name}"
    try:
        member = archive.getinfo(name)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Python's reader lets others expand without limit
            raise ValueError(f"compression method {member.compress_type} is not read")
        # of the file that is open, also where its name has gone meanwhile
        if member.compress_size > (os.fstat(archive.fp.fileno()).st_size if archive.fp else 0):
            raise EOFError("it declares more bytes than the archive has")
        if not trusted:
            refuse_bomb(source, member.file_size, member.compress_size)
        with archive.open(member) as file:
            # with a size: without one the reader expands all and then looks at what was declared
            content = file.read(member.file_size)
        if len(content) != member.file_size:
            raise EOFError(f"{len(content)} of {member.file_size} bytes")
    except DataError:
        raise
    except DAMAGED as error:
        raise _corrupt(source, error) from error
    return content


def read_array(content: bytes, source: str) -> np.ndarray:
    """The array of a `.npy` file, as long as its content; no objects."""
    try:
        if content[:8] != b"\x93NUMPY\1\0":
            raise ValueError("its version is not 1.0")
        start = 10 + struct.unpack_from("<H", content, 8)[0]
        # numpy's own reader goes on to guess where this fails
        header = ast.literal_eval(content[10:start].decode("latin1"))
        dtype, shape = np.lib.format.descr_to_dtype(header["descr"]), header["shape"]
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content) - start:
            raise ValueError("its length is not what its header declares")
        order: Literal["F", "C"] = "F" if header["fortran_order"] else "C"
        return np.frombuffer(content, dtype, offset=start).reshape(shape, order=order).copy()
    except (*DAMAGED, SyntaxError, TypeError, MemoryError) as error:
        raise _corrupt(source, error) from error


def _corrupt(source: str, error: Exception) -> DataError:
    return DataError(f"{source} in it is corrupt ({error}); fetch the archive again")
