"""Running data through a network to look at it: quietly, and the same however the data was split
into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from snnsim._core.checks import check_iterable
from snnsim._core.restore import evaluating, restoring
from snnsim.errors import InvalidTypeError, ShapeError, StateError
from snnsim.neurons.membrane import Membrane
from snnsim.temporal.record import Recorder, Trace
from snnsim.temporal.runner import MultiStep, SingleStep, reset

__all__ = ["float_states", "observe", "regroup", "runner_axis"]

# samples that are run together, whatever the user's batches: a float matrix product depends on its
# number of rows
SAMPLES = 64


def observe(
    where: str, net: nn.Module, batches: Iterable[Any], visit: Callable[[str, Trace], None]
) -> int:
    """Run `batches` through a network and show the trace of every node to `visit(name, trace)`.

    The samples are regrouped first, so that the same samples in the same order give the same traces
    in any batch size. The network is left as it was.

    Args:
        where: the public function that asks, for messages.
        net: a runner, or a module around one.
        batches: inputs for it, or (input, ...) as a DataLoader gives them.
        visit: called for each node and group of samples.

    Returns:
        Number of samples.

    Raises:
        InvalidTypeError: no runner in `net`, or batches that hold no tensors.
        StateError: no sample at all.
    """
    axis = runner_axis(where, net)
    samples = 0
    with evaluating(net):
        for x in regroup(where, batches, axis):
            samples += x.shape[axis]
            reset(net)
            with Recorder(net) as recorder:
                net(x)
            for name, trace in recorder.traces().items():
                visit(name, trace)
    if not samples:
        raise StateError(f"{where}(batches): there is no sample in them; give at least one batch")
    return samples


def runner_axis(where: str, net: nn.Module) -> int:
    """Batch axis of what a network takes: 0 for static inputs `[B, *n]`, 1 for sequences `[T, B,
    *n]`.
    """
    if not isinstance(net, nn.Module):
        raise InvalidTypeError(
            f"{where}(net): must be a runner around a network, got {type(net).__name__}"
        )
    for module in net.modules():
        if isinstance(module, MultiStep | SingleStep):
            return 1 if module.time_steps is None else 0
    raise InvalidTypeError(
        f"{where}(net): {type(net).__name__} is not within a runner; wrap it, as in"
        " snnsim.MultiStep(net)"
    )


@contextmanager
def float_states(net: nn.Module) -> Iterator[None]:
    """All membranes without their codebooks for a while."""
    codebooks = {node: node.state_quant for node in net.modules() if isinstance(node, Membrane)}

    def restore() -> None:
        for node, codebook in codebooks.items():
            node.state_quant = codebook

    with restoring(restore):
        for node in codebooks:
            node.state_quant = None
        yield


def regroup(where: str, batches: Iterable[Any], axis: int) -> Iterator[Tensor]:
    """The samples of `batches` in groups of SAMPLES; a group ends early where the shape of a sample
    changes.
    """
    check_iterable(where, "batches", batches)
    waiting: list[Tensor] = []
    for batch in batches:
        x = batch[0] if isinstance(batch, Sequence) and batch else batch
        if not isinstance(x, Tensor):
            raise InvalidTypeError(
                f"{where}(batches): a batch must be a tensor, or a tuple or list that begins with"
                f" one; got {type(batch).__name__}"
            )
        if x.dim() <= axis:
            raise ShapeError(
                f"{where}(batches): a batch has shape {tuple(x.shape)}, and its batch axis should"
                f" be axis {axis}; give {'[T, B, *n]' if axis else '[B, *n]'}"
            )
        if not x.shape[axis]:
            continue
        if waiting and _sample(waiting[0], axis) != _sample(x, axis):
            yield torch.cat(waiting, axis)
            waiting = []
        waiting.append(x)
        if sum(part.shape[axis] for part in waiting) >= SAMPLES:
            *full, rest = torch.cat(waiting, axis).split(SAMPLES, axis)
            if rest.shape[axis] == SAMPLES:
                full, rest = [*full, rest], rest.narrow(axis, 0, 0)
            yield from (group.contiguous() for group in full)
            waiting = [rest] if rest.shape[axis] else []
    if waiting:
        yield torch.cat(waiting, axis)


def _sample(x: Tensor, axis: int) -> tuple[object, ...]:
    return x.shape[:axis], x.shape[axis + 1 :], x.dtype, x.device
