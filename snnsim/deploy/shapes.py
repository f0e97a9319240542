"""The shape of one sample at every part of a network, from that of its input."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from snnsim._core.checks import check_int
from snnsim.deploy.constants import layer_window, pool_window
from snnsim.deploy.graph import Graph, Part, Reshaping, leading_features, refusal
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.layers import Dropout
from snnsim.layers.time import Scale

__all__ = [
    "AVERAGES",
    "IDENTITIES",
    "LINEAR_LAYERS",
    "MAXIMA",
    "RESHAPES",
    "input_shape_of",
    "output_shape",
    "whole_numbers",
]

Shape = tuple[int, ...]
LINEAR_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
RESHAPES = (nn.Flatten, nn.Unflatten, Reshaping)
# in eval mode
IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, Dropout)
# of one sample; what `deploy.operations` and the generated C know
MAX_AXES = 3


def input_shape_of(graph: Graph, shape: Any) -> Shape:
    """The argument `input_shape`, or what the first layer says where it is left out."""
    if shape is None:
        return (leading_features(graph, (*IDENTITIES, Scale)),)
    sizes = whole_numbers(
        "input_shape",
        shape,
        range(1, MAX_AXES + 1),
        "a tuple of 1 to 3 ints, as (1, 28, 28) for an image",
    )
    for size in sizes:
        check_int("input_shape", "size", size, at_least=1)
    return sizes


def whole_numbers(argument: str, values: Any, counts: Sequence[int], form: str) -> Shape:
    """The ints that an argument is, numpy's too."""
    wrong = f"{argument}={values!r}: must be {form}"
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise InvalidTypeError(wrong)
    if len(values) not in counts:
        raise InvalidValueError(wrong)
    try:
        numbers = tuple(operator.index(value) for value in values)
    except TypeError as problem:
        raise InvalidTypeError(wrong) from problem
    # a bool is an int in Python, and not here
    if any(isinstance(value, bool) for value in values):
        raise InvalidTypeError(wrong)
    return numbers


def output_shape(part: Part, shape_of: Callable[[int], Shape]) -> Shape:
    """The shape of what a part returns.

    Args:
        part: of the graph, not the input.
        shape_of: of what the parts before it return, by position.

    Raises:
        InvalidValueError: a part that does not fit what it is given.
    """
    module, shape = part.module, shape_of(part.inputs[0])
    if isinstance(module, LINEAR_LAYERS):
        return _behind_layer(part, module, shape)
    if isinstance(module, AVERAGES + MAXIMA):
        return _behind_pool(part, module, shape)
    return _reshaped(part, module, shape_of) if isinstance(module, RESHAPES) else shape


def _behind_layer(part: Part, layer: Any, shape: Shape) -> Shape:
    axes = {nn.Linear: 1, nn.Conv1d: 2, nn.Conv2d: 3}[
        next(kind for kind in LINEAR_LAYERS if isinstance(layer, kind))
    ]
    channels = layer.in_features if axes == 1 else layer.in_channels
    if len(shape) != axes or shape[0] != channels:
        raise refusal(
            part, f"takes {channels} channels in {axes} axes, and one sample has shape {shape}"
        )
    return (layer.weight.shape[0], *_seen(part, layer_window(part, layer), shape))


def _behind_pool(part: Part, module: Any, shape: Shape) -> Shape:
    if getattr(module, "ceil_mode", False):
        raise refusal(part, "ceil_mode=True is not supported; pad the input instead")
    spatial = (
        1
        if isinstance(
            module, nn.AvgPool1d | nn.AdaptiveAvgPool1d | nn.MaxPool1d | nn.AdaptiveMaxPool1d
        )
        else 2
    )
    if len(shape) != spatial + 1:
        raise refusal(part, f"pools over {spatial} axes, and one sample has shape {shape}")
    return (shape[0], *_seen(part, pool_window(part, module, shape), shape))


def _seen(part: Part, window: Any, shape: Shape) -> Shape:
    """The axes behind the channels that are left of them."""
    axes = len(shape) - 1
    sizes = window.output_size(*((1, 1) + shape[1:])[-2:])[2 - axes :]
    if axes and min(sizes) < 1:
        raise refusal(part, f"its kernel is larger than its input of shape {shape}")
    return tuple(sizes)


def _reshaped(part: Part, module: Any, shape_of: Callable[[int], Shape]) -> Shape:
    found = []
    # of one sample and of seven: whether the first axis stays the batch
    for batch in (1, 7):

        def batched(index: int, batch: int = batch) -> Shape:
            return (batch, *shape_of(index))

        try:
            if isinstance(module, Reshaping):
                found.append(module.reshaped(batched))
            else:
                found.append(
                    tuple(module(torch.empty(batched(part.inputs[0]), device="meta")).shape)
                )
        except (RuntimeError, TypeError, ValueError, IndexError) as problem:
            raise refusal(
                part, f"it does not fit one sample of shape {shape_of(part.inputs[0])} ({problem})"
            ) from problem
    first, other = found
    if first[:1] != (1,) or other[:1] != (7,) or first[1:] != other[1:]:
        raise refusal(
            part,
            "it flattens the batch axis, or changes it otherwise; let the first axis stay, as in"
            " x.flatten(1)",
        )
    if not 1 <= len(first) - 1 <= MAX_AXES:
        raise refusal(
            part,
            f"it gives one sample the shape {first[1:]}; an integer network knows 1 to {MAX_AXES}"
            " axes",
        )
    return first[1:]
