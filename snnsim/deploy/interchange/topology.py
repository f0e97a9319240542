"""A NIR graph as a plain one: subgraphs opened, edges checked, nodes in an order in which they can run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from snnsim.errors import DataError

__all__ = ["KINDS", "Topology", "flatten"]

KINDS = (
    "Affine", "AvgPool2d", "Conv1d", "Conv2d", "CubaLIF", "Delay", "Flatten", "IF", "Input", "LI", "LIF", "Linear", "Output",
    "SumPool2d",
)  # fmt: skip
Edges = list[tuple[str, str]]


@dataclass(frozen=True)
class Topology:
    """A graph without subgraphs, with one input and one output.

    Attributes:
        nodes: by name, `sub.node` for a node of a subgraph, in an order in which every node runs after those that feed it.
        edges: between them.
        input, output: names of the graph's own.
        feedback: delays that close a loop, and so do not wait for what feeds them.
    """

    nodes: dict[str, Any]
    edges: Edges
    input: str
    output: str
    feedback: frozenset[str]

    def sources(self, name: str) -> list[str]:
        """The nodes that feed a node, in the order of the edges."""
        return [a for a, b in self.edges if b == name]

    def readers(self, name: str) -> list[str]:
        """The nodes that a node feeds."""
        return [b for a, b in self.edges if a == name]


def flatten(graph: Any) -> Topology:
    """Open subgraphs, check the edges, and find an order.

    Raises:
        DataError: an unknown kind of node, an edge to nowhere, a node that nothing feeds or reads, a loop without delay.
    """
    nodes, edges = _opened(graph, "")
    start, end = (_only(graph.nodes, kind, "the graph") for kind in ("Input", "Output"))
    for name, node in nodes.items():
        if name != start and not any(b == name for _, b in edges):
            raise DataError(f"from_nir: nothing feeds {name!r} ({_kind(node)}); connect it or delete it")
        if name != end and not any(a == name for a, _ in edges):
            raise DataError(f"from_nir: nothing reads {name!r} ({_kind(node)}); connect it or delete it")
    for name, edge in ((start, [a for a, b in edges if b == start]), (end, [b for a, b in edges if a == end])):
        if edge:
            raise DataError(
                f"from_nir: {name!r} is the {_kind(nodes[name])} of the graph, and an edge joins it to {edge[0]!r} the wrong way"
            )
    feedback = frozenset(name for name, node in nodes.items() if _kind(node) == "Delay" and _reaches_itself(name, edges))
    ordered = _ordered(nodes, [(a, b) for a, b in edges if b not in feedback])
    return Topology({name: nodes[name] for name in ordered}, edges, start, end, feedback)


def _opened(graph: Any, prefix: str) -> tuple[dict[str, Any], Edges]:
    nodes: dict[str, Any] = {}
    edges: Edges = []
    # where an edge to or from a subgraph leads
    entry: dict[str, str] = {}
    leave: dict[str, str] = {}
    for name, node in graph.nodes.items():
        full = prefix + name
        if _kind(node) == "NIRGraph":
            inner, inner_edges = _opened(node, f"{full}.")
            nodes |= inner
            edges += inner_edges
            entry[name], leave[name] = (f"{full}.{_only(node.nodes, kind, repr(full))}" for kind in ("Input", "Output"))
        elif _kind(node) in KINDS:
            nodes[full] = node
            entry[name] = leave[name] = full
        else:
            raise DataError(
                f"from_nir: {full!r} is a {_kind(node)}, and no module here computes that; known are {', '.join(KINDS)}"
            )
    for a, b in graph.edges:
        for name in (a, b):
            if name not in entry:
                raise DataError(
                    f"from_nir: the edge ({prefix + a!r}, {prefix + b!r}) names {prefix + name!r}, and there is no such node"
                )
        edge = leave[a], entry[b]
        if edge in edges:
            raise DataError(f"from_nir: the edge ({prefix + a!r}, {prefix + b!r}) is there twice; one edge stands for one current")
        edges.append(edge)
    return nodes, edges


def _only(nodes: dict[str, Any], kind: str, where: str) -> str:
    found = [name for name, node in nodes.items() if _kind(node) == kind]
    if len(found) != 1:
        raise DataError(f"from_nir: {where} has {len(found)} nodes of kind {kind} ({', '.join(found) or 'none'}); it needs one")
    return found[0]


def _kind(node: Any) -> str:
    return type(node).__name__


def _reaches_itself(name: str, edges: Edges) -> bool:
    seen: set[str] = set()
    ahead = [b for a, b in edges if a == name]
    while ahead:
        node = ahead.pop()
        if node not in seen:
            seen.add(node)
            ahead += [b for a, b in edges if a == node]
    return name in seen


def _ordered(nodes: dict[str, Any], edges: Edges) -> list[str]:
    waiting = {name: {a for a, b in edges if b == name} for name in nodes}
    order: list[str] = []
    while waiting:
        ready = [name for name, sources in waiting.items() if not sources & waiting.keys()]
        if not ready:
            raise DataError(
                f"from_nir: a loop without delay: {' -> '.join(map(repr, _loop(waiting)))}; put a nir.Delay of at least one "
                "time step on the way back"
            )
        for name in ready:
            del waiting[name]
        order += ready
    return order


def _loop(waiting: dict[str, set[str]]) -> list[str]:
    """A loop among nodes that wait for each other, backward along their sources and then turned over."""
    path = [min(waiting)]
    while True:
        before = min(waiting[path[-1]] & waiting.keys())
        if before in path:
            return [before, *reversed(path[path.index(before) :])]
        path.append(before)
