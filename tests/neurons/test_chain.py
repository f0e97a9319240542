"""Step loop == SingleStep == MultiStep for every configuration, states on their codebooks,
gradients against plain autograd.
"""

import pytest
import torch
from configurations import ALL, CODEBOOKS, NODES, Configuration

from snnsim import neurons, quant
from snnsim.surrogate import ATan
from snnsim.temporal.runner import MultiStep, SingleStep

# some of the configurations are poor choices, and the nodes say so
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*levels never leak", "ignore:.*is not near any level"
)

SHAPE = (6, 3, 7)


def sequence(seed=0, shape=SHAPE, dtype=torch.float32):
    return (0.4 + torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


@pytest.mark.parametrize("configuration", ALL, ids=str)
def test_runners_and_steps_agree_and_stay_on_the_codebook(configuration):
    node, x_seq = configuration().eval(), sequence()
    whole = MultiStep(node)(x_seq)
    assert torch.equal(SingleStep(node)(x_seq), whole)
    for t, x in enumerate(x_seq):
        assert torch.equal(node(x), whole[t])
        if node.state_quant is not None:
            assert torch.isin(node.v, node.state_quant.levels).all()
    assert ((whole == 0) | (whole == 1)).all()
    assert 0 < whole.mean() < 1


class _PlainQuantizer:
    """The codebook as ordinary autograd sees it, in float64."""

    def __init__(self, codebook):
        self.codebook = codebook

    def __call__(self, h, value=None):
        if self.codebook is None:
            return h
        value = self.codebook(h.detach()) if value is None else value
        low, high = self.codebook.limits
        through = (
            torch.where((h < low) | (h > high), h.detach(), h) if self.codebook.ste == "clip" else h
        )
        # parentheses: the difference is exactly 0, the sum exactly the value
        return value + (through - through.detach())


def plain_run(node, x_seq):
    """The equations of DESIGN written out in ordinary differentiable operations."""
    quantize = _PlainQuantizer(node.state_quant)
    v = torch.full_like(x_seq[0], node.v_rest)
    v = v if node.state_quant is None else node.state_quant.snap(v, node.v_rest).detach()
    i = torch.zeros_like(v)
    spikes = []
    for x in x_seq:
        if isinstance(node, neurons.SynapticNode):
            current = _PlainQuantizer(node.current.state_quant)
            i = current(node.current.alpha * i + x)
            h = node.beta * v + i
        elif isinstance(node, neurons.IFNode):
            h = v + x
        elif hasattr(node, "strength"):
            h = v - node.strength * v * (1.5 - v) + x
        else:
            h = v - (v - node.v_rest) / node.tau + (x / node.tau if node.decay_input else x)
        q = quantize(h)
        distance = q - node.v_threshold
        smooth = node.surrogate.primitive(distance)
        s = (distance >= 0).to(q) + (smooth - smooth.detach())
        reset = s.detach() if node.detach_reset else s
        target = q - node.v_threshold if node.v_reset is None else torch.full_like(q, node.v_reset)
        mixed = reset * target + (1 - reset) * q
        v = (
            mixed
            if node.state_quant is None
            else quantize(mixed, node.state_quant.snap(mixed.detach(), node.v_rest))
        )
        spikes.append(s)
    return torch.stack(spikes)


@pytest.mark.parametrize("configuration", ALL[::3] + ALL[1::7], ids=str)
def test_gradients_are_those_of_plain_autograd(configuration):
    node, x_seq = configuration().double(), sequence(dtype=torch.float64).requires_grad_()
    leaves = [x_seq, *node.parameters()]
    weights = torch.randn(SHAPE, dtype=torch.float64)
    expected_spikes = plain_run(node, x_seq)
    expected = torch.autograd.grad((expected_spikes * weights).sum(), leaves)
    spikes = MultiStep(node)(x_seq)
    assert torch.equal(spikes, expected_spikes)
    for ours, plain in zip(
        torch.autograd.grad((spikes * weights).sum(), leaves), expected, strict=True
    ):
        assert torch.allclose(ours, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("codebook", ["float", "uniform4"])
def test_smooth_forward_has_its_true_gradient(codebook):
    # without a codebook the smooth network is differentiable: check against finite differences
    node = neurons.LIFNode(
        surrogate=ATan(spiking=False), state_quant=CODEBOOKS[codebook]()
    ).double()
    x_seq = sequence(shape=(4, 2, 3), dtype=torch.float64).requires_grad_()
    out = MultiStep(node)(x_seq)
    assert ((out > 0) & (out < 1)).all()
    if codebook == "float":
        assert torch.autograd.gradcheck(MultiStep(node), (x_seq,))
    node.eval()
    assert set(MultiStep(node)(x_seq).unique().tolist()) <= {0.0, 1.0}


def test_smooth_training_keeps_the_state_on_its_codebook():
    node = neurons.LIFNode(
        surrogate=ATan(spiking=False), state_quant=quant.uniform(3), v_reset=None
    )
    for x in sequence():
        node(x)
        assert torch.isin(node.v, node.state_quant.levels).all()


@pytest.mark.parametrize("name", NODES)
def test_chunks_equal_the_whole(name):
    node = Configuration(name, "uniform4", hard=True, detach=False)().eval()
    x_seq = sequence(shape=(9, 2, 5))
    whole = MultiStep(node)(x_seq)
    streamed = MultiStep(node, carry_state=True)
    assert torch.equal(
        torch.cat([streamed(x_seq[:2]), streamed(x_seq[2:3]), streamed(x_seq[3:])]), whole
    )


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("codebook", ["float", "uniform4", "exponential2"])
def test_nan_stays_in_its_neuron_and_infinities_saturate(name, codebook):
    node = Configuration(name, codebook, hard=True, detach=False)().eval()
    x_seq = sequence(shape=(5, 2, 4))
    clean = MultiStep(node)(x_seq)
    dirty = x_seq.clone()
    dirty[2, 0, 1] = torch.nan
    out = MultiStep(node)(dirty)
    assert out[2:, 0, 1].isnan().all()
    out[2:, 0, 1] = clean[2:, 0, 1]
    assert torch.equal(out, clean)
    dirty[2, 0, 1] = torch.inf
    out = MultiStep(node)(dirty)
    assert out[2, 0, 1] == 1
    if codebook != "float":
        assert not out.isnan().any()


@pytest.mark.parametrize("name", NODES)
def test_batch_composition_never_matters(name):
    node = Configuration(name, "uniform4", hard=False, detach=False)().eval()
    x_seq = sequence(shape=(5, 6, 8))
    whole = MultiStep(node)(x_seq)
    assert torch.equal(
        torch.cat([MultiStep(node)(x_seq[:, b : b + 1]) for b in range(6)], 1), whole
    )
    assert MultiStep(node)(x_seq[:, :0]).shape == (5, 0, 8)
