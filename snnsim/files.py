"""Writing whole files: a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from snnsim.errors import OutputError

__all__ = ["user_cache", "write_folder", "write_whole"]


def user_cache() -> Path:
    """Folder of what can be made again: `snnsim` below XDG_CACHE_HOME, or below .cache in the user's home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snnsim"


def write_whole(path: str | os.PathLike[str], write: Callable[[BinaryIO], object], caller: str, *, durable: bool = False) -> None:
    """Let `write` fill a file that appears under its name only once it is complete; its folders are made.

    A writer that fails or is killed leaves the old file as it was; of two writers at once the last one wins, with a whole file.

    Args:
        path: where to.
        write: called once, with the binary file to fill.
        caller: what was given `path`, for the message.
        durable: wait until the content has reached the disk, so that a power cut leaves the old file or the new one too; takes
            milliseconds, which a checkpoint is worth and one of many thousand cache files is not.

    Raises:
        OutputError: the file cannot be written there.
    """
    path = Path(path)
    # beside the file: only within one file system is a rename atomic
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                write(file)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{caller}(path={str(path)!r}): cannot be written ({error.strerror or error}); pick a folder that you may write to"
        ) from error


def write_folder(path: str | os.PathLike[str], files: Mapping[str, bytes], caller: str) -> None:
    """Write a new folder that appears under its name only once it is complete; the folders above it are made.

    A writer that is killed leaves nothing under that name, and nothing that is in the way of the next one.

    Args:
        path: where to.
        files: content by name.
        caller: what was given `path`, for the message.

    Raises:
        OutputError: the folder exists already, or cannot be written.
    """
    if os.path.lexists(path):
        raise OutputError(f"{caller}({str(path)!r}): it exists already and is left alone; name a new folder")
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
            f"{caller}({str(path)!r}): cannot be written ({error.strerror or error}); pick a folder that you may write to"
        ) from error
