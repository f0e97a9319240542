"""Where the time of one call goes: Python before, between and after the two kernels of forward and
backward, and the kernels.

    python benchmarks/calls.py [--shapes 1x1000 100x10000] [--rounds 300]

Microseconds on one thread, medians, of a layer of leaky neurons with 4-bit states. What is left of
a call when the kernels are taken out hardly depends on the shape, but it takes longer where the
kernels have just filled the caches.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence

import torch

from bench.candidates import build
from bench.neurons import neuron_input
from snnsim.kernels.cpu import host

PARTS = ("before", "forward kernel", "between", "backward kernel", "after")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument(
        "--shapes",
        nargs="+",
        default=["1x1000", "8x12800", "100x10000", "16x1000000"],
        metavar="TxN",
    )
    options.add_argument("--rounds", type=int, default=200)
    chosen = options.parse_args(arguments)
    torch.set_num_threads(1)
    (candidate,), _ = build(["snnsim uniform 4"])
    marks = _mark_kernels()
    print("| shape | " + " | ".join(PARTS) + " | all |")
    print("|---|" + "---:|" * (len(PARTS) + 1))
    for shape in chosen.shapes:
        time_steps, neurons = map(int, shape.split("x"))
        x, grad = (
            neuron_input((time_steps, neurons)).requires_grad_(),
            torch.randn(time_steps, neurons),
        )

        def call(x: torch.Tensor = x, grad: torch.Tensor = grad) -> list[float]:
            marks.clear()
            marks.append(time.perf_counter())
            torch.autograd.grad(candidate.run(x), x, grad)
            marks.append(time.perf_counter())
            return [later - earlier for earlier, later in itertools.pairwise(marks)]

        for _ in range(5):
            call()
        parts = [
            statistics.median(part) * 1e6
            for part in zip(*(call() for _ in range(chosen.rounds)), strict=True)
        ]
        print(f"| {shape} | " + " | ".join(f"{part:.0f}" for part in (*parts, sum(parts))) + " |")


def _mark_kernels() -> list[float]:
    """Note the time before and after every kernel from now on, in the list that is returned."""
    marks: list[float] = []
    run = host.run

    def marked(*args: object) -> None:
        marks.append(time.perf_counter())
        run(*args)  # type: ignore[arg-type]
        marks.append(time.perf_counter())

    host.run = marked  # type: ignore[assignment]
    return marks


if __name__ == "__main__":
    main()
