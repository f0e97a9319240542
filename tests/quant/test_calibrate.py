import copy
import math
import pickle

import pytest
import torch

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError, StateError
from snnsim.quant.calibrate import HistogramCalibrator, MaxCalibrator
from snnsim.quant.functional import fake_tensor_quant

METHODS = ["max", "percentile", "mse", "entropy"]


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


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
    with pytest.raises(InvalidValueError, match="must be 'max', 'percentile', 'mse' or 'entropy'"):
        calibrator.compute_amax("median")
