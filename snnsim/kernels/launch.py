"""How a neuron is run over a sequence: by which engine, in which order of memory, and as one
operation of autograd. The only place that falls back to a slower engine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from snnsim._core.autograd import differentiable_once, stored
from snnsim.automaton.automaton import Automaton
from snnsim.errors import EngineError, InvalidValueError, ShapeError
from snnsim.kernels.cpu.engine import CpuEngine
from snnsim.kernels.gpu import GpuEngine
from snnsim.kernels.gradients import Entries, Passes, Saved, per_neuron
from snnsim.kernels.linear import LinearMembrane
from snnsim.kernels.reference import ReferenceEngine

# what can be run
Neuron: TypeAlias = Automaton | LinearMembrane


class Engine(Protocol):
    """What runs neurons, with a class of passes for each kind of them."""

    @property
    def name(self) -> str:
        """What a user asks for it by."""

    @property
    def automaton(self) -> Callable[[Automaton], Passes]:
        """An automaton on this engine."""

    @property
    def membrane(self) -> Callable[[LinearMembrane], Passes]:
        """A linear membrane on this engine."""

    def why_not(self, x: Tensor, neuron: Neuron) -> str | None:
        """Reason that this engine cannot run `neuron` on input like `x` here; None if it can."""


@cache
def engines() -> tuple[Engine, ...]:
    """Every engine, in order of preference; the last one runs everything."""
    return (CpuEngine(), GpuEngine(), ReferenceEngine())


def choose(x: Tensor, neuron: Neuron, name: str | None = None) -> Engine:
    """The engine that runs `neuron` on input like `x`: the one asked for by name, else the first
    that can.

    Raises:
        InvalidValueError: a name that no engine has.
        EngineError: the engine asked for cannot run here.
    """
    if name is None:
        return next(engine for engine in engines() if engine.why_not(x, neuron) is None)
    engine = next((engine for engine in engines() if engine.name == name), None)
    if engine is None:
        names = ", ".join(repr(engine.name) for engine in engines())
        raise InvalidValueError(f"engine={name!r}: choose one of {names}, or None")
    reason = engine.why_not(x, neuron)
    if reason is not None:
        raise EngineError(
            f"engine={name!r} cannot run here: {reason}; leave engine out to take the fastest one"
            " that can"
        )
    return engine


def explain(x: Tensor, neuron: Neuron) -> str:
    """Which engine runs `neuron` on input like `x`, and why the faster ones do not; a line for
    each.
    """
    lines: list[str] = []
    for engine in engines():
        reason = engine.why_not(x, neuron)
        if reason is None:
            return "\n".join([*lines, f"{engine.name}: runs"])
        lines.append(f"{engine.name}: {reason}")
    raise EngineError("no engine can run: " + "; ".join(lines))


class Launch:
    """One neuron on input of one shape, layout, dtype and device: engine, order of memory and
    passes are decided.

    Args:
        neuron: to be run.
        x_seq: input `[T, *n]` like all that is to come.
        engine: its name; the fastest that can by default.
        rest: a start `[*n]` or broadcasting against it that comes again and again.
        plain: see `codes.code_dtype`.

    Raises:
        ShapeError: one step does not hold a whole number of groups of channels.
        InvalidValueError, EngineError: as `choose`.
    """

    def __init__(
        self,
        neuron: Neuron,
        x_seq: Tensor,
        engine: str | None = None,
        rest: Tensor | None = None,
        plain: bool = True,
    ) -> None:
        self.layout = layout = Layout.of(x_seq, neuron.channels, neuron.inner)
        if neuron.inner != layout.inner:
            neuron = dataclasses.replace(neuron, inner=layout.inner)
        self.neuron, self.dtype, self.plain = neuron, x_seq.dtype, plain
        self.passes: Passes = getattr(choose(x_seq, neuron, engine), neuron.kind)(neuron)
        self.rest = rest
        if rest is not None:
            self.rest_row = layout.row(rest.detach().expand(layout.shape[1:]))

    def run(
        self, x_seq: Tensor, start: Tensor, entries: Sequence[Tensor | None] = ()
    ) -> tuple[Tensor, Tensor]:
        """Output `[T, *n]` in the dtype of the input, and the state after the last step `[*n]`.

        Args:
            x_seq: input `[T, *n]`.
            start: what the first input is added to, `[*n]`, or `rest` itself.
            entries: those of the neuron, where gradients lead to what it learns.
        """
        if torch.is_grad_enabled() and (entries or x_seq.requires_grad or start.requires_grad):
            return _Scan.apply(self, x_seq, start, *entries)
        out, last, _ = self.forward(x_seq, start, save=False)
        return out, last

    def forward(self, x_seq: Tensor, start: Tensor, save: bool) -> tuple[Tensor, Tensor, Saved]:
        """As `run`, and what the backward pass needs, as rows."""
        layout = self.layout
        row = self.rest_row if start is self.rest else layout.row(start)
        out, last, saved = self.passes.forward(layout.rows(x_seq), row, save, self.plain)
        if layout.order is None:
            return out.view(layout.shape), last.view(layout.shape[1:]), saved
        return layout.unrows(out), layout.unrow(last), saved

    def backward(
        self,
        saved: Saved,
        x_seq: Tensor | None,
        start: Tensor | None,
        grad_out: Tensor | None,
        grad_v: Tensor | None,
        needs: Sequence[bool],
    ) -> Entries:
        """Gradients of (x_seq, start, *entries of the neuron).

        Args:
            saved: what `forward` returned.
            x_seq, start: where a gradient reads them, see `reads`.
            grad_out, grad_v: of the output and of the last state; None for zeros.
            needs: of each entry; the others get None.
        """
        layout, neuron, device = self.layout, self.neuron, saved[0].device
        time_steps, size = layout.shape[0], layout.size
        if grad_out is None:
            rows = torch.zeros(size, dtype=self.dtype, device=device).expand(time_steps, size)
        else:
            rows = layout.rows(grad_out)
        if grad_v is None:
            row = torch.zeros((), dtype=neuron.dtype, device=device).expand(size)
        else:
            row = layout.row(grad_v)
        learns = any(needs)
        grad, grad_start = self.passes.backward(saved, rows, row, divide=not learns)
        entries: Entries = (None,) * len(needs)
        if learns:
            x = None if x_seq is None else layout.rows(x_seq)
            if start is not None:
                start = self.rest_row if start is self.rest else layout.row(start)
            entries = self.passes.gradients(saved, grad, rows, row, x, start, needs)
            if neuron.divisor is not None:
                grad = grad / per_neuron(neuron.divisor, size, neuron.inner)
        return layout.unrows(grad).to(self.dtype), layout.unrow(grad_start), *entries

    def reads(self, needs: Sequence[bool]) -> tuple[bool, bool]:
        """Gradients of the entries that are needed read the input; they read the start."""
        passes = self.passes
        return any(needs[passes.READ_INPUT]), any(needs[passes.READ_START])


class _Scan(torch.autograd.Function):
    """A launch as one operation of autograd; keeps what its backward pass reads and nothing
    else.
    """

    # one method with a context: torch takes a hundred microseconds to bind the arguments of the
    # two-method form

    @staticmethod
    def forward(
        ctx: Any, launch: Launch, x_seq: Tensor, start: Tensor, *entries: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        out, last, saved = launch.forward(x_seq, start, save=True)
        reads_x, reads_start = launch.reads(ctx.needs_input_grad[3:]) if entries else (False, False)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x_seq if reads_x else None, start if reads_start else None, *saved)
        ctx.launch = launch
        # not as views: torch refuses to modify a view that a function returned in place, as
        # residual sums do
        return out.data, last.data

    @staticmethod
    @differentiable_once("a fused neuron")
    def backward(ctx: Any, grad_out: Tensor | None, grad_v: Tensor | None) -> tuple[Any, ...]:
        _, needs_x, needs_start, *needs = ctx.needs_input_grad
        if grad_out is None and grad_v is None:
            return (None,) * (3 + len(needs))
        x_seq, start, *saved = ctx.saved_tensors
        grad_x, grad_start, *entries = ctx.launch.backward(
            saved, x_seq, start, grad_out, grad_v, needs
        )
        return None, grad_x if needs_x else None, grad_start if needs_start else None, *entries


@dataclass(frozen=True)
class Layout:
    """Sequences of any shape as rows `[T, N]` of neurons, in the order in which they lie in memory.

    Attributes:
        shape: `[T, *n]`, of the sequence.
        order: axes of one step, outermost in memory first; None where that is their own order.
        inner: neurons of a row that share a channel in a row.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...] | None
    inner: int

    @staticmethod
    def of(x_seq: Tensor, channels: int, inner: int) -> Layout:
        """Layout of a sequence; the row-major one where its steps have gaps, overlap, or tear the
        channels apart.

        Args:
            x_seq: `[T, *n]`.
            channels: C of the neuron.
            inner: neurons that share a channel in a row, in row-major order.

        Raises:
            ShapeError: one step does not hold a whole number of groups of `channels * inner`
                neurons.
        """
        shape = tuple(x_seq.shape)
        step = shape[1:]
        if channels > 1 and math.prod(step) % (channels * inner):
            raise ShapeError(
                f"x_seq: one step has shape {step}, and a table of {channels} channels of {inner}"
                f" neurons each needs a multiple of {channels * inner} neurons; the first axis is"
                " time"
            )
        if not x_seq.is_contiguous():
            order = _memory_order(step, x_seq.stride()[1:])
            if order is not None:
                moved = inner if channels == 1 else _moved_inner(step, order, channels, inner)
                if moved is not None:
                    return Layout(shape, order, moved)
        return Layout(shape, None, inner)

    @cached_property
    def size(self) -> int:
        """Neurons of one step, N."""
        return math.prod(self.shape[1:])

    def rows(self, sequence: Tensor) -> Tensor:
        """`[T, *n]` as `[T, N]`, each row dense; a copy only where the memory is laid out
        otherwise.
        """
        if sequence.is_neg() or sequence._is_zerotensor():
            sequence = stored(sequence)
        if self.order is not None:
            sequence = sequence.permute(0, *(axis + 1 for axis in self.order))
        elif sequence.is_contiguous():
            return sequence.view(self.shape[0], self.size)
        size = self.size
        if _is_dense(sequence.shape[1:], sequence.stride()[1:]):
            # the steps themselves may lie anywhere: all in one place for an input that is the same
            # at every step
            return sequence.as_strided((self.shape[0], size), (sequence.stride(0), 1))
        return sequence.contiguous().view(self.shape[0], size)

    def unrows(self, rows: Tensor) -> Tensor:
        """`[T, N]` as `[T, *n]`, a view."""
        return rows.view(self.shape) if self.order is None else self._restore(rows, rows.shape[:1])

    def row(self, step: Tensor) -> Tensor:
        """One step `[*n]` as `[N]`."""
        if step.is_neg() or step._is_zerotensor():
            step = stored(step)
        return (step if self.order is None else step.permute(self.order)).reshape(-1)

    def unrow(self, row: Tensor) -> Tensor:
        """`[N]` as one step `[*n]`, a view."""
        return row.view(self.shape[1:]) if self.order is None else self._restore(row, ())

    def _restore(self, rows: Tensor, leading: Sequence[int]) -> Tensor:
        step, order = self.shape[1:], self.order or ()
        offset = len(leading)
        inverse = sorted(range(len(step)), key=order.__getitem__)
        view = rows.view(*leading, *(step[axis] for axis in order))
        return view.permute(*range(offset), *(inverse[axis] + offset for axis in range(len(step))))


def _memory_order(step: Sequence[int], strides: Sequence[int]) -> tuple[int, ...] | None:
    """Axes of a dense step, outermost in memory first; None for row-major order and for a step that
    is not dense.
    """
    order = tuple(sorted(range(len(step)), key=lambda axis: (-strides[axis], axis)))
    if order == tuple(range(len(step))) or not _is_dense(
        [step[a] for a in order], [strides[a] for a in order]
    ):
        return None
    return order


def _moved_inner(
    step: Sequence[int], order: Sequence[int], channels: int, inner: int
) -> int | None:
    """`inner` after reordering; None where the axes that distinguish channels do not stay
    together."""
    last = len(step)
    while last and math.prod(step[last:]) != inner:
        last -= 1
    first = last
    while first and math.prod(step[first:last]) != channels:
        first -= 1
    run = list(range(first, last))
    if math.prod(step[last:]) != inner or math.prod(step[first:last]) != channels or not run:
        return None
    start = order.index(first)
    if list(order[start : start + len(run)]) != run:
        return None
    return math.prod(step[axis] for axis in order[start + len(run) :])


def _is_dense(sizes: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether a row-major walk goes through memory without a gap."""
    expected = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
