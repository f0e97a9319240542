"""A folder or a zip archive, read alike."""

from __future__ import annotations

import itertools
import os
import zipfile
from typing import Any

from snnsim._core.files import as_path
from snnsim.data.files import has_file, has_folder, open_archive, read_content, read_member
from snnsim.errors import DataError, MissingDataError

__all__ = ["Store"]


class Store:
    """Files under a folder, or in a zip archive, by their path in it with forward slashes.

    Pickles, and opens the archive once per process, so that workers of a DataLoader do not share a
    file position.

    Args:
        path: the folder or the archive.

    Raises:
        MissingDataError: there is neither.
        DataError: a file that is no zip archive.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = as_path(path, "root")
        self._archive: tuple[int, zipfile.ZipFile] | None = None
        if has_folder(self.path):
            files = filter(has_file, self.path.rglob("*"))
            self.names = sorted(file.relative_to(self.path).as_posix() for file in files)
        elif has_file(self.path):
            self.names = sorted(
                name for name in self._opened().namelist() if not name.endswith("/")
            )
            twice = next(
                (name for name, following in itertools.pairwise(self.names) if name == following),
                None,
            )
            if twice is not None:
                raise DataError(
                    f"{self.path}: two files in it are called {twice!r}; fetch the archive again"
                )
        else:
            raise MissingDataError(
                f"{self.path}: there is neither such a folder nor such a zip archive"
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
