import pytest
import torch
from torch import nn

from snnsim import neurons, quant
from snnsim.errors import InvalidValueError
from snnsim.layers.threshold_norm import (
    ThresholdDependentBatchNorm1d,
    ThresholdDependentBatchNorm2d,
)
from snnsim.temporal.runner import MultiStep


def test_output_has_the_scale_of_the_threshold_over_time_and_batch():
    norm = ThresholdDependentBatchNorm2d(3, v_threshold=0.8, alpha=0.5)
    y = MultiStep(
        nn.Sequential(norm, nn.Identity(), neurons.IFNode())
    )  # a runner folds time into the batch
    x_seq = 7 * torch.randn(6, 5, 3, 4, 4, dtype=torch.float64) + 2
    norm.double()
    y(x_seq)
    out = norm(x_seq.flatten(0, 1))
    assert torch.allclose(out.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-10)
    # eps against a variance of 49
    assert torch.allclose(
        out.std((0, 2, 3), correction=0), torch.full((3,), 0.4, dtype=torch.float64), rtol=1e-6
    )


def test_is_a_batch_norm_of_that_first_weight():
    norm, plain = ThresholdDependentBatchNorm1d(4, v_threshold=2.0), nn.BatchNorm1d(4)
    nn.init.constant_(plain.weight, 2.0)
    x = torch.randn(9, 4)
    assert torch.equal(norm(x), plain(x))
    assert torch.equal(norm.running_var, plain.running_var)
    assert torch.equal(norm.eval()(x), plain.eval()(x))


def test_folds_like_any_batch_norm():
    net = nn.Sequential(nn.Linear(5, 4), ThresholdDependentBatchNorm1d(4, v_threshold=0.5)).double()
    net(torch.randn(30, 5, dtype=torch.float64))
    x = torch.randn(8, 5, dtype=torch.float64)
    expected = net.eval()(x)
    assert len(quant.fold_batch_norm(net).changed) == 1
    assert torch.allclose(net(x), expected, rtol=0, atol=1e-10)


def test_checks_the_shape_of_its_input():
    with pytest.raises(ValueError, match="expected 4D"):
        ThresholdDependentBatchNorm2d(3)(torch.randn(2, 3))


@pytest.mark.parametrize("name", ["v_threshold", "alpha"])
def test_refuses_a_scale_of_zero(name):
    with pytest.raises(InvalidValueError, match=f"{name} must be > 0"):
        ThresholdDependentBatchNorm1d(3, **{name: 0.0})
