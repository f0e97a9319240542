import copy
import dataclasses
import gc
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from deploy.networks import NETWORKS, awake, dense, example, lowered, spikes
from torch import nn

from snnsim import MultiStep, neurons, quant
from snnsim.deploy import IntegerNetwork
from snnsim.deploy.bounds import accumulator_bounds
from snnsim.deploy.network import is_compiled
from snnsim.deploy.ops import Delay, GridNeuron, Pool, Product, Signal, Window
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, StateError
from snnsim.quant.layers import QuantConv2d, QuantLinear


@pytest.mark.parametrize("name", NETWORKS)
def test_compiled_engine_is_the_definition(name):
    if not is_compiled():
        pytest.skip("numba is not installed")
    _, integer, x = example(name)
    x = integer._sequence(x)
    out, state = integer._run(x, integer._rest(x.shape[1]))
    expected, expected_state = integer.run_by_definition(x, integer._rest(x.shape[1]))
    assert np.array_equal(out, expected)
    assert np.array_equal(state, expected_state)


def test_without_numba_the_definition_runs(monkeypatch):
    _, integer, x = example("residual")
    expected = integer(x)
    monkeypatch.setattr("snnsim.deploy.network.is_compiled", lambda: False)
    other = IntegerNetwork(integer.input, integer.operations, integer.output)
    assert torch.equal(other(x), expected)
    assert "program" not in vars(other)


@pytest.mark.parametrize("weights", [8, 12], ids=["int8", "int16"])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [(1, 0, 1, 1), (2, 1, 1, 3), (3, 2, 2, 1), ((1, 2), (2, 0), 1, 3)],
)
def test_compiled_convolutions_are_the_definition(weights, stride, padding, dilation, groups):
    from snnsim.quant.descriptor import QuantDescriptor

    layer = QuantConv2d(
        3,
        6,
        (3, 2),
        stride,
        padding,
        dilation,
        groups,
        weight_quant=QuantDescriptor(weights, axis=0, narrow_range=True),
    )
    integer = lowered(
        nn.Sequential(layer, neurons.IFNode(state_quant=quant.uniform(6))),
        (3, 9, 8),
        input_range=(-2, 5),
    )
    x = integer.encode(torch.randint(-2, 6, (4, 2, 3, 9, 8)))
    out, state = integer._run(x, integer._rest(2))
    expected, expected_state = integer.run_by_definition(x, integer._rest(2))
    assert np.array_equal(out, expected)
    assert np.array_equal(state, expected_state)
    assert out.any()


@pytest.mark.parametrize("outputs", [16, 40])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("kind", "high"), [(np.int8, 1), (np.int8, 9), (np.int8, 1000), (np.int16, 3)]
)
def test_sums_of_convolutions_in_16_and_32_bits(kind, high, groups, outputs):
    random = np.random.default_rng(outputs)
    limit = np.iinfo(np.int8 if kind == np.int8 else np.int16)
    weight = random.integers(
        limit.min + 1, limit.max, (outputs, 4 // groups, 3, 3), endpoint=True
    ).astype(kind)
    bound = 2**30
    ones = np.ones(outputs, np.int32)
    signal, out = Signal((4, 7, 6), 0, high), Signal((outputs, 7, 6), -bound, bound)
    product = Product(
        "conv",
        (0,),
        out,
        (4, 7, 6),
        weight,
        ones,
        0 * ones,
        None,
        Window((3, 3), padding=(1, 1)),
        groups,
    )
    integer = IntegerNetwork(signal, [product], 1)
    x = integer.encode(random.integers(0, high, (3, 2, 4, 7, 6), endpoint=True))
    assert np.array_equal(
        integer._run(x, integer._rest(2))[0], integer.run_by_definition(x, integer._rest(2))[0]
    )


@pytest.mark.parametrize("maximum", [False, True])
@pytest.mark.parametrize(
    "window",
    [
        Window((2, 2), (2, 2)),
        Window((3, 2), (1, 3), (1, 1)),
        Window((2, 3), (2, 1), (1, 0), (2, 3)),
        Window((5, 5), (4, 4), (2, 2)),
        Window((3, 3), (3, 3)),
    ],
)
def test_compiled_pools_are_the_definition(window, maximum):
    # a maximum without padding may be below 0
    low = 0 if maximum and window.padding != (0, 0) else -9
    signal = Signal((3, 9, 11), low, 9)
    size = window.output_size(9, 11)
    pool = Pool("pool", (0,), Signal((3, *size), 25 * low, 25 * 9), (3, 9, 11), window, maximum)
    integer = IntegerNetwork(signal, [pool], 1)
    x = integer.encode(np.random.default_rng(0).integers(low, 9, (2, 2, 3, 9, 11), endpoint=True))
    assert np.array_equal(
        integer._run(x, integer._rest(2))[0], integer.run_by_definition(x, integer._rest(2))[0]
    )


@pytest.mark.parametrize("bits", [8, 4, 2], ids=["int8", "int4", "ternary"])
def test_weights_of_any_width(bits):
    from snnsim.quant.descriptor import QuantDescriptor

    options = {"weight_quant": QuantDescriptor(bits, axis=0, narrow_range=True)}
    net = awake(
        nn.Sequential(
            QuantLinear(90, 33, **options),
            neurons.LIFNode(2.0, state_quant=quant.uniform(4)),
            QuantLinear(33, 5, **options),
            neurons.LIFNode(2.0, state_quant=quant.uniform(4)),
        ),
        8.0,
    )
    integer = lowered(net)
    x = spikes(12, 4, 90)
    assert int(abs(integer.operations[0].weight).max()) == 2 ** (bits - 1) - 1
    with torch.no_grad():
        expected = MultiStep(net.eval())(x)
    assert expected.any()
    assert torch.equal(integer(x).float(), expected)


@pytest.mark.parametrize("name", ["dense", "residual"])
def test_steps_with_held_state_are_the_sequence(name):
    _, integer, x = example(name)
    expected = integer(x)
    assert torch.equal(torch.stack([integer.step(now) for now in x]), expected)
    integer.reset()
    assert torch.equal(integer.step(x[0]), expected[0])


def test_a_call_leaves_the_held_state():
    _, integer, x = example("soft")
    expected = torch.stack([integer.step(now) for now in x[:4]])
    integer.reset()
    integer.step(x[0])
    integer(x)
    assert torch.equal(integer.step(x[1]), expected[1])


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))],
    ids=["deepcopy", "pickle"],
)
def test_copies_run_by_themselves(copied):
    _, integer, x = example("residual")
    expected = integer(x)
    integer.step(x[0])
    other = copied(integer)
    del integer
    gc.collect()
    assert torch.equal(other.step(x[1]), expected[1])
    assert torch.equal(other(x), expected)


@pytest.mark.parametrize("outputs", [1, 16, 17, 100, 129, 300])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_tiles_of_any_width_and_sums_of_any_length(outputs, density):
    # 600 weights of up to 127 leave 16 bits when they are added at once, and 300 rows of 127 lie at
    # the end of what fits
    weight = (
        np.random.default_rng(outputs).integers(-128, 128, (outputs, 600, 1, 1)).astype(np.int8)
    )
    weight[0], weight[-1] = 127, -128
    product = Product(
        "product",
        (0,),
        Signal((outputs,), -(2**20), 2**20),
        (600, 1, 1),
        weight,
        np.full(outputs, 3, np.int32),
        np.full(outputs, -7, np.int32),
        None,
    )
    integer = IntegerNetwork(Signal((600,), 0, 1), [product], 1)
    x = integer.encode(spikes(2, 3, 600, density=density))
    out, _ = integer._run(x, integer._rest(3))
    assert np.array_equal(out, integer.run_by_definition(x, integer._rest(3))[0])


@pytest.mark.parametrize("size", [1, 15, 16, 63, 64, 65, 128, 130])
@pytest.mark.parametrize("high", [1, 3, 255, 1000])
def test_events_are_found_at_every_place(size, high):
    weight = np.eye(size, dtype=np.int8).reshape(size, size, 1, 1)
    ones = np.ones(size, np.int32)
    integer = IntegerNetwork(
        Signal((size,), 0, high),
        [
            Product(
                "product",
                (0,),
                Signal((size,), 0, high),
                (size, 1, 1),
                weight,
                ones,
                0 * ones,
                None,
            )
        ],
        1,
    )
    x = torch.from_numpy(np.random.default_rng(size).integers(0, high, (5, 2, size), endpoint=True))
    assert torch.equal(integer(x).long(), x)


def test_threads_share_the_samples():
    _, integer, _ = example("residual")
    x = spikes(20, 50, 2, 8, 8)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(integer(x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_a_static_input_is_seen_once_and_gives_the_same():
    _, integer, x = example("static")
    repeated = IntegerNetwork(integer.input, integer.operations, integer.output)
    assert torch.equal(integer(x), repeated(x.expand(6, *x.shape).contiguous()))


PORTABLE = """
import torch
from deploy.networks import NETWORKS, example
from snnsim.deploy import compiled
assert not compiled.AVX512
torch.manual_seed(0)
for name in NETWORKS:
    _, integer, x = example(name)
    x = integer._sequence(x)
    engines = (integer._run, integer.run_by_definition)
    results = [engine(x, integer._rest(x.shape[1])) for engine in engines]
    assert all((a == b).all() for a, b in zip(*results))
    assert results[0][0].any()
"""


def test_a_processor_without_wide_vectors_gives_the_same():
    pytest.importorskip("numba")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PORTABLE],
        env={
            **os.environ,
            "NUMBA_CPU_NAME": "generic",
            "NUMBA_CPU_FEATURES": "",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_sample_is_the_same_in_any_batch():
    _, integer, x = example("residual")
    assert torch.equal(integer(x)[:, 1:2], integer(x[:, 1:2]))


def test_output_types():
    _, integer, x = example("dense")
    assert integer(x).dtype == torch.uint8
    _, integer, x = example("residual")
    assert integer(x).dtype == torch.int32


def test_classify_counts_spikes():
    _, integer, x = example("dense")
    assert torch.equal(integer.classify(x), integer(x).sum(0).argmax(1))


def test_classify_wants_a_vector():
    integer = lowered(
        nn.Sequential(QuantConv2d(1, 2, 3), neurons.IFNode(state_quant=quant.uniform(4))), (1, 6, 6)
    )
    with pytest.raises(
        ShapeError, match=r"classify: the output of one sample has shape \(2, 4, 4\)"
    ):
        integer.classify(spikes(3, 2, 1, 6, 6))


def test_repr_lists_the_operations():
    _, integer, _ = example("dense")
    assert repr(integer).splitlines()[1:3] == ["  1: Product -> (24,)", "  2: GridNeuron -> (24,)"]


def test_encode_takes_every_number_type():
    _, integer, x = example("dense")
    expected = integer(x)
    for same in (x.bool(), x.to(torch.uint8), x.long(), x.half(), x.numpy(), x.double().tolist()):
        assert torch.equal(integer(same), expected)


def test_bad_input():
    integer = lowered(awake(dense()))
    with pytest.raises(InvalidTypeError, match="x must hold real numbers, got complex64"):
        integer(np.zeros((2, 3, 20), np.complex64))
    for wrong in (2.0, -1.0, 0.5, float("nan"), float("inf")):
        with pytest.raises(
            InvalidValueError, match=rf"x holds {wrong} and must hold whole numbers in 0..1"
        ):
            integer(torch.full((2, 3, 20), wrong))
    with pytest.raises(
        ShapeError,
        match=(
            r"x has shape \(2, 3, 21\) and must be \[T, B, \*n\], time steps first, with \*n ="
            r" \(20,\)"
        ),
    ):
        integer(torch.zeros(2, 3, 21))
    with pytest.raises(
        ShapeError, match=r"x has shape \(3, 20\) and must be \[T, B, \*n\], time steps first"
    ):
        integer(torch.zeros(3, 20))
    with pytest.raises(
        ShapeError, match=r"x has shape \(20,\) and must be \[B, \*n\], one time step"
    ):
        integer.step(torch.zeros(20))
    with pytest.raises(ShapeError, match=r"x_seq has no time step"):
        integer(torch.zeros(0, 3, 20))
    integer.step(torch.zeros(3, 20))
    with pytest.raises(StateError, match=r"of 3 samples and x of 2; call reset\(\)"):
        integer.step(torch.zeros(2, 20))


def test_an_empty_batch_gives_an_empty_batch():
    integer = lowered(awake(dense()))
    assert integer(torch.zeros(4, 0, 20)).shape == (4, 0, 5)


def changed(integer, kind, **fields):
    """The arguments of the network with one operation changed."""
    import dataclasses

    operations = list(integer.operations)
    index = next(i for i, op in enumerate(operations) if isinstance(op, kind))
    operations[index] = dataclasses.replace(operations[index], **fields)
    return integer.input, operations, integer.output


UNSOUND = {
    "multiplier that overflows": (
        Product,
        lambda op: {"multiplier": np.full_like(op.multiplier, 2**30)},
        "results fit 32 bits",
    ),
    "weights of another kernel": (
        Product,
        lambda op: {"weight": op.weight.repeat(2, 2)},
        "the size of its kernel",
    ),
    "unsigned weights": (
        Product,
        lambda op: {"weight": op.weight.astype(np.uint8)},
        r"weights are integers \[O, I / groups, kh, kw\]",
    ),
    "no groups": (Product, lambda op: {"groups": 0}, "groups divide its channels"),
    "short bias": (Product, lambda op: {"offset": op.offset[1:]}, "one int32 constant per output"),
    "too narrow bounds": (
        Product,
        lambda op: {"output": Signal(op.output.shape, 0, 1)},
        "lie within its bounds",
    ),
    "code out of range": (
        GridNeuron,
        lambda op: {"reset": np.full_like(op.reset, 16)},
        "every code is below the number of levels",
    ),
    "start out of range": (
        GridNeuron,
        lambda op: {"start": -1},
        "every code is below the number of levels",
    ),
    "falling edges": (GridNeuron, lambda op: {"edges": op.edges[::-1]}, "its edges increase"),
    "table of another size": (
        GridNeuron,
        lambda op: {"leak": op.leak[:, 1:]},
        r"its tables are \[C, L\]",
    ),
    "shift": (GridNeuron, lambda op: {"shift": 40}, "shifts are 0 to 31 bits"),
    "membrane beyond 32 bits": (
        GridNeuron,
        lambda op: {"leak": np.full_like(op.leak, 2**31 - 1)},
        "its membrane fits 32 bits",
    ),
    "channels": (GridNeuron, lambda op: {"inner": 7}, "its channels divide its neurons"),
    "shape": (GridNeuron, lambda op: {"output": Signal((25,), 0, 1)}, "the shape of its input"),
    "axes": (
        GridNeuron,
        lambda op: {"output": Signal((24, 1, 1, 1), 0, 1)},
        "a shape has 1 to 3 axes",
    ),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_what_an_engine_could_not_run_is_refused(name):
    kind, fields, rule = UNSOUND[name]
    integer = lowered(awake(dense()))
    operation = next(op for op in integer.operations if isinstance(op, kind))
    with pytest.raises(InvalidValueError, match=rf"integer operation '\d' breaks a rule: .*{rule}"):
        IntegerNetwork(*changed(integer, kind, **fields(operation)))


def test_operations_read_what_is_before_them():
    integer = lowered(awake(dense()))
    with pytest.raises(InvalidValueError, match="'1' reads a signal that comes after it"):
        IntegerNetwork(*changed(integer, Product, inputs=(2,)))
    with pytest.raises(
        InvalidValueError, match=r"IntegerNetwork\(output=9\): must be one of its 5 signals"
    ):
        IntegerNetwork(integer.input, integer.operations, 9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_steps": 0}, "time_steps must be >= 1"),
        ({"time_steps": -3}, "time_steps must be >= 1"),
        ({"time_steps": 2.0}, "time_steps must be an int"),
        ({"input_scale": math.inf}, "input_scale must be finite"),
        ({"input_scale": math.nan}, "input_scale must be finite"),
        ({"input_scale": 0.0}, "input_scale must be > 0"),
        ({"input_scale": -1.0}, "input_scale must be > 0"),
    ],
)
def test_a_network_of_no_steps_or_no_scale_is_refused(options, message):
    _, integer, _ = example("dense")
    with pytest.raises((InvalidValueError, InvalidTypeError), match=message):
        IntegerNetwork(integer.input, integer.operations, integer.output, **options)


def test_neurons_have_names_of_their_own():
    _, integer, _ = example("dense")
    operations = [
        dataclasses.replace(op, name="same") if op.name in integer.neurons else op
        for op in integer.operations
    ]
    with pytest.raises(InvalidValueError, match="two neurons of one name"):
        IntegerNetwork(integer.input, operations, integer.output)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float64, torch.bool, torch.uint8, torch.int64]
)
def test_spikes_of_every_dtype_run(dtype):
    _, integer, x = example("dense")
    assert torch.equal(integer(x.to(dtype)), integer(x))


def test_layouts_that_numpy_does_not_know_are_refused():
    _, integer, x = example("dense")
    with pytest.raises(
        InvalidTypeError, match=r"x has the layout torch\.sparse_coo; give it as x\.to_dense"
    ):
        integer(x.to_sparse())


@pytest.mark.parametrize("name", NETWORKS)
def test_an_empty_batch_is_traced(name):
    _, integer, x = example(name)
    out, traces = integer.trace(x[:0] if name == "static" else x[:, :0])
    assert torch.equal(out, integer(x)[:, :0])
    assert all(trace.codes.shape[1] == 0 for trace in traces.values())


def test_sums_beyond_64_bits_are_refused_and_do_not_wrap_around():
    weight = np.full((1, 2, 1, 1), 2**31 - 1, np.int32)
    low, high = accumulator_bounds(weight, -(2**31) + 1, 2**31 - 1)
    assert low[0] == -(2**60)
    assert high[0] == 2**60
    signal = Signal((2,), -(2**31) + 1, 2**31 - 1)
    one, zero = np.ones(1, np.int32), np.zeros(1, np.int32)
    product = Product("p", (0,), Signal((1,), -1, 1), (2, 1, 1), weight, one, zero, None)
    with pytest.raises(InvalidValueError, match="'p' breaks a rule: sums fit 32 bits"):
        IntegerNetwork(signal, [product], 1)


TOO_LARGE = {
    "signal": (Signal((2**16, 2**16), 0, 1), [], "one sample has at most"),
    "delay": (
        Signal((4,), 0, 1),
        [Delay("d", (0,), Signal((4,), 0, 1), 2**30)],
        "its state has at most",
    ),
    "border": (
        Signal((1, 4, 4), 0, 1),
        [
            Pool(
                "p",
                (0,),
                Signal((1, 1, 1), 0, 2**16),
                (1, 4, 4),
                Window((2**16, 2**16), (1, 1), (2**15, 2**15)),
                maximum=True,
            )
        ],
        "with its border, its input has at most",
    ),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_32_bits_cannot_count_is_refused(name):
    signal, operations, message = TOO_LARGE[name]
    with pytest.raises(InvalidValueError, match=message):
        IntegerNetwork(signal, operations, len(operations))
