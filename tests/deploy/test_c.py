import dataclasses
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from deploy.networks import NETWORKS, awake, dense, example, lowered, spikes
from deploy.random_integers import random_integers
from torch import nn

from snnsim import MultiStep, layers, neurons, quant
from snnsim.deploy import IntegerNetwork, lower, to_grid
from snnsim.deploy.c import even_spacing, generate
from snnsim.deploy.ops import Add, GridNeuron, Neuron, Signal
from snnsim.deploy.ops.product import fits_nibbles, packed_bytes, packed_nibbles
from snnsim.errors import InvalidValueError, OutputError
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.layers import QuantConv1d, QuantConv2d, QuantLinear

STRICT = [
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Wsign-conversion",
    "-Wshadow",
    "-Wcast-qual",
    "-Werror",
]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def compiled(folder, *flags, compiler="gcc", standard="c99"):
    """The test program in `folder`."""
    program = folder / f"run_{len(list(folder.iterdir()))}"
    command = [
        compiler,
        f"-std={standard}",
        "-O1",
        *STRICT,
        *flags,
        "-o",
        program,
        folder / "main.c",
        folder / "snn.c",
    ]
    if compiler == "g++":
        command[1:1] = ["-x", "c++"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return program


def outputs_and_codes(program, integer, x):
    """Outputs `[T, B, m]` and codes `[T, B, S]` of the C program."""
    x = integer._sequence(x)
    steps, batch = x.shape[:2]
    header = np.array([batch, steps], np.uint32).tobytes()
    done = subprocess.run(
        [program], input=header + x.swapaxes(0, 1).tobytes(), check=True, capture_output=True
    )
    outputs = integer.signals[integer.output].size
    neurons_ = sum(neuron.output.size for neuron in integer.neurons.values())
    rows = (
        np.frombuffer(done.stdout, np.uint8)
        .reshape(batch, steps, 4 * outputs + neurons_)
        .swapaxes(0, 1)
    )
    return np.ascontiguousarray(rows[..., : 4 * outputs]).view(np.int32), rows[..., 4 * outputs :]


def size_of_struct(folder):
    text = (
        '#include "snn.h"\n#include <stdio.h>\nint main(void) { printf("%u",'
        " (unsigned)sizeof(struct snn)); return 0; }\n"
    )
    (folder / "size.txt").write_text(text)
    subprocess.run(["gcc", "-I.", "-o", "size", "-x", "c", "size.txt"], cwd=folder, check=True)
    return int(subprocess.run([folder / "size"], check=True, capture_output=True, text=True).stdout)


def check_equal(integer, x, folder, **options):
    source = integer.to_c(folder)
    assert size_of_struct(folder) == source.ram_bytes
    out, codes = outputs_and_codes(compiled(folder, *SANITIZERS, **options), integer, x)
    expected, traces = integer.trace(x)
    assert np.array_equal(out, expected.numpy().reshape(out.shape))
    expected_codes = [trace.codes.reshape(*trace.codes.shape[:2], -1) for trace in traces.values()]
    assert np.array_equal(codes, np.concatenate([codes[..., :0], *expected_codes], 2))
    return source


@needs_compiler
def test_an_input_that_is_read_in_another_shape(tmp_path):
    net = awake(
        nn.Sequential(
            nn.Flatten(), QuantLinear(12, 5), neurons.IFNode(state_quant=quant.uniform(4))
        )
    )
    check_equal(lowered(net, (1, 3, 4)), spikes(6, 2, 1, 3, 4), tmp_path / "c")


@needs_compiler
@pytest.mark.parametrize("name", NETWORKS)
def test_every_output_and_code_is_that_of_the_definition(name, tmp_path):
    _, integer, x = example(name)
    check_equal(integer, x, tmp_path / "c")


@needs_compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_cplusplus_too(name, tmp_path):
    _, integer, x = example(name)
    check_equal(integer, x, tmp_path / "c", compiler="g++", standard="c++14")


@pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed")
@pytest.mark.parametrize("name", NETWORKS)
def test_another_compiler_warns_of_nothing_either(name, tmp_path):
    _, integer, _ = example(name)
    integer.to_c(tmp_path / "c")
    for options in (["-std=c99"], ["-x", "c++", "-std=c++14"]):
        command = ["clang", *options, "-O2", *STRICT, "-fsyntax-only", "main.c", "snn.c"]
        subprocess.run(command, cwd=tmp_path / "c", check=True, capture_output=True)


@needs_compiler
@pytest.mark.parametrize("bits", [2, 4, 8, 12])
@pytest.mark.parametrize("outputs", [1, 8, 13])
def test_weights_of_every_width(bits, outputs, tmp_path):
    # more events than a pass holds, and weights at the ends of their range
    layer = QuantLinear(
        700, outputs, weight_quant=QuantDescriptor(bits, axis=0, narrow_range=bits == 2)
    )
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-1, 2, layer.weight.shape) * layer.weight.abs().max())
    integer = lowered(
        nn.Sequential(layer, neurons.IFNode(v_reset=None, state_quant=quant.uniform(5))),
        grid_bits=16,
    )
    x = torch.stack(
        [torch.ones(2, 700), torch.zeros(2, 700), spikes(2, 700), spikes(2, 700, density=0.9)]
    )
    check_equal(integer, x, tmp_path / "c")


@needs_compiler
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [(1, 0, 1, 1), (2, 1, 1, 3), ((1, 2), (2, 0), 2, 1)],
)
def test_convolutions_and_pools_of_pixels(stride, padding, dilation, groups, tmp_path):
    net = nn.Sequential(
        nn.AvgPool2d(2, stride=1, padding=1),
        QuantConv2d(3, 6, 3, stride, padding, dilation, groups),
        nn.MaxPool2d(2, stride=1),
        neurons.IFNode(state_quant=quant.uniform(6)),
    )
    with torch.no_grad():
        net[1].weight *= 0.05
    integer = lowered(net, (3, 9, 8), input_range=(-20, 300))
    check_equal(integer, torch.randint(-20, 301, (5, 2, 3, 9, 8)), tmp_path / "c")


@needs_compiler
def test_channels_and_clamped_sums(tmp_path):
    node = neurons.LIFNode(
        torch.tensor([2.0, 3.0, 5.0]),
        v_threshold=torch.tensor([0.5, 1.0, 1.4]),
        state_quant=quant.uniform(3),
    )
    net = nn.Sequential(QuantLinear(40, 3), node)
    with torch.no_grad():
        net[0].weight.normal_(0, 3e6)
    integer = lowered(net, grid_bits=8)
    assert integer.operations[0].limits is not None
    source = check_equal(integer, spikes(9, 4, 40), tmp_path / "c")
    assert "fire_1[channel]" in source.files["snn.c"]


@needs_compiler
@pytest.mark.parametrize(("weight_bits", "kind"), [(8, "int16_t"), (16, "int32_t")])
@pytest.mark.parametrize(("levels", "search"), [(8, "cell_8"), (5, "cell")])
def test_thresholds_by_bisection(weight_bits, kind, levels, search, tmp_path):
    codebook = quant.from_levels([-0.5 + 0.3 * i for i in range(levels)])
    layer = QuantLinear(30, 6, weight_quant=QuantDescriptor(weight_bits, axis=0))
    net = awake(
        nn.Sequential(layer, neurons.LIFNode(1.7, v_threshold=0.6, state_quant=codebook)), 4.0
    )
    source = check_equal(lower(net), spikes(9, 4, 30), tmp_path / "c")
    assert f"static const {kind} thresholds_1" in source.files["snn.c"]
    assert f" {search}{'_short' * (kind == 'int16_t')}(thresholds_1" in source.files["snn.c"]


@needs_compiler
@pytest.mark.parametrize("seed", range(16))
def test_random_integers(seed, tmp_path):
    integer, x = random_integers(seed)
    check_equal(integer, x, tmp_path / "c")


@needs_compiler
@pytest.mark.parametrize("options", [{}, {"stride": 3}, {"bias": False}])
@pytest.mark.parametrize("axes", [1, 2])
def test_a_padded_1x1_convolution_of_one_place(axes, options, tmp_path):
    layer = (QuantConv1d, QuantConv2d)[axes - 1](2, 8, 1, padding=1, **options)
    shape = (2, 1, 1)[: axes + 1]
    net = awake(nn.Sequential(layer, neurons.IFNode(state_quant=quant.uniform(4))), 4.0)
    check_as_network(net, spikes(6, 3, *shape), tmp_path / "c", shape)


@needs_compiler
def test_sums_that_are_never_negative(tmp_path):
    layer = QuantLinear(20, 40, bias=False, weight_quant=QuantDescriptor(4, axis=None))
    layer.weight.data = layer.weight.data.abs() * 3
    net = nn.Sequential(layer, neurons.LIFNode(3.0, state_quant=quant.uniform(4)))
    check_as_network(net, spikes(10, 4, 20), tmp_path / "c", grid_bits=None)


@needs_compiler
@pytest.mark.parametrize("steps", [1, 2])
def test_delays(steps, tmp_path):
    net = awake(
        nn.Sequential(
            QuantLinear(8, 6), neurons.IFNode(state_quant=quant.uniform(4)), layers.Delay(steps)
        ),
        4.0,
    )
    check_as_network(net, spikes(6, 3, 8), tmp_path / "c")


def check_as_network(net, x, folder, shape=None, grid_bits=14):
    """The program computes what the forward of the network does, not only what its integers do."""
    integer = lowered(net.eval(), shape, grid_bits) if grid_bits else lower(net, shape)
    check_equal(integer, x, folder)
    with torch.no_grad():
        expected = MultiStep(net)(x)
    assert expected.any()
    assert torch.equal(integer(x).float(), expected)


@needs_compiler
def test_a_pool_before_the_neuron_needs_no_32_bit_plane(tmp_path):
    net = nn.Sequential(
        QuantConv2d(1, 16, 3, padding=1),
        nn.MaxPool2d(2),
        neurons.IFNode(state_quant=quant.uniform(4)),
    )
    source = check_equal(lowered(net, (1, 28, 28), 12), spikes(4, 1, 1, 28, 28), tmp_path / "c")
    # sums of 9 weights of 8 bits fit 16 bits; maxima lie over them, and half a byte is the state of
    # a neuron
    assert source.ram_bytes == 2 * 16 * 28 * 28 + 16 * 14 * 14 // 2


@needs_compiler
def test_a_network_without_neurons(tmp_path):
    integer = lowered(nn.Sequential(QuantLinear(12, 4)))
    check_equal(integer, spikes(3, 2, 12), tmp_path / "c")


@needs_compiler
def test_the_makefile_builds_it(tmp_path):
    _, integer, _ = example("dense")
    integer.to_c(tmp_path / "c")
    subprocess.run(["make", "-C", tmp_path / "c"], check=True, capture_output=True)
    assert (tmp_path / "c" / "snn_main").exists()


@needs_compiler
def test_the_core_calls_no_library_and_knows_no_float(tmp_path):
    _, integer, _ = example("residual")
    source = integer.to_c(tmp_path / "c")
    subprocess.run(
        ["gcc", "-Os", "-ffreestanding", "-fno-tree-loop-distribute-patterns", "-c", "snn.c"],
        cwd=tmp_path / "c",
        check=True,
    )
    symbols = subprocess.run(
        ["nm", "-u", "snn.o"], cwd=tmp_path / "c", check=True, capture_output=True, text=True
    ).stdout
    assert set(re.findall(r"U (\w+)", symbols)) <= {"_GLOBAL_OFFSET_TABLE_"}
    assert not re.search(r"\b(float|double|malloc)\b", source.files["snn.c"])
    assert re.findall(r"#include (\S+)", source.files["snn.c"] + source.files["snn.h"]) == [
        '"snn.h"',
        "<stdint.h>",
    ]


def test_the_usual_network_is_small():
    net = nn.Sequential(
        QuantLinear(784, 128),
        neurons.LIFNode(v_reset=None, state_quant=quant.uniform(4)),
        QuantLinear(128, 10),
        neurons.LIFNode(v_reset=None, state_quant=quant.uniform(4)),
    )
    source = generate(lowered(net, grid_bits=16))
    # int8 weights, the last block filled up; state of half a byte per neuron, spikes and sums
    assert source.weight_bytes == 784 * 128 + 128 * 16
    assert source.ram_bytes < 1024


def test_names_that_c_cannot_spell(tmp_path):
    _, integer, _ = example("dense")
    renamed = [
        dataclasses.replace(op, name=f"schicht_ä{i}*/ evil")
        for i, op in enumerate(integer.operations)
    ]
    text = generate(IntegerNetwork(integer.input, renamed, integer.output)).files["snn.c"]
    assert text.isascii()
    assert r"/* schicht_\xe40* / evil: product */" in text


@needs_compiler
def test_layers_of_the_same_name_and_of_keywords(tmp_path):
    _, integer, x = example("residual")
    names = [
        "int",
        "int",
        "while",
        "snn",
        "snn_step",
        "",
        "\n",
        "\\",
        "??/",
        "// */ #error",
        "*/*/",
        "/*/**",
    ]
    renamed = [
        dataclasses.replace(op, name=names[i % len(names)])
        for i, op in enumerate(integer.operations)
    ]
    # neurons alone are told apart by their names
    renamed = [
        dataclasses.replace(op, name=f"{op.name}{i}" if isinstance(op, Neuron) else op.name)
        for i, op in enumerate(renamed)
    ]
    again = IntegerNetwork(integer.input, renamed, integer.output)
    source = again.to_c(tmp_path / "c")
    assert r"/* \n" in source.files["snn.c"]
    out, _ = outputs_and_codes(compiled(tmp_path / "c", *SANITIZERS), integer, x)
    assert np.array_equal(out, integer(x).numpy().reshape(out.shape))


@needs_compiler
@pytest.mark.parametrize("name", ["net", "input", "output", "stdint", "a", "net_2"])
def test_a_name_that_means_something_else_elsewhere(name, tmp_path):
    _, integer, _ = example("dense")
    integer.to_c(tmp_path / "c", name)
    for compiler in (["gcc", "-std=c99"], ["g++", "-x", "c++", "-std=c++14"]):
        subprocess.run(
            [*compiler, *STRICT, "-c", "main.c", f"{name}.c"],
            cwd=tmp_path / "c",
            check=True,
            capture_output=True,
        )


@pytest.mark.parametrize("name", ["even_cell", "code_at", "list_events", "layer_0", "weights_0"])
def test_a_name_that_the_source_uses_itself(name, tmp_path):
    _, integer, _ = example("dense")
    with pytest.raises(
        InvalidValueError,
        match=f"name='{name}'.*: is what a part of the source is called; take another",
    ):
        integer.to_c(tmp_path / "c", name)
    assert not (tmp_path / "c").exists()


def test_the_header_says_how_it_is_run():
    layer = QuantLinear(
        6, 4, input_quant=QuantDescriptor(8, unsigned=True, amax=255 / 256, power_of_two=True)
    )
    runner = MultiStep(
        nn.Sequential(layer, neurons.IFNode(state_quant=quant.uniform(4))), time_steps=7
    )
    to_grid(runner, 14)
    header = generate(lower(runner, decision="rate")).files["snn.h"]
    assert "#define SNN_TIME_STEPS 7u" in header
    assert "a sample is 7 time steps, from rest, with the same input at each" in header
    assert "a real input times 256, rounded, halves to even, and cut off at these bounds" in header
    assert (
        "spikes of one sample and time step; the class is the output whose sum over the time steps"
        " is largest" in header
    )
    _, integer, _ = example("residual")
    header = generate(integer).files["snn.h"]
    assert "TIME_STEPS" not in header
    assert "a sample is a sequence of any number of time steps" in header
    assert (
        "0 to 1 each: whole numbers as they are;\n * laid out as [channel][row][column] ="
        " [2][8][8], the last" in header
    )


def test_states_beyond_the_reach_of_an_index():
    node = dataclasses.replace(
        example("dense")[1].operations[1], reset=np.zeros((1, 256), np.uint8), levels=None
    )
    signal = Signal((1, 2**15, 2**15), 0, 1)
    node = dataclasses.replace(
        node,
        inputs=(0,),
        output=signal,
        inner=1,
        edges=np.arange(255, dtype=np.int32),
        leak=np.zeros((1, 256), np.int32),
    )
    with pytest.raises(
        InvalidValueError,
        match=r"its states take 8589934592 bits, and C counts up to 2\^32; use fewer neurons",
    ):
        generate(IntegerNetwork(signal, [node], 1))


def test_an_existing_folder_is_left_alone(tmp_path):
    with pytest.raises(OutputError, match="it exists already and is left alone; name a new folder"):
        lowered(awake(dense())).to_c(tmp_path)


def test_lanes_of_packed_weights():
    weight = torch.arange(-8, 8).reshape(16, 1).numpy()
    assert fits_nibbles(weight)
    assert [hex(word) for word in packed_nibbles(weight).reshape(-1)] == [
        "0x76543210",
        "0xfedcba98",
    ]
    assert [hex(word) for word in packed_bytes(weight)[:2, 0]] == ["0x7b7a7978", "0x7f7e7d7c"]
    # whole blocks of 8 outputs
    assert packed_bytes(weight[:9]).shape == (4, 1)
    assert packed_nibbles(weight[:9]).shape == (2, 1)
    assert not fits_nibbles(weight + 1)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("step", [1, 2, 3, 1000, 2**21])
def test_evenly_spaced_edges_need_no_search(bits, step):
    edges = -7 * step + step * np.arange(2**bits - 1)
    jitter = np.random.default_rng(0).integers(-(step // 10), step // 10 + 1, len(edges))
    for there in (edges, edges + jitter):
        spacing = even_spacing(there.astype(np.int32))
        if bits == 1 or step == 1 or step << bits > 2**30:
            assert spacing is None
            continue
        origin, multiplier, shift = spacing
        near = np.concatenate([there + offset for offset in (-1, 0, 1, step // 2)])
        h = near[(near >= there[0]) & (near < there[-1])]
        product = (h - origin) * multiplier
        assert product.max() < 2**32
        n = product >> shift
        assert np.array_equal(n + (h >= there[n]), np.searchsorted(there, h, side="right"))


def test_other_edges_are_searched():
    assert even_spacing(quant.exponential(4).edges.mul(2**20).int().numpy()) is None
    _, integer, _ = example("strided")
    text = generate(integer).files["snn.c"]
    assert "cell_16(edges_1," in text
    assert "even_cell(edges_5," in text


@needs_compiler
def test_zeros_may_be_shifted_by_all_bits(tmp_path):
    zeros = Signal((3,), 0, 0)
    tables = {
        "reset": np.array([[0, 1]], np.uint8),
        "fire": np.array([1], np.int32),
        "start": 0,
        "inner": 1,
        "levels": None,
    }
    charge = {
        "edges": np.array([1], np.int32),
        "leak": np.array([[0, 1]], np.int32),
        "shift": 31,
        "frac_bits": 0,
    }
    operations = [
        Add("sum", (0, 0), zeros, (31, 0)),
        GridNeuron("node", (1,), Signal((3,), 0, 1), **tables, **charge),
    ]
    check_equal(IntegerNetwork(zeros, operations, 2), np.zeros((2, 1, 3), np.int64), tmp_path / "c")
