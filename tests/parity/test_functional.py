"""Small functions that SpikingJelly has too."""

import pytest
import torch
from parity.cases import SPIKINGJELLY, differs, same
from torch import nn

from snnsim import functional, neurons
from snnsim.errors import InvalidTypeError, InvalidValueError

GENERATOR = torch.Generator().manual_seed(0)
SPIKES = (torch.rand(4, 5, 12, generator=GENERATOR) < 0.2).float()
LABELS = torch.tensor([3, 0, 2, 2])


@same(SPIKINGJELLY, "`delay`, and its gradient")
@pytest.mark.parametrize("steps", [0, 1, 3, 4])
def test_delay(jelly, steps):
    gradients = []
    for function in (jelly.functional.delay, functional.delay):
        x = torch.rand(4, 3, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = function(x, steps)
        # what is moved out entirely depends on nothing there
        if y.requires_grad:
            (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        gradients.append((y.detach(), torch.zeros_like(x) if x.grad is None else x.grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])


@same(SPIKINGJELLY, "`first_spike_index`")
def test_first_spike_index(jelly):
    ours = functional.first_spike_index(SPIKES)
    assert torch.equal(ours, jelly.functional.first_spike_index(SPIKES))
    assert ours.any()
    assert not ours.any(-1).all()


@same(SPIKINGJELLY, "`redundant_one_hot`")
@pytest.mark.parametrize("n", [1, 3])
def test_redundant_one_hot(jelly, n):
    assert torch.equal(
        functional.redundant_one_hot(LABELS, 4, n), jelly.functional.redundant_one_hot(LABELS, 4, n)
    )


@same(
    SPIKINGJELLY,
    "`set_threshold_margin`: the threshold of every neuron while training, and in eval mode",
)
@pytest.mark.parametrize("training", [True, False])
def test_threshold_margin(jelly, training):
    one_hot = functional.redundant_one_hot(LABELS, 4, 1)
    theirs, ours = jelly.neuron.IFNode().train(training), neurons.IFNode().train(training)
    for module, node in ((jelly.functional, theirs), (functional, ours)):
        module.set_threshold_margin(
            node, one_hot, eval_threshold=1.05, threshold0=0.9, threshold1=1.15
        )
    x = torch.linspace(0.8, 1.2, 16).view(4, 4)
    assert torch.equal(ours(x), (x >= theirs.v_threshold).float())


@same(SPIKINGJELLY, "`kaiming_normal_conv_linear_weight`, from the same seed")
def test_kaiming(jelly):
    weights = []
    for function in (
        jelly.functional.kaiming_normal_conv_linear_weight,
        functional.kaiming_normal_conv_linear_weight,
    ):
        net = nn.Sequential(
            nn.Conv2d(2, 3, 3),
            nn.BatchNorm2d(3),
            nn.Sequential(nn.Linear(4, 5)),
            nn.Conv1d(2, 2, 3),
        )
        torch.manual_seed(0)
        function(net)
        weights.append([net[0].weight, net[2][0].weight, net[3].weight])
    for theirs, ours in zip(*weights, strict=True):
        assert torch.equal(ours, theirs)


@differs(
    SPIKINGJELLY,
    "a negative `delay`",
    "There the end of the sequence comes last, after zeros, without a word; here it is refused.",
)
def test_negative_delay(jelly):
    x = torch.rand(4, 3)
    assert torch.equal(jelly.functional.delay(x, -1)[-1], x[0])
    with pytest.raises(InvalidValueError, match="delay_steps"):
        functional.delay(x, -1)


@differs(
    SPIKINGJELLY,
    "`first_spike_index` of values other than 0 and 1",
    "There a train that begins with a 2 has no first spike, without a word; here it is refused.",
)
def test_first_spike_of_counts(jelly):
    counts = torch.tensor([[0.0, 2.0, 1.0]])
    assert not jelly.functional.first_spike_index(counts).any()
    with pytest.raises(InvalidValueError, match="0 or 1"):
        functional.first_spike_index(counts)


@differs(
    SPIKINGJELLY,
    "`set_threshold_margin` of something that is no neuron",
    "There it gets a `v_threshold` of its own, which nothing reads; here it is refused.",
)
def test_margin_of_a_layer(jelly):
    one_hot = functional.redundant_one_hot(LABELS, 4, 1)
    jelly.functional.set_threshold_margin(nn.Linear(4, 4), one_hot)
    with pytest.raises(InvalidTypeError, match="must be a spiking neuron"):
        functional.set_threshold_margin(nn.Linear(4, 4), one_hot)


@differs(
    SPIKINGJELLY,
    "a training step after `set_threshold_margin`",
    "In 2.0.0 `IFNode` hands its threshold to an operator that takes one number, and raises; here"
    " the step runs.",
)
def test_step_with_margins(jelly):
    one_hot = functional.redundant_one_hot(LABELS, 4, 1)
    theirs, ours = jelly.neuron.IFNode(), neurons.IFNode()
    for module, node in ((jelly.functional, theirs), (functional, ours)):
        module.set_threshold_margin(node, one_hot)
    with pytest.raises(RuntimeError, match="threshold"):
        theirs(torch.ones(4, 4))
    assert torch.equal(ours(torch.ones(4, 4)), 1 - one_hot)
