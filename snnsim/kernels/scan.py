"""`scan`: the one way to run a neuron over time by itself, quantized or not."""

from __future__ import annotations

import torch
from torch import Tensor

from snnsim.errors import InvalidTypeError, RunError, ShapeError
from snnsim.kernels.launch import Launch, Neuron


def scan(
    x_seq: Tensor, start: Tensor, neuron: Neuron, engine: str | None = None
) -> tuple[Tensor, Tensor]:
    """Run a neuron over a sequence.

    Differentiable once, with respect to `x_seq`, `start` and the neuron's `entries`.

    Args:
        x_seq: input `[T, *n]`, T >= 1, in the unit of the threshold; no wider than the neuron's
            dtype, in which it computes.
        start: what the first input is added to: of an automaton what is left of the state, of a
            membrane the state itself. `[*n]`, or one number for each channel (`[C]`, `[1]` or
            `[]`), in the neuron's dtype.
        neuron: an automaton, or a membrane that is not quantized.
        engine: "cpu", "gpu" or "reference"; the fastest that can by default.

    Returns:
        Output `[T, *n]` in the dtype of `x_seq`, and the state after the last step `[*n]` in the
        neuron's dtype.

    Raises:
        ShapeError, InvalidTypeError: arguments that do not fit together.
        EngineError: the engine asked for cannot run here.
        RunError: a call that torch.compile traces.
    """
    if torch.compiler.is_compiling():
        raise RunError(
            "scan: torch.compile cannot look into it; compile a neuron of snnsim.neurons, which is"
            " one operator, or leave the call out with torch.compiler.disable"
        )
    dtype, device = neuron.dtype, neuron.device
    if x_seq.dtype != dtype and (
        not x_seq.dtype.is_floating_point or torch.promote_types(x_seq.dtype, dtype) != dtype
    ):
        raise InvalidTypeError(
            f"x_seq: is {x_seq.dtype} and the neuron computes in {dtype}; give a floating-point"
            " input that is no wider, or a neuron in float64"
        )
    if x_seq.device != device:
        raise InvalidTypeError(
            f"x_seq: is on {x_seq.device} and the neuron on {device}; move one of them with .to()"
        )
    if x_seq.dim() < 1 or x_seq.shape[0] == 0:
        raise ShapeError(
            f"x_seq: needs shape [T, *n] with T >= 1, got {tuple(x_seq.shape)}; the first axis is"
            " time"
        )
    if start.dtype != dtype or start.device != device:
        raise InvalidTypeError(
            f"start: is {start.dtype} on {start.device} and must be {dtype} on {device}; convert it"
            " with .to()"
        )
    launch = Launch(neuron, x_seq, engine)
    step = x_seq.shape[1:]
    if start.shape != step:
        if start.dim() > 1 or start.numel() not in (1, neuron.channels):
            raise ShapeError(
                f"start: has shape {tuple(start.shape)} and must be {tuple(step)}, one step of"
                " x_seq, or one number per channel"
            )
        start = _spread(start, step, neuron.inner)
    return launch.run(x_seq, start, neuron.entries if neuron.learns else ())


def _spread(value: Tensor, step: torch.Size, inner: int) -> Tensor:
    """One number for all (`[1]` or `[]`) or per channel (`[C]`) as one step of neurons, a view
    where it can be, differentiable.
    """
    if value.numel() == 1:
        return value.reshape(()).expand(step)
    groups = step.numel() // (value.numel() * inner)
    return value[:, None].expand(-1, inner).reshape(1, -1).expand(groups, -1).reshape(step)
