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
from snnsim.temporal.module import Temporal, fold, stack_steps
from snnsim.temporal.run import Batched, Run, StandIn, Stepped, each, has_own_forward

__all__ = ["MultiStep", "SingleStep", "checkpoint", "detach", "reset", "set_states", "states"]

SOFTMAXES = (nn.Softmax, nn.LogSoftmax, nn.Softmin)
# modules that work along an axis which is given by its number
ALONG = (*SOFTMAXES, nn.GLU, nn.CosineSimilarity)
# modules that know their input by sizes, among which a batch may pass for one: which sizes, and the
# axes of one sample
SIZED: dict[type[nn.Module], Callable[[Any], tuple[tuple[int, ...], int]]] = {
    nn.modules.conv._ConvNd: lambda module: ((module.in_channels,), len(module.kernel_size) + 1),
    nn.Linear: lambda module: ((module.in_features,), 1),
    nn.Bilinear: lambda module: ((module.in1_features, module.in2_features), 1),
    nn.RNNCellBase: lambda module: ((module.input_size,), 1),
    nn.LayerNorm: lambda module: (module.normalized_shape[:1], len(module.normalized_shape)),
    nn.RMSNorm: lambda module: (module.normalized_shape[:1], len(module.normalized_shape)),
    nn.modules.instancenorm._InstanceNorm: lambda module: (
        (module.num_features,),
        module._get_no_batch_dim(),
    ),
}
# modules of torch's own that may take the axis of time and batch for another one
AXES = (nn.RNNBase, nn.MultiheadAttention, nn.Softmax2d, *ALONG, *SIZED)


class _Runner(nn.Module):
    """What both runners share: checking the network, the input and the outcome of a run.

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

    # whether `checkpoint` has put back the states that this call started from
    _is_restored = False

    def __init__(
        self, net: nn.Module, *, time_steps: int | None = None, carry_state: bool | str = False
    ) -> None:
        super().__init__()
        who = type(self).__name__
        if not isinstance(net, nn.Module):
            raise InvalidTypeError(f"{who}(net): must be an nn.Module, got {type(net).__name__}")
        # another runner of it, not one within the other
        self.net: nn.Module = net.net if isinstance(net, _Runner) else net
        self._stand_ins: dict[str, StandIn] = {}
        # what is looked at for every module in every call: once for each type
        self._kinds: dict[type[nn.Module], str] = {}
        self.time_steps = time_steps
        self.carry_state = carry_state
        if not self._look()[0]:
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

    def _look(self, *rows: int) -> tuple[list[Temporal], list[StandIn]]:
        """The modules that know about time, and what stands in for others in a run.

        Args:
            rows: sizes of the first axis of what the modules are given.

        Raises:
            RunError: a module that cannot run.
        """
        found: list[Temporal] = []
        stand_ins: list[StandIn] = []
        above = "."
        kinds = self._kinds
        for name, module in self.net.named_modules():
            kind = kinds.get(type(module))
            if kind is None:
                kind = kinds[type(module)] = _kind(type(module))
            if kind == "plain":
                continue
            if kind == "temporal":
                found.append(module)
                if not name.startswith(above):
                    above = f"{name}." if name else ""
                if has_own_forward(module):
                    stand_ins.append(self._stand_in(Stepped, name, module))
            elif kind == "called":
                raise RunError(
                    f"{type(self).__name__}: {name!r} ({type(module).__name__}) has a __call__ of"
                    " its own, which would be given time for batch; name it forward, for one step,"
                    " or forward_sequence, for all of them"
                )
            elif kind == "runner":
                raise RunError(
                    f"{type(self).__name__}: the network holds a runner at {name!r}; runners do not"
                    " nest, use only the outer one"
                )
            # a Temporal module sees time, and knows what it hands on
            elif not name.startswith(above):
                self._check_module(name, module)
                axes = self._axes_of_one_sample(module, rows)
                if axes is not None:
                    stand_ins.append(self._stand_in(Batched, name, module, axes))
        return found, stand_ins

    def _check_module(self, name: str, module: nn.Module) -> None:
        """Refuse a module that would take another axis for the batch, or never be shown time."""
        if hasattr(type(module), "forward_sequence"):
            raise RunError(
                f"{type(self).__name__}: {name!r} ({type(module).__name__}) has a forward_sequence"
                " and does not derive from snnsim.layers.Temporal, so it would not be called;"
                " derive it from there"
            )
        what = f"{type(self).__name__}: {name!r} is an nn.{type(module).__name__}"
        if isinstance(module, nn.MultiheadAttention) and not module.batch_first:
            raise RunError(
                f"{what} with batch_first=False, which takes the first axis for its sequence, and"
                " here that is the batch; make it, or the transformer layer that it belongs to,"
                " with batch_first=True and give it [B, sequence, features]"
            )
        if isinstance(module, SOFTMAXES) and module.dim is None:
            raise RunError(
                f"{what} without dim, which for 3 axes is the batch; give it the axis, as in dim=-1"
            )

    def _axes_of_one_sample(self, module: nn.Module, rows: tuple[int, ...]) -> int | None:
        """Axes of an input that this module would take for one sample without a batch axis; None
        where that cannot pass unseen.
        """
        if isinstance(module, nn.MultiheadAttention):
            return 2
        if isinstance(module, nn.Softmax2d):
            return 3
        if torch.compiler.is_compiling():
            return None
        for kind, look in SIZED.items():
            if isinstance(module, kind):
                sizes, axes = look(module)
                # a lazy module takes its sizes from its first input
                return axes if any(size == 0 or size in rows for size in sizes) else None
        return None

    def _stand_in(
        self, kind: type[StandIn], name: str, module: nn.Module, axes: int = 0
    ) -> StandIn:
        """The stand-in of a module, the same in every run, or what torch.compile made of the
        network would be made anew.
        """
        if torch.compiler.is_compiling():
            return kind(module, name, axes)
        known = self._stand_ins.get(name)
        if (
            known is None
            or known.module is not module
            or known.own is not module.__dict__.get("forward")
        ):
            known = self._stand_ins[name] = kind(module, name, axes)
        return known

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stand_ins": {}, "_kinds": {}}

    def _check_sequences(self, sequences: tuple[Tensor, ...]) -> tuple[int, tuple[Tensor, ...]]:
        """The number of time steps, the same in all inputs, and the inputs, dense."""
        who = type(self).__name__
        if not sequences:
            raise InvalidTypeError(f"{who}: needs an input, x_seq [T, B, *n]")
        if self.carry_state:
            self._check_carry()
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
        if any(x.shape[0] != steps or x.shape[1] != batch for x in sequences[1:]):
            raise ShapeError(
                f"{who}: inputs disagree in time or batch: {[tuple(x.shape) for x in sequences]}"
            )
        if not steps:
            raise ShapeError(
                f"{who}: x_seq has no time step, shape {tuple(sequences[0].shape)}; T must be at"
                " least 1"
            )
        return steps, sequences

    def _check_carry(self) -> None:
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
        if torch._C._current_graph_task_id() != -1 and not self._is_restored:
            raise RunError(
                f"{who} was called within a backward pass, as torch.utils.checkpoint does to"
                " recompute, from the state of a later run, which gives a wrong gradient; use"
                " snnsim.checkpoint(runner, x_seq), which keeps the state"
            )


def _kind(module: type[nn.Module]) -> str:
    """What a runner has to do with modules of this type."""
    if issubclass(module, Temporal):
        return "temporal" if module.__call__ is nn.Module.__call__ else "called"
    if issubclass(module, _Runner):
        return "runner"
    return "checked" if issubclass(module, AXES) or hasattr(module, "forward_sequence") else "plain"


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

    def _check_module(self, name: str, module: nn.Module) -> None:
        super()._check_module(name, module)
        what = f"MultiStep: {name!r} is an nn.{type(module).__name__}"
        if isinstance(module, nn.RNNCellBase):
            raise RunError(f"{what}, which has to be fed step by step; use snnsim.SingleStep")
        if isinstance(module, nn.RNNBase):
            raise RunError(
                f"{what}, which would take time for batch; run it outside, or use snnsim.SingleStep"
                " with an nn.LSTMCell, nn.GRUCell or nn.RNNCell"
            )
        if isinstance(module, ALONG) and module.dim == 0:
            raise RunError(
                f"{what} with dim=0, which is time and batch; use snnsim.SingleStep, or another dim"
            )

    def _axes_of_one_sample(self, module: nn.Module, rows: tuple[int, ...]) -> int | None:
        # an axis that is counted from the last may be the first
        if isinstance(module, ALONG) and module.dim is not None and module.dim < 0:
            return -module.dim
        return super()._axes_of_one_sample(module, rows)

    def forward(self, *x_seq: Tensor) -> Any:
        """Run the sequences `[T, B, *n]` (or static inputs `[B, *n]` with `time_steps`); the
        outputs get `[T, B]` back.
        """
        steps, inputs = self._check_sequences(x_seq)
        rows = inputs[0].shape[0] * (steps if self.time_steps else inputs[0].shape[1])
        # leading layers of a static input see the batch alone
        modules, stand_ins = self._look(rows, inputs[0].shape[0] if self.time_steps else rows)
        run = Run()
        try:
            try:
                carries, graph = bool(self.carry_state), self.carry_state == "graph"
                run.enter(modules, stand_ins, steps=steps, carries=carries, graph=graph, rows=rows)
                net: Callable[..., Any] = self.net
                if self.time_steps is None:
                    folded = [fold(x) for x in inputs]
                else:
                    net, once = _split_static(self.net, inputs)
                    folded = [
                        each(lambda xs: fold(xs[0].expand(steps, *xs[0].shape)), [x], "MultiStep")
                        for x in once
                    ]
                result = each(
                    lambda outputs: _unfold(outputs[0], steps, rows), [net(*folded)], "MultiStep"
                )
            finally:
                run.leave()
            return result
        # once more: an interrupt may have come while the run was left
        except BaseException as problem:
            run.undo()
            _explain_shapes(problem, "MultiStep", x_seq)
            raise


class SingleStep(_Runner):
    """Runs a network step by step: `[T, B, *n] -> [T, B, *out]`, time in the outermost loop.

    For networks with feedback, and as the plain definition of what a sequence means. Every run
    starts from rest unless `carry_state`.

    Args: see _Runner.
    """

    def _check_module(self, name: str, module: nn.Module) -> None:
        super()._check_module(name, module)
        if isinstance(module, nn.RNNBase):
            raise RunError(
                f"SingleStep: {name!r} is an nn.{type(module).__name__}, which would take the batch"
                " of one step for time; use an nn.LSTMCell, nn.GRUCell or nn.RNNCell"
            )

    def forward(self, *x_seq: Tensor) -> Any:
        """Run the sequences `[T, B, *n]` (or static inputs `[B, *n]` with `time_steps`) one step
        after the other.
        """
        steps, inputs = self._check_sequences(x_seq)
        modules, stand_ins = self._look(inputs[0].shape[0 if self.time_steps else 1])
        run = Run()
        try:
            try:
                run.enter(modules, stand_ins, steps=None, carries=True, graph=True)
                if not self.carry_state:
                    for module in modules:
                        module.reset()
                net, inputs = (
                    (self.net, inputs)
                    if self.time_steps is None
                    else _split_static(self.net, inputs)
                )
                outputs = []
                for t in range(steps):
                    for module in modules:
                        module._calls = 0
                    outputs.append(net(*(x if self.time_steps else x[t] for x in inputs)))
                result = each(stack_steps, outputs, "SingleStep")
                if not self.carry_state:
                    run.restore_states()
                elif self.carry_state is True:
                    for module in modules:
                        module.detach()
            finally:
                run.leave()
            return result
        # once more: an interrupt may have come while the run was left
        except BaseException as problem:
            run.undo()
            _explain_shapes(problem, "SingleStep", x_seq)
            raise


def reset(net: nn.Module) -> None:
    """Put every neuron (and other Temporal module) of a network back to rest."""
    for module in _temporal_modules(net).values():
        module.reset()


def detach(net: nn.Module) -> None:
    """Cut every held state from the graph of the steps before."""
    for module in _temporal_modules(net).values():
        module.detach()


def states(net: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Held states by module name and state name, for streaming and for saving; modules at rest have
    an empty entry.
    """
    return {name: module.state() for name, module in _temporal_modules(net).items()}


def set_states(net: nn.Module, states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Put back what `states` returned.

    Raises:
        StateError: names that are not those of this network's modules; nothing is changed then.
    """
    modules = _temporal_modules(net)
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
    now = Run.as_it_is(function)
    restored = [module for module in function.modules() if isinstance(module, _Runner | Temporal)]
    traced = [module for module in function.modules() if "_trace" in module.__dict__]
    first = True

    def run(*args: Tensor) -> Any:
        nonlocal first
        if first:
            first = False
            return function(*args)
        before = Run.as_it_is(function)
        # what is computed again is not recorded again; a list to throw away keeps the nodes on the
        # same path
        traces = {
            module: module.__dict__["_trace"]
            for module in traced
            if module.__dict__["_trace"] is not None
        }

        def put_back() -> None:
            before.undo()
            for module, trace in traces.items():
                module.__dict__["_trace"] = trace
            for module in restored:
                module.__dict__.pop("_is_restored", None)

        with restoring(put_back):
            now.undo()
            for module in traces:
                module.__dict__["_trace"] = []
            for module in restored:
                module.__dict__["_is_restored"] = True
            return function(*args)

    return torch.utils.checkpoint.checkpoint(run, *inputs, use_reentrant=False)


def _temporal_modules(net: nn.Module) -> dict[str, Temporal]:
    if not isinstance(net, nn.Module):
        raise InvalidTypeError(f"net: must be an nn.Module, got {type(net).__name__}")
    return {name: module for name, module in net.named_modules() if isinstance(module, Temporal)}


def _split_static(
    net: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
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
    """Whether presenting an input again may give another output: anything but torch's and our own
    layers may.
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
    """Whether torch said so; other errors of these types may be the user's own."""
    if isinstance(problem, RuntimeError):
        return True
    if not isinstance(problem, ValueError | IndexError):
        return False
    trace = problem.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("torch.")


def _unfold(output: Tensor, steps: int, rows: int) -> Tensor:
    """`[T*B, ...] -> [T, B, ...]`."""
    if output.dim() == 0 or output.shape[0] != rows:
        raise ShapeError(
            f"MultiStep: the network turned {rows} rows of time x batch into shape"
            f" {tuple(output.shape)}; the batch axis must stay first, so reduce over time outside"
            " the runner"
        )
    return output.reshape(steps, rows // steps, *output.shape[1:])
