"""Which parts of a network do not average over spikes: f of the mean is not the mean of f."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snnsim._core.checks import wide
from snnsim.temporal.runner import MultiStep

__all__ = ["departures"]

# enough for spikes to come and go
STEPS = 16
# of float32; half precision is compared to so many of its own roundings
TOLERANCE = 1e-3
ROUNDINGS = 16
MAX_POOLS = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)


class _Event(NamedTuple):
    """What a module was given, or gave: means over time, one per tensor."""

    name: str
    module: nn.Module
    given: bool
    values: list[Tensor]


def departures(
    ann: nn.Module, spiking: nn.Module, rectifiers: Iterable[str], x: Tensor
) -> list[str]:
    """Where a spiking network leaves the network that it was made from, however many time steps it
    has.

    Between one layer of neurons and the next the mean over time of what a part gives must be what
    it gives for the mean of the spikes: so it is for layers, norms in eval mode and averages, and
        for nothing else. The network is run on the mean spikes of
    each layer in place of its rectifiers' outputs, so every stretch is compared by itself, free of
    what few steps leave over.

    Args:
        ann: network in eval mode; hooks come and go.
        spiking: the same modules with neurons in place of the rectifiers, likewise.
        rectifiers: their names.
        x: samples, `[B, *n]`.

    Returns:
        What departs, in the order it runs, as clauses of a sentence.
    """
    names = set(rectifiers)
    with torch.no_grad():
        drawn = x.expand(STEPS, *x.shape)
        ours = _events(MultiStep(spiking).eval(), spiking, names, len(x), drawn)
        rates = {
            event.name: event.values[0] for event in ours if event.name in names and not event.given
        }
        theirs = _events(ann, ann, names, len(x), x, rates)
    found: list[str] = []
    told = False
    before = "the input"
    for mine, other in zip(ours, theirs, strict=False):
        if (mine.name, mine.given) != (other.name, other.given):
            return [*found, f"what runs behind {before} depends on the values"]
        off = max(
            (_distance(a, b) for a, b in zip(mine.values, other.values, strict=False)), default=0.0
        )
        if off and not told:
            found.append(f"{_place(mine, before)} (off by {off:.0%} here)")
        told = bool(off) or told
        if mine.name in names and not mine.given:
            # from here on both have the same values again
            told = False
        before = repr(mine.name) if mine.name else before
    return found


def _place(event: _Event, before: str) -> str:
    name = repr(event.name)
    if event.given:
        return f"what happens between {before} and {name}"
    if isinstance(event.module, MAX_POOLS):
        return f"{name} takes the largest spike of each step, which is more than the largest rate"
    if event.name and not any(True for _ in event.module.children()):
        return f"{name}, a {type(event.module).__name__}"
    return f"what happens behind {before}"


def _events(
    run: nn.Module,
    net: nn.Module,
    rectifiers: set[str],
    batch: int,
    x: Tensor,
    rates: Mapping[str, Tensor] | None = None,
) -> list[_Event]:
    """What the modules of `net` are given and give, in order, as `run` runs it; rectifiers give
    `rates`, where there are any.
    """
    events: list[_Event] = []

    def given(name: str) -> Any:
        return lambda module, args: events.append(_Event(name, module, True, _means(args, batch)))

    def gave(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            put = output if rates is None or name not in rectifiers else rates[name].to(output)
            events.append(_Event(name, module, False, _means(put, batch)))
            return put

        return hook

    with ExitStack() as hooks:
        for name, module in net.named_modules():
            if not any(
                name.startswith(f"{inside}." if inside else "") and name != inside
                for inside in rectifiers
            ):
                for handle in (
                    module.register_forward_pre_hook(given(name)),
                    module.register_forward_hook(gave(name)),
                ):
                    hooks.callback(handle.remove)
        run(x)
    return events


def _means(values: Any, batch: int) -> list[Tensor]:
    """The means over time of all tensors in there: of those that were run step by step, `[T * B,
    *n]`.
    """
    means = []
    for tensor in _tensors(values):
        numbers = wide(tensor) if tensor.is_floating_point() else tensor.double()
        if numbers.ndim and len(numbers) == STEPS * batch:
            numbers = numbers.unflatten(0, (STEPS, batch)).mean(0)
        # a copy: a layer behind may change it in place
        means.append(numbers.to(tensor.dtype, copy=True) if tensor.is_floating_point() else numbers)
    return means


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _distance(found: Tensor, wanted: Tensor) -> float:
    """Relative to `wanted`; 0 within rounding."""
    if found.shape != wanted.shape:
        return 1.0
    distance, size = (
        float(value.double().norm()) for value in (wide(found) - wide(wanted), wide(wanted))
    )
    roundings = ROUNDINGS * torch.finfo(wanted.dtype).eps if wanted.is_floating_point() else 0.0
    if distance <= max(TOLERANCE, roundings) * size:
        return 0.0
    return distance / size if size else 1.0
