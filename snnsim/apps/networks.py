"""The small convolutional network that event recordings are classified with."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from snnsim._core.checks import check_int

__all__ = ["event_network"]

CHANNELS = (16, 32)


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
