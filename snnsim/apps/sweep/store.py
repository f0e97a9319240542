"""The folder of a sweep: one file per finished run, so that whatever kills the sweep costs only the
runs in flight.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snnsim._core.files import claimed, is_left_over, remove_left_overs, write_whole
from snnsim._version import __version__
from snnsim.apps.checkpoints import load_checkpoint, save_checkpoint
from snnsim.apps.config import Config
from snnsim.apps.sweep.plan import AXES, config_hash
from snnsim.apps.sweep.rows import sound_row
from snnsim.errors import (
    CheckpointError,
    DataError,
    InvalidValueError,
    MissingDataError,
    OutputError,
)

__all__ = ["Store"]

FORMAT = 1
HEAD = "sweep.json"


class Store:
    """Finished runs and shared float starts of one sweep.

    Args:
        path: its folder; made when the first file is written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def begin(self, base: Config) -> None:
        """Write what all runs share, or check that it is what the folder was begun with.

        Raises:
            CheckpointError: the folder belongs to a sweep of another configuration.
            OutputError: it holds something else, or cannot be written.
        """
        head = self.path / HEAD
        if not head.exists():
            if self.path.is_dir() and not all(is_left_over(path) for path in self.path.iterdir()):
                raise OutputError(
                    f"{self.path} is not empty and holds no sweep; give --out a new folder"
                )
            content = {"format": FORMAT, "version": __version__, "base": dataclasses.asdict(base)}
            _write_json(head, content)
            return
        theirs = self.base()
        differ = [
            f"{name} is {getattr(theirs, name)!r} there and {value!r} here"
            for name, value in dataclasses.asdict(base).items()
            if name not in AXES and getattr(theirs, name) != value
        ]
        if differ:
            raise CheckpointError(
                f"{self.path} is the sweep of another configuration: {'; '.join(differ)}; give the"
                " same options, or another --out"
            )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder against every other sweep; what killed ones left half written is removed.

        Raises:
            OutputError: it cannot be written, or another sweep is at work there.
        """
        with claimed(self.path, "--out"):
            for part in ("runs", "starts"):
                remove_left_overs(self.path / part)
            yield

    def base(self) -> Config:
        """What the runs share, as the folder has it.

        Raises:
            MissingDataError: no sweep there.
            CheckpointError: a head of another format, or a damaged one.
        """
        head = self.path / HEAD
        if not head.is_file():
            raise MissingDataError(f"no sweep at {self.path}; name the folder that holds {HEAD}")
        content = _read_json(head)
        if content.get("format") != FORMAT or not isinstance(content.get("base"), dict):
            raise CheckpointError(
                f"{head} has format {content.get('format')!r}, this version reads {FORMAT}; give"
                " another --out"
            )
        try:
            return Config.read(content["base"], str(head))
        except InvalidValueError as problem:
            raise CheckpointError(
                f"{problem}; use the snnsim that wrote it, or give another --out"
            ) from problem

    def rows(self) -> list[dict[str, Any]]:
        """Every finished run."""
        return [self._row(path) for path in sorted((self.path / "runs").glob("*.json"))]

    def has(self, config: Config) -> bool:
        """Whether the run of this configuration is finished."""
        path = self._run_path(config)
        return path.is_file() and self._row(path)["config"] == dataclasses.asdict(config)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a finished run."""
        _write_json(self.path / "runs" / f"{row['config_hash']}.json", row)

    def start(self, config: Config) -> dict[str, Any] | None:
        """The checkpoint of a float start, if there is one."""
        path = self._start_path(config)
        return load_checkpoint(path) if path.is_file() else None

    def add_start(self, config: Config, checkpoint: dict[str, Any]) -> None:
        """Keep a float start."""
        save_checkpoint(checkpoint, self._start_path(config), "Store.add_start")

    def _run_path(self, config: Config) -> Path:
        return self.path / "runs" / f"{config_hash(config)}.json"

    def _start_path(self, config: Config) -> Path:
        return self.path / "starts" / f"{config_hash(config)}.pt"

    def _row(self, path: Path) -> dict[str, Any]:
        row, remedy = (
            _read_json(path),
            "delete it and start the sweep again, which makes the run anew",
        )
        if not {"config", "accuracy"} <= set(row) or row.get("config_hash") != path.stem:
            raise DataError(f"{path} is not a run of a sweep; {remedy}")
        try:
            return sound_row(row, str(path), ("accuracy",))
        except DataError as problem:
            raise DataError(f"{problem}; {remedy}") from problem


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1) + "\n"
    write_whole(path, lambda file: file.write(text.encode()), "snnsim sweep", durable=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        raise DataError(
            f"{path} is damaged ({problem}); delete it and start the sweep again, which makes it"
            " anew"
        ) from problem
    if not isinstance(content, dict):
        raise DataError(
            f"{path} is damaged (it holds no object); delete it and start the sweep again, which"
            " makes it anew"
        )
    return content
