import copy
import pickle

import pytest
import torch
from torch import nn

from snnsim import MultiStep, calibrate, neurons, quant
from snnsim.calibrate import BalancedIFNode, Scale
from snnsim.errors import InvalidTypeError, InvalidValueError, StateError
from snnsim.testing import check_node


def ann():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 12),
        nn.ReLU(),
        nn.Linear(12, 3),
    ).eval()


DATA = torch.randn(90, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("x", "count"),
    [(0.24, 2), (0.25, 2), (0.26, 2), (0.3125, 3), (0.0625, 1), (0.05, 0), (-1.0, 0), (3.0, 8)],
)
def test_a_balanced_node_rounds_to_the_nearest_number_of_spikes(x, count):
    spikes = MultiStep(BalancedIFNode(1.0))(torch.full((8, 1, 1), x))
    assert spikes.sum() == count


def test_a_balanced_node_starts_at_half_its_threshold_on_its_codebook():
    thresholds = torch.tensor([[1.0], [2.0]])
    node = BalancedIFNode(thresholds)
    node(torch.zeros(3, 2, 5))
    assert torch.equal(node.v, (thresholds / 2).expand(3, 2, 5))
    codebook = quant.uniform(4)
    node = BalancedIFNode(state_quant=codebook)
    run = MultiStep(node, carry_state=True)
    run(torch.zeros(2, 3, 4))
    assert torch.isin(node.v, codebook.levels).all()
    assert (node.v - 0.5).abs().max() <= codebook.levels.diff().max() / 2


@pytest.mark.parametrize("codebook", [None, quant.uniform(4)])
def test_a_balanced_node_keeps_the_contract_of_a_neuron(codebook):
    check_node(lambda: BalancedIFNode(0.8, codebook))


def test_a_balanced_node_continues_from_its_state():
    node = BalancedIFNode()
    assert [float(node(torch.full((1, 1), 0.25))) for _ in range(6)] == [
        0.0,
        1.0,
        0.0,
        0.0,
        0.0,
        1.0,
    ]


def test_rates_approach_activations_within_half_a_spike():
    lone = nn.ReLU()
    x = torch.randn(40, 7)
    for T in (4, 32):
        run = calibrate.convert(lone, [x], T, percentile=100)
        error = (run(x).mean(0) - lone(x)).abs()
        # half a spike, and float32 sums over T steps
        assert error.max() <= x.max() / T / 2 + 1e-4


def test_the_converted_network_approaches_the_trained_one():
    net = ann()
    expected = net(DATA)
    errors = [
        (calibrate.convert(net, [DATA], T, percentile=100)(DATA).mean(0) - expected)
        .abs()
        .mean()
        .item()
        for T in (8, 64, 512)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01 * expected.abs().mean().item()


def test_half_the_threshold_beats_rest_as_the_start():
    net = ann()
    expected, run = net(DATA), calibrate.convert(net, [DATA], 16)
    balanced = (run(DATA).mean(0) - expected).square().mean()
    for name, module in list(run.named_modules()):
        if isinstance(module, BalancedIFNode):
            run.get_submodule(name.rpartition(".")[0]).node = neurons.IFNode(
                module.v_threshold, v_reset=None
            )
    assert balanced < (run(DATA).mean(0) - expected).square().mean() / 2


@pytest.mark.parametrize("per_channel", [False, True])
def test_batches_do_not_matter_and_the_network_is_not_touched(per_channel):
    net = ann().train()
    before = copy.deepcopy(net.state_dict())
    runs = [
        calibrate.convert(net, batches, 8, per_channel=per_channel)
        for batches in ([DATA], DATA.split(7), [(x, torch.zeros(len(x))) for x in DATA.split(50)])
    ]
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run.buffers(), runs[0].buffers(), strict=True))
        assert run.net[2].node.extra_repr() == runs[0].net[2].node.extra_repr()
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_thresholds_are_the_percentile_of_positive_outputs():
    x = torch.cat([torch.arange(1.0, 101.0), torch.zeros(900)])[:, None]
    run = calibrate.convert(nn.ReLU(), [x], 4, percentile=90)
    # to a bin of 1/16
    assert 90 <= run.net.node.v_threshold <= 90.0625
    assert calibrate.convert(nn.ReLU(), [x], 4, percentile=100).net.node.v_threshold == 100


def test_every_channel_can_have_its_own_threshold():
    x = torch.tensor([1.0, 10.0, 0.0])[None, :, None] * torch.rand(50, 3, 4)
    run = calibrate.convert(nn.ReLU(), [x], 64, percentile=100, per_channel=True)
    threshold = run.net.node.v_threshold
    assert threshold.shape == (3, 1)
    assert torch.equal(threshold[:2, 0], x.amax((0, 2))[:2])
    # a silent channel takes the largest
    assert threshold[2] == threshold[1]
    assert (run(x).mean(0) - x).abs().max() < 0.1


def test_states_of_the_result_can_be_calibrated():
    run = calibrate.convert(ann(), [DATA], 16)
    codebooks = calibrate.states(run, [DATA], bits=6)
    calibrate.apply(run, codebooks)
    assert list(codebooks) == ["net.2.node", "net.6.node"]
    assert run(DATA).isfinite().all()
    assert torch.equal(pickle.loads(pickle.dumps(run))(DATA), run(DATA))


def test_a_relu_that_is_always_0_is_named():
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    nn.init.constant_(net[0].bias, -100.0)
    with pytest.warns(UserWarning, match=r"'1' is 0 on all of this data and will not fire"):
        run = calibrate.convert(net, [torch.randn(5, 3)], 4)
    assert run.net[1].node.v_threshold == 1.0


def test_max_pooling_is_named():
    with pytest.warns(UserWarning, match="'1' takes the largest spike of each step"):
        calibrate.convert(nn.Sequential(nn.ReLU(), nn.MaxPool1d(2)), [torch.randn(5, 3, 4)], 4)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Linear(2, 2), "it has no nn.ReLU module"),
        (
            nn.Sequential(nn.ReLU(), nn.GELU()),
            "'1' is a GELU, which no integrate-and-fire neuron can stand for",
        ),
        (nn.Sequential(nn.ReLU(), neurons.IFNode()), "'1' is a neuron already"),
        (nn.Sequential(relu := nn.ReLU(), nn.Linear(2, 2), relu), "runs 2 times per input"),
    ],
)
def test_what_cannot_be_converted_is_refused(net, message):
    with pytest.raises(InvalidValueError, match=message):
        calibrate.convert(net, [torch.randn(5, 2)], 4)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x, y):
        return self.relu(x) + y


def test_a_network_of_two_inputs_is_refused():
    with pytest.raises(
        InvalidTypeError,
        match=(
            r"forward\(x, y\) does not run on one input \(missing a required argument: 'y'\); wrap"
        ),
    ):
        calibrate.convert(TwoInputs(), [torch.randn(5, 2)], 4)


def test_arguments_are_checked():
    with pytest.raises(InvalidTypeError, match=r"must be an nn\.Module, got str"):
        calibrate.convert("net", [], 4)
    with pytest.raises(InvalidValueError, match="T must be >= 1"):
        calibrate.convert(ann(), [DATA], 0)
    with pytest.raises(InvalidValueError, match=r"percentile=0.*must be in \(0, 100\]"):
        calibrate.convert(ann(), [DATA], 4, percentile=0)
    with pytest.raises(StateError, match="there is no sample in them"):
        calibrate.convert(ann(), [], 4)


def test_scale_multiplies_and_shows_itself():
    assert Scale(0.5)(torch.tensor([3.0])) == 1.5
    assert repr(Scale(0.5)) == "Scale(0.5)"
    assert repr(Scale(torch.ones(2, 1))) == "Scale((2, 1))"
