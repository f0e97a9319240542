"""What does not average over spikes is found when a network is converted; what does is left
alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from snnsim.calibrate import convert
from snnsim.errors import InvalidValueError


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
