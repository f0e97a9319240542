"""`snnsim doctor`: versions, devices, and which engine runs and why."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import statistics
import time

import torch

from snnsim import neurons, quant
from snnsim._core.restore import restoring
from snnsim._version import __version__
from snnsim.errors import EngineError
from snnsim.kernels.cpu import engine as cpu
from snnsim.kernels.launch import engines

# how much faster a product must be to be worth a word
WORTH = 1.15

PACKAGES = ("torch", "numpy", "numba", "triton", "matplotlib", "scikit-learn")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to its parser."""
    parser.description = "Show versions, devices, and which engine runs and why."
    parser.add_argument(
        "--warm-up",
        action="store_true",
        help="compile the CPU kernels now, so that the first run need not",
    )


def run(options: argparse.Namespace) -> int:
    """Print the report; returns the exit status."""
    print(
        f"snnsim {__version__}, Python {platform.python_version()}, {platform.system()}"
        f" {platform.machine()}"
    )
    for package in PACKAGES:
        print(f"  {package:<13}{_version(package)}")
    print(f"threads        {torch.get_num_threads()}")
    print(f"devices        {', '.join(devices())}")
    print("engines, fastest first, for a layer of 4-bit LIF neurons:")
    for device in devices():
        for line in engine_lines(device.split()[0]):
            print(f"  {device:<13}{line}")
    print(f"products       {precision_line(*measure_precision())}")
    if options.warm_up:
        problem = cpu.unavailable()
        if problem is None:
            cpu.warm_up()
        print(
            "warm-up       "
            f" {'the CPU kernels are compiled and on disk' if problem is None else problem}"
        )
    return 0


def engine_lines(device: str) -> list[str]:
    """Each engine, and whether it can run a quantized layer on this device or why not; the first
    that can is taken.
    """
    node = neurons.LIFNode(state_quant=quant.uniform(4)).to(device)
    x_seq = torch.zeros(8, 16, 1000, device=device)
    kernel = node._plan(x_seq[0]).kernel
    if kernel is None:
        raise EngineError("a 4-bit LIF layer has no table; report this")
    lines, taken = [], False
    for engine in engines():
        reason = engine.why_not(x_seq, kernel)
        state = f"cannot run: {reason}" if reason else "can run" if taken else "runs"
        taken |= reason is None
        lines.append(f"{engine.name}: {state}")
    return lines


def measure_precision(rows: int = 512, rounds: int = 9) -> tuple[float, float, float]:
    """What `torch.set_float32_matmul_precision("medium")` does to `nn.Linear(784, 1000)` on the
    CPU; the setting is put back.

    Returns:
        How many times faster it is than "highest" (median of rounds in turn), and the largest
        errors of "highest" and of "medium", as a share of the largest result.
    """
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(rows, 784, generator=generator),
        torch.randn(1000, 784, generator=generator),
    )
    exact = x.double() @ weight.double().T
    before, kinds = torch.get_float32_matmul_precision(), ("highest", "medium")
    errors, ratios = [], []
    with restoring(lambda: torch.set_float32_matmul_precision(before)):
        for kind in kinds:
            torch.set_float32_matmul_precision(kind)
            errors.append(
                float(
                    (torch.nn.functional.linear(x, weight) - exact).abs().max() / exact.abs().max()
                )
            )
        for _ in range(rounds):
            times = []
            for kind in kinds:
                torch.set_float32_matmul_precision(kind)
                start = time.perf_counter()
                torch.nn.functional.linear(x, weight)
                times.append(time.perf_counter() - start)
            ratios.append(times[0] / times[1])
    return statistics.median(ratios), errors[0], errors[1]


def precision_line(ratio: float, error: float, error_medium: float) -> str:
    """Whether that setting helps here, in words."""
    setting = 'torch.set_float32_matmul_precision("medium")'
    if ratio < WORTH:
        return f"float32 on the CPU as fast as it gets: {setting} measured at {ratio:.2f}x"
    return (
        f"float32 on the CPU {ratio:.1f}x as fast with {setting}, relative error {error_medium:.0e}"
        f" instead of {error:.0e}"
    )


def devices() -> list[str]:
    """The devices torch can use, by name."""
    found = ["cpu"]
    found += [
        f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())
    ]
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
