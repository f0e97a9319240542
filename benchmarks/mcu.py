"""What the generated C needs on a microcontroller: bytes, and instructions counted by an emulator.

    python benchmarks/mcu.py [--samples 10] [--optimize -O2]

784-128-10, T = 16, inputs of random spikes. Needs arm-none-eabi-gcc and qemu-system-arm (`make
test-mcu` says what is missing). Every output and every code is compared before anything is printed.
The columns:

- flash: code and constants; code: instructions of the network alone;
- RAM: state, stack, and the caller's input and output of one time step;
- instructions of one inference at 13 % density: the mean over the samples;
- instructions per synaptic event (one spike times one output that it reaches, in both layers): what
an inference at 25 %
  density takes more than one at 5 %, over the synaptic events it has more.

The counts are exact and the same on every machine; they depend on the compiler, which is named.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from snnsim import neurons, quant
from snnsim.deploy import IntegerNetwork, lower, to_grid
from snnsim.deploy.board import BOARDS, COMPILER, build, emulate, missing_tools, write_board
from snnsim.quant.codebook import Codebook
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.layers import QuantLinear

TIME_STEPS, INPUTS = 16, 784
DENSITY, LOW, HIGH = 0.13, 0.05, 0.25


@dataclass(frozen=True)
class Variant:
    """A network to measure: weights of so many bits, a codebook, and whether it goes through a
    grid.
    """

    weight_bits: int
    codebook: Callable[[], Codebook]
    on_grid: bool = True

    def network(self) -> IntegerNetwork:
        """The network, with weights at which about three in ten hidden neurons fire at each
        step."""
        torch.manual_seed(0)
        weights = QuantDescriptor(self.weight_bits, axis=0, narrow_range=True)
        layers = [
            QuantLinear(INPUTS, 128, weight_quant=weights),
            QuantLinear(128, 10, weight_quant=weights),
        ]
        with torch.no_grad():
            for layer in layers:
                layer.weight *= 20
        fire = [neurons.LIFNode(2.0, v_reset=None, state_quant=self.codebook()) for _ in layers]
        net = nn.Sequential(layers[0], fire[0], layers[1], fire[1])
        if self.on_grid:
            to_grid(net, 16)
        return lower(net)


VARIANTS = {
    "int8 weights, 4-bit states": Variant(8, lambda: quant.uniform(4)),
    "int8, 4-bit exponential": Variant(8, lambda: quant.exponential(4)),
    "int8, 8-bit": Variant(8, lambda: quant.uniform(8)),
    "int8, 4-bit, thresholds by bisection": Variant(8, lambda: quant.uniform(4), on_grid=False),
    "int8, 2-bit": Variant(8, lambda: quant.uniform(2)),
    "int4, 4-bit": Variant(4, lambda: quant.uniform(4)),
    "ternary, 4-bit": Variant(2, lambda: quant.uniform(4)),
}


@dataclass(frozen=True)
class Measured:
    """Figures of one network on one board; instructions are of one sample."""

    code_bytes: int
    constant_bytes: int
    ram_bytes: int
    instructions: float
    most_instructions: int
    per_synaptic_event: float
    hidden_rate: float


def measure(
    network: IntegerNetwork, board: str, samples: int = 10, optimize: str = "-O2"
) -> Measured:
    """Build a network for a board, check everything it computes there, and count."""
    counts, events, stack = {}, {}, 0
    with tempfile.TemporaryDirectory() as folder:
        source = write_board(network, Path(folder) / "c", board)
        program = build(Path(folder) / "c", board, optimize)
        for density in (DENSITY, LOW, HIGH):
            x = spikes(samples, density)
            emulation = emulate(network, program, x, board)
            output, traces = network.trace(x)
            codes = np.concatenate([trace.codes for trace in traces.values()], 2)
            if not (
                np.array_equal(emulation.outputs, output.numpy())
                and np.array_equal(emulation.codes, codes)
            ):
                raise SystemExit(f"{board}: what it computed is not what the network computes")
            hidden = next(iter(traces.values())).output
            counts[density] = emulation.instructions.sum(0)
            events[density] = (float(x.sum()) * 128 + float(hidden.sum()) * 10) / samples
            stack = max(stack, emulation.stack_bytes)
            if density == DENSITY:
                rate = float(hidden.mean())
    more = counts[HIGH].mean() - counts[LOW].mean()
    return Measured(
        code_bytes=program.code_bytes,
        constant_bytes=program.constant_bytes,
        ram_bytes=source.ram_bytes + program.static_bytes + stack + INPUTS + 10,
        instructions=float(counts[DENSITY].mean()),
        most_instructions=int(counts[DENSITY].max()),
        per_synaptic_event=float(more / (events[HIGH] - events[LOW])),
        hidden_rate=rate,
    )


def spikes(samples: int, density: float) -> Tensor:
    """Inputs `[T, B, 784]`."""
    return (
        torch.rand(TIME_STEPS, samples, INPUTS, generator=torch.Generator().manual_seed(1))
        < density
    ).float()


def compiler_version() -> str:
    return subprocess.run(
        [COMPILER, "-dumpfullversion"], check=True, capture_output=True, text=True
    ).stdout.strip()


def row(board: str, variant: str, found: Measured) -> str:
    """A line of the table, as Markdown."""
    flash = found.code_bytes + found.constant_bytes
    numbers = (
        f"{flash:,} | {found.code_bytes:,} | {found.ram_bytes:,} | {found.instructions:,.0f} |"
        f" {found.per_synaptic_event:.2f}"
    )
    return f"| {BOARDS[board].core.title()} | {variant} | {numbers} |"


HEAD = """\
| core | network | flash (B) | code (B) | RAM (B) | instructions per inference | per synaptic event |
| --- | --- | ---: | ---: | ---: | ---: | ---: |"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--optimize", default="-O2", help="level given to the compiler")
    options = parser.parse_args()
    if missing_tools():
        raise SystemExit(f"not installed: {', '.join(missing_tools())}")
    print(
        f"{COMPILER} {compiler_version()} {options.optimize}, {options.samples} samples\n\n{HEAD}"
    )
    for board in BOARDS:
        for name, variant in VARIANTS.items():
            print(
                row(
                    board,
                    name,
                    measure(variant.network(), board, options.samples, options.optimize),
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
