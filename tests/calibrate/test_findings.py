import pytest
import torch
from torch import nn

from snnsim import MultiStep, calibrate, neurons, quant
from snnsim.quant.recipes import LearnedUniform


def network(**options):
    torch.manual_seed(0)
    return MultiStep(
        nn.Sequential(nn.Linear(3, 4), neurons.LIFNode(state_quant=quant.uniform(4), **options))
    )


DATA = [4 * torch.randn(6, 20, 3, generator=torch.Generator().manual_seed(1))]


def test_a_sound_network_has_no_findings():
    assert calibrate.inspect(network(), DATA) == []


def test_zero_weights_are_found():
    run = network()
    nn.init.zeros_(run.net[0].weight)
    nn.init.ones_(run.net[0].bias)
    (finding,) = [f for f in calibrate.inspect(run, DATA) if f.layer == "net.0"]
    assert (
        str(finding)
        == "layer 'net.0': every weight is zero, so it passes nothing on; initialize or load it, or"
        " quantize it with more bits or another range"
    )


def test_weights_that_quantize_to_zero_are_found():
    run = network()
    quant.quantize(run, weights=quant.QuantDescriptor(4, amax=1e3))
    assert "net.0" in [finding.layer for finding in calibrate.inspect(run, DATA)]


def test_a_node_that_never_fires_is_found():
    (finding,) = calibrate.inspect(network(), [DATA[0] / 100])
    assert finding.layer == "net.1"
    assert finding.problem.startswith("no neuron ever fired on this data: the membrane reached ")
    assert (
        finding.remedy
        == "scale up the weights before it, lower v_threshold, or give it stronger input"
    )


def test_a_node_that_always_fires_is_found():
    run = network()
    nn.init.constant_(run.net[0].bias, 50.0)
    (finding,) = calibrate.inspect(run, DATA)
    assert (finding.layer, finding.remedy) == (
        "net.1",
        "scale down the weights before it, or raise v_threshold=1",
    )
    assert finding.problem.startswith(
        "every neuron fired in every time step on this data: the membrane never fell below "
    )


def test_a_readout_need_not_fire():
    assert calibrate.inspect(MultiStep(neurons.LIReadout()), DATA) == []


def test_a_threshold_above_every_level_is_found():
    run = network()
    # what loading can do behind the checks of the construction
    run.net[1].load_state_dict({**run.net[1].state_dict(), "v_threshold": torch.tensor(7.0)})
    findings = calibrate.inspect(run, DATA)
    problem = "no state can reach the threshold 7: the highest level is 1.818"
    assert [(f.problem, f.remedy) for f in findings if "reach the" in f.problem] == [
        (problem, "lower v_threshold, or calibrate the codebook again")
    ]


def test_thresholds_out_of_reach_are_counted():
    run = network(v_threshold=torch.ones(4))
    run.net[1].v_threshold[:3] = 9.0
    problems = [finding.problem for finding in calibrate.inspect(run, DATA)]
    assert problems == [
        "no state can reach the threshold 9 for 3 of its 4 thresholds: the highest level is 1.818"
    ]


def test_levels_that_never_leak_are_found():
    with pytest.warns(UserWarning, match="never leak"):
        run = network(tau=60.0)
    nn.init.constant_(run.net[0].bias, 20.0)
    (finding,) = calibrate.inspect(run, DATA)
    assert (finding.layer, finding.remedy) == (
        "net.1",
        "use more bits, a shorter time constant, or min_decay=True",
    )
    assert finding.problem == "15 of 16 levels never leak"
    assert calibrate.inspect(network(tau=2.0), DATA) == []


def test_a_learned_codebook_can_be_inspected():
    run = network()
    calibrate.apply(run, {"net.1": LearnedUniform(4)})
    assert calibrate.inspect(run, DATA) == []
