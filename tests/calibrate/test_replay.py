import pytest
import torch
from torch import nn

from snnsim import MultiStep, Recorder, calibrate, neurons, quant
from snnsim.calibrate.replay import LARGEST, replays
from snnsim.errors import StateError

DATA = 3 * torch.randn(7, 90, 6, generator=torch.Generator().manual_seed(1))


def network(codebook=None, **options):
    torch.manual_seed(0)
    node = neurons.LIFNode(tau=3.0, decay_input=False, state_quant=codebook, **options)
    second = neurons.LIFNode(v_reset=None, decay_input=False)
    net = nn.Sequential(nn.Linear(6, 20), node, nn.Linear(20, 5), second, neurons.LIReadout())
    nn.init.normal_(net[2].weight)
    return MultiStep(net)


def counts(net, data=DATA):
    with torch.no_grad(), Recorder(net) as recorder:
        net(data)
    return {
        name: trace.spikes.sum(0)
        for name, trace in recorder.traces().items()
        if trace.spikes is not None
    }


def test_the_difference_is_that_of_the_node_itself_run_with_the_codebook():
    net = network().eval()
    found = replays("test", net, [DATA])
    assert list(found) == ["net.1", "net.3"]
    before = counts(net)["net.1"]
    for codebook in (
        quant.uniform(1),
        quant.uniform(3),
        quant.exponential(2),
        quant.LearnedUniform(2),
    ):
        # the first node: what it is given does not depend on its codebook
        calibrate.apply(net, {"net.1": codebook})
        expected = float((counts(net)["net.1"] - before).double().square().sum())
        calibrate.apply(net, {"net.1": None})
        assert found["net.1"].difference(codebook) == expected > 0


def test_a_fine_enough_codebook_makes_no_difference():
    found = replays("test", network().eval(), [DATA])
    fine = quant.uniform(16, low=-64.0, high=64.0)
    coarse = quant.uniform(2)
    assert found["net.1"].difference(fine) < found["net.1"].difference(coarse) / 20


def test_the_network_is_left_as_it_was():
    net = network(quant.uniform(2))
    before, hooks = (
        counts(net),
        [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in net.modules()],
    )
    found = replays("test", net, [DATA])
    found["net.1"].difference(quant.uniform(1))
    after = counts(net)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [
        len(module._forward_pre_hooks) + len(module._forward_hooks) for module in net.modules()
    ] == hooks
    assert not found["net.1"].node._forward_hooks
    assert net.net[1].state_quant is not found["net.1"].node.state_quant


def test_samples_are_run_in_groups_of_bounded_size():
    many = torch.randn(2, LARGEST + 200, 6, generator=torch.Generator().manual_seed(2))
    replay = replays("test", network().eval(), [many])["net.1"]
    sizes = [x_seq.shape[1] for x_seq in replay._inputs]
    assert sum(sizes) == LARGEST + 200
    assert len(sizes) == 2
    # sequences of another length are a group of their own
    replay = replays("test", network().eval(), [DATA, DATA[:3], DATA[:3]])["net.1"]
    assert [tuple(x_seq.shape[:2]) for x_seq in replay._inputs] == [(7, 90), (3, 180)]


def test_least_difference_is_chosen_whatever_the_batches():
    net = network().eval()
    chosen = calibrate.states(net, [DATA], 2, "spikes")
    replay = replays("test", net, [DATA])["net.1"]
    least = replay.difference(chosen["net.1"])
    for other in (
        quant.uniform(2),
        *(
            calibrate.states(net, [DATA], 2, method)["net.1"]
            for method in ("max", "mse", "entropy")
        ),
    ):
        assert least <= replay.difference(other)
    for batches in (DATA.split(1, 1), iter(DATA.split(64, 1))):
        again = calibrate.states(net, batches, 2, "spikes")
        assert all(torch.equal(again[name].levels, chosen[name].levels) for name in chosen)
    # a readout has no spikes to count
    assert torch.equal(
        chosen["net.4"].levels, calibrate.states(net, [DATA], 2, "mse")["net.4"].levels
    )


def test_no_data():
    with pytest.raises(StateError, match="there is no sample in them"):
        calibrate.states(network(), [], 2, "spikes")
