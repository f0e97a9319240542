import math

import pytest
import torch

from snnsim.neurons import IFNode
from snnsim.temporal.runner import MultiStep


@pytest.mark.parametrize("x", [0.15, 0.25, 0.3, 0.5, 0.75, 1.0, 3.0])
def test_fires_every_ceil_of_threshold_over_input(x):
    steps = 60
    spikes = MultiStep(IFNode())(torch.full((steps, 1, 1), x, dtype=torch.float64)).flatten()
    period = math.ceil(1 / x)
    expected = [float(t % period == period - 1) for t in range(steps)]
    assert spikes.tolist() == expected


def test_soft_reset_fires_at_the_rate_of_the_input():
    spikes = MultiStep(IFNode(v_reset=None))(torch.full((1024, 1, 1), 0.3125))
    assert spikes.mean() == 0.3125
