import copy

import pytest
import torch
from interrupts import lines_that_break
from torch import nn

from snnsim import MultiStep, Recorder, SingleStep, neurons, quant
from snnsim.errors import InvalidTypeError, RunError


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6),
        neurons.LIFNode(state_quant=quant.uniform(3)),
        nn.Linear(6, 2),
        neurons.LIReadout(),
    )


X_SEQ = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0)) * 4


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_records_spikes_and_membranes_without_changing_them(runner):
    net = network()
    run = runner(net)
    expected = run(X_SEQ)
    with Recorder(run) as recorder:
        assert torch.equal(run(X_SEQ), expected)
    assert list(recorder.traces()) == ["net.1", "net.3"]
    trace = recorder["net.1"]
    assert trace.spikes.shape == trace.charged.shape == trace.membrane.shape == (5, 3, 6)
    assert torch.equal(trace.spikes, (trace.charged >= 1).float())
    levels = net[1].state_quant.levels
    assert torch.isin(trace.charged, levels).all()
    assert torch.isin(trace.membrane, levels).all()
    assert torch.equal(trace.membrane, torch.where(trace.spikes == 1, 0.0, trace.charged))
    assert torch.equal(recorder["net.3"].spikes, expected)
    assert not trace.membrane.requires_grad


def test_stops_recording_when_left():
    net = network()
    with Recorder(net) as recorder:
        MultiStep(net)(X_SEQ)
    MultiStep(net)(X_SEQ)
    assert recorder["1"].spikes.shape[0] == 5
    assert repr(recorder["1"]) == "Trace('1', (5, 3, 6))"


def test_names_what_was_recorded_when_asked_for_something_else():
    net = network()
    with Recorder(net) as recorder:
        with pytest.raises(KeyError, match="nothing yet"):
            recorder["1"]
        MultiStep(net)(X_SEQ)
    with pytest.raises(KeyError, match="recorded: '1', '3'"):
        recorder["0"]


def test_refuses_a_second_recorder_and_other_things():
    net = network()
    with Recorder(net), pytest.raises(RunError, match="being recorded already"), Recorder(net):
        pass
    with Recorder(net):
        pass
    with pytest.raises(InvalidTypeError, match=r"must be an nn\.Module"):
        Recorder([net])


def test_batches_of_different_sizes_need_recorders_of_their_own():
    net = network()
    with Recorder(net) as recorder:
        MultiStep(net)(X_SEQ)
        MultiStep(net)(X_SEQ[:, :2])
    with pytest.raises(ValueError, match="a Recorder of its own"):
        recorder.traces()


def test_is_a_mapping_of_the_nodes_that_ran():
    net = network()
    net.append(neurons.IFNode())
    with Recorder(net) as recorder:
        assert not recorder
        assert list(recorder) == []
        MultiStep(net[:4])(X_SEQ)
    names = ["1", "3"]
    assert list(recorder) == list(recorder.keys()) == list(recorder.traces()) == names
    assert len(recorder) == 2
    assert (
        [trace.name for trace in recorder.values()]
        == [trace.name for _, trace in recorder.items()]
        == names
    )
    assert "1" in recorder
    assert not any(name in recorder for name in ("4", "0", 1, None))
    assert recorder.get("4") is None
    assert {recorder: 1}[recorder] == 1
    # the names are known also where the shapes do not fit together
    with Recorder(net) as recorder:
        MultiStep(net[:4])(X_SEQ)
        MultiStep(net[:4])(X_SEQ[:, :2])
    assert list(recorder) == names


def test_a_copy_of_a_network_that_is_recorded_is_not_recorded():
    net = network()
    with Recorder(net) as recorder:
        twin = copy.deepcopy(net)
        MultiStep(twin)(X_SEQ)
        assert not recorder
    with Recorder(twin):
        pass


def test_an_interrupt_at_any_line_ends_the_recording():
    net = neurons.LIFNode()
    run, x_seq = MultiStep(net), X_SEQ[:2, :1]
    expected = run(x_seq)

    def record():
        with Recorder(run) as recorder:
            run(x_seq)
        return recorder.traces()

    def is_intact():
        stopped = net._trace is None
        return stopped and torch.equal(record()["net"].spikes, expected)

    assert not lines_that_break(record, is_intact)


@pytest.mark.parametrize("runner", [MultiStep, SingleStep])
def test_a_run_that_fails_is_not_recorded(runner):
    net = nn.Sequential(neurons.LIFNode(), nn.Linear(2, 2), neurons.LIFNode())

    def fail(module, inputs):
        raise KeyboardInterrupt

    with Recorder(net) as recorder:
        runner(net)(torch.rand(3, 2, 2))
        hook = net[1].register_forward_pre_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            runner(net)(torch.rand(4, 2, 2))
        hook.remove()
        runner(net)(torch.rand(5, 2, 2))
    assert {name: len(trace.spikes) for name, trace in recorder.items()} == {"0": 8, "2": 8}
