import pytest
import torch
from torch import nn

from snnsim import MultiStep, Recorder, SingleStep, neurons, quant
from snnsim.errors import InvalidTypeError, RunError


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), neurons.LIFNode(state_quant=quant.uniform(3)), nn.Linear(6, 2), neurons.LIReadout())


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
