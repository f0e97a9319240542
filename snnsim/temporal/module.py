"""Temporal: what a module that knows about time has in common with every other one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from snnsim._core import debug
from snnsim._core.checks import check_tensor, dense
from snnsim._core.restore import PassingHook
from snnsim.errors import InvalidTypeError, InvalidValueError, RunError, ShapeError, StateError

# of a module: what no copy of it takes over, and what no equation reads
RUN_ATTRIBUTES = frozenset({"_run", "_state", "_trace"})


class Run(NamedTuple):
    """The call that a module takes part in, one value that its runner sets and puts back.

    Attributes:
        steps: time steps that come folded into the batch; None where they come one by one.
        carries: state is read, and kept for the next step.
        keeps_graph: kept state stays within the graph.
        rows: time x batch; a layer may make more rows of them (patches), never fewer.
        is_alone: no runner is at work.
        is_used: the module has been called, and must not be again.
        is_restored: `checkpoint` has put back the state that this call started from.
    """

    steps: int | None = None
    carries: bool = True
    keeps_graph: bool = True
    rows: int = 0
    is_alone: bool = True
    is_used: bool = False
    is_restored: bool = False


def stack_steps(steps: Sequence[Tensor]) -> Tensor:
    """Time steps `[B, *n]` along a new first axis: `[T, B, *n]`."""
    # inductor drops the copy of a stack of one without noticing the alias, and backward then
    # overwrites the output
    return torch.stack(list(steps)) if len(steps) > 1 else steps[0].unsqueeze(0)


def fold(x_seq: Tensor) -> Tensor:
    """Time folded into the batch: `[T, B, *n] -> [T*B, *n]`."""
    rows = x_seq.flatten(0, 1)
    # torch gives a flattened view a stride in which an open batch size stays undecided, and then
    # refuses to unfold it
    return (
        rows.clone(memory_format=torch.contiguous_format) if torch.compiler.is_exporting() else rows
    )


class Temporal(nn.Module):
    """Base of modules that need to see time: neurons, delays, and the user's own.

    A subclass implements `forward_sequence`. Called by itself the module takes one time step `[B,
    *n]` and keeps its state for the next; inside MultiStep it receives the folded sequence `[T*B,
    *n]`, unfolds it, and hands the same shape on. State is read with `held(name)` and written with
    `hold(name=tensor)`; both know whether the current run carries state.
    """

    # a plain attribute: a context variable would break torch.compile
    _run: Run = Run()
    # where a Recorder collects (output, membrane before the reset, membrane after it) of every step
    _trace: list[tuple[Tensor, Tensor, Tensor]] | None = None

    def __init__(self) -> None:
        super().__init__()
        self._state: dict[str, Tensor] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        # past nn.Module, which looks for parameters in everything
        if name in RUN_ATTRIBUTES:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def forward_sequence(self, x_seq: Tensor) -> Tensor:
        """All time steps at once, from the held state (or from rest).

        Args:
            x_seq: `[T, B, *n]`.

        Returns:
            `[T, B, *out]`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement forward_sequence(x_seq [T, B, *n]) -> [T, B,"
            " *out]"
        )

    def forward(self, x: Tensor) -> Tensor:
        """One time step `[B, *n]`; inside MultiStep the folded sequence `[T*B, *n]`."""
        run = self._run
        if not isinstance(x, Tensor):
            check_tensor(type(self).__name__, "x", x)
        if x.layout is not torch.strided or x.is_nested:
            x = dense(type(self).__name__, "x", x)
        if x.dim() == 0:
            raise ShapeError(
                f"{type(self).__name__}: x must be [B, *n], got a single number; give it a batch"
                " axis with x.reshape(1, 1)"
            )
        if run.is_alone:
            self._check_recomputed()
        else:
            if run.is_used:
                self._refuse_reuse()
            used = Run(run.steps, run.carries, run.keeps_graph, run.rows, False, True)
            object.__setattr__(self, "_run", used)
        x_seq = x.unsqueeze(0) if run.steps is None else self._unfold(x, run)
        if debug.is_on:
            debug.check_finite(type(self).__name__, x if run.steps is None else x_seq)
        out = self.forward_sequence(x_seq)
        return out.squeeze(0) if run.steps is None else fold(out)

    def held(self, name: str) -> Tensor | None:
        """A state tensor kept from the step before, or None at rest."""
        if self._run.is_alone:
            self._check_recomputed()
        return self._state.get(name) if self._run.carries else None

    def hold(self, **tensors: Tensor) -> None:
        """Keep state tensors for the next step, if this run carries state; those of other names
        stay as they are.
        """
        run = self._run
        if run.carries:
            if run.is_alone:
                self._check_step()
            if not run.keeps_graph:
                tensors = {name: tensor.detach() for name, tensor in tensors.items()}
            # another dictionary: whoever has taken down what was held keeps that
            self._state = {**self._state, **tensors}

    def _check_step(self) -> None:
        """Refuse a step of its own whose state would not be there for the next one."""
        self._check_recomputed()
        who = f"{type(self).__name__}: a step of its own"
        compiling = torch.compiler.is_compiling()
        if torch.compiler.is_exporting() or (not compiling and torch._C._is_tracing()):
            raise StateError(
                f"{who} in an exported program would forget its state, and start every call from"
                " rest; export a whole run, as in torch.export.export(snnsim.MultiStep(net),"
                " (x_seq,))"
            )
        if not compiling and torch._C._functorch.peek_interpreter_stack() is not None:
            raise StateError(
                f"{who} under a transform of torch.func (vmap, grad) would leave a state that"
                " belongs to the transform; run the sequence with snnsim.MultiStep or SingleStep,"
                " which start from rest"
            )

    def _check_recomputed(self) -> None:
        """Refuse a step that torch.utils.checkpoint computes again, from another state than the
        first time.
        """
        if (
            not self._run.is_restored
            and not torch.compiler.is_compiling()
            and torch._C._current_graph_task_id() != -1
        ):
            raise RunError(
                f"{type(self).__name__} was called within a backward pass, as"
                " torch.utils.checkpoint does to recompute; use snnsim.checkpoint(module, x),"
                " which keeps time and state"
            )

    def _check_between_steps(self, what: str) -> None:
        """Refuse what takes place between two time steps while all of them are computed at once."""
        run = self._run
        if run.steps is not None and not (what == "state" and run.is_used and run.carries):
            raise RunError(
                f"{type(self).__name__}: {what} of a module within a run of MultiStep, which"
                " computes all time steps at once, so that it would not be that of one step; use"
                " snnsim.SingleStep, or write the steps as the forward of a snnsim.layers.Temporal"
            )

    def reset(self) -> None:
        """Go back to rest."""
        self._check_between_steps("reset")
        self._state = {}

    def detach(self) -> None:
        """Cut the held state from the graph of the steps before (truncated backpropagation through
        time).
        """
        self._check_between_steps("detach")
        self._state = {name: tensor.detach() for name, tensor in self._state.items()}

    def state(self) -> dict[str, Tensor]:
        """The held state by name; empty at rest. Not part of `state_dict`."""
        self._check_between_steps("state")
        return dict(self._state)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned; empty for rest."""
        self._check_between_steps("load_state")
        self._check_state(state)
        self._state = dict(state)

    def _check_state(self, state: Mapping[str, Tensor]) -> None:
        """Refuse a state that this module could not have held."""
        if not isinstance(state, Mapping):
            raise InvalidTypeError(
                f"load_state: the state of {type(self).__name__} must be what state() returned,"
                f" tensors by name, got {type(state).__name__}"
            )
        for name, tensor in state.items():
            if not isinstance(name, str):
                problem = (
                    f"names of states are str, got {name!r}; take states from snnsim.states(net)"
                )
            elif not isinstance(tensor, Tensor):
                problem = f"{name!r} must be a tensor, got {type(tensor).__name__}"
            elif not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
                problem = f"{name!r} must be floating point of 16 bits or more, got {tensor.dtype}"
            elif tensor.is_nested:
                problem = f"{name!r} must be a dense tensor, got a nested one"
            elif tensor.layout is not torch.strided:
                problem = (
                    f"{name!r} must be a dense tensor, got {tensor.layout}; use its to_dense()"
                )
            elif tensor.is_meta or bool(tensor.isfinite().all()):
                continue
            else:
                raise InvalidValueError(
                    f"load_state: {name!r} holds NaN or infinite values, which a state never leaves"
                    " again; start from rest with snnsim.reset(net), or take the states of a run"
                    " without them"
                )
            raise InvalidTypeError(f"load_state: {problem}")

    def check_held(self, name: str, x: Tensor, dtype: torch.dtype) -> Tensor | None:
        """The held state tensor, checked against one step of input.

        Args:
            name: of the state tensor.
            x: one time step of input, `[B, *n]`.
            dtype: of the state that this input asks for.

        Raises:
            StateError: another shape, dtype or device than the state held from the step before.
        """
        run = self._run
        # a run from rest finds nothing
        tensor = self.held(name) if run.carries or run.is_alone else None
        if tensor is None:
            return None
        who = f"{type(self).__name__}: the state held from the step before"
        if tensor.shape != x.shape:
            raise StateError(
                f"{who} has shape {tuple(tensor.shape)} and the input of this step"
                f" {tuple(x.shape)}; a new sequence starts with snnsim.reset(net), and an input"
                " with a leading time axis [T, B, ...] goes through snnsim.MultiStep(net)"
            )
        if tensor.dtype != dtype or tensor.device != x.device:
            raise StateError(
                f"{who} is {tensor.dtype} on {tensor.device} and this input asks for {dtype} on"
                f" {x.device}; call snnsim.reset(net) after changing dtype or device, or convert"
                " the input"
            )
        return tensor

    def _unfold(self, x: Tensor, run: Run) -> Tensor:
        steps = run.steps
        if steps is None or x.shape[0] % steps or (run.rows and x.shape[0] % run.rows):
            raise ShapeError(
                f"{type(self).__name__}: got shape {tuple(x.shape)} within a run of {steps} time"
                " steps; the first axis must stay time x batch from the runner's input to every"
                " neuron, so keep the batch axis first in all layers"
            )
        return x.reshape(steps, x.shape[0] // steps, *x.shape[1:])

    def _refuse_reuse(self) -> NoReturn:
        raise RunError(
            f"{type(self).__name__} is used twice within one run: its second use would continue"
            " from the state of the first; give each place in the network a module of its own"
        )

    def _record(self, output: Tensor, charged: Tensor, after: Tensor) -> None:
        """Hand one time step to the recorder, if there is one."""
        if self._trace is not None:
            self._trace.append((output.detach(), charged.detach(), after.detach()))

    def __getstate__(self) -> dict[str, Any]:
        # a copy is in no run and in no recording, also one that was made within; nor does it count
        # for what counts the original
        hooks = self._forward_hooks.items()
        kept = {name: value for name, value in self.__dict__.items() if name not in RUN_ATTRIBUTES}
        kept["_forward_hooks"] = OrderedDict(
            (key, hook) for key, hook in hooks if not isinstance(hook, PassingHook)
        )
        # a held state may be inside a graph, which can be neither copied nor pickled
        return {**kept, "_state": {name: tensor.detach() for name, tensor in self._state.items()}}


def temporal_modules(net: nn.Module, who: str = "net") -> dict[str, Temporal]:
    """Modules of a network that know about time, by name."""
    if not isinstance(net, nn.Module):
        raise InvalidTypeError(f"{who}: must be an nn.Module, got {type(net).__name__}")
    return {name: module for name, module in net.named_modules() if isinstance(module, Temporal)}
