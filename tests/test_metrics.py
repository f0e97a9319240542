import copy
import pickle

import pytest
import torch
from interrupts import lines_that_break
from torch import nn

from snnsim import MultiStep, SingleStep, layers, metrics, neurons, quant
from snnsim.errors import InvalidTypeError, InvalidValueError, RunError, ShapeError


def network(bits):
    codebook = None if bits is None else quant.uniform(bits)
    return nn.Sequential(
        nn.Linear(4, 6),
        neurons.IFNode(state_quant=codebook),
        nn.Linear(6, 2, bias=False),
        neurons.IFNode(),
    )


@pytest.mark.parametrize(("bits", "state_bits"), [(None, 6 * 32 + 64), (4, 24 + 64), (3, 18 + 64)])
def test_footprint_counts_the_bits_of_one_sample(bits, state_bits):
    net = network(bits)
    size = metrics.footprint(MultiStep(net), torch.rand(5, 7, 4))
    assert (size.state_values, size.state_bits) == (8, state_bits)
    assert size.state_bytes == -(-state_bits // 8)
    assert (size.weight_values, size.weight_bits) == (24 + 6 + 12, 32 * 42)
    assert size.weight_bytes == 168
    assert metrics.footprint(MultiStep(net, time_steps=3), torch.rand(2, 4)) == size
    assert metrics.footprint(net, torch.rand(2, 4)) == size


def test_footprint_counts_both_states_of_a_synaptic_neuron():
    net = nn.Sequential(
        neurons.SynapticNode(
            state_quant=quant.uniform(4), current_quant=quant.uniform(8, low=-2.0, high=2.0)
        )
    )
    size = metrics.footprint(net, torch.rand(2, 10))
    assert (size.state_values, size.state_bits) == (20, 120)


def test_footprint_counts_shared_weights_once_and_believes_weight_bits():
    net = network(4)
    net.add_module("tied", nn.Linear(4, 6))
    net.tied.weight = net[0].weight
    before = metrics.footprint(network(4), torch.rand(2, 4))
    net[0].weight_bits = 2
    net = nn.Sequential(*list(net)[:4])
    assert metrics.footprint(net, torch.rand(2, 4)).weight_bits == before.weight_bits - 24 * 30


def test_footprint_counts_quantized_weights_by_their_width():
    net = network(4)
    quant.quantize(net, weights=4)
    # biases stay at 32 bits; the learned ranges are not counted
    assert metrics.footprint(net, torch.rand(2, 4)).weight_bits == 4 * 36 + 32 * 6


def test_footprint_leaves_the_network_as_it_was():
    net = network(4).train()
    net[1](torch.rand(2, 6))
    held = net[1].v
    metrics.footprint(MultiStep(net), torch.rand(5, 7, 4))
    assert net.training
    assert torch.equal(net[1].v, held)


def test_footprint_leaves_a_delay_as_it_was():
    net = nn.Sequential(layers.Delay(2), neurons.IFNode())
    net(torch.rand(2, 3))
    before = net[0].state()
    metrics.footprint(net, torch.rand(1, 3))
    assert all(torch.equal(net[0].state()[name], before[name]) for name in before)


class Held(layers.Temporal):
    """A state of float64, one of whole numbers, one of bits, and one for all samples."""

    def forward_sequence(self, x_seq):
        last = x_seq[-1]
        self.hold(
            last=last.double(), count=(last > 0).to(torch.int16), sign=last > 0, seen=torch.zeros(3)
        )
        return x_seq


class Patches(nn.Module):
    """Three rows of every sample."""

    def forward(self, x):
        return x.repeat_interleave(3, 0)


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
@pytest.mark.parametrize("batch", [1, 4])
def test_footprint_counts_whatever_a_module_holds(runner, batch):
    def size(*modules):
        found = metrics.footprint(
            runner(nn.Sequential(*modules)),
            torch.rand(6, batch, 5, generator=torch.Generator().manual_seed(0)),
        )
        return found.state_values, found.state_bits

    node = neurons.IFNode(state_quant=quant.uniform(4))
    assert size(layers.Delay(3), node) == (15 + 5, 15 * 32 + 5 * 4)
    assert size(layers.Dropout(), node) == (5, 5 * 4)
    assert size(Held(), node) == (3 * 5 + 3 + 5, 5 * (64 + 16 + 1) + 3 * 32 + 5 * 4)
    last = nn.Unflatten(0, (-1, 3))
    assert size(Patches(), node, last) == (15, 15 * 4)


def test_footprint_leaves_runners_as_they_were():
    run = MultiStep(neurons.IFNode(), carry_state="graph")
    metrics.footprint(nn.Sequential(run), torch.rand(3, 2, 4))
    assert run.carry_state == "graph"
    assert run.net.v is None


def test_footprint_refuses():
    run = MultiStep(neurons.IFNode())
    with pytest.raises(InvalidTypeError, match=r"must be an nn\.Module, got int"):
        metrics.footprint(3, torch.rand(3, 2))
    with pytest.raises(InvalidTypeError, match="x must be a tensor"):
        metrics.footprint(run, None)
    for x in (torch.rand(3, 0, 4), torch.rand(3)):
        with pytest.raises(ShapeError, match="at least one sample, and the batch is axis 1 here"):
            metrics.footprint(run, x)


def test_firing_rate_is_spikes_per_neuron_and_step():
    assert metrics.firing_rate(torch.tensor([[1, 0], [0, 0]])) == 0.25
    assert metrics.firing_rate(torch.ones(3, dtype=torch.bool)) == 1
    with pytest.raises(InvalidValueError, match="holds no value"):
        metrics.firing_rate(torch.zeros(0))
    with pytest.raises(InvalidTypeError, match="must be a tensor"):
        metrics.firing_rate([1])


def test_firing_meter_adds_up_runs():
    net = nn.Sequential(neurons.IFNode(), nn.Flatten(), neurons.IFNode(v_threshold=2.0))
    run = MultiStep(net)
    with metrics.FiringMeter(run) as meter:
        run(torch.full((4, 2, 3), 0.5))
        run(torch.full((4, 1, 3), 1.0))
    # 24 and 12 places: 12 + 12 spikes in the first layer, 6 + 6 in the second
    assert meter.rates() == {"net.0": 24 / 36, "net.2": pytest.approx((6 + 6) / 36)}
    assert meter.mean() == pytest.approx(36 / 72)
    run(torch.ones(4, 1, 3))
    assert meter.mean() == pytest.approx(36 / 72)


def test_firing_meter_needs_a_run():
    with (
        metrics.FiringMeter(neurons.IFNode()) as meter,
        pytest.raises(InvalidValueError, match="no node has run"),
    ):
        meter.mean()


def test_firing_meter_stops_after_an_interrupt_at_any_line():
    node = neurons.IFNode()
    run, x_seq = MultiStep(node), torch.ones(2, 1, 3)

    def measure():
        with metrics.FiringMeter(run) as meter:
            run(x_seq)
        return meter

    def is_intact():
        stopped = not node._forward_hooks
        return stopped and measure().mean() == 1

    assert not lines_that_break(measure, is_intact)


def test_firing_meter_needs_a_module():
    with pytest.raises(InvalidTypeError, match=r"must be an nn\.Module"):
        metrics.FiringMeter(3)


def test_a_copy_of_a_network_does_not_count_in_its_meter():
    run, x_seq = MultiStep(neurons.IFNode()), torch.ones(2, 1, 1)
    with metrics.FiringMeter(run) as meter:
        run(x_seq)
        for other in (copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
            other(x_seq * 0)
            assert not other.net._forward_hooks
    assert meter.mean() == 1


def test_a_meter_is_entered_once():
    run = MultiStep(neurons.IFNode())
    with metrics.FiringMeter(run) as meter, metrics.FiringMeter(run):
        with pytest.raises(RunError, match="is counting already"), meter:
            pass
        run(torch.ones(2, 1, 1))
    assert meter.mean() == 1


def test_firing_rate_of_other_layouts():
    spikes = torch.eye(4)
    assert {metrics.firing_rate(x) for x in (spikes.to_sparse(), spikes.bool())} == {0.25}
    for x, message in (
        (spikes.to("meta"), "has no values"),
        (spikes.cfloat(), "must be real"),
        (
            torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
            "a nested one",
        ),
    ):
        with pytest.raises((InvalidValueError, InvalidTypeError), match=message):
            metrics.firing_rate(x)
    with pytest.raises(InvalidTypeError, match="a nested one"):
        metrics.footprint(
            neurons.IFNode(),
            torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        )
