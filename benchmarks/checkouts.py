"""Two checkouts against each other: process CPU time of calls, one thread, in turns.

    python benchmarks/checkouts.py BEFORE AFTER [--turns 11] [--only neuron]

Each turn is a process of its own in each checkout; what is shown are medians of its medians, and
their ratio. More than 1 is slower.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

SECONDS = 0.12


def cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """Name and call of everything that is timed, by public names only."""
    import torch
    from torch import nn

    from snnsim import MultiStep, SingleStep, layers, neurons, quant, surrogate
    from snnsim.deploy import lower, to_grid

    nodes = {
        "4 bits": lambda: neurons.LIFNode(state_quant=quant.uniform(4)),
        "8 bits exponential": lambda: neurons.LIFNode(state_quant=quant.exponential(8)),
        "float": lambda: neurons.LIFNode(),
        "learned": lambda: neurons.LIFNode(state_quant=quant.LearnedUniform(4)),
        "parametric": lambda: neurons.ParametricLIFNode(state_quant=quant.uniform(4)),
        "synaptic": lambda: neurons.SynapticNode(0.6, 0.8, state_quant=quant.uniform(4)),
    }
    for name, make in nodes.items():
        for shape in ((8, 5, 32), (10, 128, 1000)):
            run = MultiStep(make())
            x_seq = torch.rand(shape)
            leaf = torch.rand(shape, requires_grad=True)
            size = "x".join(map(str, shape))
            yield (
                f"neuron {name}, {size}, forward and backward",
                lambda run=run, leaf=leaf: run(leaf).sum().backward(),
            )
            silent = MultiStep(make()).eval()
            yield (f"neuron {name}, {size}, eval", lambda run=silent, x=x_seq: run(x))
    large = MultiStep(nodes["4 bits"]()).eval()
    x_large = torch.rand(16, 1, 1_000_000)
    yield "neuron 4 bits, 16x1x1000000, eval", lambda: large(x_large)
    sigmoid = MultiStep(neurons.LIFNode(surrogate=surrogate.Sigmoid(4.0)))
    x_leaf = torch.rand(10, 32, 1000, requires_grad=True)
    yield "neuron sigmoid, 10x32x1000", lambda: sigmoid(x_leaf).sum().backward()

    mlp = nn.Sequential(nn.Linear(64, 32), nodes["4 bits"](), nn.Linear(32, 10), nodes["4 bits"]())
    x_seq = torch.rand(8, 5, 64)
    multi, single = MultiStep(mlp), SingleStep(mlp)
    yield "network small, MultiStep", lambda: multi(x_seq).sum().backward()
    yield "network small, SingleStep", lambda: single(x_seq).sum().backward()
    conv = nn.Sequential(
        quant.QuantConv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nodes["4 bits"](), layers.Delay(1)
    )
    frames = (torch.rand(6, 4, 2, 16, 16) < 0.2).float()
    whole = MultiStep(conv)
    yield "network convolution, MultiStep", lambda: whole(frames).sum().backward()
    sparse = MultiStep(nn.Sequential(layers.SpikeLinear(784, 256), nodes["4 bits"]())).eval()
    spikes = (torch.rand(10, 16, 784) < 0.05).float()
    yield "network SpikeLinear, eval", lambda: sparse(spikes)

    torch.manual_seed(0)
    dense = nn.Sequential(
        quant.QuantLinear(64, 32), nodes["4 bits"](), quant.QuantLinear(32, 10), nodes["4 bits"]()
    ).eval()
    to_grid(dense, 14)
    integer = lower(MultiStep(dense))
    counts = (torch.rand(10, 16, 64) < 0.3).int()
    yield "integers, run", lambda: integer(counts)
    yield "integers, lower", lambda: lower(MultiStep(dense))


def measure(only: str) -> dict[str, float]:
    """Median seconds of process CPU time of one call, by name."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    found = {}
    with torch.set_grad_enabled(True):
        for name, call in cases():
            if only not in name:
                continue
            for _ in range(3):
                call()
            times, end = [], time.process_time() + SECONDS
            while time.process_time() < end or len(times) < 5:
                start = time.process_time()
                call()
                times.append(time.process_time() - start)
            found[name] = statistics.median(times)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", nargs="*", type=Path, help="before and after")
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--only", default="", help="part of the names of what is timed")
    options = parser.parse_args()
    if not options.checkouts:
        print(json.dumps(measure(options.only)))
        return 0
    found: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    for turn in range(options.turns):
        sides = list(zip(found, options.checkouts, strict=True))
        for side, checkout in sides if turn % 2 else reversed(sides):
            environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
            environment |= dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
            command = [sys.executable, str(Path(__file__).resolve()), "--only", options.only]
            done = subprocess.run(
                command, env=environment, cwd=checkout, check=True, stdout=subprocess.PIPE
            )
            found[side].append(json.loads(done.stdout))
    print(f"{'':56}{'before':>10}{'after':>10}{'ratio':>8}")
    for name in found["before"][0]:
        before, after = (statistics.median(turn[name] for turn in found[s]) for s in found)
        print(f"{name:56}{before * 1e3:8.3f}ms{after * 1e3:8.3f}ms{after / before:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
