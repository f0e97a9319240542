"""Where SpikeLinear and SpikeConv2d pay: their time against nn.Linear and nn.Conv2d by density of
spikes, and the crossovers.

    python benchmarks/spike_linear.py [--layer linear|conv] [--threads 1] [--rounds 15]
        [--dense highest|medium|autocast|float64] [--channels-last] [--retain-memory] [--out
        FILE.json]

Both layers run in turn, A B A B, on the same input; a ratio is the median over rounds of dense time
/ sparse time, with its quartiles. `forward` is without grad; `training` is forward and backward to
weight and bias, as in a first layer; `hidden` is backward to the input too, a dense product in
both. With one thread, time is that of the processor. Results are checked before they are timed.
With --retain-memory freed memory stays mapped: the output of a convolution is large, and without it
a good part of its time goes to fresh memory, which the sparse layer takes from the output pool.
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

from bench.environment import keep_freed_memory
from snnsim.layers import SpikeConv2d, SpikeLinear

# rows, inputs, outputs
LINEAR = [
    (2048, 784, 1000),
    (128, 784, 1000),
    (2048, 1000, 256),
    (2048, 256, 256),
    (64, 784, 1000),
    (2048, 128, 64),
]
# samples, channels, height and width, output channels, window, stride
CONV = [
    (256, 2, 34, 32, 3, 1),
    (64, 2, 34, 64, 5, 1),
    (32, 2, 128, 32, 3, 1),
    (256, 2, 34, 16, 5, 2),
    (64, 32, 17, 64, 3, 1),
]
SHAPES: dict[str, list[tuple[int, ...]]] = {"linear": [*LINEAR], "conv": [*CONV]}
DENSITIES = {
    "linear": (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4),
    "conv": (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2),
}
KINDS = ("forward", "training", "hidden")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layer", choices=tuple(SHAPES), default="linear")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--dense",
        choices=("highest", "medium", "autocast", "float64"),
        default="highest",
        help="the dense product",
    )
    parser.add_argument(
        "--channels-last", action="store_true", help="input and gradient of a convolution"
    )
    parser.add_argument("--retain-memory", action="store_true", help="keep freed memory mapped")
    parser.add_argument("--out", type=Path, help="write every ratio here as JSON")
    parser.add_argument("--shapes", type=int, help="how many of the shapes (default: all)")
    options = parser.parse_args()
    if options.retain_memory:
        keep_freed_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.dense == "medium":
        torch.set_float32_matmul_precision("medium")
    print(
        f"{platform.machine()}, torch {torch.__version__}, {options.threads} thread(s), dense"
        f" product: {options.dense}"
    )
    print(
        "times faster than the dense layer [quartiles]; crossover: density where both take the same"
        " time"
    )
    results, densities = [], DENSITIES[options.layer]
    for shape in SHAPES[options.layer][: options.shapes]:
        for kind in KINDS:
            ratios = []
            for density in densities:
                with (
                    torch.autocast("cpu", torch.bfloat16)
                    if options.dense == "autocast"
                    else contextlib.nullcontext()
                ):
                    ratios.append(measure(shape, density, kind, options))
                results.append(
                    {"shape": shape, "kind": kind, "density": density, "ratio": ratios[-1]}
                )
            cells = "  ".join(
                f"{d:.1%} {r[1]:.2f} [{r[0]:.2f} {r[2]:.2f}]"
                for d, r in zip(densities, ratios, strict=True)
            )
            print(
                f"{shape!s:24} {kind:9} crossover {crossover(densities, [r[1] for r in ratios]):6} "
                f" {cells}",
                flush=True,
            )
    if options.out:
        head = {name: value for name, value in vars(options).items() if name != "out"} | {
            "torch": torch.__version__
        }
        options.out.write_text(json.dumps({**head, "results": results}, indent=1))


def measure(
    shape: tuple[int, ...], density: float, kind: str, options: argparse.Namespace
) -> tuple[float, float, float]:
    """Dense time / sparse time: lower quartile, median, upper quartile."""
    dtype = torch.float64 if options.dense == "float64" else torch.float32
    dense, sparse, size = pair(shape, dtype)
    x = (torch.rand(size) < density).to(dtype)
    if options.channels_last and x.dim() == 4:
        x = x.to(memory_format=torch.channels_last)
    x.requires_grad_(kind == "hidden")
    y, expected = sparse(x).detach(), dense(x).detach()
    if not torch.allclose(y, expected, rtol=0, atol=2e-2 if y.dtype == torch.bfloat16 else 1e-4):
        raise SystemExit(f"{shape}: the two layers differ by {float((y - expected).abs().max())}")
    steps = [step(layer, x, torch.randn_like(y), kind) for layer in (dense, sparse)]
    clock = time.process_time if options.threads == 1 else time.perf_counter
    ratios = []
    for _ in range(options.rounds + 2):
        times = [timed(run, clock) for run in steps]
        ratios.append(times[0] / times[1])
    lower, middle, upper = statistics.quantiles(ratios[2:], n=4)
    return lower, middle, upper


def pair(
    shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[nn.Linear | nn.Conv2d, nn.Module, tuple[int, ...]]:
    """A dense layer, the sparse one with its parameters, and the size of the input."""
    if len(shape) == 3:
        rows, inputs, outputs = shape
        linear = nn.Linear(inputs, outputs, dtype=dtype)
        return linear, SpikeLinear.from_linear(linear, crossover=1.0), (rows, inputs)
    samples, channels, size, outputs, window, stride = shape
    conv = nn.Conv2d(channels, outputs, window, stride, window // 2, dtype=dtype)
    return conv, SpikeConv2d.from_conv(conv, crossover=1.0), (samples, channels, size, size)


def step(layer: nn.Module, x: Tensor, grad: Tensor, kind: str) -> Callable[[], None]:
    """One pass of a layer."""

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    def training() -> None:
        layer.zero_grad()
        x.grad = None
        layer(x).backward(grad)

    return forward if kind == "forward" else training


def timed(run: Callable[[], None], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def crossover(densities: tuple[float, ...], ratios: list[float]) -> str:
    """Density at which the ratio falls to 1, between two measured ones."""
    points = list(zip(densities, ratios, strict=True))
    if ratios[0] < 1:
        return f"<{densities[0]:.1%}"
    for (d0, r0), (d1, r1) in itertools.pairwise(points):
        if r1 < 1:
            return f"{d0 + (d1 - d0) * (r0 - 1) / (r0 - r1):.1%}"
    return f">{densities[-1]:.0%}"


if __name__ == "__main__":
    main()
