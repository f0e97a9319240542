import math

import pytest
import torch

from snnsim.errors import InvalidValueError
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.functional import fake_tensor_quant
from snnsim.quant.ranges import channel_rows, entropy_amax, mse_amax, percentile_amax, weight_amax


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
