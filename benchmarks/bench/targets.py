"""What is aimed at, and whether it is reached."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from bench import training
from bench.candidates import SNNTORCH, SPIKINGJELLY
from bench.environment import MEMORY
from bench.floor import FLOOR
from bench.neurons import BOTH
from bench.results import Results, Spread, ratio

__all__ = ["TARGETS", "PeakTarget", "RatioTarget", "SavedTarget", "Target", "Verdict", "judge"]


@dataclass(frozen=True)
class Target:
    """A number to stay below or to get above.

    Attributes:
        row: what it is about.
        name: the candidate of ours.
        required: that must be reached.
        goal: that would be better.
        at_most: whether the numbers are limits from above.
    """

    row: str
    name: str
    required: float
    goal: float
    at_most: bool

    def measure(self, results: Results) -> dict[str, Spread]:
        """What was measured, by handling of freed memory; empty if it was not."""
        raise NotImplementedError


@dataclass(frozen=True)
class RatioTarget(Target):
    """A time on one thread against another's: ours over theirs for a limit from above, theirs over
    ours else.

    Attributes:
        against: the other candidate.
        work, what: as in `Timing`.
    """

    against: str
    work: str
    what: str = BOTH

    def measure(self, results: Results) -> dict[str, Spread]:
        found = {}
        for memory in MEMORY:
            ours, other = (
                results.timing(self.work, self.what, name, 1, memory)
                for name in (self.name, self.against)
            )
            if ours is not None and other is not None:
                found[memory] = ratio(ours, other) if self.at_most else ratio(other, ours)
        return found


@dataclass(frozen=True)
class SavedTarget(Target):
    """Bytes kept for backward."""

    def measure(self, results: Results) -> dict[str, Spread]:
        return _alone(saved.bytes for saved in results.saved if saved.name == self.name)


@dataclass(frozen=True)
class PeakTarget(Target):
    """Peak memory beyond input, output and their gradients.

    Attributes:
        work: shape "TxN".
    """

    work: str

    def measure(self, results: Results) -> dict[str, Spread]:
        return _alone(
            peak.bytes for peak in results.peaks if (peak.name, peak.work) == (self.name, self.work)
        )


@dataclass(frozen=True)
class Verdict:
    """A target and what was measured.

    Attributes:
        target: what is aimed at.
        measured: by handling of freed memory; empty if it was not measured.
    """

    target: Target
    measured: dict[str, Spread]

    @property
    def worst(self) -> Spread | None:
        """The measurement that is judged: the less favourable one."""
        if not self.measured:
            return None
        pick = max if self.target.at_most else min
        return pick(self.measured.values(), key=lambda spread: spread.median)

    @property
    def outcome(self) -> str:
        """ "goal", "met", "missed" or "not measured"."""
        if self.worst is None:
            return "not measured"
        if self._reaches(self.target.goal):
            return "goal"
        return "met" if self._reaches(self.target.required) else "missed"

    def _reaches(self, limit: float) -> bool:
        value = self.worst
        if value is None:
            return False
        return value.median <= limit if self.target.at_most else value.median >= limit


def _alone(values: Iterable[float]) -> dict[str, Spread]:
    """The first of these, a number without a spread that no handling of memory changes."""
    return dict(itertools.islice((("", Spread(value, value, value)) for value in values), 1))


def judge(results: Results) -> list[Verdict]:
    """Every target with what was measured."""
    return [Verdict(target, target.measure(results)) for target in TARGETS]


LARGE, MIDDLE = "16x1000000", "100x10000"
_UNIFORM_4, _UNIFORM_8 = "snnsim uniform 4", "snnsim uniform 8"
_EXPONENTIAL, _FLOAT = "snnsim exponential 8", "snnsim float"
_QUANTIZED = f"{SNNTORCH} state_quant"


def _large() -> list[Target]:
    """Against the floor and float peers at the largest shape: required and goal, those of the
    exponential codebook apart.
    """
    rows = (
        (FLOOR, "the memory floor", True, (3.0, 2.0), (6.0, 4.0)),
        (SPIKINGJELLY, "SpikingJelly float", False, (4.0, 6.0), (2.0, 2.5)),
        (SNNTORCH, "snnTorch float", False, (8.0, 12.0), (4.0, 5.0)),
    )
    targets: list[Target] = []
    for against, words, at_most, usual, exponential in rows:
        for name in (_UNIFORM_4, _UNIFORM_8, _FLOAT, _EXPONENTIAL):
            required, goal = exponential if name == _EXPONENTIAL else usual
            row = f"[{LARGE}] {name.removeprefix('snnsim ')} against {words}"
            targets.append(RatioTarget(row, name, required, goal, at_most, against, LARGE))
    return targets


def _step(
    name: str,
    against: str,
    words: str,
    work: str,
    required: float,
    goal: float,
    at_most: bool = False,
) -> Target:
    return RatioTarget(
        f"{work}: against {words}", name, required, goal, at_most, against, work, training.STEP
    )


TARGETS: tuple[Target, ...] = (
    *_large(),
    RatioTarget(
        f"[{LARGE}] uniform 4 against snnTorch state_quant",
        _UNIFORM_4,
        50.0,
        90.0,
        False,
        f"{_QUANTIZED} 4",
        LARGE,
    ),
    RatioTarget(
        f"[{LARGE}] uniform 8 against snnTorch state_quant",
        _UNIFORM_8,
        250.0,
        800.0,
        False,
        f"{_QUANTIZED} 8",
        LARGE,
    ),
    RatioTarget(
        f"[{MIDDLE}] uniform 4 against SpikingJelly float",
        _UNIFORM_4,
        10.0,
        18.0,
        False,
        SPIKINGJELLY,
        MIDDLE,
    ),
    RatioTarget(
        f"[{MIDDLE}] uniform 4 against snnTorch float",
        _UNIFORM_4,
        20.0,
        40.0,
        False,
        SNNTORCH,
        MIDDLE,
    ),
    RatioTarget(
        f"[{MIDDLE}] uniform 4 against snnTorch state_quant",
        _UNIFORM_4,
        80.0,
        120.0,
        False,
        f"{_QUANTIZED} 4",
        MIDDLE,
    ),
    SavedTarget("bytes saved for backward, uniform 4", _UNIFORM_4, 1.0, 0.5, True),
    SavedTarget("bytes saved for backward, uniform 8", _UNIFORM_8, 1.0, 1.0, True),
    PeakTarget(
        f"[{LARGE}] peak bytes beyond input, output, gradients, uniform 4",
        _UNIFORM_4,
        2.0,
        1.2,
        True,
        LARGE,
    ),
    *(
        target
        for network in training.DENSE
        for target in (
            _step(
                training.OWN,
                training.IDENTITY,
                "nodes that are the identity",
                network.name,
                1.05,
                1.02,
                True,
            ),
            _step(training.OWN, training.SNNTORCH_4, "snnTorch 4 bits", network.name, 3.0, 3.2),
            _step(
                training.SPARSE,
                SPIKINGJELLY,
                "SpikingJelly float, with SpikeLinear",
                network.name,
                2.0,
                3.0,
            ),
        )
    ),
    _step(
        training.OWN, training.SNNTORCH_4, "snnTorch 4 bits", training.CONVOLUTIONAL.name, 8.0, 12.0
    ),
    _step(training.OWN, SPIKINGJELLY, "SpikingJelly float", training.CONVOLUTIONAL.name, 1.4, 1.7),
)
