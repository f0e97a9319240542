"""Reading whole files and members of archives: what is missing, damaged or far too large is
named."""

from __future__ import annotations

import ast
import gzip
import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from snnsim._core.files import as_path
from snnsim.errors import DataError, MissingDataError

__all__ = [
    "has_file",
    "has_folder",
    "open_archive",
    "read_array",
    "read_content",
    "read_gzip",
    "read_member",
    "refuse_bomb",
]

# what Python's own readers raise on damaged archives: negative offsets, names that are no text,
# unknown versions, ...
_DAMAGED = (
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


def read_content(path: str | os.PathLike[str], caller: str) -> bytes:
    """Bytes of the file that `caller` was given as its `path`.

    Raises:
        MissingDataError: no such file.
        DataError: one that cannot be read.
    """
    path = as_path(path, f"{caller}: path")
    try:
        if path.is_file():
            return path.read_bytes()
    except FileNotFoundError:
        # deleted since it was looked at
        pass
    except MemoryError as error:
        raise DataError(
            f"{path}: has {path.stat().st_size:,} bytes, for which there is no memory; check the"
            " file"
        ) from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check the file and who may"
            " read it"
        ) from error
    raise MissingDataError(f"{caller}(path={str(path)!r}): there is no such file; check the path")


def has_file(path: Path) -> bool:
    """Whether there is a file.

    Raises:
        DataError: it cannot be looked at: in a folder that is closed, or under a name that is too
            long.
    """
    return _is_there(path, path.is_file)


def has_folder(path: Path) -> bool:
    """Whether there is a folder; raises as `has_file`."""
    return _is_there(path, path.is_dir)


def _is_there(path: Path, look: Callable[[], bool]) -> bool:
    try:
        return look()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be looked at ({error.strerror or error}); check the path and who may"
            " read it"
        ) from error


def refuse_bomb(source: str, size: int, packed: int) -> None:
    """Refuse what would become absurdly large, from the size that it declares, before it takes
    memory.

    Raises:
        DataError: `size` bytes, out of `packed`.
    """
    if size >= _HARMLESS and size > _RATIO * packed:
        raise DataError(
            f"{source}: declares {size:,} bytes and is {packed:,} bytes compressed, as no real data"
            " is; decompress it with another tool if it is to be trusted"
        )


def read_gzip(content: bytes, size: int, source: str) -> bytes:
    """The first `size` bytes of gzip-compressed content, or as many as there are; checked where
    they reach its end.

    Raises:
        DataError: corrupt.
    """
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(content)).read(size)
    except _DAMAGED as error:
        raise DataError(
            f"{source}: corrupt gzip data somewhere in byte offsets 0..{len(content)} ({error});"
            " fetch the file again"
        ) from error


def open_archive(path: Path) -> zipfile.ZipFile:
    """A zip archive, open to read.

    Raises:
        MissingDataError: no such file.
        DataError: not a zip archive, or a damaged one.
    """
    try:
        if path.exists() and not path.is_file():
            # one that is a pipe would wait for a writer
            raise zipfile.BadZipFile("there is something there that is no file")
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise MissingDataError(
            f"{path}: there is no such zip archive any more; put it back"
        ) from error
    except _DAMAGED as error:
        raise DataError(
            f"{path}: not a zip archive, or one cut short ({error}); fetch it again"
        ) from error


def read_member(archive: zipfile.ZipFile, name: str, *, trusted: bool = False) -> bytes:
    """Content of one member of an archive; never more of it than it declares.

    Args:
        archive: open to read.
        name: of the member.
        trusted: written here, so that any ratio of compression will do.

    Raises:
        DataError: no such member, a damaged one, or one that is far too large.
    """
    source = f"{archive.filename}: {name}"
    try:
        member = archive.getinfo(name)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Python's reader lets others expand without limit
            raise ValueError(f"compression method {member.compress_type} is not read")
        if member.compress_size > _length(archive):
            raise EOFError("it declares more bytes than the archive has")
    except _DAMAGED as error:
        raise _corrupt(source, error) from error
    if not trusted:
        refuse_bomb(source, member.file_size, member.compress_size)
    try:
        with archive.open(member) as file:
            # with a size: without one the reader expands all and then looks at what was declared
            content = file.read(member.file_size)
    except _DAMAGED as error:
        raise _corrupt(source, error) from error
    if len(content) != member.file_size:
        raise _corrupt(source, EOFError(f"{len(content)} of {member.file_size} bytes"))
    return content


def read_array(content: bytes, source: str) -> np.ndarray:
    """The array of a `.npy` file, as long as its content; no objects.

    Raises:
        DataError: damaged.
    """
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
    except (*_DAMAGED, SyntaxError, TypeError, MemoryError) as error:
        raise _corrupt(source, error) from error


def _length(archive: zipfile.ZipFile) -> int:
    """Bytes of the file that is open, also where its name has gone meanwhile."""
    return os.fstat(archive.fp.fileno()).st_size if archive.fp else 0


def _corrupt(source: str, error: Exception) -> DataError:
    return DataError(f"{source} in it is corrupt ({error}); fetch the archive again")
