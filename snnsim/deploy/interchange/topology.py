"""A NIR graph as a plain one: subgraphs opened, edges checked, nodes in an order in which they can
run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from snnsim.deploy.interchange.fields import KINDS, Node, checked
from snnsim.deploy.interchange.loops import Edges, delay_loops, followers, looped, ordered
from snnsim.errors import DataError, InvalidValueError

__all__ = ["MAX_DEPTH", "Topology", "flatten"]

# subgraphs within subgraphs
MAX_DEPTH = 64


@dataclass(frozen=True)
class Topology:
    """A graph without subgraphs, with one input and one output.

    Attributes:
        nodes: by name, `sub.node` for a node of a subgraph, in an order in which every node runs
            after those that feed it.
        edges: between them.
        input, output: names of the graph's own.
        feedback: delays that close a loop, and so do not wait for what feeds them.
    """

    nodes: dict[str, Node]
    edges: Edges
    input: str
    output: str
    feedback: frozenset[str]

    @cached_property
    def sources(self) -> Mapping[str, list[str]]:
        """The nodes that feed each node, in the order of the edges."""
        return followers((b, a) for a, b in self.edges)

    @cached_property
    def readers(self) -> Mapping[str, list[str]]:
        """The nodes that each node feeds."""
        return followers(self.edges)


def flatten(graph: Any, late: Callable[[Node], Node] | None = None) -> Topology:
    """Open subgraphs, check the edges, and find an order.

    Args:
        graph: a NIRGraph.
        late: the delay of one time step behind a neuron that a loop without delay is given; None
            refuses such loops.

    Raises:
        DataError: an unknown kind of node, an edge to nowhere, a node that nothing feeds or reads,
            a loop without delay.
    """
    nodes, edges = _opened(graph, "", 0)
    start, end = (_only(graph, kind, "the graph") for kind in ("Input", "Output"))
    fed, read = {b for _, b in edges}, {a for a, _ in edges}
    for name, node in nodes.items():
        if name != start and name not in fed:
            raise DataError(
                f"from_nir: nothing feeds {name!r} ({node.kind}); connect it or delete it"
            )
        if name != end and name not in read:
            raise DataError(
                f"from_nir: nothing reads {name!r} ({node.kind}); connect it or delete it"
            )
    for name, edge in (
        (start, [a for a, b in edges if b == start]),
        (end, [b for a, b in edges if a == end]),
    ):
        if edge:
            raise DataError(
                f"from_nir: {name!r} is the {nodes[name].kind} of the graph, and an edge joins it"
                f" to {edge[0]!r} the wrong way"
            )
    feedback = _closing(nodes, edges)
    if late is not None:
        nodes, edges = delay_loops(nodes, edges, start, feedback, late)
        feedback = _closing(nodes, edges)
    forward = [(a, b) for a, b in edges if b not in feedback]
    order = ordered(nodes, forward)
    if len(order) < len(nodes):
        waiting = {name: {a for a, b in forward if b == name} for name in nodes.keys() - set(order)}
        raise DataError(
            f"from_nir: a loop without delay: {' -> '.join(map(repr, _loop(waiting)))}; put a"
            " nir.Delay of at least one time step on the way back, or read it with"
            " delay_loops=True, which takes the loop to be one time step"
        )
    return Topology({name: nodes[name] for name in order}, edges, start, end, feedback)


def _opened(graph: Any, prefix: str, depth: int) -> tuple[dict[str, Node], Edges]:
    if depth > MAX_DEPTH:
        raise DataError(
            f"from_nir: {prefix[:40]!r}...: subgraphs lie more than {MAX_DEPTH} deep; write the"
            " graph flat"
        )
    nodes: dict[str, Node] = {}
    edges: dict[tuple[str, str], None] = {}
    # where an edge to or from a subgraph leads
    entry: dict[str, str] = {}
    leave: dict[str, str] = {}
    for name, node in _named(graph, prefix):
        full, kind = prefix + name, type(node).__name__
        if kind == "NIRGraph":
            opened, inner = _opened(node, f"{full}.", depth + 1)
            edges |= dict.fromkeys(inner)
            entry[name], leave[name] = (
                f"{full}.{_only(node, end, repr(full))}" for end in ("Input", "Output")
            )
        elif kind in KINDS:
            opened = {full: _checked(node, full)}
            entry[name] = leave[name] = full
        else:
            raise DataError(
                f"from_nir: {full!r} is a {kind}, and no module here computes that; known are"
                f" {', '.join(KINDS)}"
            )
        if twice := sorted(nodes.keys() & opened.keys()):
            raise DataError(
                f"from_nir: two nodes are called {twice[0]!r} once the subgraphs are opened; rename"
                " one of them"
            )
        nodes |= opened
    for a, b in _pairs(graph, prefix):
        for name in (a, b):
            if name not in entry:
                raise DataError(
                    f"from_nir: the edge ({prefix + a!r}, {prefix + b!r}) names {prefix + name!r},"
                    " and there is no such node"
                )
        edge = leave[a], entry[b]
        if edge in edges:
            raise DataError(
                f"from_nir: the edge ({prefix + a!r}, {prefix + b!r}) is there twice; one edge"
                " stands for one current"
            )
        edges[edge] = None
    return nodes, list(edges)


def _named(graph: Any, prefix: str) -> list[tuple[str, Any]]:
    nodes = list(graph.nodes.items()) if isinstance(graph.nodes, dict) else [(graph.nodes, None)]
    for name, _ in nodes:
        if not isinstance(name, str):
            raise DataError(
                f"from_nir: the nodes of {prefix[:-1] or 'the graph'!r} must be named by text, not"
                f" {name!r}"
            )
    return nodes


def _pairs(graph: Any, prefix: str) -> Edges:
    for edge in graph.edges if isinstance(graph.edges, list | tuple | set) else (graph.edges,):
        if not (
            isinstance(edge, tuple | list)
            and len(edge) == 2
            and all(isinstance(name, str) for name in edge)
        ):
            raise DataError(
                f"from_nir: {edge!r} among the edges of {prefix[:-1] or 'the graph'!r} is no pair"
                " of names"
            )
    return [(a, b) for a, b in graph.edges]


def _checked(node: Any, name: str) -> Node:
    try:
        return checked(node)
    except (DataError, InvalidValueError) as problem:
        raise type(problem)(f"from_nir: {name!r} ({type(node).__name__}): {problem}") from problem


def _only(graph: Any, kind: str, where: str) -> str:
    found = [name for name, node in graph.nodes.items() if type(node).__name__ == kind]
    if len(found) != 1:
        raise DataError(
            f"from_nir: {where} has {len(found)} nodes of kind {kind}"
            f" ({', '.join(found) or 'none'}); it needs one"
        )
    return found[0]


def _closing(nodes: dict[str, Node], edges: Edges) -> frozenset[str]:
    """The delays that are on loops."""
    return frozenset(name for name in looped(nodes, edges) if nodes[name].kind == "Delay")


def _loop(waiting: dict[str, set[str]]) -> list[str]:
    """A loop among nodes that wait for each other, backward along their sources and then turned
    over.
    """
    path = [min(waiting)]
    while True:
        before = min(waiting[path[-1]] & waiting.keys())
        if before in path:
            return [before, *reversed(path[path.index(before) :])]
        path.append(before)
