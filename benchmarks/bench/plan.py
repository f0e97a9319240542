"""What a run of the benchmark consists of, and running it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench import training
from bench.candidates import (
    COMPILED,
    FLOAT,
    LOOP,
    NAMES,
    OWN,
    SNNTORCH,
    SNNTORCH_QUANT,
    SPIKINGJELLY,
)
from bench.child import Job, run_in_child
from bench.environment import MEMORY, describe, missing_peers, why_not_kept
from bench.equality import check_engines
from bench.memory import why_no_peak
from bench.neurons import shape_name
from bench.options import PARTS
from bench.results import Results

__all__ = ["Plan", "full_plan", "quick_plan", "run_plan"]

LARGE = (16, 1_000_000)
SHAPES = (LARGE, (100, 10_000), (8, 12_800), (1, 1000))
PEAKS = (
    *(f"snnsim {c}" for c in ("uniform 4", "uniform 8", "exponential 8", FLOAT)),
    LOOP,
    SNNTORCH,
    SPIKINGJELLY,
)
# which would need 24 GB at 8 bits
PEAKS_QUANTIZED = tuple(name for name, bits in SNNTORCH_QUANT.items() if bits == 4)
# what is kept for backward does not depend on the size
SAVED_SHAPE = (16, 2000)
# a training step is long: its samples vary less
MOST_TRAINING_ROUNDS = 5


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        names: candidates.
        shapes: [T, N] of the layers of neurons.
        peak_shape: [T, N] at which peak memory is measured.
        peaks: candidates whose peak memory is measured.
        networks: training steps.
        threads: numbers of torch threads.
        rounds: samples of each.
        parts: of PARTS, those to do.
        memory: what processes do with freed memory, keys of `environment.MEMORY`.
        together: all shapes in one process, which saves starting more.
    """

    names: tuple[str, ...] = NAMES
    shapes: tuple[tuple[int, int], ...] = SHAPES
    peak_shape: tuple[int, int] = LARGE
    peaks: tuple[str, ...] = (*PEAKS, *PEAKS_QUANTIZED)
    networks: tuple[training.Network, ...] = (*training.DENSE, training.CONVOLUTIONAL)
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 7
    parts: tuple[str, ...] = PARTS
    memory: tuple[str, ...] = tuple(MEMORY)
    together: bool = False

    def jobs(self) -> Iterator[Job]:
        """The measurements, in order."""
        modes = [memory for memory in self.memory if memory != "retained" or why_not_kept() is None]
        if "neurons" in self.parts:
            groups = [self.shapes] if self.together else [(shape,) for shape in self.shapes]
            for shapes in groups:
                for memory in modes:
                    yield self._neurons(shapes, memory)
        if "memory" in self.parts:
            arguments = {"names": list(self.names), "shape": list(SAVED_SHAPE)}
            yield Job("saved", "returned", arguments, "bytes saved for backward")
            if why_no_peak() is None:
                for name in self.peaks:
                    if name in self.names:
                        arguments = {"name": name, "shape": list(self.peak_shape)}
                        yield Job(
                            "peak",
                            "returned",
                            arguments,
                            f"peak memory of {name} at {shape_name(self.peak_shape)}",
                        )
        if "training" in self.parts:
            for network in self.networks:
                for memory in modes:
                    rounds = min(self.rounds, MOST_TRAINING_ROUNDS)
                    arguments = {
                        "name": network.name,
                        "threads": list(self.threads),
                        "rounds": rounds,
                    }
                    yield Job(
                        "training",
                        memory,
                        arguments,
                        f"training step {network.name}, memory {memory}",
                    )

    def _neurons(self, shapes: Sequence[tuple[int, int]], memory: str) -> Job:
        arguments = {
            "names": list(self.names),
            "shapes": [list(shape) for shape in shapes],
            "threads": list(self.threads),
            "rounds": self.rounds,
        }
        return Job(
            "neurons",
            memory,
            arguments,
            f"neurons {', '.join(map(shape_name, shapes))}, memory {memory}",
        )


def full_plan() -> Plan:
    """Everything that the targets ask for."""
    return Plan()


def quick_plan() -> Plan:
    """Small shapes and few rounds: shows that everything runs, not how fast."""
    return Plan(
        names=tuple(name for name in NAMES if name != COMPILED),
        shapes=((8, 2000), (1, 1000)),
        peak_shape=(16, 50_000),
        peaks=("snnsim uniform 4",),
        networks=(training.QUICK,),
        threads=(1,),
        rounds=3,
        memory=("returned",),
        together=True,
    )


def run_plan(
    plan: Plan, say: Callable[[str], None], keep: Callable[[Results], object] = lambda results: None
) -> Results:
    """Check that the engines agree, then measure; tells `say` what it is at, and hands `keep` what
    there is after each measurement.

    Raises:
        ContractError: what is to be timed gives different results; nothing was timed.
        EngineError: the fused engine cannot run here.
        RunError: a measurement failed.
    """
    unknown = {"peak memory": why_no_peak(), "memory retained": why_not_kept()}
    missing = missing_peers() | {what: why for what, why in unknown.items() if why is not None}
    results = Results(environment=describe() | {"rounds": str(plan.rounds)}, missing=missing)
    for name, value in results.environment.items():
        say(f"{name:<16}{value}")
    for name, reason in results.missing.items():
        say(f"without {name}: {reason}")
    checked = check_engines(name for name in plan.names if name in OWN)
    say(f"{checked} candidates agree with the reference bit for bit, spikes and gradients")
    jobs = list(plan.jobs())
    for number, job in enumerate(jobs, 1):
        began = time.perf_counter()
        results.add(run_in_child(job))
        say(f"[{number}/{len(jobs)}] {job.label}: {time.perf_counter() - began:.0f} s")
        keep(results)
    return results
