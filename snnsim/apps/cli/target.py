"""Where an export goes: what lies there and may be replaced, and how the new one takes its
place."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snnsim._core.files import write_whole
from snnsim.errors import OutputError

# what an export is known by; it names every file that was written, with its SHA-256
REPORT = "export.json"
PARTIAL = r"\.[0-9a-f]{16}\.partial"


class Target:
    """A folder that an export fills, or one file with others beside it.

    Args:
        out: as typed; links are followed.
        single: whether it is a file.
        overwrite: whether an earlier export may be replaced. Nothing else ever is: neither files of
            others, nor those of the earlier export that were changed since.

    Raises:
        OutputError: something else lies there.
    """

    def __init__(self, out: Path, *, single: bool, overwrite: bool) -> None:
        self.given, self.single = out, single
        self.out = Path(os.path.realpath(out))
        self.folder = self.out.parent if single else self.out
        # hashes of the files that may be replaced
        self.earlier: dict[str, set[str]] = {}
        if not os.path.lexists(self.out) or (not single and self._is_empty()):
            return
        if not overwrite:
            raise OutputError(f"{out} exists; replace it with --overwrite, or name another OUT")
        mark = self.folder / self.name_of(REPORT)
        files = _files_of(mark) if self.out.is_dir() != single else None
        if files is None:
            raise OutputError(
                f"{out} is no earlier export of this kind, as there is no {mark} that lists its"
                " files, and is left alone; remove it yourself"
            )
        self.earlier = files

    def name_of(self, file: str) -> str:
        """Name in the folder of a file that belongs to the export."""
        return f"{self.out.name}.{file}" if self.single else file

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """A folder on the same disk, for as long as it is entered; one that a killed run leaves is
        in nobody's way.

        Raises:
            OutputError: it cannot be made, or a file in it cannot be written.
        """
        try:
            above = self.folder if self.single or self.folder.is_dir() else self.folder.parent
            above.mkdir(parents=True, exist_ok=True)
            stage = above / f".{secrets.token_hex(8)}.partial"
            stage.mkdir()
            try:
                yield stage
            finally:
                shutil.rmtree(stage, ignore_errors=True)
        except OutputError:
            raise
        except OSError as problem:
            raise OutputError(
                f"{self.given} cannot be written ({problem.strerror or problem}); pick a folder"
                " that you may write to"
            ) from problem

    def replace(self, made: Path, report: dict[str, Any]) -> list[Path]:
        """Move what was made in a stage to its place, with a report beside it; returns what lies
        there now.

        Raises:
            OutputError: a file of someone else is in the way.
        """
        files = {path.name: _hash(path) for path in sorted(made.iterdir())}
        text = json.dumps({**report, "files": files}, indent=2) + "\n"
        if not self.folder.exists():
            (made / REPORT).write_text(text)
            made.rename(self.folder)
            return [self.given]
        taken = [name for name in files if not self._may_replace(name)]
        mark = self.folder / self.name_of(REPORT)
        if taken or (os.path.lexists(mark) and not self.earlier):
            raise OutputError(
                f"{self.folder / (taken or [mark.name])[0]} was not written by an export, or was"
                " changed since, and is left alone; move it away, or name another OUT"
            )
        # whenever this ends, the report names what was written by either
        gone = {name for name in self.earlier if name not in files and self._may_replace(name)}
        both = {
            name: sorted(self.earlier.get(name, set()) | {files.get(name, "")} - {""})
            for name in {*self.earlier, *files}
        }
        _write(mark, json.dumps({"files": both}, indent=2) + "\n")
        for name in files:
            (made / name).replace(self.folder / name)
        for name in gone:
            (self.folder / name).unlink(missing_ok=True)
        _write(mark, text)
        return [self.folder / name for name in files] + [mark] if self.single else [self.given]

    def _may_replace(self, name: str) -> bool:
        path = self.folder / name
        if not os.path.lexists(path):
            return True
        return (
            path.is_file() and not path.is_symlink() and _hash(path) in self.earlier.get(name, ())
        )

    def _is_empty(self) -> bool:
        return self.out.is_dir() and all(
            re.fullmatch(PARTIAL, path.name) for path in self.out.iterdir()
        )


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()), "export")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files_of(report: Path) -> dict[str, set[str]] | None:
    """The hashes of each file that a report lists; None where there is no such report."""
    try:
        files = json.loads(report.read_bytes())["files"]
        listed = {
            name: {hashes} if isinstance(hashes, str) else set(hashes)
            for name, hashes in files.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    # a list that was tampered with names nothing outside the folder
    return listed if all(name == Path(name).name for name in listed) else None
