"""What a benchmark found, as numbers: kept whole, so that every ratio can be taken again from the
file.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from snnsim._core.files import write_whole
from snnsim.errors import DataError, InvalidValueError, MissingDataError

__all__ = ["FORMAT", "Peak", "Results", "Saved", "Spread", "Timing", "ratio", "spread"]

# of the file; counts up when an older reader could not read a newer one
FORMAT = 1


@dataclass(frozen=True)
class Spread:
    """A median over rounds, with the quartiles on both sides of it."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one value.

    Raises:
        InvalidValueError: no value.
    """
    if not values:
        raise InvalidValueError("spread([]): needs at least one value")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


@dataclass(frozen=True)
class Timing:
    """Times of one candidate at one piece of work.

    Attributes:
        work: shape "TxN", or the name of a training step.
        what: "forward", "forward+backward" or "training step".
        name: the candidate.
        threads: of torch. With one, times are of the processor; with more, of the clock on the
            wall.
        memory: what happens to freed memory, a key of `environment.MEMORY`.
        samples: milliseconds, one for each round, for the whole shape.
        share: of the neurons that was timed; the times are scaled up from it.
    """

    work: str
    what: str
    name: str
    threads: int
    memory: str
    samples: tuple[float, ...]
    share: float = 1.0

    @property
    def milliseconds(self) -> float:
        """Median over rounds."""
        return statistics.median(self.samples)


def ratio(numerator: Timing, denominator: Timing) -> Spread:
    """How many times longer one candidate takes than another, taken round by round: what disturbs a
    round disturbs both.

    Raises:
        InvalidValueError: timings of different rounds.
    """
    if len(numerator.samples) != len(denominator.samples):
        raise InvalidValueError(
            f"ratio({numerator.name!r}, {denominator.name!r}): {len(numerator.samples)} and"
            f" {len(denominator.samples)} rounds; only timings that took turns can be compared"
        )
    return spread([a / b for a, b in zip(numerator.samples, denominator.samples, strict=True)])


@dataclass(frozen=True)
class Saved:
    """Bytes that a candidate keeps for the backward pass, per neuron and step, its input not
    counted.
    """

    name: str
    bytes: float


@dataclass(frozen=True)
class Peak:
    """Peak memory of forward and backward beyond input, output and their gradients, in bytes per
    neuron and step.
    """

    work: str
    name: str
    bytes: float


@dataclass
class Results:
    """Everything one run of the benchmark found.

    Attributes:
        environment: what the numbers depend on, in words.
        timings, saved, peaks: the numbers.
        firing: share of ones at the places of each training step that are of interest.
        missing: what was left out and why, by name.
    """

    environment: dict[str, str] = field(default_factory=dict)
    timings: list[Timing] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    peaks: list[Peak] = field(default_factory=list)
    firing: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, other: Results) -> None:
        """Take over what another run found; the environment stays."""
        self.timings += other.timings
        self.saved += other.saved
        self.peaks += other.peaks
        self.firing |= other.firing
        self.missing |= other.missing

    def timing(self, work: str, what: str, name: str, threads: int, memory: str) -> Timing | None:
        """The timing of these, None if it was not measured."""
        wanted = (work, what, name, threads, memory)
        return next(
            (t for t in self.timings if (t.work, t.what, t.name, t.threads, t.memory) == wanted),
            None,
        )

    def to_json(self) -> str:
        """As text, for `from_json`."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Results:
        """What `to_json` wrote.

        Raises:
            DataError: it is something else.
        """
        try:
            document: dict[str, Any] = json.loads(text)
            if document.pop("format") != FORMAT:
                raise DataError(
                    f"results of another version of this benchmark, not of format {FORMAT}; measure"
                    " again"
                )
            document["timings"] = [
                Timing(**t | {"samples": tuple(t["samples"])}) for t in document["timings"]
            ]
            document["saved"] = [Saved(**saved) for saved in document["saved"]]
            document["peaks"] = [Peak(**peak) for peak in document["peaks"]]
            return cls(**document)
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            if isinstance(problem, DataError):
                raise
            raise DataError(
                f"not the results of a benchmark ({problem}); pass a benchmarks.json that `snnsim"
                " bench` wrote"
            ) from problem

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to a file, whole or not at all."""
        write_whole(path, lambda file: file.write(self.to_json().encode()), "Results.save")
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Results:
        """Read what `save` wrote.

        Raises:
            MissingDataError: there is no such file.
            DataError: it holds something else.
        """
        path = Path(path)
        if not path.is_file():
            raise MissingDataError(
                f"{path}: no such file; `snnsim bench --out DIR` writes DIR/benchmarks.json"
            )
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (DataError, UnicodeDecodeError) as problem:
            raise DataError(f"{path}: {problem}") from problem
