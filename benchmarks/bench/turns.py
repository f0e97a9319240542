"""Timing in turns: A B C, B C A, C A B, so that what disturbs the machine for a while disturbs
everyone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

__all__ = ["SHORTEST_SAMPLE", "clock_of", "take_turns"]

Clock = Callable[[], float]
Key = TypeVar("Key", bound=Hashable)

# seconds; shorter work is repeated until a sample is about this long
SHORTEST_SAMPLE = 0.02
# seconds; work that takes longer than this is not run once untimed before it is timed
LONG = 0.05
MOST_REPEATS = 1000


def clock_of(threads: int) -> Clock:
    """Seconds of the processor for one thread, which other processes disturb least; of the wall for
    several.
    """
    return time.process_time if threads == 1 else time.perf_counter


def take_turns(
    works: Mapping[Key, Callable[[], object]], rounds: int, clock: Clock
) -> dict[Key, tuple[float, ...]]:
    """Milliseconds of each piece of work in each round; a round before the first warms up and is
    not counted.

    Args:
        works: what to run, by name; every round begins with the next one.
        rounds: samples of each, at least 1.
        clock: seconds.
    """
    keys = list(works)
    samples: dict[Key, list[float]] = {key: [] for key in keys}
    for turn in range(rounds + 1):
        start = turn % max(1, len(keys))
        for key in keys[start:] + keys[:start]:
            samples[key].append(_sample(works[key], clock) * 1e3)
    return {key: tuple(values[1:]) for key, values in samples.items()}


def _sample(work: Callable[[], object], clock: Clock) -> float:
    began = clock()
    work()
    took = clock() - began
    if took > LONG:
        return took
    # once untimed, so that everyone finds in the cache what fits there
    repeats = max(1, min(MOST_REPEATS, int(SHORTEST_SAMPLE / max(took, 1e-9))))
    began = clock()
    for _ in range(repeats):
        work()
    return (clock() - began) / repeats
