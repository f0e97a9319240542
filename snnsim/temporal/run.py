"""One run: what a runner tells the modules of a network for the length of a call, and how it is
taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from snnsim.errors import InvalidTypeError, RunError, ShapeError
from snnsim.temporal.module import Temporal, fold, stack_steps

__all__ = ["Batched", "Run", "StandIn", "Stepped", "each", "has_own_forward"]


class Run:
    """What is set in the modules of a network for the length of one call.

    `leave` and `undo` may be called again, also where an interrupt ended `enter` or themselves half
    way.
    """

    def __init__(self) -> None:
        self._before: list[tuple[Temporal, dict[str, Any], dict[str, Tensor]]] = []
        self._forwards: list[tuple[nn.Module, Callable[..., Any] | None]] = []
        # what a recorder collects, and how much of it was there
        self._traces: list[tuple[list[Any], int]] = []

    @classmethod
    def as_it_is(cls, net: nn.Module) -> Run:
        """What is set in the modules of `net` now, for `undo` to set it again."""
        run = cls()
        for module in net.modules():
            if isinstance(module, Temporal):
                run._before.append((module, _attributes(module), module._state))
            run._forwards.append((module, module.__dict__.get("forward")))
        return run

    def enter(
        self,
        modules: Sequence[Temporal],
        stand_ins: Iterable[StandIn],
        *,
        steps: int | None,
        carries: bool,
        graph: bool,
        rows: int = 0,
    ) -> None:
        """Tell modules about the run, and put the stand-ins in place."""
        if any(module._calls is not None for module in modules):
            raise RunError(
                "a runner was called within a run of the same network; runners do not nest, use"
                " only the outer one, and a copy of the network in each thread"
            )
        for module in modules:
            self._before.append((module, _attributes(module), module._state))
            trace = module.__dict__.get("_trace")
            if trace is not None:
                self._traces.append((trace, len(trace)))
            # at once, past nn.Module, which looks for parameters in everything
            module.__dict__.update(
                _time_steps=steps, _carries_state=carries, _keeps_graph=graph, _calls=0, _rows=rows
            )
        for stand_in in stand_ins:
            self._forwards.append((stand_in.module, stand_in.module.__dict__.get("forward")))
            stand_in.module.__dict__["forward"] = stand_in

    def leave(self) -> None:
        """Undo `enter`, held states excepted."""
        for module, attributes, _ in self._before:
            module.__dict__.update(attributes)
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
        for module, _, state in self._before:
            module._state = state


def _attributes(module: Temporal) -> dict[str, Any]:
    return {
        "_time_steps": module._time_steps,
        "_carries_state": module._carries_state,
        "_keeps_graph": module._keeps_graph,
        "_calls": module._calls,
        "_rows": module._rows,
    }


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
        if not isinstance(module, Temporal) or module._time_steps is None:
            return self.forward(*args, **kwargs)
        steps, carries, graph = module._time_steps, module._carries_state, module._keeps_graph
        inputs = [
            module._unfold(x) if isinstance(x, Tensor) and x.dim() else x
            for x in (*args, *kwargs.values())
        ]
        parts = [part for part in module.modules() if isinstance(part, Temporal)]
        for part in parts:
            part._check_unused()
        before = Run.as_it_is(module)
        try:
            for part in parts:
                part.__dict__.update(_time_steps=None, _carries_state=True, _keeps_graph=True)
                if not carries:
                    part.reset()
            outputs = []
            for t in range(steps):
                for part in parts:
                    part._calls = 0
                step = [x[t] if isinstance(x, Tensor) and x.dim() else x for x in inputs]
                outputs.append(
                    self.forward(
                        *step[: len(args)], **dict(zip(kwargs, step[len(args) :], strict=True))
                    )
                )
            if not carries:
                before.restore_states()
            elif not graph:
                for part in parts:
                    part.detach()
        finally:
            before.leave()
        for part in parts:
            part._calls = 1
        return each(lambda outputs: fold(stack_steps(outputs)), outputs, type(module).__name__)


def has_own_forward(module: Temporal) -> bool:
    """Whether the `forward` of a Temporal module is another than the one that unfolds time."""
    return type(module).forward is not Temporal.forward or "forward" in module.__dict__


def each(function: Callable[[list[Tensor]], Tensor], outputs: Sequence[Any], who: str) -> Any:
    """`function` of the tensors in the same place of outputs that are alike; of each in tuples,
    lists and dicts.

    Raises:
        InvalidTypeError: an output that is none of these, or another one than the first.
    """
    tensors = [output for output in outputs if isinstance(output, Tensor)]
    if len(tensors) == len(outputs):
        return function(tensors)
    first = outputs[0]
    if any(type(output) is not type(first) for output in outputs):
        raise InvalidTypeError(
            f"{who}: the network must return the same at every time step, got "
            f"{', '.join(sorted({type(output).__name__ for output in outputs}))}"
        )
    if isinstance(first, dict):
        if any(output.keys() != first.keys() for output in outputs):
            raise InvalidTypeError(
                f"{who}: the network must return the same at every time step, got dicts of"
                " different keys"
            )
        return {key: each(function, [output[key] for output in outputs], who) for key in first}
    if isinstance(first, list | tuple):
        if any(len(output) != len(first) for output in outputs):
            raise InvalidTypeError(
                f"{who}: the network must return the same at every time step, got"
                f" {type(first).__name__}s of different lengths"
            )
        values = [each(function, list(group), who) for group in zip(*outputs, strict=True)]
        # a named tuple takes its fields one by one
        return type(first)(*values) if hasattr(first, "_fields") else type(first)(values)
    raise InvalidTypeError(
        f"{who}: the network must return tensors (or tuples, lists, dicts of them), got"
        f" {type(first).__name__}"
    )
