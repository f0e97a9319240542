import pytest
import torch
from torch import nn

from snnsim import MultiStep, SingleStep, neurons, quant
from snnsim.calibrate.collect import SAMPLES, float_states, observe, regroup
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
