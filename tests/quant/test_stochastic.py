import copy
import pickle

import torch

from snnsim import neurons, quant
from snnsim.temporal.runner import MultiStep
from snnsim.testing import check_codebook


def stochastic(seed):
    return quant.uniform(3).with_rounding("stochastic", torch.Generator().manual_seed(seed))


def test_keeps_the_contract():
    check_codebook(stochastic(0))


def test_is_right_on_average():
    h = torch.full((200_000,), 0.4)
    mean = stochastic(0)(h).double().mean()
    # standard error of the mean: half a step / sqrt(n) = 3e-4
    assert abs(float(mean) - 0.4) < 2e-3


def test_draws_only_the_two_neighbours():
    codebook = stochastic(0)
    h = torch.linspace(-2, 2, 5001)
    q = codebook(h)
    levels = codebook.levels
    low = levels[(torch.bucketize(h, levels, right=True) - 1).clamp(0, len(levels) - 1)]
    high = levels[torch.bucketize(h, levels).clamp(0, len(levels) - 1)]
    assert ((q == low) | (q == high)).all()


def test_is_reproducible_from_its_generator():
    h = torch.randn(1000)
    assert torch.equal(stochastic(7)(h), stochastic(7)(h))
    assert not torch.equal(stochastic(7)(h), stochastic(8)(h))


def test_copies_draw_the_same():
    h = torch.randn(1000)
    codebook = stochastic(3)
    twins = copy.deepcopy(codebook), pickle.loads(pickle.dumps(codebook))
    expected = codebook(h)
    for twin in twins:
        assert torch.equal(twin(h), expected)


def test_a_node_stays_on_its_codebook():
    node = neurons.LIFNode(state_quant=stochastic(0))
    MultiStep(node, carry_state=True)(torch.randn(9, 4, 10))
    assert torch.isin(node.v, node.state_quant.levels).all()
    assert node.codes.shape == (4, 10)
