"""Generated C on emulated microcontrollers: equal to PyTorch, and within its budgets of bytes and
instructions.
"""

import importlib.util
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from deploy.networks import NETWORKS, awake, example, lowered, spikes
from torch import nn

from snnsim import MultiStep, SingleStep, neurons, quant
from snnsim.deploy import board as boards
from snnsim.deploy import lower
from snnsim.errors import InvalidValueError, OutputError, RunError
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.layers import QuantConv2d, QuantLinear

MISSING = boards.missing_tools()
needs_emulator = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
ROOT = Path(__file__).parents[2]


def benchmark():
    """benchmarks/mcu.py, which measures what is asserted here."""
    if "benchmark_mcu" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "benchmark_mcu", ROOT / "benchmarks" / "mcu.py"
        )
        sys.modules["benchmark_mcu"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["benchmark_mcu"])
    return sys.modules["benchmark_mcu"]


def network_and_input(name):
    """A network, its integers and an input, by name."""
    if name in NETWORKS:
        return example(name)
    net, x = OTHERS[name]()
    return net, (lower(net) if name.startswith("bisected") else lowered(net, tuple(x.shape[2:]))), x


def linear(bits=8, node=neurons.LIFNode, **options):
    options.setdefault("state_quant", quant.uniform(4))
    weights = QuantDescriptor(bits, axis=0, narrow_range=bits == 2)
    net = nn.Sequential(
        QuantLinear(300, 21, weight_quant=weights),
        node(**options),
        QuantLinear(21, 7, weight_quant=weights),
        node(**options),
    )
    # more events than are listed at a time
    return awake(net, 10.0), spikes(8, 4, 300, density=0.5)


def channels():
    """A stride and numbers of channels by which a processor without division would have to
    divide."""
    node = neurons.LIFNode(
        torch.tensor([2.0, 3.0, 5.0]).reshape(3, 1, 1), state_quant=quant.uniform(3)
    )
    return awake(nn.Sequential(QuantConv2d(2, 3, 3, stride=3, padding=1), node), 5.0), spikes(
        6, 3, 2, 10, 7
    )


OTHERS = {
    "int4": lambda: linear(4),
    "ternary": lambda: linear(2),
    "int12": lambda: linear(12),
    "exponential": lambda: linear(state_quant=quant.exponential(4), v_reset=None),
    "1-bit": lambda: linear(state_quant=quant.uniform(1)),
    "8-bit": lambda: linear(state_quant=quant.uniform(8), v_reset=None),
    "bisected": lambda: linear(v_reset=None),
    "bisected-hard": lambda: linear(tau=3.3, decay_input=False),
    "channels": channels,
}


@needs_emulator
@pytest.mark.parametrize("board", boards.BOARDS)
@pytest.mark.parametrize("name", [*NETWORKS, *OTHERS])
def test_every_output_is_that_of_pytorch_and_every_code_that_of_the_definition(
    name, board, tmp_path
):
    net, integer, x = network_and_input(name)
    boards.write_board(integer, tmp_path / "c", board)
    emulation = boards.emulate(integer, boards.build(tmp_path / "c", board), x, board)

    runner = net if isinstance(net, MultiStep | SingleStep) else MultiStep(net)
    with torch.no_grad():
        expected = runner.eval()(x)
    outputs = torch.from_numpy(emulation.outputs).reshape(expected.shape)
    assert outputs.any()
    assert torch.equal(outputs * 2.0 ** -integer.signals[integer.output].frac_bits, expected)
    _, traces = integer.trace(x)
    codes = [trace.codes.reshape(*trace.codes.shape[:2], -1) for trace in traces.values()]
    assert np.array_equal(emulation.codes, np.concatenate(codes, 2))


@needs_emulator
@pytest.mark.parametrize("optimize", ["-O0", "-Os", "-O3"])
def test_optimization_changes_no_result(optimize, tmp_path):
    _, integer, x = example("residual")
    boards.write_board(integer, tmp_path / "c")
    emulation = boards.emulate(integer, boards.build(tmp_path / "c", optimize=optimize), x)
    assert np.array_equal(emulation.outputs, integer(x).numpy().reshape(emulation.outputs.shape))


@needs_emulator
def test_counts_are_the_same_every_time(tmp_path):
    _, integer, x = example("dense")
    boards.write_board(integer, tmp_path / "c")
    program = boards.build(tmp_path / "c")
    first, second = (boards.emulate(integer, program, x) for _ in range(2))
    assert np.array_equal(first.instructions, second.instructions)
    assert first.stack_bytes == second.stack_bytes


# a network whose step is 20,000 rounds of two instructions
LOOP = """
#include "snn.h"
void snn_reset(struct snn *net) { (void)net; }
uint32_t snn_code(const struct snn *net, uint32_t n) { (void)net; return n; }
void snn_step(struct snn *net, const snn_input *input, snn_output *output)
{
    uint32_t n = 20000;
    (void)net;
    output[0] = input[0];
    __asm__ volatile(".syntax unified\\n 1: subs %0, #1\\n bne 1b" : "+l"(n));
}
"""


@needs_emulator
@pytest.mark.parametrize("board", boards.BOARDS)
def test_instructions_of_a_known_loop(board, tmp_path):
    _, integer, x = example("dense")
    boards.write_board(integer, tmp_path / "c", board)
    (tmp_path / "c" / "snn.c").write_text(LOOP)
    instructions = boards.emulate(
        integer, boards.build(tmp_path / "c", board), x, board
    ).instructions
    assert ((instructions >= 40_000) & (instructions < 40_020)).all()


@needs_emulator
def test_stack_of_a_known_step(tmp_path):
    _, integer, x = example("dense")
    boards.write_board(integer, tmp_path / "c")
    (tmp_path / "c" / "snn.c").write_text(
        LOOP.replace(
            "uint32_t n = 20000;",
            "volatile uint8_t deep[1000]; uint32_t n = 1; deep[0] = input[0]; n += deep[0];",
        )
    )
    program = boards.build(tmp_path / "c")
    assert 1000 <= boards.emulate(integer, program, x).stack_bytes < 1100


@needs_emulator
@pytest.mark.parametrize(
    ("variant", "most_instructions", "per_synaptic_event"),
    [
        ("int8 weights, 4-bit states", 418_000, 1.5),
        ("int4, 4-bit", 338_000, 1.1),
        ("ternary, 4-bit", 338_000, 1.1),
    ],
)
def test_budget_of_a_cortex_m3(variant, most_instructions, per_synaptic_event):
    module = benchmark()
    found = module.measure(module.VARIANTS[variant].network(), "mps2-an385", samples=4)
    assert 0.27 < found.hidden_rate < 0.37
    assert found.instructions <= most_instructions
    assert found.per_synaptic_event <= per_synaptic_event
    assert found.code_bytes < 2048
    # state, stack, and input and output of a step
    assert found.ram_bytes < 2048


@needs_emulator
def test_budget_of_a_cortex_m0():
    module = benchmark()
    found = module.measure(
        module.VARIANTS["int8 weights, 4-bit states"].network(), "microbit", samples=4
    )
    assert found.instructions <= 800_000
    assert found.code_bytes < 2048
    assert found.ram_bytes < 2048


@needs_emulator
def test_smallest_code_keeps_the_budget_too():
    module = benchmark()
    for variant, most in (("int8 weights, 4-bit states", 1.5), ("int4, 4-bit", 1.1)):
        found = module.measure(
            module.VARIANTS[variant].network(), "mps2-an385", samples=2, optimize="-Os"
        )
        assert found.code_bytes < 1200
        assert found.per_synaptic_event <= most


@needs_emulator
def test_table_of_the_documentation():
    module = benchmark()
    page = (ROOT / "docs" / "microcontrollers.md").read_text(encoding="utf-8")
    if f"arm-none-eabi-gcc {module.compiler_version()} " not in page:
        pytest.skip(f"the page is about another compiler than {module.compiler_version()}")
    name, variant = next(iter(module.VARIANTS.items()))
    for board in boards.BOARDS:
        assert module.row(board, name, module.measure(variant.network(), board)) in page


@needs_emulator
def test_a_program_that_stops_early(tmp_path):
    _, integer, x = example("dense")
    boards.write_board(integer, tmp_path / "c")
    (tmp_path / "c" / "snn.c").write_text(
        LOOP.replace("uint32_t n = 20000;", '__asm__ volatile("udf #0"); uint32_t n = 1;')
    )
    with pytest.raises(RunError, match=r"qemu-system-arm failed in .* with status 2"):
        boards.emulate(integer, boards.build(tmp_path / "c"), x)


@needs_emulator
def test_a_program_that_never_ends(tmp_path):
    _, integer, x = example("dense")
    boards.write_board(integer, tmp_path / "c")
    (tmp_path / "c" / "snn.c").write_text(LOOP.replace("bne 1b", "b 1b"))
    with pytest.raises(
        RunError, match=r"took longer than timeout=0\.5 s; give it more, or fewer samples"
    ):
        boards.emulate(integer, boards.build(tmp_path / "c"), x, timeout=0.5)


@needs_emulator
def test_a_source_that_the_compiler_refuses(tmp_path):
    _, integer, _ = example("dense")
    boards.write_board(integer, tmp_path / "c")
    (tmp_path / "c" / "snn.c").write_text("#include <string.h>\n")
    with pytest.raises(
        RunError, match=r"arm-none-eabi-gcc failed in .*\n.*string\.h: No such file"
    ):
        boards.build(tmp_path / "c")


def test_a_tool_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert boards.missing_tools() == [
        "arm-none-eabi-gcc (package gcc-arm-none-eabi)",
        "arm-none-eabi-size (package binutils-arm-none-eabi)",
        "qemu-system-arm (package qemu-system-arm)",
    ]
    with pytest.raises(
        RunError, match="arm-none-eabi-gcc is not installed; install gcc-arm-none-eabi"
    ):
        boards.build(tmp_path)


@pytest.mark.parametrize(
    "call",
    [
        lambda path: boards.write_board(example("dense")[1], path, "uno"),
        lambda path: boards.build(path, "uno"),
    ],
)
def test_another_board(call, tmp_path):
    with pytest.raises(InvalidValueError, match="board='uno': must be one of mps2-an385, microbit"):
        call(tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_an_existing_folder_is_left_alone(tmp_path):
    with pytest.raises(OutputError, match="it exists already and is left alone; name a new folder"):
        boards.write_board(example("dense")[1], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_says_what_is_missing_and_installs_nothing(tmp_path):
    for tool in ("sh", "sed"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    make = [shutil.which("make"), "-C", ROOT, "test-mcu", "READY="]
    done = subprocess.run(make, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode != 0
    assert (
        "arm-none-eabi-gcc is missing: apt-get install --no-install-recommends gcc-arm-none-eabi"
        in done.stdout
    )
    assert (
        "qemu-system-arm is missing: apt-get install --no-install-recommends qemu-system-arm"
        in done.stdout
    )


def test_instructions_per_tick():
    assert boards.BOARDS["mps2-an385"].instructions_per_tick == Fraction(40, 64)
    assert boards.BOARDS["microbit"].instructions_per_tick == Fraction(625, 640)
