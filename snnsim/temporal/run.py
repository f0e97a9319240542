"""One run: what a runner sets in the modules of a network for the length of a call, and how it is
taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from snnsim.errors import InvalidTypeError, RunError, ShapeError
from snnsim.temporal.module import Run, Temporal, fold, stack_steps

__all__ = ["Batched", "Before", "StandIn", "Stepped", "each", "take_steps"]


class Before:
    """What the modules of a network had before a call, to be put back.

    `leave` and `undo` may be called again, also where an interrupt ended `enter` or themselves half
    way.
    """

    def __init__(self) -> None:
        self._modules: list[tuple[Temporal, Run, dict[str, Tensor]]] = []
        self._forwards: list[tuple[nn.Module, Callable[..., Any] | None]] = []
        # what a recorder collects, and how much of it was there
        self._traces: list[tuple[list[Any], int]] = []

    @classmethod
    def of(cls, net: nn.Module) -> Before:
        """What the modules of `net` have now."""
        before = cls()
        for module in net.modules():
            if isinstance(module, Temporal):
                before._modules.append((module, module._run, module._state))
            before._forwards.append((module, module.__dict__.get("forward")))
        return before

    def enter(self, modules: Sequence[Temporal], stand_ins: Iterable[StandIn], run: Run) -> None:
        """Tell modules about a run, and put the stand-ins in place."""
        for module in modules:
            if not module._run.is_alone:
                raise RunError(
                    "a runner was called within a run of the same network; runners do not nest, use"
                    " only the outer one, and a copy of the network in each thread"
                )
        for module in modules:
            self._modules.append((module, module._run, module._state))
            if module._trace is not None:
                self._traces.append((module._trace, len(module._trace)))
            object.__setattr__(module, "_run", run)
        for stand_in in stand_ins:
            self._forwards.append((stand_in.module, stand_in.module.__dict__.get("forward")))
            stand_in.module.__dict__["forward"] = stand_in

    def leave(self) -> None:
        """Undo `enter`, held states excepted."""
        for module, run, _ in self._modules:
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
        for trace, length in self._traces:
            del trace[length:]

    def restore_states(self) -> None:
        """Put back the states that were held before."""
        for module, _, state in self._modules:
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
        """What the module does by itself."""
        if self.own is not None:
            return self.own(*args, **kwargs)
        return type(self.module).forward(*(self.module,) * self._takes_module, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must implement a call")


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
