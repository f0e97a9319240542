"""Reading whole files: missing ones are named."""

from __future__ import annotations

import os
from pathlib import Path

from snnsim.errors import MissingDataError

__all__ = ["read_content"]


def read_content(path: str | os.PathLike[str], caller: str) -> bytes:
    """Bytes of the file that `caller` was given as its `path`.

    Raises:
        MissingDataError: no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError(f"{caller}(path={str(path)!r}): there is no such file; check the path")
    return path.read_bytes()
