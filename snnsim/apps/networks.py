"""The classifiers that `snnsim train` makes."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from snnsim import neurons, quant
from snnsim._core.checks import check_int
from snnsim.apps.config import Config
from snnsim.apps.datasets import SETS
from snnsim.temporal.runner import MultiStep

CHANNELS = (16, 32)


def build_network(config: Config) -> MultiStep:
    """The default classifiers: pixels to spiking layers to 10 neurons, read by their firing rates.

    Returns:
        A runner that takes static images `[B, 1, H, W]`, or event frames `[T, B, 2, H, W]`, to
        output spikes `[T, B, 10]`.
    """

    def node() -> neurons.LIFNode:
        return neurons.LIFNode(
            tau=config.tau,
            decay_input=False,
            v_reset=0.0 if config.hard_reset else None,
            state_quant=config.make_codebook(),
        )

    side, is_event = SETS[config.dataset].side, SETS[config.dataset].is_event
    if is_event:
        net = event_network(side, node, hidden=config.hidden)
    elif config.network == "mlp":
        first, last = nn.Linear(side**2, config.hidden), nn.Linear(config.hidden, 10)
        net = nn.Sequential(nn.Flatten(), first, node(), last, node())
    else:
        # currents are pooled rather than spikes: the first layer then runs once, and its neurons
        # are a quarter as many
        net = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.MaxPool2d(2),
            node(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            node(),
            nn.Flatten(),
            nn.Linear(32 * (side // 4) ** 2, 10),
            node(),
        )
    if config.weight_bits is not None:
        quant.quantize(net, weights=config.weight_bits)
    # event frames come one for each time step
    return MultiStep(net, time_steps=None if is_event else config.time_steps)


def event_network(
    side: int,
    node: Callable[[], nn.Module],
    *,
    hidden: int | None = None,
    classes: int = 10,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Two convolutions that halve the picture, and one or two linear layers, each followed by a
    neuron.

    Args:
        side: height and width of the sensor in pixels, at least 4.
        node: makes the neuron of one layer.
        hidden: neurons of a layer between the convolutions and the classes; without one where None.
        classes: neurons of the last layer.
        dropout: share of what the convolutions say that is left out while training.

    Returns:
        A network of one time step: frames `[B, 2, side, side]` to spikes `[B, classes]`; run it in
            `MultiStep`.

    Raises:
        InvalidValueError: a sensor of less than 4 pixels.
    """
    check_int("event_network", "side", side, at_least=4)
    first, second = CHANNELS
    convolutions = [
        nn.Conv2d(2, first, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(first),
        node(),
        nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(second),
        node(),
        nn.Flatten(),
    ]
    if dropout:
        convolutions.append(nn.Dropout(dropout))
    # each convolution halves the picture, rounding up
    features = second * (-(-side // 4)) ** 2
    between = [] if hidden is None else [nn.Linear(features, hidden), node()]
    return nn.Sequential(*convolutions, *between, nn.Linear(hidden or features, classes), node())
