"""A network that is put together from a graph: modules, and a plan of which feeds which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn

from snnsim.layers.time import Feedback

__all__ = ["GraphNetwork", "Step", "Sum", "leaves", "total"]

# the name of a step, or a sum in the order in which it is taken
Sum: TypeAlias = "str | tuple[Sum, ...]"


@dataclass(frozen=True)
class Step:
    """One step of a plan.

    Attributes:
        name: of its value.
        module: dotted name of the module that computes it; None hands the input on.
        source: what it reads.
    """

    name: str
    module: str | None
    source: Sum


class GraphNetwork(nn.Module):
    """Modules under their dotted names, run in the order of a plan.

    Args:
        modules: by name.
        plan: in the order they run; values are called by the names of their steps.
        input, output: names of the values that come in and go out.
        feedback: for each `Feedback` by name, what is written into it at the end of a time step.
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        plan: tuple[Step, ...],
        input: str,
        output: Sum,
        feedback: dict[str, Sum],
    ) -> None:
        super().__init__()
        for name, module in modules.items():
            path, _, leaf = name.rpartition(".")
            parent: nn.Module = self
            for part in filter(None, path.split(".")):
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(leaf, module)
        self.plan = plan
        self.input = input
        self.output = output
        self.feedback = feedback

    def forward(self, x: Tensor) -> Tensor:
        """One time step `[B, *n]`, or a folded sequence within MultiStep."""
        values = {self.input: x}
        for name in self.feedback:
            values[name] = self._feedback(name).read(x)
        for step in self.plan:
            value = total(step.source, values)
            values[step.name] = (
                value if step.module is None else self.get_submodule(step.module)(value)
            )
        for name, source in self.feedback.items():
            self._feedback(name).write(total(source, values))
        return total(self.output, values)

    def _feedback(self, name: str) -> Feedback:
        module = self.get_submodule(name)
        if not isinstance(module, Feedback):
            raise TypeError(f"{name!r} is no Feedback")
        return module


def total(source: Sum, values: dict[str, Tensor]) -> Tensor:
    """The value that a source names, sums taken from left to right."""
    if isinstance(source, str):
        return values[source]
    first, *others = source
    result = total(first, values)
    for other in others:
        result = result + total(other, values)
    return result


def leaves(source: Sum) -> list[str]:
    """The names in a source, in order."""
    return (
        [source] if isinstance(source, str) else [leaf for part in source for leaf in leaves(part)]
    )
