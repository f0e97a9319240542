"""One run: which modules of a network take part, what a runner sets in them for the length of a
call, and how it is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snnsim.errors import InvalidTypeError, RunError, ShapeError
from snnsim.temporal.module import Run, Temporal, fold, stack_steps

SOFTMAXES = (nn.Softmax, nn.LogSoftmax, nn.Softmin)
# modules that work along an axis which is given by its number
ALONG = (*SOFTMAXES, nn.GLU, nn.CosineSimilarity)
# modules that take an input of so many axes for one sample without a batch: where the batch has one
# of these sizes, or None for any
SAMPLES: dict[type[nn.Module], Callable[[Any], tuple[tuple[int | None, ...], int]]] = {
    nn.MultiheadAttention: lambda module: ((None,), 2),
    nn.Softmax2d: lambda module: ((None,), 3),
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
AXES = (nn.RNNBase, *ALONG, *SAMPLES)
# all attributes of modules that say what a runner has to do with them
READ: tuple[str, ...] = ("forward", "dim", "batch_first", "in_channels", "kernel_size")
READ += ("in_features", "in1_features", "in2_features", "input_size")
READ += ("normalized_shape", "num_features")


def why_not(module: Any, folds: bool) -> str | None:
    """The reason why a runner, one that folds time into the batch or not, cannot run a module."""
    if isinstance(module, nn.MultiheadAttention) and not module.batch_first:
        return (
            "with batch_first=False, which takes the first axis for its sequence, and here that is"
            " the batch; make it, or the transformer layer that it belongs to, with"
            " batch_first=True and give it [B, sequence, features]"
        )
    if isinstance(module, SOFTMAXES) and module.dim is None:
        return "without dim, which for 3 axes is the batch; give it the axis, as in dim=-1"
    if folds and isinstance(module, ALONG) and module.dim == 0:
        return "with dim=0, which is time and batch; use snnsim.SingleStep, or another dim"
    if folds and isinstance(module, nn.RNNCellBase):
        return "which has to be fed step by step; use snnsim.SingleStep"
    if isinstance(module, nn.RNNBase):
        return (
            "which would take time for batch; run it outside, or use snnsim.SingleStep with an"
            " nn.LSTMCell, nn.GRUCell or nn.RNNCell"
            if folds
            else "which would take the batch of one step for time; use an nn.LSTMCell, nn.GRUCell"
            " or nn.RNNCell"
        )
    return None


class Members:
    """The modules of a network that a runner has to do with, as they were when it was looked at.

    Args:
        net: the network.
        who: the runner, for messages.
        folds: it folds time into the batch.

    Attributes:
        temporal: modules that know about time.
        stand_ins: for the `forward` of modules, and the sizes of a batch that call for them, None
            for any. They stay the same while the network does, or what torch.compile made of it
            would be made anew.

    Raises:
        RunError: a module that cannot run.
    """

    def __init__(self, net: nn.Module, who: str, folds: bool) -> None:
        self.temporal: list[Temporal] = []
        self.stand_ins: list[tuple[StandIn, tuple[int | None, ...]]] = []
        # every module with its type, its children and what was read of it
        self._seen: list[tuple[nn.Module, type, dict[str, Any], list[tuple[str, Any]]]] = []
        above = "."
        for name, module in net.named_modules():
            kind = type(module)
            # a Temporal module sees time, and knows what it hands on
            is_above = not name.startswith(above)
            is_read = True
            if isinstance(module, Temporal):
                if is_above:
                    above = f"{name}." if name else ""
                self._add_temporal(name, module, who)
            elif is_above and (issubclass(kind, AXES) or hasattr(kind, "forward_sequence")):
                self._add_other(name, module, who, folds)
            else:
                is_read = False
            if not torch.compiler.is_compiling():
                values = [(n, getattr(module, n)) for n in READ if is_read and hasattr(module, n)]
                self._seen.append((module, kind, dict(module._modules), values))

    def _add_temporal(self, name: str, module: Temporal, who: str) -> None:
        kind = type(module)
        if kind.__call__ is not nn.Module.__call__:
            raise RunError(
                f"{who}: {name!r} ({kind.__name__}) has a __call__ of its own, which would be given"
                " time for batch; name it forward, for one step, or forward_sequence, for all of"
                " them"
            )
        self.temporal.append(module)
        if kind.forward is not Temporal.forward or "forward" in module.__dict__:
            self.stand_ins.append((Stepped(module, name), (None,)))

    def _add_other(self, name: str, module: Any, who: str, folds: bool) -> None:
        kind = type(module)
        if hasattr(kind, "forward_sequence"):
            raise RunError(
                f"{who}: {name!r} ({kind.__name__}) has a forward_sequence and does not derive from"
                " snnsim.layers.Temporal, so it would not be called; derive it from there"
            )
        reason = why_not(module, folds)
        if reason is not None:
            raise RunError(f"{who}: {name!r} is an nn.{kind.__name__} {reason}")
        if isinstance(module, ALONG):
            # an axis that is counted from the last may be the first
            if folds and module.dim is not None and module.dim < 0:
                self.stand_ins.append((Batched(module, name, -module.dim), (None,)))
            return
        for sampled, look in SAMPLES.items():
            if isinstance(module, sampled):
                sizes, axes = look(module)
                # sizes are open while compiling
                if sizes == (None,) or not torch.compiler.is_compiling():
                    self.stand_ins.append((Batched(module, name, axes), sizes))
                return

    def are_those_of(self, net: nn.Module) -> bool:
        """True while `net` is this network and what was read of it has not changed."""
        if self._seen[0][0] is not net:
            return False
        for module, kind, children, values in self._seen:
            if type(module) is not kind or module._modules != children:
                return False
            for name, value in values:
                if getattr(module, name, None) != value:
                    return False
        return True


class Before:
    """Run, state and forward of modules as they were before a call, to be put back.

    `leave` and `undo` may be called again, also where an interrupt ended `enter` or themselves half
    way.
    """

    def __init__(self) -> None:
        # the last is the number of steps that a recorder has collected
        self._modules: list[tuple[Temporal, Run, dict[str, Tensor], int]] = []
        self._forwards: list[tuple[nn.Module, Callable[..., Any] | None]] = []

    @classmethod
    def of(cls, net: nn.Module) -> Before:
        """Those of all modules of `net` now."""
        before = cls()
        for module in net.modules():
            if isinstance(module, Temporal):
                kept = (module, module._run, module._state, len(module._trace or ()))
                before._modules.append(kept)
            before._forwards.append((module, module.__dict__.get("forward")))
        return before

    def enter(self, members: Members, run: Run, *sizes: int) -> None:
        """Tell modules about a run, and put the stand-ins in place.

        Args:
            members: that take part.
            run: that they are told.
            sizes: of the first axis of what they are given.
        """
        for module in members.temporal:
            if not module._run.is_alone:
                raise RunError(
                    "a runner was called within a run of the same network; runners do not nest, use"
                    " only the outer one, and a copy of the network in each thread"
                )
        for module in members.temporal:
            self._modules.append((module, module._run, module._state, len(module._trace or ())))
            object.__setattr__(module, "_run", run)
        for stand_in, those in members.stand_ins:
            for size in those:
                # a lazy module takes its size, yet 0, from its first input
                if size in (None, 0, *sizes):
                    other = stand_in.module
                    self._forwards.append((other, other.__dict__.get("forward")))
                    other.__dict__["forward"] = stand_in
                    break

    def leave(self) -> None:
        """Undo `enter`, held states excepted."""
        for module, run, _, _ in self._modules:
            object.__setattr__(module, "_run", run)
        for other, forward in self._forwards:
            if forward is None:
                other.__dict__.pop("forward", None)
            else:
                other.__dict__["forward"] = forward

    def undo(self) -> None:
        """Undo `enter`, put back the states that were held then, and take back what was recorded
        since.
        """
        self.leave()
        self.restore_states()
        for module, _, _, length in self._modules:
            if module._trace is not None:
                del module._trace[length:]

    def restore_states(self) -> None:
        """Put back the states that were held before."""
        for module, _, state, _ in self._modules:
            module._state = state


def take_steps(
    modules: Sequence[Temporal],
    before: Before,
    step: Callable[[int], Any],
    run: Run,
) -> list[Any]:
    """Outputs of `step(t)`, for one time step after the other.

    Args:
        modules: that take part.
        before: what they had before.
        step: calls them once.
        run: its `steps`, and what becomes of the state.
    """
    single = Run(is_alone=False)
    for module in modules:
        module._run = single
        if not run.carries:
            module.reset()
    outputs = []
    for t in range(run.steps or 0):
        for module in modules:
            module._run = single
        outputs.append(step(t))
    if not run.carries:
        before.restore_states()
    elif not run.keeps_graph:
        for module in modules:
            module.detach()
    return outputs


class StandIn:
    """Takes the place of a module's `forward` for the length of a run.

    Args:
        module: whose forward it is.
        name: of the module in the network.
        axes: of an input that is one sample without a batch axis.
    """

    def __init__(self, module: nn.Module, name: str, axes: int = 0) -> None:
        self.module = module
        self.name = name
        self.axes = axes
        # of the instance, where it has one
        self.own: Callable[..., Any] | None = module.__dict__.get("forward")
        found = next(
            vars(kind)["forward"] for kind in type(module).__mro__ if "forward" in vars(kind)
        )
        self._takes_module = not isinstance(found, classmethod | staticmethod)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The forward of the module itself."""
        if self.own is not None:
            return self.own(*args, **kwargs)
        return type(self.module).forward(*(self.module,) * self._takes_module, *args, **kwargs)


class Batched(StandIn):
    """The forward of a torch module that would take an input without a batch axis for one sample;
    refuses such an input.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        x = next(iter((*args, *kwargs.values())))
        if isinstance(x, Tensor) and x.dim() == self.axes:
            raise ShapeError(
                f"{self.name!r} (nn.{type(self.module).__name__}) was given shape {tuple(x.shape)},"
                " which it takes for one sample without a batch axis, so samples and time steps"
                f" would be mixed; give it {self.axes + 1} axes, the batch first"
            )
        return self.forward(*args, **kwargs)


class Stepped(StandIn):
    """A forward of the user's own in a Temporal module: it says what one step is, and is called for
    one step after the other.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self.module
        # within the steps of a module above it, a step like any other
        if not isinstance(module, Temporal) or module._run.steps is None:
            return self.forward(*args, **kwargs)
        run = module._run
        inputs = [
            module._unfold(x, run) if isinstance(x, Tensor) and x.dim() else x
            for x in (*args, *kwargs.values())
        ]
        parts = [part for part in module.modules() if isinstance(part, Temporal)]
        for part in parts:
            if part._run.is_used:
                part._refuse_reuse()

        def step(t: int) -> Any:
            values = [x[t] if isinstance(x, Tensor) and x.dim() else x for x in inputs]
            named = dict(zip(kwargs, values[len(args) :], strict=True))
            return self.forward(*values[: len(args)], **named)

        before = Before.of(module)
        try:
            outputs = take_steps(parts, before, step, run)
        finally:
            before.leave()
        for part in parts:
            part._run = run._replace(is_used=True)
        return each(lambda outputs: fold(stack_steps(outputs)), outputs, type(module).__name__)


def each(function: Callable[[Sequence[Tensor]], Tensor], outputs: Sequence[Any], who: str) -> Any:
    """`function` of the tensors in the same place of outputs that are alike; of each in tuples,
    lists and dicts.

    Raises:
        InvalidTypeError: an output that is none of these, or another one than the first.
    """
    first = outputs[0]
    if isinstance(first, Tensor) and (
        len(outputs) == 1 or all(isinstance(output, Tensor) for output in outputs)
    ):
        return function(outputs)
    changes = f"{who}: the network must return the same at every time step, got"
    if any(type(output) is not type(first) for output in outputs):
        kinds = sorted({type(output).__name__ for output in outputs})
        raise InvalidTypeError(f"{changes} {', '.join(kinds)}")
    if isinstance(first, dict):
        if any(output.keys() != first.keys() for output in outputs):
            raise InvalidTypeError(f"{changes} dicts of different keys")
        return {key: each(function, [output[key] for output in outputs], who) for key in first}
    if isinstance(first, list | tuple):
        if any(len(output) != len(first) for output in outputs):
            raise InvalidTypeError(f"{changes} {type(first).__name__}s of different lengths")
        values = [each(function, list(group), who) for group in zip(*outputs, strict=True)]
        # a named tuple takes its fields one by one
        return type(first)(*values) if hasattr(first, "_fields") else type(first)(values)
    raise InvalidTypeError(
        f"{who}: the network must return tensors (or tuples, lists, dicts of them), got"
        f" {type(first).__name__}"
    )


def unfolded(output: Any, steps: int, rows: int) -> Any:
    """What MultiStep's network returned for rows of time x batch, with the two axes apart."""

    def unfold(outputs: Sequence[Tensor]) -> Tensor:
        x = outputs[0]
        if x.dim() == 0 or x.shape[0] != rows:
            raise ShapeError(
                f"MultiStep: the network turned {rows} rows of time x batch into shape"
                f" {tuple(x.shape)}; the batch axis must stay first, so reduce over time"
                " outside the runner"
            )
        return x.reshape(steps, rows // steps, *x.shape[1:])

    return each(unfold, [output], "MultiStep")
