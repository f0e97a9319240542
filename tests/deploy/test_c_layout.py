"""Type, size and place of every value of the generated C."""

import numpy as np
import pytest
from deploy.networks import NETWORKS, example
from deploy.random_integers import random_integers

from snnsim.deploy import IntegerNetwork
from snnsim.deploy.bounds import accumulator_bounds
from snnsim.deploy.c import layout_of, width_of
from snnsim.deploy.ops import Delay, Pool, Product, Reshape, Signal, Window
from snnsim.deploy.ops.product import CONVOLUTION, DENSE, PACKED
from snnsim.errors import InvalidValueError

PLAIN = Window()


def product(source, outputs, window=PLAIN, weight=1):
    """A product of equal weights of 8 bits."""
    channels, height, width = source.planes
    weights = np.full((outputs, channels, *window.kernel), weight, np.int8)
    low, high = accumulator_bounds(weights, source.low, source.high)
    shape = (outputs, *window.output_size(height, width))
    ones = np.ones(outputs, np.int32)
    signal = Signal(shape, min(0, int(low.min())), max(0, int(high.max())))
    return Product("product", (0,), signal, source.planes, weights, ones, 0 * ones, None, window)


@pytest.mark.parametrize("networks", [*NETWORKS, *range(30)])
def test_no_value_lies_on_another_that_is_still_needed(networks):
    network = example(networks)[1] if isinstance(networks, str) else random_integers(networks)[0]
    layout = layout_of(network)
    last = {}
    for i, operation in enumerate(network.operations):
        last |= {id(layout.values[source]): i for source in operation.inputs}
    last[id(layout.values[network.output])] = len(network.operations)
    for i in range(len(network.operations)):
        own = layout.values[i + 1]
        assert own.first % width_of(own.kind) == 0
        for other in layout.values[: i + 1]:
            apart = (
                own.area != other.area
                or own.first >= other.first + other.bytes
                or other.first >= own.first + own.bytes
            )
            # where it lies on what it reads, it begins no later and is no wider
            over = own.first <= other.first and width_of(own.kind) <= width_of(other.kind)
            assert (
                own is other
                or apart
                or last.get(id(other), -1) < i
                or (last[id(other)] == i and over)
            )
    for area, size in layout.areas.items():
        ends = [values.first + values.bytes for values in layout.values if values.area == area]
        assert max(ends, default=0) <= size < max(ends, default=0) + 4


def test_a_value_in_another_shape_is_the_same_value():
    source = Signal((2, 3), 0, 1)
    # bounds that a file may state change nothing
    passed = [
        Reshape("flat", (0,), Signal((6,), 0, 300)),
        Delay("late", (1,), Signal((6,), -5, 300), 0),
    ]
    layout = layout_of(IntegerNetwork(source, passed, 2))
    assert layout.values[0] is layout.values[1] is layout.values[2]
    assert layout.values[0].kind == "uint8_t"


@pytest.mark.parametrize(
    ("shape", "window", "form"),
    [
        ((4,), PLAIN, PACKED),
        ((4, 1, 1), Window(stride=(3, 2), dilation=(2, 2)), PACKED),
        ((4, 1, 1), Window(padding=(1, 1)), CONVOLUTION),
        ((4, 1, 1), Window(padding=(0, 1), stride=(1, 3)), CONVOLUTION),
        ((4, 1, 2), Window(), CONVOLUTION),
    ],
)
def test_the_form_of_a_product(shape, window, form):
    source = Signal(shape, 0, 1)
    operation = product(source, 3, window)
    layout = layout_of(IntegerNetwork(source, [operation], 1))
    assert operation.form(source, layout.values[0].kind) == form
    assert (layout.values[1].size, layout.values[1].room) == (
        3 * window.places(*source.planes[1:]),
        8 if form == PACKED else layout.values[1].size,
    )


def test_the_types_of_sums():
    for high, weight, kind in (
        (1, 1, "int32_t"),
        (2, 1, "int16_t"),
        (1000, 30, "int32_t"),
        (1000, -30, "int32_t"),
        (1000, 3, "int16_t"),
    ):
        source = Signal((4,), 0, high)
        operation = product(source, 3, weight=weight)
        layout = layout_of(IntegerNetwork(source, [operation], 1))
        assert layout.values[1].kind == kind
        form = operation.form(source, layout.values[0].kind)
        assert form == (PACKED if high == 1 else DENSE)


@pytest.mark.parametrize(
    ("window", "over"),
    [
        (Window((2, 2), (2, 2)), True),
        (Window((2, 2), (1, 1)), True),
        (Window((3, 3), (2, 2), (1, 1)), True),
        (Window((3, 3), (1, 1), (1, 1)), False),
        (Window((1, 1), (1, 1), (1, 1)), False),
    ],
)
def test_a_pool_that_never_looks_back_lies_over_what_it_reads(window, over):
    source = Signal((2, 6, 6), 0, 3)
    values = product(source, 2, weight=100)
    shape = (2, *window.output_size(6, 6))
    pool = Pool(
        "pool",
        (1,),
        Signal(shape, values.output.low, values.output.high),
        values.output.planes,
        window,
        True,
    )
    layout = layout_of(IntegerNetwork(source, [values, pool], 2))
    assert layout.values[2].kind == layout.values[1].kind == "int16_t"
    assert (layout.values[2].first == layout.values[1].first) == over


ONE, LARGE = Signal((1, 1, 1), 0, 1), Signal((1, 2**14, 2**14), 0, 1)


@pytest.mark.parametrize(
    ("source", "make", "rule"),
    [
        (Signal((1, 2**16, 2**16), 0, 1), None, "one sample has at most"),
        (LARGE, lambda: product(LARGE, 8), "one sample has at most"),
        (LARGE, lambda: Delay("late", (0,), LARGE, 8), "its state has at most"),
        (ONE, lambda: product(ONE, 1, Window(stride=(2**31, 1))), "a window's sizes fit 32 bits"),
        (
            ONE,
            lambda: product(ONE, 1, Window(stride=(2**30, 1), padding=(2**30, 0))),
            "with its border, its input has at most",
        ),
    ],
)
def test_sizes_beyond_the_reach_of_an_index(source, make, rule):
    with pytest.raises(InvalidValueError, match=rule):
        IntegerNetwork(source, [make()] if make else [], 0)


def test_largest_sizes_are_laid_out():
    source = Signal((1, 2**15, 2**15), 0, 1)
    values = product(source, 1)
    pool = Pool(
        "pool",
        (1,),
        Signal((1, 2**14, 2**14), 0, 4),
        values.output.planes,
        Window((2, 2), (2, 2)),
        False,
    )
    layout = layout_of(IntegerNetwork(source, [values, pool], 2))
    assert layout.areas == {"work": 0, "halves": 2**31}
