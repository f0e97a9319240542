import copy
import math
import pickle

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, StateError
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.functional import fake_tensor_quant
from snnsim.quant.ranges import (
    Histogram,
    HistogramCalibrator,
    MaxCalibrator,
    channel_rows,
    entropy_amax,
    mse_amax,
    percentile_amax,
    weight_amax,
)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_channel_rows_gathers_everything_but_the_axis():
    x = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(channel_rows(x, None), x.view(1, 24))
    assert torch.equal(channel_rows(x, 1)[2], x[:, 2].flatten())
    assert torch.equal(channel_rows(x, -1), channel_rows(x, 2))
    assert channel_rows(torch.zeros(5), 0).shape == (5, 1)
    with pytest.raises(InvalidValueError, match="has no such axis"):
        channel_rows(x, 3)


def test_percentile_is_the_smallest_value_that_covers_the_counts():
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).repeat(2, 1)
    counts = torch.tensor([[90, 9, 1, 0], [0, 0, 0, 7]])
    for percentile, expected in (
        (50, [1, 4]),
        (90, [1, 4]),
        (90.1, [2, 4]),
        (99, [2, 4]),
        (100, [3, 4]),
    ):
        assert percentile_amax(values, counts, percentile).tolist() == expected


@pytest.mark.parametrize("percentile", [0, -1, 100.1, math.nan])
def test_percentile_out_of_range_is_refused(percentile):
    with pytest.raises(InvalidValueError, match=r"must be in \(0, 100\]"):
        percentile_amax(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.int64), percentile)


@pytest.mark.parametrize("num_bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", ["normal", "laplace", "uniform"])
def test_mse_range_is_nearly_as_good_as_a_dense_search(num_bits, shape):
    u = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = {"normal": normal(4000).double(), "laplace": -u.log(), "uniform": u}[shape].abs()

    def error(amax: float) -> float:
        return (fake_tensor_quant(x, amax, num_bits) - x).square().sum().item()

    best = min(error(x.max().item() * i / 100) for i in range(1, 120))
    assert error(mse_amax(x[None], None, num_bits).item()) <= 1.05 * best


def test_mse_range_counts_values_as_often_as_they_occur():
    values, counts = torch.tensor([[1.0, 2.0, 10.0, 99.0]]), torch.tensor([[5, 50, 1, 0]])
    repeated = values.repeat_interleave(counts[0], dim=1)
    assert torch.equal(mse_amax(values, counts, 3), mse_amax(repeated, None, 3))


def test_mse_range_of_zeros_is_zero():
    assert mse_amax(torch.zeros(2, 3), None, 4).tolist() == [0.0, 0.0]


def test_entropy_keeps_a_level_grid_whole_and_clips_a_long_tail():
    width = torch.ones(1, 1, dtype=torch.float64)
    spikes = torch.zeros(1, 1024, dtype=torch.int64)
    spikes[0, 0], spikes[0, 700] = 1000, 100
    assert entropy_amax(spikes, width, 8).item() > 700
    tail = torch.arange(1024)
    counts = (1e6 * torch.exp(-tail / 20.0)).long()[None] + 1
    assert entropy_amax(counts, width, 4).item() < 400


@pytest.mark.parametrize("num_bits", [10, 11, 12, 16])
def test_entropy_has_bins_for_weights_of_many_bits(num_bits):
    w = torch.randn(300, generator=torch.Generator().manual_seed(0))
    amax = weight_amax(w, QuantDescriptor(num_bits, calib_method="entropy"))
    assert w.abs().max() / 4 < amax <= w.abs().max()


def test_entropy_of_more_than_16_bits_is_refused():
    with pytest.raises(
        InvalidValueError, match=r"num_bits must be <= 16, .*; use calib_method='mse' or 'max'"
    ):
        weight_amax(torch.ones(3), QuantDescriptor(17, calib_method="entropy"))


def test_entropy_needs_bins_for_its_levels():
    with pytest.raises(
        InvalidValueError, match="a level needs at least 4 bins; use num_bins=512 or more"
    ):
        entropy_amax(torch.ones(1, 256, dtype=torch.int64), torch.ones(1, 1), 8)


def test_weight_range_by_each_method():
    w = normal(6, 500)
    rows = w.abs()
    assert torch.equal(weight_amax(w, QuantDescriptor(4, axis=0)), rows.amax(1))
    assert torch.equal(weight_amax(w, QuantDescriptor(4)), rows.max())
    assert torch.equal(
        weight_amax(w, QuantDescriptor(4, axis=0, calib_method="mse")), mse_amax(rows, None, 4)
    )
    assert (
        weight_amax(w, QuantDescriptor(4, calib_method="percentile")).item()
        == rows.flatten().kthvalue(3000).values
    )
    twn = QuantDescriptor(2, narrow_range=True, calib_method="twn", axis=0)
    torch.testing.assert_close(weight_amax(w, twn), 1.4 * rows.mean(1))
    assert torch.equal(weight_amax(w, QuantDescriptor(1, axis=0)), rows.mean(1))
    entropy = weight_amax(w, QuantDescriptor(8, axis=0, calib_method="entropy"))
    assert entropy.shape == (6,)
    assert bool(((entropy > 0) & (entropy <= rows.amax(1))).all())


def test_weights_that_are_not_numbers_are_refused():
    w = torch.tensor([[1.0, math.nan]])
    with pytest.raises(
        InvalidValueError, match="weight has NaN or infinite values and cannot be quantized"
    ):
        weight_amax(w, QuantDescriptor())


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


METHODS = ["max", "percentile", "mse", "entropy"]


def test_max_calibrator_keeps_the_largest_magnitude_of_all_batches():
    x = normal(8, 3, 5)
    for axis, expected in (
        (None, x.abs().max()),
        (1, x.abs().amax((0, 2), keepdim=True)),
        (-1, x.abs().amax((0, 1), True)),
    ):
        calibrator = MaxCalibrator(axis=axis)
        for batch in x.split(3):
            calibrator.collect(batch)
        assert torch.equal(calibrator.compute_amax(), expected)


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("method", METHODS)
def test_the_same_data_in_any_batches_gives_the_same_range(method, axis):
    x = normal(60, 4) * torch.tensor([1.0, 10.0, 0.01, 3.0])
    results = []
    for size in (60, 7, 1):
        calibrator = HistogramCalibrator(4, axis)
        for batch in x.sort(0).values.split(size):
            calibrator.collect(batch)
        results.append(calibrator.compute_amax(method))
    assert all(torch.equal(result, results[0]) for result in results)
    assert results[0].shape == (() if axis is None else (1, 4))
    assert bool((fake_tensor_quant(x, results[0], 4) - x).isfinite().all())


@pytest.mark.parametrize("method", METHODS)
def test_each_channel_is_calibrated_as_if_alone(method):
    x = normal(500, 3) * torch.tensor([1.0, 30.0, 0.2])
    together = HistogramCalibrator(3, axis=1)
    together.collect(x)
    for i, amax in enumerate(together.compute_amax(method).flatten()):
        alone = HistogramCalibrator(3)
        alone.collect(x[:, i])
        assert torch.equal(alone.compute_amax(method), amax)


def test_percentile_is_exact_to_a_bin_and_never_above_the_maximum():
    x = torch.arange(1, 1001).float() / 1000
    calibrator = HistogramCalibrator()
    calibrator.collect(x)
    assert calibrator.compute_amax("percentile", percentile=50).item() == pytest.approx(
        0.5, abs=1 / 1024
    )
    assert calibrator.compute_amax("percentile", percentile=100).item() == 1.0


def test_fewer_bits_clip_more():
    calibrators = [HistogramCalibrator(bits) for bits in (2, 4, 8)]
    for calibrator in calibrators:
        calibrator.collect(normal(20000))
    ranges = [calibrator.compute_amax("mse").item() for calibrator in calibrators]
    assert ranges == sorted(ranges)
    assert ranges[0] < ranges[1] < ranges[2]


@pytest.mark.parametrize("kind", [MaxCalibrator, HistogramCalibrator])
def test_calibrators_copy_and_reset(kind):
    arguments = () if kind is MaxCalibrator else ("mse",)
    calibrator = kind(4)
    calibrator.collect(normal(50))
    for other in (copy.deepcopy(calibrator), pickle.loads(pickle.dumps(calibrator))):
        assert torch.equal(other.compute_amax(*arguments), calibrator.compute_amax(*arguments))
    calibrator.reset()
    calibrator.collect(torch.zeros(0))
    assert calibrator.empty
    assert repr(calibrator).endswith("unsigned=False): nothing seen")
    with pytest.raises(
        StateError, match="no data was collected; run at least one batch through it first"
    ):
        calibrator.compute_amax(*arguments)


@pytest.mark.parametrize("method", METHODS)
def test_data_that_is_all_zero_has_range_zero(method):
    calibrator = HistogramCalibrator(4)
    calibrator.collect(torch.zeros(10))
    assert calibrator.compute_amax(method).item() == 0.0


def test_bad_data_is_refused():
    with pytest.raises(InvalidTypeError, match="x must be floating point"):
        MaxCalibrator().collect(torch.arange(3))
    with pytest.raises(InvalidTypeError, match="x has negative values"):
        MaxCalibrator(unsigned=True).collect(torch.tensor([-1.0]))
    for value in (math.nan, math.inf):
        with pytest.raises(InvalidValueError, match="NaN or infinite values, which have no range"):
            HistogramCalibrator().collect(torch.tensor([value]))
    with pytest.raises(InvalidValueError, match="has no such axis"):
        MaxCalibrator(axis=2).collect(torch.zeros(2, 2))


@pytest.mark.parametrize("kind", [MaxCalibrator, HistogramCalibrator])
def test_refused_data_leaves_no_trace(kind):
    calibrator = kind(axis=1)
    calibrator.collect(torch.ones(2, 3))
    with pytest.raises(
        ShapeError,
        match=r"gives a range of shape \(1, 4\), earlier data one of \(1, 3\); call reset",
    ):
        calibrator.collect(torch.full((2, 4), 9.0))
    assert calibrator.compute_amax(*(() if kind is MaxCalibrator else ("max",))).tolist() == [
        [1.0, 1.0, 1.0]
    ]


def test_an_unknown_method_is_refused():
    calibrator = HistogramCalibrator()
    calibrator.collect(torch.ones(1))
    with pytest.raises(InvalidValueError, match="'max', 'percentile', 'mse', 'entropy'"):
        calibrator.compute_amax("median")
