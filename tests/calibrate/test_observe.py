import pytest
import torch
from torch import nn

from snnsim import MultiStep, Recorder, SingleStep, calibrate, neurons, quant
from snnsim.calibrate.observe import LARGEST, SAMPLES, float_states, observe, regroup, replays
from snnsim.errors import InvalidTypeError, ShapeError, StateError


def groups(batches, axis):
    return list(regroup("here", batches, axis))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("size", [1, 7, 64, 100, 1000])
def test_groups_do_not_depend_on_the_batches(axis, size):
    x = torch.randn(*[3][:axis], 150, 5)
    expected = x.split(SAMPLES, axis)
    found = groups(x.split(size, axis), axis)
    assert [part.shape for part in found] == [part.shape for part in expected]
    assert all(
        torch.equal(a, b) and a.is_contiguous() for a, b in zip(found, expected, strict=True)
    )


def test_a_change_of_length_ends_a_group():
    found = groups(
        [torch.zeros(2, 3, 1), torch.zeros(2, 1, 1), torch.zeros(4, 5, 1), torch.zeros(4, 0, 1)], 1
    )
    assert [tuple(part.shape) for part in found] == [(2, 4, 1), (4, 5, 1)]


def test_a_batch_may_be_a_pair_of_input_and_label():
    assert torch.equal(groups([(torch.ones(2, 3), torch.zeros(2))], 0)[0], torch.ones(2, 3))


@pytest.mark.parametrize("batch", [3.0, [], "images"])
def test_a_batch_without_a_tensor_is_refused(batch):
    with pytest.raises(InvalidTypeError, match=r"here\(batches\): a batch must be a tensor"):
        groups([batch], 0)


def test_a_batch_without_the_batch_axis_is_refused():
    with pytest.raises(ShapeError, match=r"its batch axis should be axis 1; give \[T, B, \*n\]"):
        groups([torch.zeros(4)], 1)


def test_observing_leaves_the_network_as_it_was():
    net = nn.Sequential(
        nn.BatchNorm1d(3), nn.Linear(3, 4), neurons.LIFNode(state_quant=quant.uniform(3))
    )
    run = MultiStep(net, carry_state=True).train()
    net[0].eval()
    run(torch.randn(2, 5, 3))
    before, held = {k: v.clone() for k, v in run.state_dict().items()}, net[2].v
    shown = []
    assert (
        observe(
            "here",
            run,
            [torch.randn(4, 70, 3)],
            lambda name, trace: shown.append((name, trace.charged.shape)),
        )
        == 70
    )
    assert shown == [("net.2", (4, 64, 4)), ("net.2", (4, 6, 4))]
    assert run.training
    assert not net[0].training
    assert net[2].v is held
    assert all(torch.equal(value, before[key]) for key, value in run.state_dict().items())


def test_every_group_starts_from_rest():
    run = SingleStep(neurons.IFNode(), carry_state=True)
    charged = []
    observe(
        "here",
        run,
        [torch.full((1, 2 * SAMPLES, 1), 0.4)],
        lambda name, trace: charged.append(trace.charged),
    )
    assert torch.equal(charged[0], charged[1])


def test_codebooks_come_back_after_an_error():
    node = neurons.IFNode(state_quant=quant.uniform(2))
    codebook = node.state_quant
    seen = []

    def fail():
        with float_states(node):
            seen.append(node.state_quant)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [None]
    assert node.state_quant is codebook
    assert list(node.state_dict()) == [
        "v_threshold",
        "v_reset",
        "state_quant.levels",
        "state_quant.edges",
    ]


def test_no_data_is_an_error():
    with pytest.raises(StateError, match=r"here\(batches\): there is no sample in them"):
        observe("here", MultiStep(neurons.IFNode()), [torch.zeros(4, 0, 2)], print)


def test_a_network_without_runner_is_refused():
    with pytest.raises(InvalidTypeError, match=r"IFNode is not within a runner; wrap it"):
        observe("here", neurons.IFNode(), [torch.zeros(1, 1)], print)
    with pytest.raises(InvalidTypeError, match="must be a runner around a network, got int"):
        observe("here", 3, [], print)


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
