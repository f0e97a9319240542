"""Runners: how a network of ordinary layers and neurons is taken through time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from snnsim._core.checks import check_int, dense
from snnsim._core.restore import restoring
from snnsim._core.warn import warn_user
from snnsim.errors import (
    InvalidTypeError,
    InvalidValueError,
    RunError,
    ShapeError,
    SnnsimError,
    StateError,
)
from snnsim.temporal.module import Run, Temporal, fold, stack_steps, temporal_modules
from snnsim.temporal.run import Batched, Before, Members, each, take_steps, unfolded


class _Runner(nn.Module):
    """Base of both runners: checks of the network, of the input and of the outcome.

    Args:
        net: any module; its neurons and other Temporal modules are found wherever they are nested.
            Of another runner the network inside it.
        time_steps: present a static input `[B, *n]` this many times, instead of taking a sequence
            `[T, B, *n]`.
        carry_state: continue from the state that the last run left, and leave this one's. True
            leaves it detached, "graph" leaves it within the graph (backpropagation across calls;
            cut it with `snnsim.detach`). False starts from rest and leaves every held state as it
            was.
    """

    _folds = False
    _members: Members | None = None

    def __init__(
        self, net: nn.Module, *, time_steps: int | None = None, carry_state: bool | str = False
    ) -> None:
        super().__init__()
        who = type(self).__name__
        if not isinstance(net, nn.Module):
            raise InvalidTypeError(f"{who}(net): must be an nn.Module, got {type(net).__name__}")
        # another runner of it, not one within the other
        self.net: nn.Module = net.net if isinstance(net, _Runner) else net
        self.time_steps = time_steps
        self.carry_state = carry_state
        if not self._look().temporal:
            warn_user(
                f"{who}: the network has no neuron and no other module that knows about time; every"
                " time step is computed alone"
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "time_steps" and value is not None:
            check_int(type(self).__name__, name, value, at_least=1)
        # not by ==, to which 1 is True
        if name == "carry_state" and not (
            isinstance(value, bool) or (isinstance(value, str) and value == "graph")
        ):
            raise InvalidValueError(
                f"{type(self).__name__}(carry_state={value!r}): must be False, True or 'graph'"
            )
        super().__setattr__(name, value)

    def extra_repr(self) -> str:
        steps = f"time_steps={self.time_steps}" if self.time_steps else ""
        return ", ".join(
            filter(None, [steps, f"carry_state={self.carry_state!r}" if self.carry_state else ""])
        )

    def _look(self) -> Members:
        """The modules that take part, all of them checked."""
        who = type(self).__name__
        for name, module in self.net.named_modules():
            if isinstance(module, _Runner):
                raise RunError(
                    f"{who}: the network holds a runner at {name!r}; runners do not nest, use only"
                    " the outer one"
                )
        members = Members(self.net, who, self._folds)
        if not torch.compiler.is_compiling():
            # past nn.Module: no part of this one
            object.__setattr__(self, "_members", members)
        return members

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_members"}

    def forward(self, *x_seq: Tensor) -> Any:
        """Run the sequences `[T, B, *n]` (or static inputs `[B, *n]` with `time_steps`); the
        outputs get `[T, B]` back.
        """
        members = self._members
        if torch.compiler.is_compiling() or members is None or not members.are_those_of(self.net):
            members = self._look()
        before = Before()
        steps, inputs = self._check_sequences(x_seq, members)
        try:
            try:
                return self._compute(members, before, steps, inputs)
            finally:
                before.leave()
        # once more: an interrupt may have come while the run was left
        except BaseException as problem:
            before.undo()
            _explain_shapes(problem, type(self).__name__, x_seq)
            raise

    def _compute(
        self, members: Members, before: Before, steps: int, inputs: Sequence[Tensor]
    ) -> Any:
        raise NotImplementedError

    def _check_sequences(
        self, sequences: tuple[Tensor, ...], members: Members
    ) -> tuple[int, tuple[Tensor, ...]]:
        """The number of time steps, the same in all inputs, and the inputs, dense."""
        who = type(self).__name__
        if not sequences:
            raise InvalidTypeError(f"{who}: needs an input, x_seq [T, B, *n]")
        if self.carry_state:
            self._check_carry(members.temporal)
        if not torch.compiler.is_compiling() and torch._C._is_tracing():
            raise RunError(
                f"{who}: torch.jit.trace cannot see what neurons compute, and would keep this run's"
                " results as constants; use torch.export.export"
            )
        strided = True
        for x in sequences:
            if not isinstance(x, Tensor):
                raise InvalidTypeError(f"{who}: x_seq must be a tensor, got {type(x).__name__}")
            strided = strided and x.layout is torch.strided and not x.is_nested
            least, form = (1, "[B, *n]") if self.time_steps else (2, "[T, B, *n]")
            if x.dim() < least:
                raise ShapeError(
                    f"{who}: the input must be {form}, got shape {tuple(x.shape)}; stack the time"
                    f" steps along a new first axis, or present a static input with {who}(net,"
                    " time_steps=T)"
                )
        if not strided:
            sequences = tuple(dense(who, "x_seq", x) for x in sequences)
        if self.time_steps:
            return self.time_steps, sequences
        # compared, not gathered in a set, which would fix a batch size that is open while compiling
        steps, batch = sequences[0].shape[:2]
        for x in sequences[1:]:
            if x.shape[0] != steps or x.shape[1] != batch:
                shapes = [tuple(x.shape) for x in sequences]
                raise ShapeError(f"{who}: inputs disagree in time or batch: {shapes}")
        if not steps:
            raise ShapeError(
                f"{who}: x_seq has no time step, shape {tuple(sequences[0].shape)}; T must be at"
                " least 1"
            )
        return steps, sequences

    def _check_carry(self, modules: Sequence[Temporal]) -> None:
        """Refuse to carry states where they would belong to something else than this run."""
        who = f"{type(self).__name__}(carry_state={self.carry_state!r})"
        if torch.compiler.is_exporting():
            raise StateError(
                f"{who}: an exported program holds no state, so every call of it would start from"
                " rest; export a runner with carry_state=False, on whole sequences"
            )
        if torch.compiler.is_compiling():
            return
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise StateError(
                f"{who}: a transform of torch.func (vmap, grad) would leave states that belong to"
                " the transform; use carry_state=False"
            )
        if torch._C._current_graph_task_id() != -1 and not all(
            module._run.is_restored for module in modules
        ):
            raise RunError(
                f"{who} was called within a backward pass, as torch.utils.checkpoint does to"
                " recompute, from the state of a later run, which gives a wrong gradient; use"
                " snnsim.checkpoint(runner, x_seq), which keeps the state"
            )


class MultiStep(_Runner):
    """Runs a network on a whole sequence at once: `[T, B, *n] -> [T, B, *out]`.

    Time is folded into the batch, `[T*B, *n]`, and the network called once as it is; only neurons
    (and other Temporal modules) unfold it. Feed-forward networks of any kind work, residual ones
    included; feedback from a later layer to an earlier one needs SingleStep, and cannot be seen
    from outside. Every run starts from rest unless `carry_state`.

    In eval mode the result is SingleStep's, bit for bit where layers are exact; float matrix
    products depend on the batch size in their last bits. In training mode batch norm sees all time
    steps as one batch; so does, in both modes, one without running statistics, and a quantizer of
    inputs that was not calibrated and takes its range from each input.

    A Temporal module with a `forward` of its own instead of a `forward_sequence` is called for one
    step after the other.

    A tensor whose first axis is not time can only partly be detected: `[B, T, *n]` runs, and means
    something else.

    Args: see _Runner. With `time_steps` and an nn.Sequential, the leading children without state or
        randomness run once.

    Raises:
        RunError: a nested runner, an nn.RNN/LSTM/GRU, attention with batch_first=False, a neuron
            used twice.
        ShapeError: no time axis, no time step, a layer that moved the batch axis, or one that was
            given none.
    """

    _folds = True

    def _compute(
        self, members: Members, before: Before, steps: int, inputs: Sequence[Tensor]
    ) -> Any:
        # leading layers of a static input see the batch alone
        batch = inputs[0].shape[0 if self.time_steps else 1]
        rows = steps * batch
        run = Run(steps, bool(self.carry_state), self.carry_state == "graph", rows, False)
        before.enter(members, run, rows, batch if self.time_steps else rows)
        if self.time_steps is None:
            output = self.net(*map(fold, inputs))
        else:
            net, once = _split_static(self.net, inputs)

            def repeated(xs: Sequence[Tensor]) -> Tensor:
                return fold(xs[0].expand(steps, *xs[0].shape))

            output = net(*(each(repeated, [x], "MultiStep") for x in once))

        return unfolded(output, steps, rows)


class SingleStep(_Runner):
    """Runs a network step by step: `[T, B, *n] -> [T, B, *out]`, time in the outermost loop.

    For networks with feedback, and as the plain definition of what a sequence means. Every run
    starts from rest unless `carry_state`.

    Args: see _Runner.
    """

    def _compute(
        self, members: Members, before: Before, steps: int, inputs: Sequence[Tensor]
    ) -> Any:
        batch = inputs[0].shape[0 if self.time_steps else 1]
        run = Run(steps, bool(self.carry_state), self.carry_state == "graph", is_alone=False)
        before.enter(members, run._replace(steps=None), batch)
        net: Callable[..., Any] = self.net
        if self.time_steps:
            net, inputs = _split_static(self.net, inputs)

        def step(t: int) -> Any:
            return net(*(x if self.time_steps else x[t] for x in inputs))

        outputs = take_steps(members.temporal, before, step, run)
        return each(stack_steps, outputs, "SingleStep")


def reset(net: nn.Module) -> None:
    """Put every neuron (and other Temporal module) of a network back to rest."""
    for module in temporal_modules(net).values():
        module.reset()


def detach(net: nn.Module) -> None:
    """Cut every held state from the graph of the steps before."""
    for module in temporal_modules(net).values():
        module.detach()


def states(net: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Held states by module name and state name, for streaming and for saving; modules at rest have
    an empty entry.
    """
    return {name: module.state() for name, module in temporal_modules(net).items()}


def set_states(net: nn.Module, states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Put back what `states` returned.

    Raises:
        StateError: names that are not those of this network's modules; nothing is changed then.
    """
    modules = temporal_modules(net)
    if not isinstance(states, Mapping):
        raise InvalidTypeError(
            f"set_states(states): must be what snnsim.states returned, got {type(states).__name__}"
        )
    if set(states) != set(modules):
        missing, unknown = (
            sorted(set(modules) - set(states)),
            sorted(set(states) - set(modules), key=repr),
        )
        raise StateError(
            f"set_states: these states are of another network: missing {missing}, unknown {unknown}"
        )
    for name, module in modules.items():
        module._check_state(states[name])
    for name, module in modules.items():
        module.load_state(states[name])


def checkpoint(function: nn.Module, *inputs: Tensor) -> Any:
    """Gradient checkpointing inside a network that runners run: as torch.utils.checkpoint, with
    time kept.

    The recomputation happens in the backward pass, after the run; plain torch.utils.checkpoint
    would run the neurons of `function` as single steps there.

    Args:
        function: a module of the network. As with torch's own, what it counts (running statistics)
            is counted twice.
        inputs: its inputs, folded as the runner passes them.

    Returns:
        What `function(*inputs)` returns.
    """
    if not isinstance(function, nn.Module):
        raise InvalidTypeError(
            "checkpoint(function): must be an nn.Module, so that its neurons are known; got"
            f" {type(function).__name__}"
        )
    now = Before.of(function)
    traced = [(module, module._trace is not None) for module in temporal_modules(function).values()]
    first = True

    def run(*args: Tensor) -> Any:
        nonlocal first
        if first:
            first = False
            return function(*args)
        before = Before.of(function)
        traces = [(module, module._trace) for module, _ in traced]

        def put_back() -> None:
            before.undo()
            for module, trace in traces:
                module._trace = trace

        with restoring(put_back):
            for module, was_traced in traced:
                # what is computed again is not recorded again; a list to throw away keeps the
                # nodes on the same path
                module._trace = [] if was_traced else None
            now.undo()
            for module, _ in traced:
                module._run = module._run._replace(is_restored=True)
            return function(*args)

    return torch.utils.checkpoint.checkpoint(run, *inputs, use_reentrant=False)


def _split_static(
    net: nn.Module, inputs: Sequence[Tensor]
) -> tuple[Callable[..., Any], Sequence[Tensor]]:
    """The part of a network that has to see every time step, and its inputs: leading stateless
    children run here, once.
    """
    if not isinstance(net, nn.Sequential) or len(inputs) != 1:
        return net, inputs
    # a forward or a hook of the user's own sees every time step
    own = type(net).forward is not nn.Sequential.forward or "forward" in net.__dict__
    if own or net._forward_hooks or net._forward_pre_hooks:
        return net, inputs
    children = list(net)
    leading = 0
    while leading < len(children) and not any(
        _depends_on_time(module) for module in children[leading].modules()
    ):
        leading += 1
    x = inputs[0]
    for child in children[:leading]:
        x = child(x)
    rest = children[leading:]

    def remaining(x: Tensor) -> Any:
        for child in rest:
            x = child(x)
        return x

    return remaining, (x,)


def _depends_on_time(module: nn.Module) -> bool:
    """True for a module whose output may differ when an input is presented again: any but torch's
    and our own layers.
    """
    known = type(module).__module__.startswith(("torch.nn.modules.", "snnsim.quant."))
    # batch statistics count the samples, and these draw
    varies = (
        isinstance(
            module, nn.modules.batchnorm._NormBase | nn.modules.dropout._DropoutNd | nn.RReLU
        )
        and module.training
    )
    draws = isinstance(
        module, nn.FractionalMaxPool2d | nn.FractionalMaxPool3d | nn.RNNBase | nn.RNNCellBase
    )
    hooked = bool(module._forward_hooks or module._forward_pre_hooks)
    own = module.__dict__.get("forward")
    own = own.own if isinstance(own, Batched) else own
    return not known or varies or draws or hooked or own is not None


def _explain_shapes(problem: BaseException, who: str, x_seq: Sequence[Tensor]) -> None:
    """Raise a ShapeError that speaks of time where a layer of the network refused the shape it was
    given.
    """
    if isinstance(problem, SnnsimError) or not _is_of_torch(problem):
        return
    if any(
        word in str(problem).lower()
        for word in ("shape", "size", "channels", "dimension", "d input")
    ):
        raise ShapeError(
            f"{who}: a layer of the network refused its input: {problem}. x_seq was"
            f" {[tuple(x.shape) for x in x_seq]}; is its first axis time and its second the batch?"
        ) from problem


def _is_of_torch(problem: BaseException) -> bool:
    """True for an error that torch raised; others of these types may be the user's own."""
    if isinstance(problem, RuntimeError):
        return True
    if not isinstance(problem, ValueError | IndexError):
        return False
    trace = problem.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("torch.")
