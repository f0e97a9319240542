"""Where SpikeLinear pays: its time against nn.Linear by density of spikes, and the crossover of each shape.

    python benchmarks/spike_linear.py [--threads 1] [--rounds 15] [--dense highest|medium|autocast|float64] [--out FILE.json]

Both layers run in turn, A B A B, on the same input; a ratio is the median over rounds of dense time / sparse time, with its
quartiles. `forward` is without grad; `training` is forward and backward to weight and bias, as in a first layer; `hidden` is
backward to the input too, a dense product in both. With one thread, time is that of the processor. Results are checked before
they are timed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from snnsim.layers import SpikeLinear

# rows, inputs, outputs
SHAPES = [(2048, 784, 1000), (128, 784, 1000), (2048, 1000, 256), (2048, 256, 256), (64, 784, 1000), (2048, 128, 64)]
DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
KINDS = ("forward", "training", "hidden")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--dense", choices=("highest", "medium", "autocast", "float64"), default="highest", help="the dense product"
    )
    parser.add_argument("--out", type=Path, help="write every ratio here as JSON")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="how many of the shapes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype = torch.float64 if options.dense == "float64" else torch.float32
    if options.dense == "medium":
        torch.set_float32_matmul_precision("medium")
    print(f"{platform.machine()}, torch {torch.__version__}, {options.threads} thread(s), dense product: {options.dense}")
    print("times faster than nn.Linear [quartiles]; crossover: density where both take the same time")
    results = []
    for shape in SHAPES[: options.shapes]:
        for kind in KINDS:
            ratios = []
            for density in DENSITIES:
                with torch.autocast("cpu", torch.bfloat16) if options.dense == "autocast" else contextlib.nullcontext():
                    ratios.append(measure(shape, density, kind, dtype, options.rounds, options.threads == 1))
                results.append({"shape": shape, "kind": kind, "density": density, "ratio": ratios[-1]})
            cells = "  ".join(f"{d:.0%} {r[1]:.2f} [{r[0]:.2f} {r[2]:.2f}]" for d, r in zip(DENSITIES, ratios, strict=True))
            print(f"{shape!s:18} {kind:9} crossover {crossover([r[1] for r in ratios]):6}  {cells}", flush=True)
    if options.out:
        head = {"threads": options.threads, "torch": torch.__version__, "dense": options.dense}
        options.out.write_text(json.dumps({**head, "results": results}, indent=1))


def measure(
    shape: tuple[int, int, int], density: float, kind: str, dtype: torch.dtype, rounds: int, serial: bool
) -> tuple[float, float, float]:
    """Dense time / sparse time: lower quartile, median, upper quartile."""
    rows, inputs, outputs = shape
    dense = nn.Linear(inputs, outputs, dtype=dtype)
    sparse = SpikeLinear.from_linear(dense, crossover=1.0)
    x = (torch.rand(rows, inputs) < density).to(dtype).requires_grad_(kind == "hidden")
    grad = torch.randn(rows, outputs, dtype=dtype)
    y, expected = sparse(x).detach(), dense(x).detach()
    if not torch.allclose(y, expected, rtol=0, atol=2e-2 if y.dtype == torch.bfloat16 else 1e-4):
        raise SystemExit(f"{shape}: the two layers differ by {float((y - expected).abs().max())}")
    steps = [step(layer, x, grad.to(y.dtype), kind) for layer in (dense, sparse)]
    clock = time.process_time if serial else time.perf_counter
    ratios = []
    for _ in range(rounds + 2):
        times = [timed(run, clock) for run in steps]
        ratios.append(times[0] / times[1])
    lower, middle, upper = statistics.quantiles(ratios[2:], n=4)
    return lower, middle, upper


def step(layer: nn.Linear, x: Tensor, grad: Tensor, kind: str) -> Callable[[], None]:
    """One pass of a layer."""

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    def training() -> None:
        layer.weight.grad = layer.bias.grad = x.grad = None
        layer(x).backward(grad)

    return forward if kind == "forward" else training


def timed(run: Callable[[], None], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def crossover(ratios: list[float]) -> str:
    """Density at which the ratio falls to 1, between two measured ones."""
    points = list(zip(DENSITIES, ratios, strict=True))
    if ratios[0] < 1:
        return f"<{DENSITIES[0]:.0%}"
    for (d0, r0), (d1, r1) in itertools.pairwise(points):
        if r1 < 1:
            return f"{d0 + (d1 - d0) * (r0 - 1) / (r0 - r1):.0%}"
    return f">{DENSITIES[-1]:.0%}"


if __name__ == "__main__":
    main()
