"""Writing whole files: a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from snnsim.errors import OutputError

__all__ = ["user_cache", "write_whole"]


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
