import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnsim.errors import InvalidValueError, ShapeError
from snnsim.quant.histogram import Histogram

VALUES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 30)),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


def filled(*batches: torch.Tensor) -> Histogram:
    histogram = Histogram(8)
    for batch in batches:
        histogram.collect(batch)
    return histogram


@given(VALUES.map(torch.from_numpy), st.data())
def test_any_split_and_order_gives_the_same_histogram(values, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, values.shape[1]), max_size=4)))
    parts = data.draw(st.permutations(torch.tensor_split(values, cuts, dim=1)))
    whole, split = filled(values), filled(*parts)
    assert torch.equal(whole.counts, split.counts)
    assert torch.equal(whole.width, split.width)


@given(VALUES.map(torch.from_numpy))
def test_every_value_is_counted_in_the_bin_that_holds_it(values):
    histogram = filled(values)
    assert histogram.counts.sum(1).tolist() == [values.shape[1]] * len(values)
    lower = histogram.lower_edges()
    for row, value in enumerate(values.double()):
        inside = (value[:, None] >= lower[row]) & (
            value[:, None] < lower[row] + histogram.width[row]
        )
        assert torch.equal(inside.sum(0), histogram.counts[row])


def test_width_is_the_smallest_power_of_two_that_fits():
    assert filled(torch.tensor([[7.9], [8.0], [-0.5]])).width.flatten().tolist() == [
        1.0,
        2.0,
        0.125,
    ]


def test_zeros_first_change_nothing():
    values = torch.tensor([[0.3, -4.0]])
    late, whole = (
        filled(torch.zeros(1, 5), values),
        filled(torch.cat([torch.zeros(1, 5), values], 1)),
    )
    assert torch.equal(late.counts, whole.counts)


def test_nothing_collected_is_said():
    histogram = filled(torch.zeros(2, 0))
    assert histogram.empty
    for read in (lambda: histogram.counts, lambda: histogram.width):
        with pytest.raises(InvalidValueError, match="nothing was collected; call collect"):
            read()


def test_bad_input_is_refused():
    with pytest.raises(
        InvalidValueError, match="must be a power of two >= 2, so that bins merge exactly"
    ):
        Histogram(1000)
    with pytest.raises(InvalidValueError, match="NaN or infinite values have no bin"):
        filled(torch.tensor([[torch.inf]]))
    with pytest.raises(ShapeError, match=r"must be \[C, N\]"):
        filled(torch.zeros(3))
    with pytest.raises(ShapeError, match=r"must be \[2, N\] as before"):
        filled(torch.zeros(2, 1), torch.zeros(3, 1))
