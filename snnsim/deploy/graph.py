"""Reading a network: the order in which its modules are called, and what feeds each of them."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from snnsim.deploy.feedback import Feedback
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.quant.weight import QuantizedWeight
from snnsim.runners import MultiStep, SingleStep
from snnsim.temporal import Temporal

__all__ = ["Graph", "Part", "leading_features", "network_of", "read", "refusal"]

ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
FLATTENINGS = {torch.flatten, "flatten"}


@dataclass(frozen=True)
class Part:
    """One place of a network: a module, or a function of the tensors that others made.

    Attributes:
        name: dotted name of the module; for a function its name in the trace.
        module: None for the network's input and for a sum.
        inputs: the parts that feed it, by position in the graph.
    """

    name: str
    module: nn.Module | None
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """The parts of a network in the order they run, the input first, and which of them is its output."""

    parts: tuple[Part, ...]
    output: int

    def readers(self, index: int) -> list[int]:
        """The parts that a part feeds."""
        return [i for i, part in enumerate(self.parts) if index in part.inputs]


def network_of(net: object) -> tuple[nn.Module, int | None]:
    """The network inside a runner, and how often that presents a static input (None: it takes sequences).

    Raises:
        InvalidTypeError: not a module.
    """
    if isinstance(net, MultiStep | SingleStep):
        return net.net, net.time_steps
    if isinstance(net, nn.Module):
        return net, None
    raise InvalidTypeError(f"net must be an nn.Module, got {type(net).__name__}; pass the trained network, or a runner around it")


def leading_features(graph: Graph, skipped: tuple[type[nn.Module], ...]) -> int:
    """Inputs of the linear layer that comes first, behind flattenings and modules of the kinds `skipped`.

    Raises:
        InvalidValueError: another layer comes first.
    """
    index = 0
    while isinstance(graph.parts[index].module, (type(None), nn.Flatten, *skipped)) and graph.readers(index):
        index = graph.readers(index)[0]
    first = graph.parts[index].module
    if not isinstance(first, nn.Linear):
        raise InvalidValueError(
            "input_shape: the shape of one sample cannot be told from the first layer; give it, as in input_shape=(1, 28, 28)"
        )
    return first.in_features


def refusal(part: Part, reason: str) -> InvalidValueError:
    """The error that names a part and says why it cannot be lowered."""
    kind = "" if part.module is None else f" ({type(part.module).__name__})"
    return InvalidValueError(f"{part.name!r}{kind} cannot be lowered exactly: {reason}")


class _Tracer(fx.Tracer):
    """Looks into the user's own modules and nn.Sequential, and takes layers and neurons whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own_layer = m.__module__.startswith("snnsim.layers.")
        return own_layer or isinstance(m, Temporal | QuantizedWeight) or super().is_leaf_module(m, module_qualified_name)


def read(net: nn.Module) -> Graph:
    """Read a network of one input and one output.

    Raises:
        InvalidValueError: feedback, control flow that depends on data, or an operation other than a module, a sum and a flatten.
    """
    if isinstance(net, Temporal | QuantizedWeight) or not any(True for _ in net.children()):
        raise InvalidValueError(f"the network is a single {type(net).__name__}; put it into an nn.Sequential")
    for name, module in net.named_modules():
        if isinstance(module, Feedback):
            raise InvalidValueError(
                f"the network has feedback through {name!r}, and is read in one direction only; take the loop out"
            )
    try:
        trace = _Tracer().trace(net)
    except (fx.proxy.TraceError, TypeError) as problem:
        raise InvalidValueError(
            f"the network's forward cannot be read ({problem}); let it call modules and add their results, without branches on data"
        ) from problem
    parts: list[Part] = []
    index: dict[fx.Node, int] = {}
    output = -1
    for node in trace.nodes:
        inputs = tuple(index[source] for source in node.all_input_nodes)
        if node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise InvalidValueError("the network returns several tensors; let its forward return the last layer's alone")
            output = inputs[0]
            continue
        index[node] = len(parts)
        parts.append(_part(net, node, inputs))
    _check_used_once(parts)
    if sum(part.module is None and not part.inputs for part in parts) != 1:
        raise InvalidValueError("the network takes several inputs; an integer network takes one")
    return Graph(tuple(parts), output)


def _part(net: nn.Module, node: fx.Node, inputs: tuple[int, ...]) -> Part:
    if node.op == "placeholder":
        return Part(node.name, None, ())
    if node.op == "call_module":
        return Part(str(node.target), net.get_submodule(str(node.target)), inputs)
    if node.target in ADDITIONS and not node.kwargs and all(isinstance(value, fx.Node) for value in node.args):
        # a tensor added to itself is one input of the trace and two of the sum
        sources = [node.args[0], node.args[1]]
        return Part(node.name, None, tuple(inputs[node.all_input_nodes.index(s)] for s in sources if isinstance(s, fx.Node)))
    if node.target in FLATTENINGS:
        return Part(node.name, nn.Flatten(*_flatten_axes(node)), inputs)
    raise InvalidValueError(
        f"{node.name!r} ({_spelled(node.target)}) cannot be lowered: an integer network is made of modules, sums of two tensors "
        "and flatten; replace it by one of those"
    )


def _check_used_once(parts: list[Part]) -> None:
    seen: set[int] = set()
    for part in parts:
        if isinstance(part.module, Temporal):
            if id(part.module) in seen:
                raise refusal(part, "it is used twice, and would continue from its own state; give each place a neuron of its own")
            seen.add(id(part.module))


def _flatten_axes(node: fx.Node) -> tuple[Any, Any]:
    names = ("start_dim", "end_dim")
    given = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    return given.get("start_dim", 0), given.get("end_dim", -1)


def _spelled(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
