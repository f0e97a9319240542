"""Times of one layer of neurons over a sequence, every candidate in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.candidates import Candidate, build
from bench.equality import check_peers
from bench.floor import FLOOR, Floor
from bench.results import Results, Timing
from bench.turns import clock_of, take_turns

__all__ = ["BOTH", "FORWARD", "measure_neurons", "neuron_input", "shape_name"]

FORWARD, BOTH = "forward", "forward+backward"


def shape_name(shape: tuple[int, int]) -> str:
    """The name of a shape [T, N] among the results."""
    return f"{shape[0]}x{shape[1]}"


def neuron_input(shape: tuple[int, int]) -> Tensor:
    """Input currents from N(0.4, 0.6), without a copy on the way."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul_(0.6).add_(0.4)


def measure_neurons(
    names: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    threads: Sequence[int],
    rounds: int,
    memory: str,
) -> Results:
    """Forward, and forward with backward, of the candidates on each shape, with each number of
    threads; the floor beside them.

    Args:
        names: of candidates.
        shapes: [T, N].
        threads: numbers of torch threads.
        rounds: samples of each.
        memory: what this process does with freed memory, to be noted.
    """
    results = Results()
    for shape in shapes:
        # each shape its own: torch.compile specialises on it
        candidates, missing = build(names)
        results.missing |= missing
        check_peers(candidates)
        for count in threads:
            torch.set_num_threads(count)
            results.timings += _measure(candidates, shape, count, rounds, memory)
    return results


def _measure(
    candidates: list[Candidate], shape: tuple[int, int], threads: int, rounds: int, memory: str
) -> list[Timing]:
    x = neuron_input(shape)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    floor = Floor(x, threads)
    works: dict[tuple[str, str], Callable[[], object]] = {
        (FLOOR, FORWARD): floor.forward,
        (FLOOR, BOTH): floor.both,
    }
    shares = {FLOOR: 1.0}
    for candidate in candidates:
        neurons = candidate.neurons(shape)
        shares[candidate.name] = neurons / shape[1]
        value, incoming = (t[:, :neurons].contiguous() for t in (x, grad))
        works[candidate.name, FORWARD] = _forward(candidate, value)
        works[candidate.name, BOTH] = _both(candidate, value, incoming)
    timings = []
    for (name, what), samples in take_turns(works, rounds, clock_of(threads)).items():
        whole = tuple(sample / shares[name] for sample in samples)
        timings.append(Timing(shape_name(shape), what, name, threads, memory, whole, shares[name]))
    return timings


def _forward(candidate: Candidate, x: Tensor) -> Callable[[], object]:
    def work() -> None:
        with torch.no_grad():
            candidate.run(x)

    return work


def _both(candidate: Candidate, x: Tensor, grad: Tensor) -> Callable[[], object]:
    leaf = x.detach().requires_grad_()

    def work() -> None:
        torch.autograd.grad(candidate.run(leaf), leaf, grad)

    return work
