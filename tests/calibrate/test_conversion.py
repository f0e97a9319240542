"""What does not average over spikes is found when a network is converted; what does is left
alone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from snnsim import MultiStep, calibrate, neurons, quant
from snnsim.calibrate import BalancedIFNode, Scale, convert
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
    with pytest.raises(InvalidTypeError, match=r"ann must be a torch\.nn\.Module"):
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


class Between(nn.Module):
    """Two layers with one ReLU module, and a function of the user's behind the second."""

    def __init__(self, function, features=64):
        super().__init__()
        self.first, self.relu, self.second, self.last = (
            nn.Linear(16, 64),
            nn.ReLU(),
            nn.Linear(64, 64),
            nn.Linear(features, 10),
        )
        self.function = function

    def forward(self, x):
        return self.last(self.function(self.second(self.relu(self.first(x)))))


class Residual(nn.Module):
    """A block whose branches join before a ReLU, and a head that averages."""

    def __init__(self, shortcut, inplace=False):
        super().__init__()
        self.stem, self.conv, self.norm, self.head = (
            nn.Conv2d(1, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3),
            nn.BatchNorm2d(8),
            nn.Linear(8, 5),
        )
        self.relu1, self.relu2 = nn.ReLU(inplace), nn.ReLU(inplace)
        self.shortcut = shortcut

    def forward(self, x):
        x = self.relu1(self.stem(x))
        x = self.relu2(self.norm(self.conv(x)) + self.shortcut(x[..., 1:-1, 1:-1]))
        return self.head(x.mean((2, 3)).view(x.size(0), -1))


class Rewritten(nn.Module):
    """Uses the input of a ReLU that works in place: of the spiking network it is another tensor."""

    def __init__(self, inplace):
        super().__init__()
        self.first, self.relu, self.last = nn.Linear(16, 32), nn.ReLU(inplace), nn.Linear(32, 4)

    def forward(self, x):
        current = self.first(x)
        return self.last(self.relu(current) + current)


class Choosing(nn.Module):
    """Runs a layer where values spread, and not otherwise."""

    def __init__(self):
        super().__init__()
        self.first, self.relu, self.second, self.extra = (
            nn.Linear(16, 64),
            nn.ReLU(),
            nn.Linear(64, 64),
            nn.Linear(64, 64),
        )

    def forward(self, x):
        x = self.second(self.relu(self.first(x)))
        return self.extra(x) if x.std() > self.bound else x


class Leaky(nn.ReLU):
    def forward(self, x):
        return functional.leaky_relu(x)


class Last(nn.Module):
    def forward(self, x):
        return functional.softmax(x, 1)


def vectors():
    return torch.rand(64, 16, generator=torch.Generator().manual_seed(0))


def images():
    return torch.rand(16, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def hooked(part, hook, pre=False):
    net = Between(nn.Identity())
    module = getattr(net, part)
    (module.register_forward_pre_hook if pre else module.register_forward_hook)(hook)
    return net


def stack(*layers):
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), *layers)


AVERAGING = {
    "identity": lambda: Between(nn.Identity()),
    "affine": lambda: Between(lambda z: 2 * z.flip(1) - 1),
    "joined": lambda: Between(lambda z: torch.cat([z[:, 32:], z[:, :32]], 1)),
    "average pooling": lambda: stack(
        nn.Unflatten(1, (4, 16)), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(32, 5)
    ),
    "norm and dropout in eval mode": lambda: stack(
        nn.BatchNorm1d(64), nn.Dropout(), nn.ReLU(), nn.Linear(64, 5)
    ),
    "what comes before the spikes": lambda: nn.Sequential(
        nn.LayerNorm(16), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)
    ),
    "a hook that looks": lambda: hooked("relu", lambda module, args, output: None),
    "a hook that scales": lambda: hooked("second", lambda module, args, output: 2 * output),
    "a rectifier alone": nn.ReLU,
}
DEPARTING = {
    "relu": (lambda: Between(torch.relu), "what happens between 'second' and 'last'"),
    "absolute": (lambda: Between(torch.abs), "what happens between 'second' and 'last'"),
    "square": (lambda: Between(torch.square), "what happens between 'second' and 'last'"),
    "clamp": (
        lambda: Between(lambda z: z.clamp(-0.1, 0.1)),
        "what happens between 'second' and 'last'",
    ),
    "pooling": (
        lambda: Between(lambda z: functional.max_pool1d(z, 2), 32),
        "what happens between 'second' and 'last'",
    ),
    "dropout": (lambda: Between(functional.dropout), "what happens between 'second' and 'last'"),
    "norm": (
        lambda: Between(lambda z: functional.layer_norm(z, [64])),
        "what happens between 'second' and 'last'",
    ),
    "module of layer norm": (
        lambda: stack(nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 5)),
        "'2', a LayerNorm",
    ),
    "norm of the batch": (
        lambda: stack(nn.BatchNorm1d(64, track_running_stats=False), nn.Linear(64, 5)),
        "'2', a BatchNorm1d",
    ),
    "module of pooling": (
        lambda: stack(nn.MaxPool1d(2), nn.Linear(32, 5)),
        "'2' takes the largest spike of each step",
    ),
    "hook": (
        lambda: hooked("second", lambda module, args, output: output.relu()),
        "'second', a Linear",
    ),
    "hook ahead": (
        lambda: hooked("last", lambda module, args: (args[0].relu(),), pre=True),
        "what happens between 'function' and 'last'",
    ),
    "end": (lambda: nn.Sequential(Between(nn.Identity()), Last()), "'1', a Last"),
    "in place": (lambda: Rewritten(inplace=True), "what happens between 'relu' and 'last'"),
}


def error(net, x, steps=256):
    runner = convert(net, [x], steps)
    with torch.no_grad():
        wanted = net(x)
        return float((runner(x).mean(0) - wanted).float().norm() / wanted.float().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", AVERAGING)
def test_what_averages_is_converted_without_a_word(name, dtype):
    assert error(AVERAGING[name]().to(dtype).eval(), vectors().to(dtype)) < 0.03


@pytest.mark.parametrize("inplace", [False, True])
def test_branches_are_converted_without_a_word(inplace):
    assert error(Residual(nn.Identity(), inplace).eval(), images()) < 0.03


@pytest.mark.parametrize("name", DEPARTING)
def test_what_does_not_average_is_named(name):
    make, place = DEPARTING[name]
    with pytest.warns(
        UserWarning,
        match=(
            rf"^calibrate\.convert\(ann\): the rates .* will not approach ann, .*: {place}.* \(off"
            r" by \d+%"
        ),
    ):
        convert(make().eval(), [vectors()], 4)


def test_every_stretch_is_compared_by_itself():
    net = stack(
        nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.MaxPool1d(2), nn.Linear(16, 5)
    ).eval()
    with pytest.warns(
        UserWarning,
        match=r"everywhere: '2', a LayerNorm \(off by \d+% here\); '6' takes the largest spike",
    ):
        convert(net, [vectors()], 4)


def test_a_shortcut_that_does_not_average_is_named():
    with pytest.warns(
        UserWarning,
        match=r"everywhere: what happens between 'norm' and 'relu2' \(off by \d+% here\)\. Use",
    ):
        convert(Residual(torch.tanh).eval(), [images()], 4)


def test_a_network_that_takes_another_way_is_named():
    net = Choosing().eval()
    with torch.no_grad():
        # spikes spread more than their mean does
        net.bound = 1.05 * net.second(net.relu(net.first(vectors()))).std()
    with pytest.warns(
        UserWarning, match="everywhere: what runs behind 'second' depends on the values"
    ):
        convert(net, [vectors()], 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: hooked("relu", lambda module, args, output: 2 * output),
        lambda: hooked("relu", lambda module, args: (args[0] - 1,), pre=True),
        lambda: nn.Sequential(nn.Linear(16, 8), Leaky(), nn.Linear(8, 4)),
    ],
)
def test_a_rectifier_that_does_something_else_is_refused(make):
    with pytest.raises(
        InvalidValueError,
        match=r"^calibrate.convert\(ann\): '(relu|1)' does not give relu of its input",
    ):
        convert(make().eval(), [vectors()], 4)


def test_looking_for_departures_leaves_the_network_alone():
    net = Between(nn.Identity()).train()
    runner = convert(net, [vectors()], 4)
    assert net.training
    assert not any(
        module._forward_hooks or module._forward_pre_hooks
        for module in [*net.modules(), *runner.modules()]
    )
