"""Reading and writing whole files: missing ones are named, and a reader never sees half a file."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from snnsim.errors import MissingDataError, OutputError

__all__ = ["read_content", "write_whole"]


def read_content(path: str | os.PathLike[str], caller: str) -> bytes:
    """Bytes of the file that `caller` was given as its `path`.

    Raises:
        MissingDataError: no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError(f"{caller}(path={str(path)!r}): there is no such file; check the path")
    return path.read_bytes()


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file that appears under its name only once it is complete.

    A writer that is killed leaves no file under that name; of two writers at once the last one wins, with a whole file.

    Raises:
        OutputError: the file cannot be written there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                write(file)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); pick a folder that you may write to") from error
