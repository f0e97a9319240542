"""Runners: how a network of ordinary layers and neurons is taken through time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from snnsim.checks import check_int
from snnsim.errors import InvalidTypeError, InvalidValueError, RunError, ShapeError, SnnsimError, StateError
from snnsim.temporal import Temporal, stack_steps
from snnsim.warn import warn_user

__all__ = ["MultiStep", "SingleStep", "checkpoint", "detach", "reset", "set_states", "states"]

CARRY_KINDS = (False, True, "graph")


class _Runner(nn.Module):
    """What both runners share: checking the network, the input and the outcome of a run.

    Args:
        net: any module; its neurons and other Temporal modules are found wherever they are nested. Of another runner the
            network inside it.
        time_steps: present a static input `[B, *n]` this many times, instead of taking a sequence `[T, B, *n]`.
        carry_state: continue from the state that the last run left, and leave this one's. True leaves it detached, "graph"
            leaves it within the graph (backpropagation across calls; cut it with `snnsim.detach`). False starts from rest and
            leaves every held state as it was.
    """

    def __init__(self, net: nn.Module, *, time_steps: int | None = None, carry_state: bool | str = False) -> None:
        super().__init__()
        who = type(self).__name__
        if not isinstance(net, nn.Module):
            raise InvalidTypeError(f"{who}(net): must be an nn.Module, got {type(net).__name__}")
        if time_steps is not None:
            check_int(who, "time_steps", time_steps, at_least=1)
        if carry_state not in CARRY_KINDS:
            raise InvalidValueError(f"{who}(carry_state={carry_state!r}): must be False, True or 'graph'")
        # another runner of it, not one within the other
        self.net: nn.Module = net.net if isinstance(net, _Runner) else net
        self.time_steps = time_steps
        self.carry_state = carry_state
        if not self._temporal():
            warn_user(
                f"{who}: the network has no neuron and no other module that knows about time; every time step is computed alone"
            )

    def extra_repr(self) -> str:
        steps = f"time_steps={self.time_steps}" if self.time_steps else ""
        return ", ".join(filter(None, [steps, f"carry_state={self.carry_state!r}" if self.carry_state else ""]))

    def _temporal(self) -> list[Temporal]:
        """The modules that know about time; refuses what cannot run."""
        found = []
        for name, module in self.net.named_modules():
            if isinstance(module, Temporal):
                found.append(module)
            elif isinstance(module, _Runner):
                raise RunError(
                    f"{type(self).__name__}: the network holds a runner at {name!r}; runners do not nest, use only the outer one"
                )
            elif hasattr(type(module), "forward_sequence"):
                raise RunError(
                    f"{type(self).__name__}: {name!r} ({type(module).__name__}) has a forward_sequence and does not derive from "
                    "snnsim.layers.Temporal, so it would not be called; derive it from there"
                )
            else:
                self._check_module(name, module)
        return found

    def _check_module(self, name: str, module: nn.Module) -> None:
        """Refuse a module that this runner would run wrongly."""

    def _check_sequences(self, sequences: Sequence[Tensor]) -> int:
        """The number of time steps, the same in all inputs."""
        who = type(self).__name__
        if not sequences:
            raise InvalidTypeError(f"{who}: needs an input, x_seq [T, B, *n]")
        if self.carry_state and not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
            raise StateError(
                f"{who}(carry_state={self.carry_state!r}): a transform of torch.func (vmap, grad) would leave states that belong "
                "to the transform; use carry_state=False"
            )
        for x in sequences:
            if not isinstance(x, Tensor):
                raise InvalidTypeError(f"{who}: x_seq must be a tensor, got {type(x).__name__}")
            least, form = (1, "[B, *n]") if self.time_steps else (2, "[T, B, *n]")
            if x.dim() < least:
                raise ShapeError(
                    f"{who}: the input must be {form}, got shape {tuple(x.shape)}; stack the time steps along a new first axis, or "
                    f"present a static input with {who}(net, time_steps=T)"
                )
        if self.time_steps:
            return self.time_steps
        # compared, not gathered in a set, which would fix a batch size that is open while compiling
        steps, batch = sequences[0].shape[:2]
        if any(x.shape[0] != steps or x.shape[1] != batch for x in sequences[1:]):
            raise ShapeError(f"{who}: inputs disagree in time or batch: {[tuple(x.shape) for x in sequences]}")
        if not steps:
            raise ShapeError(f"{who}: x_seq has no time step, shape {tuple(sequences[0].shape)}; T must be at least 1")
        return steps


class MultiStep(_Runner):
    """Runs a network on a whole sequence at once: `[T, B, *n] -> [T, B, *out]`.

    Time is folded into the batch, `[T*B, *n]`, and the network called once as it is; only neurons (and other Temporal modules)
    unfold it. Feed-forward networks of any kind work, residual ones included; feedback from a later layer to an earlier one needs
    SingleStep, and cannot be seen from outside. Every run starts from rest unless `carry_state`.

    In eval mode the result is SingleStep's, bit for bit where layers are exact; float matrix products depend on the batch size in
    their last bits. In training mode batch norm sees all time steps as one batch.

    A tensor whose first axis is not time can only partly be detected: `[B, T, *n]` runs, and means something else.

    Args: see _Runner. With `time_steps` and an nn.Sequential, the leading children without state or randomness run once.

    Raises:
        RunError: a nested runner, an nn.RNN/LSTM/GRU, a neuron used twice.
        ShapeError: no time axis, no time step, or a layer that moved the batch axis.
    """

    def _check_module(self, name: str, module: nn.Module) -> None:
        if isinstance(module, nn.RNNCellBase):
            raise RunError(
                f"MultiStep: {name!r} is an nn.{type(module).__name__}, which has to be fed step by step; use snnsim.SingleStep"
            )
        if isinstance(module, nn.RNNBase):
            raise RunError(
                f"MultiStep: {name!r} is an nn.{type(module).__name__}, which would take time for batch; run it outside, or use "
                "snnsim.SingleStep with an nn.LSTMCell, nn.GRUCell or nn.RNNCell"
            )

    def forward(self, *x_seq: Tensor) -> Any:
        """Run the sequences `[T, B, *n]` (or static inputs `[B, *n]` with `time_steps`); the outputs get `[T, B]` back."""
        modules = self._temporal()
        steps = self._check_sequences(x_seq)
        net: Callable[..., Any] = self.net
        if self.time_steps is None:
            folded = [x.flatten(0, 1) for x in x_seq]
        else:
            net, once = _split_static(self.net, x_seq)
            folded = [x.expand(steps, *x.shape).flatten(0, 1) for x in once]
        rows = folded[0].shape[0]
        previous = _enter(modules, steps, bool(self.carry_state), self.carry_state == "graph", rows)
        try:
            return _unfold(net(*folded), steps, rows)
        except BaseException as problem:
            _restore_states(modules, previous)
            _explain_shapes(problem, "MultiStep", x_seq)
            raise
        finally:
            _leave(modules, previous)


class SingleStep(_Runner):
    """Runs a network step by step: `[T, B, *n] -> [T, B, *out]`, time in the outermost loop.

    For networks with feedback, and as the plain definition of what a sequence means. Every run starts from rest unless
    `carry_state`.

    Args: see _Runner.
    """

    def _check_module(self, name: str, module: nn.Module) -> None:
        if isinstance(module, nn.RNNBase):
            raise RunError(
                f"SingleStep: {name!r} is an nn.{type(module).__name__}, which would take the batch of one step for time; use an "
                "nn.LSTMCell, nn.GRUCell or nn.RNNCell"
            )

    def forward(self, *x_seq: Tensor) -> Any:
        """Run the sequences `[T, B, *n]` (or static inputs `[B, *n]` with `time_steps`) one step after the other."""
        modules = self._temporal()
        steps = self._check_sequences(x_seq)
        net, inputs = (self.net, x_seq) if self.time_steps is None else _split_static(self.net, x_seq)
        previous = _enter(modules, None, True, True)
        done = False
        try:
            if not self.carry_state:
                for module in modules:
                    module.reset()
            outputs = []
            for t in range(steps):
                for module in modules:
                    module._calls = 0
                outputs.append(net(*(x if self.time_steps else x[t] for x in inputs)))
            result = _stack(outputs)
            done = True
            return result
        except RuntimeError as problem:
            _explain_shapes(problem, "SingleStep", x_seq)
            raise
        finally:
            if not (done and self.carry_state):
                _restore_states(modules, previous)
            elif self.carry_state is True:
                for module in modules:
                    module.detach()
            _leave(modules, previous)


def reset(net: nn.Module) -> None:
    """Put every neuron (and other Temporal module) of a network back to rest."""
    for module in _temporal_modules(net).values():
        module.reset()


def detach(net: nn.Module) -> None:
    """Cut every held state from the graph of the steps before."""
    for module in _temporal_modules(net).values():
        module.detach()


def states(net: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Held states by module name and state name, for streaming and for saving; modules at rest have an empty entry."""
    return {name: module.state() for name, module in _temporal_modules(net).items()}


def set_states(net: nn.Module, states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Put back what `states` returned.

    Raises:
        StateError: names that are not those of this network's modules; nothing is changed then.
    """
    modules = _temporal_modules(net)
    if not isinstance(states, Mapping):
        raise InvalidTypeError(f"set_states(states): must be what snnsim.states returned, got {type(states).__name__}")
    if set(states) != set(modules):
        missing, unknown = sorted(set(modules) - set(states)), sorted(set(states) - set(modules))
        raise StateError(f"set_states: these states are of another network: missing {missing}, unknown {unknown}")
    for name, module in modules.items():
        module.check_state(dict(states[name]))
    for name, module in modules.items():
        module.load_state(dict(states[name]))


def checkpoint(function: nn.Module, *inputs: Tensor) -> Any:
    """Gradient checkpointing inside a network that runners run: as torch.utils.checkpoint, with time kept.

    The recomputation happens in the backward pass, after the run; plain torch.utils.checkpoint would run the neurons of
    `function` as single steps there.

    Args:
        function: a module of the network. As with torch's own, what it counts (running statistics) is counted twice.
        inputs: its inputs, folded as the runner passes them.

    Returns:
        What `function(*inputs)` returns.
    """
    if not isinstance(function, nn.Module):
        raise InvalidTypeError(
            f"checkpoint(function): must be an nn.Module, so that its neurons are known; got {type(function).__name__}"
        )
    modules = list(_temporal_modules(function).values())
    now = [(m._time_steps, m._carries_state, m._keeps_graph, m._calls, m._state) for m in modules]
    first = True

    def run(*args: Tensor) -> Any:
        nonlocal first
        if first:
            first = False
            return function(*args)
        before = [(m._time_steps, m._carries_state, m._keeps_graph, m._calls, m._state) for m in modules]
        # what is computed again is not recorded again; a list to throw away keeps the nodes on the same path
        traces = {m: m.__dict__["_trace"] for m in modules if m.__dict__.get("_trace") is not None}
        try:
            for module in traces:
                module.__dict__["_trace"] = []
            _set_all(modules, now)
            return function(*args)
        finally:
            _set_all(modules, before)
            for module, trace in traces.items():
                module.__dict__["_trace"] = trace

    return torch.utils.checkpoint.checkpoint(run, *inputs, use_reentrant=False)


_Attributes = tuple[int | None, bool, bool, int | None, dict[str, Tensor]]


def _temporal_modules(net: nn.Module) -> dict[str, Temporal]:
    if not isinstance(net, nn.Module):
        raise InvalidTypeError(f"net: must be an nn.Module, got {type(net).__name__}")
    return {name: module for name, module in net.named_modules() if isinstance(module, Temporal)}


def _enter(modules: Sequence[Temporal], steps: int | None, carries: bool, graph: bool, rows: int = 0) -> list[_Attributes]:
    """Tell modules about the run; returns what to restore."""
    if any(module._calls is not None for module in modules):
        raise RunError("a runner was called within a run of the same network; runners do not nest, use only the outer one")
    previous = []
    for module in modules:
        previous.append((module._time_steps, module._carries_state, module._keeps_graph, module._calls, module._state))
        # at once, past nn.Module, which looks for parameters in everything
        module.__dict__.update(_time_steps=steps, _carries_state=carries, _keeps_graph=graph, _calls=0, _rows=rows)
    return previous


def _leave(modules: Sequence[Temporal], previous: Sequence[_Attributes]) -> None:
    """Undo `_enter`, held states excepted."""
    for module, (steps, carries, graph, calls, _) in zip(modules, previous, strict=True):
        module.__dict__.update(_time_steps=steps, _carries_state=carries, _keeps_graph=graph, _calls=calls, _rows=0)


def _restore_states(modules: Sequence[Temporal], previous: Sequence[_Attributes]) -> None:
    for module, attributes in zip(modules, previous, strict=True):
        module._state = attributes[4]


def _set_all(modules: Sequence[Temporal], attributes: Sequence[_Attributes]) -> None:
    _leave(modules, attributes)
    _restore_states(modules, attributes)


def _split_static(net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """The part of a network that has to see every time step, and its inputs: leading stateless children run here, once."""
    if not isinstance(net, nn.Sequential) or len(inputs) != 1:
        return net, inputs
    # a forward or a hook of the user's own sees every time step
    if type(net).forward is not nn.Sequential.forward or net._forward_hooks or net._forward_pre_hooks:
        return net, inputs
    children = list(net)
    leading = 0
    while leading < len(children) and not any(_depends_on_time(module) for module in children[leading].modules()):
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
    """Whether presenting an input again may give another output: anything but torch's and our own layers may."""
    known = type(module).__module__.startswith(("torch.nn.modules.", "snnsim.quant."))
    # batch statistics count the samples, and these draw
    varies = isinstance(module, nn.modules.batchnorm._NormBase | nn.modules.dropout._DropoutNd | nn.RReLU) and module.training
    draws = isinstance(module, nn.FractionalMaxPool2d | nn.FractionalMaxPool3d | nn.RNNBase | nn.RNNCellBase)
    hooked = bool(module._forward_hooks or module._forward_pre_hooks)
    return not known or varies or draws or hooked


def _explain_shapes(problem: BaseException, who: str, x_seq: Sequence[Tensor]) -> None:
    """Raise a ShapeError that speaks of time where a layer of the network refused the shape it was given."""
    if isinstance(problem, SnnsimError) or not isinstance(problem, RuntimeError):
        return
    if any(word in str(problem) for word in ("shape", "size", "channels", "dimension")):
        raise ShapeError(
            f"{who}: a layer of the network refused its input: {problem}. x_seq was {[tuple(x.shape) for x in x_seq]}; is its "
            "first axis time and its second the batch?"
        ) from problem


def _unfold(output: Any, steps: int, rows: int) -> Any:
    """`[T*B, ...] -> [T, B, ...]` in a tensor, or in every tensor of a tuple, list or dict."""
    if isinstance(output, Tensor):
        if output.dim() == 0 or output.shape[0] != rows:
            raise ShapeError(
                f"MultiStep: the network turned {rows} rows of time x batch into shape {tuple(output.shape)}; the batch axis must "
                "stay first, so reduce over time outside the runner"
            )
        return output.reshape(steps, rows // steps, *output.shape[1:])
    if isinstance(output, dict):
        return {key: _unfold(value, steps, rows) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return _rebuild(output, [_unfold(value, steps, rows) for value in output])
    raise InvalidTypeError(
        f"MultiStep: the network must return tensors (or tuples, lists, dicts of them), got {type(output).__name__}"
    )


def _stack(outputs: Sequence[Any]) -> Any:
    """Outputs of single steps along a new first axis; tuples, lists and dicts element by element."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return stack_steps(outputs)
    if isinstance(first, dict):
        return {key: _stack([output[key] for output in outputs]) for key in first}
    if isinstance(first, list | tuple):
        return _rebuild(first, [_stack(group) for group in zip(*outputs, strict=True)])
    raise InvalidTypeError(
        f"SingleStep: the network must return tensors (or tuples, lists, dicts of them), got {type(first).__name__}"
    )


def _rebuild(like: Any, values: list[Any]) -> Any:
    # a named tuple takes its fields one by one
    return type(like)(*values) if hasattr(like, "_fields") else type(like)(values)
