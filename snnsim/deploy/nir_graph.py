"""A NIR graph as a plain one: subgraphs opened, edges checked, loops closed by delays, nodes in an
order in which they can run. Files are looked through before anything of them is loaded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np

from snnsim._core.optional import optional
from snnsim.deploy.nir_kinds import DELAY, KINDS, Kind, Node
from snnsim.errors import DataError, InvalidValueError, MissingDataError, SnnsimError

Edges = list[tuple[str, str]]
# subgraphs within subgraphs
MAX_DEPTH = 64
# a compressed file may stand for so many times its own bytes, and a small one for so many in all
MAX_RATIO = 200
SMALL = 2**28
# what h5py and the constructors of nir raise
DAMAGE = (
    OSError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
    OverflowError,
)


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
        return _followers(_turned(self.edges))

    @cached_property
    def readers(self) -> Mapping[str, list[str]]:
        """The nodes that each node feeds."""
        return _followers(self.edges)


def flatten(graph: Any, late: float | None = None) -> Topology:
    """Open subgraphs, check the edges, and find an order.

    Args:
        graph: a NIRGraph.
        late: duration of the delay that a loop without one is given behind a neuron; None refuses
            such loops.

    Raises:
        DataError: an unknown kind of node, an edge to nowhere, a node that nothing feeds or reads,
            a loop without delay.
    """
    nodes, edges = _opened(graph, "", 0)
    start, end = (_only(graph, kind, "the graph") for kind in ("Input", "Output"))
    ends = (("feeds", start, _followers(_turned(edges))), ("reads", end, _followers(edges)))
    for name, node in nodes.items():
        for verb, outermost, neighbours in ends:
            joined, is_end = neighbours[name], name == outermost
            if not joined and not is_end:
                raise DataError(
                    f"from_nir: nothing {verb} {name!r} ({node.kind.name}); connect it or delete it"
                )
            if joined and is_end:
                raise DataError(
                    f"from_nir: {name!r} is the {node.kind.name} of the graph, and an edge joins it"
                    f" to {joined[0]!r} the wrong way"
                )
    feedback = _closing(nodes, edges)
    if late is not None:
        nodes, edges = _delayed(nodes, edges, start, feedback, late)
        feedback = _closing(nodes, edges)
    forward = [(a, b) for a, b in edges if b not in feedback]
    order = _ordered(nodes, forward)
    if waiting := nodes.keys() - order:
        loop = _loop([edge for edge in forward if waiting.issuperset(edge)])
        raise DataError(
            f"from_nir: a loop without delay: {' -> '.join(map(repr, loop))}; put a nir.Delay of"
            " at least one time step on the way back, or read it with delay_loops=True, which"
            " takes the loop to be one time step"
        )
    return Topology({name: nodes[name] for name in order}, edges, start, end, feedback)


def _known(name: str, kind: Any) -> Kind:
    """The primitive of a node by NIR's name for it."""
    if kind not in KINDS:
        raise DataError(
            f"{name!r} is a {kind}, and no module here computes that; known are {', '.join(KINDS)}"
        )
    return KINDS[kind]


def _opened(graph: Any, prefix: str, depth: int) -> tuple[dict[str, Node], Edges]:
    if depth > MAX_DEPTH:
        raise DataError(
            f"from_nir: {prefix[:40]!r}...: subgraphs lie more than {MAX_DEPTH} deep; write the"
            " graph flat"
        )
    where = prefix[:-1] or "the graph"
    nodes: dict[str, Node] = {}
    edges: dict[tuple[str, str], None] = {}
    # where an edge to or from a subgraph leads
    entry: dict[str, str] = {}
    leave: dict[str, str] = {}
    given = graph.nodes.items() if isinstance(graph.nodes, dict) else [(graph.nodes, None)]
    for name, node in given:
        if not isinstance(name, str):
            raise DataError(f"from_nir: the nodes of {where!r} must be named by text, not {name!r}")
        full, kind = prefix + name, type(node).__name__
        if kind == "NIRGraph":
            opened, inner = _opened(node, f"{full}.", depth + 1)
            edges |= dict.fromkeys(inner)
            entry[name], leave[name] = (
                f"{full}.{_only(node, end, repr(full))}" for end in ("Input", "Output")
            )
        else:
            try:
                opened = {full: _known(full, kind).checked(node)}
            except (DataError, InvalidValueError) as problem:
                at = f"{full!r} ({kind}): " if kind in KINDS else ""
                raise type(problem)(f"from_nir: {at}{problem}") from problem
            entry[name] = leave[name] = full
        if twice := sorted(nodes.keys() & opened.keys()):
            raise DataError(
                f"from_nir: two nodes are called {twice[0]!r} once the subgraphs are opened; rename"
                " one of them"
            )
        nodes |= opened
    for edge in graph.edges if isinstance(graph.edges, list | tuple | set) else (graph.edges,):
        if not (
            isinstance(edge, tuple | list)
            and len(edge) == 2
            and all(isinstance(name, str) for name in edge)
        ):
            raise DataError(f"from_nir: {edge!r} among the edges of {where!r} is no pair of names")
        a, b = edge
        shown = f"from_nir: the edge ({prefix + a!r}, {prefix + b!r})"
        for name in (a, b):
            if name not in entry:
                raise DataError(f"{shown} names {prefix + name!r}, and there is no such node")
        if (leave[a], entry[b]) in edges:
            raise DataError(f"{shown} is there twice; one edge stands for one current")
        edges[leave[a], entry[b]] = None
    return nodes, list(edges)


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
    return frozenset(name for name in _looped(nodes, edges) if nodes[name].kind is DELAY)


def _delayed(
    nodes: dict[str, Node], edges: Edges, start: str, delays: frozenset[str], late: float
) -> tuple[dict[str, Node], Edges]:
    """Nodes and edges with a delay of one time step in every loop, behind a neuron.

    As the tools mean it that write such loops: the neuron nearest the input runs first. To it come
    back the outputs, one step late, of the neurons that feed it, through whatever lies between.

    Args:
        nodes, edges: of the graph.
        start: name of the input.
        delays: nodes that wait for nothing, as they close loops of their own.
        late: duration of the delay.

    Raises:
        DataError: no neuron in a loop, or a layer in it that feeds others too.
    """
    nodes, edges = dict(nodes), list(edges)
    while loop := _looped(nodes, [(a, b) for a, b in edges if b not in delays]):
        neurons = [name for name in loop if nodes[name].kind.is_neuron]
        if not neurons:
            raise DataError(
                "from_nir: a loop without delay and without a neuron:"
                f" {', '.join(map(repr, loop))}; put a nir.Delay of at least one time step on the"
                " way back"
            )
        near = {name: place for place, name in enumerate(_reached(start, edges))}
        first = min(neurons, key=lambda name: near.get(name, len(near)))
        waiting = [(a, b) for a, b in edges if b not in delays]
        for name, readers in _late(first, nodes, waiting).items():
            delay = f"{name}_late"
            while delay in nodes:
                delay += "_"
            neuron = nodes[_origin(name, nodes, _followers(_turned(edges)))]
            # a population has the shape of its constants
            shape = np.shape(next(iter(neuron.fields.values())))
            nodes[delay] = Node(DELAY, {"delay": np.full(shape, late, np.float32)}, {})
            edges = [(delay, b) if a == name and b in readers else (a, b) for a, b in edges]
            edges.append((name, delay))
            delays |= {delay}
    return nodes, edges


def _late(first: str, nodes: dict[str, Node], edges: Edges) -> dict[str, set[str]]:
    """The neurons of a loop whose outputs reach its first one late, and the nodes that read them
    so.
    """
    sources = _followers(_turned(edges))
    loop = _reached(first, edges).keys() & _reached(first, _turned(edges)).keys()
    late: dict[str, set[str]] = defaultdict(set)
    between: dict[str, None] = {}
    waiting = [first]
    while waiting:
        name = waiting.pop()
        for source in sources[name]:
            if source not in loop:
                continue
            if _origin(source, nodes, sources):
                late[source].add(name)
            elif source not in between:
                between[source] = None
                waiting.append(source)
    for a, b in edges:
        if a in between and b != first and b not in between:
            raise DataError(
                f"from_nir: {a!r} ({nodes[a].kind.name}) brings the loop back to {first!r} and"
                f" feeds {b!r} too, so what is a time step late cannot be told; put a nir.Delay on"
                " the way back"
            )
    return late


def _origin(name: str, nodes: dict[str, Node], sources: Mapping[str, list[str]]) -> str:
    """A neuron whose output this node hands on as it is; the empty text where it does not."""
    seen = set()
    while nodes[name].kind.is_virtual:
        if len(sources[name]) != 1 or name in seen:
            return ""
        seen.add(name)
        (name,) = sources[name]
    return name if nodes[name].kind.is_neuron else ""


def _looped(nodes: Iterable[str], edges: Edges) -> list[str]:
    """The nodes that reach themselves, in order."""
    found = {a for a, b in edges if a == b}
    left = list(nodes)
    while left:
        # without what nothing feeds or nothing reads, and so on from there
        for turned in (edges, _turned(edges)):
            free = set(_ordered(left, turned))
            left = [name for name in left if name not in free]
        within = set(left)
        edges = [edge for edge in edges if within.issuperset(edge)]
        if left:
            loop = _reached(left[0], edges).keys() & _reached(left[0], _turned(edges)).keys()
            found |= loop if len(loop) > 1 else set()
            left = [name for name in left if name not in loop]
    return [name for name in nodes if name in found]


def _ordered(nodes: Iterable[str], edges: Edges) -> list[str]:
    """The nodes that wait for no loop, each behind those that feed it."""
    place = {name: i for i, name in enumerate(nodes)}
    sorter = TopologicalSorter(dict.fromkeys(place, ()))
    for a, b in edges:
        if a in place and b in place:
            sorter.add(b, a)
    # what waits for a loop does not get ready
    with suppress(CycleError):
        sorter.prepare()
    order: list[str] = []
    while ready := sorter.get_ready():
        order += sorted(ready, key=place.__getitem__)
        sorter.done(*ready)
    return order


def _loop(edges: Edges) -> list[str]:
    """A loop among nodes that wait for each other, found along their sources and turned over."""
    sources = _followers(_turned(edges))
    path = [min(sources)]
    while True:
        before = min(sources[path[-1]])
        if before in path:
            return [before, *reversed(path[path.index(before) :])]
        path.append(before)


def _reached(start: str, edges: Edges) -> dict[str, None]:
    """The nodes that can be reached, the start among them, the nearest first."""
    after = _followers(edges)
    seen, ahead = {start: None}, [start]
    for name in ahead:
        new = [follower for follower in after[name] if follower not in seen]
        seen |= dict.fromkeys(new)
        ahead += dict.fromkeys(new)
    return seen


def _followers(edges: Edges) -> dict[str, list[str]]:
    """The nodes behind each node, in the order of the edges; none for a name without."""
    found: dict[str, list[str]] = defaultdict(list)
    for a, b in edges:
        found[a].append(b)
    return found


def _turned(edges: Edges) -> Edges:
    return [(b, a) for a, b in edges]


def load(path: Path) -> Any:
    """The NIRGraph in a file.

    Raises:
        MissingDataError: no such file.
        DataError: a damaged file, one that leads elsewhere or holds far more than its size, or an
            unknown kind of node.
    """
    h5py, nir = (optional(name, "nir", "NIR graphs") for name in ("h5py", "nir"))
    if not path.is_file():
        raise MissingDataError(
            f"from_nir: no file at {path}; name a graph that nir.write or to_nir wrote"
        )
    try:
        with h5py.File(path, "r") as file:
            limit = max(SMALL, MAX_RATIO * path.stat().st_size)
            _Walk(h5py, limit).look(file, "")
            return _graph(nir, file["node"], "")
    except SnnsimError as problem:
        raise type(problem)(f"from_nir: {path}: {problem}") from problem
    except DAMAGE as problem:
        raise DataError(
            f"from_nir: {path} is damaged or no NIR graph ({problem!r}); write it again"
        ) from problem


class _Walk:
    """A look at everything in a file, without its values."""

    def __init__(self, h5py: Any, limit: int) -> None:
        self.h5py = h5py
        self.limit = limit
        self.size = 0
        self.seen: set[Any] = set()

    def look(self, group: Any, name: str, depth: int = 0) -> None:
        """Refuse links, objects that are in two places, depth and size."""
        # a subgraph is a group in a group of nodes, and has groups of metadata
        if depth > 2 * MAX_DEPTH + 4:
            raise DataError(f"{name[:60]!r}... lies too deep; write the graph flat")
        for key in group:
            place = f"{name}/{key}"
            if not isinstance(group.get(key, getlink=True), self.h5py.HardLink):
                raise DataError(
                    f"{place!r} is a link to another place or file; write the graph into one file"
                )
            item = group[key]
            address = self.h5py.h5o.get_info(item.id).addr
            if address in self.seen:
                raise DataError(
                    f"{place!r} is in the file under another name too; write the graph again"
                )
            self.seen.add(address)
            if isinstance(item, self.h5py.Group):
                self.look(item, place, depth + 1)
            elif isinstance(item, self.h5py.Dataset):
                self._count(item, place)

    def _count(self, data: Any, place: str) -> None:
        if data.is_virtual or data.external:
            raise DataError(
                f"{place!r} keeps its values in another file; write the graph into one file"
            )
        self.size += (data.size or 0) * data.dtype.itemsize
        if self.size > self.limit:
            raise DataError(
                f"{place!r} takes the file to {self.size} bytes once unpacked, and from a file of"
                f" its size at most {self.limit} are read; write it without compression"
            )


def _graph(nir: Any, group: Any, name: str) -> Any:
    """A graph, node by node, so that what is damaged or unknown is named."""
    edges = [tuple(_value(end) for end in edge) for edge in group["edges"][()]]
    nodes = {}
    for key, node in group["nodes"].items():
        full = f"{name}.{key}" if name else key
        kind = _value(node["type"][()])
        if kind == "NIRGraph":
            nodes[key] = _graph(nir, node, full)
            continue
        _known(full, kind)
        try:
            nodes[key] = nir.dict2NIRNode(_content(node))
        except DAMAGE as problem:
            raise DataError(
                f"{full!r} ({kind}) is damaged ({problem!r}); write it again"
            ) from problem
    metadata = _content(group["metadata"]) if "metadata" in group else {}
    return nir.NIRGraph(nodes, edges, metadata=metadata, type_check=False)


def _content(group: Any) -> Any:
    """What a group holds, as `nir.write` was given it."""
    if hasattr(group, "items"):
        return {key: _content(item) for key, item in group.items()}
    return _value(group[()])


def _value(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
