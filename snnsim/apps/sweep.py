"""What a sweep consists of: its grid of configurations, and the folder with one file per finished
run, so that whatever kills the sweep costs only the runs in flight. Nothing here needs torch before
it is used.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from snnsim._core.files import claimed, is_left_over, remove_left_overs, write_whole
from snnsim._core.scalars import check_int
from snnsim._version import __version__
from snnsim.apps.config import CODEBOOKS, Config, config_hash
from snnsim.errors import (
    CheckpointError,
    DataError,
    InvalidValueError,
    MissingDataError,
    OutputError,
    refuse,
)

# what a Plan lists, and the option of a Config that each entry is
GRID = {"weight_bits": "weight_bits", "codebooks": "codebook", "state_bits": "bits"}
# options that differ within a sweep
AXES = (*GRID.values(), "seed")
BACKENDS = ("loky", "dask")
# more runs than anyone waits for; a typing error beyond it would only be listed for hours
MOST_SEEDS = 10_000
FORMAT = 1
HEAD = "sweep.json"
SHARES, COUNTS = ("accuracy", "firing_rate"), ("state_bytes", "weight_bytes", "threads")


@dataclass(frozen=True)
class Plan:
    """A grid of configurations: every codebook at every width of states and weights, with every
    seed.

    Args:
        base: what all runs share; its bits, weight_bits, codebook and seed are not used.
        state_bits, weight_bits: widths; None is float32.
        codebooks: keys of `training.CODEBOOKS`. With float states they all are the same run, which
            is made once.
        seeds: how many, 0 and up.
    """

    base: Config = field(default_factory=Config)
    state_bits: tuple[int | None, ...] = (1, 2, 3, 4, 8, None)
    weight_bits: tuple[int | None, ...] = (None,)
    codebooks: tuple[str, ...] = ("uniform",)
    seeds: int = 3

    def __post_init__(self) -> None:
        check_int("Plan", "seeds", self.seeds, at_least=1, at_most=MOST_SEEDS)
        for name in GRID:
            if not getattr(self, name):
                refuse("Plan", name, (), "there is nothing to sweep", "give at least one")
        for name in self.codebooks:
            if name not in CODEBOOKS:
                raise InvalidValueError(
                    f"Plan(codebooks with {name!r}): must be among {', '.join(CODEBOOKS)}"
                )

    def configs(self) -> list[Config]:
        """All runs, a whole grid for one seed after the other, so that a sweep that is cut short is
        the same grid with fewer seeds.

        Raises:
            InvalidValueError: what no Config allows.
        """
        found: dict[Config, None] = {}
        axes = (range(self.seeds), *(getattr(self, name) for name in GRID))
        for seed, weight_bits, codebook, bits in itertools.product(*axes):
            name = "uniform" if bits is None else codebook
            config = replace(self.base, bits=bits, codebook=name)
            found[replace(config, weight_bits=weight_bits, seed=seed)] = None
        return list(found)

    def refused(self) -> dict[tuple[str, int], str]:
        """Codebooks and widths that the neurons of this network do not work on, and why.

        Raises:
            InvalidValueError: a network that cannot be built even with float states.
        """
        from snnsim.apps.networks import build_network

        plain = replace(self.base, bits=None, weight_bits=None, codebook="uniform")
        build_network(plain)
        reasons = {}
        for codebook, bits in itertools.product(self.codebooks, self.state_bits):
            if bits is None:
                continue
            try:
                with warnings.catch_warnings():
                    # a recipe may be poor; the sweep is there to show it
                    warnings.simplefilter("ignore", UserWarning)
                    build_network(replace(plain, bits=bits, codebook=codebook))
            except InvalidValueError as problem:
                reasons[codebook, bits] = str(problem)
        return reasons


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
        elif differ := base.differences(self.base(), besides=AXES):
            raise CheckpointError(
                f"{self.path} is the sweep of another configuration: {differ}; give the same"
                " options, or another --out"
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
        remedy = "use the snnsim that wrote it, or give another --out"
        return Config.read(content["base"], str(head), remedy, CheckpointError)

    def rows(self) -> list[dict[str, Any]]:
        """Every finished run."""
        return [_read_row(path) for path in sorted((self.path / "runs").glob("*.json"))]

    def has(self, config: Config) -> bool:
        """Whether the run of this configuration is finished."""
        path = self._path_of("runs", config, "json")
        return path.is_file() and _read_row(path)["config"] == dataclasses.asdict(config)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a finished run."""
        _write_json(self.path / "runs" / f"{row['config_hash']}.json", row)

    def start(self, config: Config) -> dict[str, Any] | None:
        """The checkpoint of a float start, if there is one."""
        from snnsim.apps.checkpoints import load_checkpoint

        path = self._path_of("starts", config, "pt")
        return load_checkpoint(path) if path.is_file() else None

    def add_start(self, config: Config, checkpoint: dict[str, Any]) -> None:
        """Keep a float start."""
        from snnsim.apps.checkpoints import save_checkpoint

        save_checkpoint(checkpoint, self._path_of("starts", config, "pt"), "Store.add_start")

    def _path_of(self, part: str, config: Config, ending: str) -> Path:
        return self.path / part / f"{config_hash(config)}.{ending}"


def sound_row(row: object, where: str, needed: tuple[str, ...]) -> dict[str, Any]:
    """A run as it was kept, with the options that came later at their defaults.

    Args:
        row: from a file or a caller.
        where: it is from, opens the message.
        needed: what it must have besides its configuration.

    Raises:
        DataError: something lacks or cannot be.
    """
    if (
        not isinstance(row, Mapping)
        or not isinstance(row.get("config"), Mapping)
        or not set(needed) <= set(row)
    ):
        raise DataError(
            f"{where} is not a run of a sweep, which has {', '.join(('config', *needed))}"
        )
    config = Config.read(row["config"], where, f"use snnsim {row.get('snnsim')}", DataError)
    for name in ("loss", *SHARES, *COUNTS):
        value, kinds = row.get(name, 0), int if name in COUNTS else (int, float)
        most = 1 if name in SHARES else math.inf
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value <= most:
            raise DataError(f"{where} is not a run of a sweep: its {name} is {value!r:.100}")
    return {**row, "config": dataclasses.asdict(config)}


def _read_row(path: Path) -> dict[str, Any]:
    row, remedy = _read_json(path), "delete it and start the sweep again, which makes the run anew"
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
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as problem:
        raise DataError(
            f"{path} is damaged ({problem}); delete it and start the sweep again, which makes it"
            " anew"
        ) from problem
    return content
