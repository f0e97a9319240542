"""Writing whole files, and folders that one run at a time writes to."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from snnsim.errors import InvalidTypeError, InvalidValueError, OutputError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
PARTIAL = ".partial"
# the second form is that of earlier versions
LEFT_OVER = re.compile(r"\.([0-9a-f]{16}|.+\.\d+-\d+)\.partial", re.DOTALL)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def user_cache() -> Path:
    """Folder of what can be made again: `snnsim` below XDG_CACHE_HOME, or below .cache in the
    user's home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snnsim"


def as_path(path: object, where: str) -> Path:
    """`path` as one.

    Args:
        path: text or a path.
        where: what was given it, for the message.

    Raises:
        InvalidTypeError: something else.
        InvalidValueError: text that no file can have as its name.
    """
    given = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(given, str):
        raise InvalidTypeError(f"{where} = {path!r:.100}: expected text or a pathlib.Path")
    if "\0" in given:
        raise InvalidValueError(
            f"{where} = {given!r}: a name of a file has no zero byte; check how the name was made"
        )
    return Path(given)


def write_whole(
    path: str | os.PathLike[str],
    write: Callable[[BinaryIO], object],
    caller: str,
    *,
    durable: bool = False,
) -> None:
    """Let `write` fill a file that appears under its name only once it is complete; its folders are
    made.

    A writer that fails or is killed leaves the old file as it was; of two writers at once the last
    one wins, with a whole file. A link stays one: the file that it points to is replaced.

    Args:
        path: where to.
        write: called once, with the binary file to fill.
        caller: what was given `path`, for the message.
        durable: wait until the content has reached the disk, so that a power cut leaves the old
            file or the new one too; takes milliseconds, which a checkpoint is worth and one of many
            thousand cache files is not.

    Raises:
        OutputError: the file cannot be written there.
    """
    target = Path(os.path.realpath(as_path(path, f"{caller}: path")))
    # beside the file: only within one file system is a rename atomic; a name of its own, as a
    # killed writer may have left one
    partial = target.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
    try:
        if target.exists() and not target.is_file():
            raise OSError("there is something there that is no file")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as file:
                write(file)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{caller}(path={str(path)!r}): cannot be written ({error.strerror or error}); pick a"
            " folder that you may write to"
        ) from error


def is_left_over(path: Path) -> bool:
    """Whether a file is what a killed writer leaves behind, or the lock of a folder: nothing that
    holds a result.
    """
    return path.name == LOCK or LEFT_OVER.fullmatch(path.name) is not None


def remove_left_overs(folder: Path) -> None:
    """Remove what killed writers left; for who holds the folder."""
    for path in folder.glob(f".*{PARTIAL}"):
        if LEFT_OVER.fullmatch(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def claimed(folder: str | os.PathLike[str], name: str) -> Iterator[None]:
    """Hold a folder for writing, made if it is not there, against every other run; unused, it is
    gone afterwards.

    The lock is the operating system's and ends with the process, however it ends. What killed
    writers left there is removed.

    Args:
        folder: where results go.
        name: of the option or argument that it was given as, for the message.

    Raises:
        OutputError: it cannot be written, or another run holds it.
    """
    folder, made = as_path(folder, name), []
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        lock = _open_locked(folder / LOCK)
    except BlockingIOError as error:
        raise OutputError(
            f"{name} {folder}: another run is writing there; wait for its end, or give another"
            f" {name}"
        ) from error
    except OSError as error:
        _remove_empty(made)
        raise OutputError(
            f"{name} {folder}: cannot be written ({error.strerror or error}); pick a folder that"
            " you may write to"
        ) from error
    try:
        remove_left_overs(folder)
        yield
    finally:
        _let_go(lock, folder / LOCK)
        _remove_empty(made)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, made and removed, against every other process and thread; waits for the one
    that holds it.
    """
    while True:
        try:
            lock = _open_locked(path)
            break
        except BlockingIOError:
            time.sleep(0.05)
    try:
        yield
    finally:
        _let_go(lock, path)


def _let_go(lock: int, path: Path) -> None:
    # before it is let go: who opened it meanwhile finds it gone and makes a new one
    with contextlib.suppress(OSError):
        path.unlink()
    os.close(lock)


def _open_locked(path: Path) -> int:
    """A file that only this descriptor of all processes holds.

    Raises:
        BlockingIOError: another one does.
    """
    while True:
        # through a link it would make a file elsewhere
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _lock(handle)
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:
            # removed by the holder before, between opening and locking
            pass
        except OSError:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int) -> None:
    """Lock a whole file; some network file systems have no locks, and are written without."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            _lock_region(handle)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _lock_region(handle: int) -> None:
    """Lock the first byte, where there is no `flock`: on Windows."""
    import msvcrt

    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    except PermissionError as error:
        raise BlockingIOError(error.errno, error.strerror) from error


def _remove_empty(folders: list[Path]) -> None:
    """Remove those, innermost first, up to the first that holds something."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def write_folder(path: str | os.PathLike[str], files: Mapping[str, bytes], caller: str) -> None:
    """Write a new folder that appears under its name only once it is complete; the folders above it
    are made.

    A writer that is killed leaves nothing under that name, and nothing that is in the way of the
    next one.

    Args:
        path: where to.
        files: content by name.
        caller: what was given `path`, for the message.

    Raises:
        OutputError: the folder exists already, or cannot be written.
    """
    path = as_path(path, f"{caller}: path")
    if os.path.lexists(path):
        raise OutputError(
            f"{caller}({str(path)!r}): it exists already and is left alone; name a new folder"
        )
    folder = Path(os.path.abspath(path))
    # two processes may have one number, in containers of their own
    partial = folder.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        partial.mkdir(parents=True)
        try:
            for name, content in files.items():
                (partial / name).write_bytes(content)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"{caller}({str(path)!r}): cannot be written ({error.strerror or error}); pick a folder"
            " that you may write to"
        ) from error
