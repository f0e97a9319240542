"""Loops without delay, as the tools that write them mean them: what comes back is that of the time
step before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from snnsim.deploy.interchange.fields import Node
from snnsim.errors import DataError

__all__ = ["Edges", "delay_loops", "followers", "looped", "ordered", "reached"]

Edges = list[tuple[str, str]]
# their output is 0 before the first time step
NEURONS = ("CubaLI", "CubaLIF", "I", "IF", "LI", "LIF")


def delay_loops(
    nodes: dict[str, Node],
    edges: Edges,
    start: str,
    delays: frozenset[str],
    late: Callable[[Node], Node],
) -> tuple[dict[str, Node], Edges]:
    """Nodes and edges with a delay of one time step in every loop, behind a neuron.

    In a loop the neuron nearest the input runs first. To it come back the outputs, one step late,
    of the neurons that feed it, through whatever lies between.

    Args:
        nodes, edges: of the graph.
        start: name of the input.
        delays: nodes that wait for nothing, as they close loops of their own.
        late: the delay of one time step for the output of a neuron.

    Raises:
        DataError: no neuron in a loop, or a layer in it that feeds others too.
    """
    nodes, edges = dict(nodes), list(edges)
    while loop := looped(nodes, [(a, b) for a, b in edges if b not in delays]):
        neurons = [name for name in loop if nodes[name].kind in NEURONS]
        if not neurons:
            raise DataError(
                "from_nir: a loop without delay and without a neuron:"
                f" {', '.join(map(repr, loop))}; put a nir.Delay of at least one time step on the"
                " way back"
            )
        near = {name: place for place, name in enumerate(reached([start], edges))}
        first = min(neurons, key=lambda name: near.get(name, len(near)))
        for name, readers in _late(
            first, nodes, [(a, b) for a, b in edges if b not in delays]
        ).items():
            delay = f"{name}_late"
            while delay in nodes:
                delay += "_"
            nodes[delay] = late(nodes[_origin(name, nodes, followers((b, a) for a, b in edges))])
            edges = [(delay, b) if a == name and b in readers else (a, b) for a, b in edges] + [
                (name, delay)
            ]
            delays |= {delay}
    return nodes, edges


def _late(first: str, nodes: dict[str, Node], edges: Edges) -> dict[str, set[str]]:
    """The neurons of a loop whose outputs reach its first one late, and the nodes that read them
    so.
    """
    sources = followers((b, a) for a, b in edges)
    loop = set(reached([first], edges)) & set(reached([first], [(b, a) for a, b in edges]))
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
                f"from_nir: {a!r} ({nodes[a].kind}) brings the loop back to {first!r} and feeds"
                f" {b!r} too, so what is a time step late cannot be told; put a nir.Delay on the"
                " way back"
            )
    return late


def _origin(name: str, nodes: dict[str, Node], sources: dict[str, list[str]]) -> str:
    """A neuron whose output this node hands on as it is; the empty text where it does not."""
    seen = set()
    while nodes[name].kind in ("Input", "Output"):
        if len(sources[name]) != 1 or name in seen:
            return ""
        seen.add(name)
        (name,) = sources[name]
    return name if nodes[name].kind in NEURONS else ""


def looped(nodes: Iterable[str], edges: Edges) -> list[str]:
    """The nodes that reach themselves, in order."""
    found: set[str] = {a for a, b in edges if a == b}
    left = list(nodes)
    while left := _knotted(left, edges):
        within = set(left)
        edges = [(a, b) for a, b in edges if a in within and b in within]
        loop = (
            reached(left[:1], edges).keys() & reached(left[:1], [(b, a) for a, b in edges]).keys()
        )
        found |= loop if len(loop) > 1 else set()
        left = [name for name in left if name not in loop]
    return [name for name in nodes if name in found]


def _knotted(nodes: list[str], edges: Edges) -> list[str]:
    """What is left without the nodes that nothing feeds or nothing reads, and so on from there."""
    for turned in (edges, [(b, a) for a, b in edges]):
        free = set(ordered(nodes, turned))
        nodes = [name for name in nodes if name not in free]
    return nodes


def ordered(nodes: Iterable[str], edges: Edges) -> list[str]:
    """The nodes that wait for no loop, each behind those that feed it."""
    place = {name: i for i, name in enumerate(nodes)}
    waits = dict.fromkeys(place, 0)
    after = followers((a, b) for a, b in edges if a in place and b in place)
    for ahead in after.values():
        for name in ahead:
            waits[name] += 1
    order: list[str] = []
    ready = [name for name, count in waits.items() if not count]
    while ready:
        order += ready
        freed = []
        for name in ready:
            for follower in after[name]:
                waits[follower] -= 1
                if not waits[follower]:
                    freed.append(follower)
        ready = sorted(freed, key=place.__getitem__)
    return order


def reached(starts: list[str], edges: Edges) -> dict[str, None]:
    """The nodes that can be reached, the starts among them, the nearest first."""
    after = followers(edges)
    seen = dict.fromkeys(starts)
    ahead = list(seen)
    for name in ahead:
        for follower in after[name]:
            if follower not in seen:
                seen[follower] = None
                ahead.append(follower)
    return seen


def followers(edges: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The nodes behind each node, in the order of the edges; none for a name without."""
    found: dict[str, list[str]] = defaultdict(list)
    for a, b in edges:
        found[a].append(b)
    return found
