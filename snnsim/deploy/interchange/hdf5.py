"""NIR graphs from HDF5 files, which are looked through before anything of them is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from snnsim.deploy.interchange.fields import KINDS
from snnsim.deploy.interchange.optional import optional
from snnsim.deploy.interchange.topology import MAX_DEPTH
from snnsim.errors import DataError, MissingDataError, SnnsimError

__all__ = ["load"]

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


def load(path: Path) -> Any:
    """The NIRGraph in a file.

    Raises:
        MissingDataError: no such file.
        DataError: a damaged file, one that leads elsewhere or holds far more than its size, or an
            unknown kind of node.
    """
    h5py, nir = optional("h5py"), optional("nir")
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
        elif kind not in KINDS:
            raise DataError(
                f"{full!r} is a {kind}, and no module here computes that; known are"
                f" {', '.join(KINDS)}"
            )
        else:
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
    return (
        {key: _content(item) for key, item in group.items()}
        if hasattr(group, "items")
        else _value(group[()])
    )


def _value(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
