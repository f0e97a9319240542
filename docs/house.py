"""The order of the package's folders, read from its imports, and the picture of it.

python docs/house.py    # writes docs/house.svg
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

PACKAGE = Path(__file__).parents[1] / "snnsim"
PICTURE = Path(__file__).with_name("house.svg")

# from the ground up; a module may import from the ranks below its own, and from its own folder
RANKS = (
    ("_core",),
    ("surrogate", "quant", "temporal"),
    ("automaton",),
    ("kernels",),
    ("neurons", "layers"),
    ("functional", "calibrate", "metrics"),
    ("deploy", "data", "viz", "testing"),
    ("apps",),
)
# names and nothing else: importable from everywhere, and the names by which users call `apps`
EVERYWHERE, ABOVE = {"errors", "_version"}, {"training", "sweep", "__main__"}
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
RANK |= dict.fromkeys(EVERYWHERE, -1) | dict.fromkeys(ABOVE, len(RANKS))

WHAT = {
    "_core": "checks, whole files",
    "surrogate": "gradients of spikes",
    "quant": "codebooks, weights",
    "temporal": "runners, recorder",
    "automaton": "a neuron as a table",
    "kernels": "CPU, GPU, reference",
    "neurons": "equations",
    "layers": "time, spikes",
    "functional": "encode, decode, loss",
    "calibrate": "ranges, conversion",
    "metrics": "rates, codes",
    "deploy": "integers, C, NIR",
    "data": "images, events",
    "viz": "pictures",
    "testing": "checks of your parts",
    "apps": "train, sweep, export, cli",
}


def files() -> list[Path]:
    """Files of the package, without the way in."""
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def folder(path: Path) -> str:
    """Folder of the package that a file belongs to, or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Dotted names within the package that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "snnsim":
            for alias in node.names:
                yield f"{node.module}.{alias.name}".removeprefix("snnsim.")
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix("snnsim.")
                for alias in node.names
                if alias.name.startswith("snnsim.")
            )


def file_of(name: str) -> Path | None:
    """File that holds a dotted name; None for what the package's way in gives."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = PACKAGE.joinpath(*parts[:length])
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def uses() -> dict[Path, set[Path]]:
    """Files that each file imports."""
    found = {path: {file_of(name) for name in imported(path)} - {None, path} for path in files()}
    return {path: {other for other in others if other} for path, others in found.items()}


def circles(graph: Mapping[Path, set[Path]]) -> list[list[Path]]:
    """Files that import one another, by way of however many others."""

    def reachable(start: Path) -> set[Path]:
        seen, waiting = set(), list(graph.get(start, ()))
        while waiting:
            path = waiting.pop()
            if path not in seen:
                seen.add(path)
                waiting += graph.get(path, ())
        return seen

    reach = {path: reachable(path) for path in graph}
    knots = {
        frozenset(other for other in reach[path] if path in reach.get(other, ()))
        for path in graph
        if path in reach[path]
    }
    return sorted(sorted(knot) for knot in knots)


def picture() -> str:
    """Folders as boxes, a rank a row, with lines to what each imports; `_core` is used by all."""
    box, gap, row, width = (200, 46), 20, 92, 940
    places = {}
    for rank, names in enumerate(RANKS):
        left = (width - len(names) * box[0] - (len(names) - 1) * gap) / 2
        for i, name in enumerate(names):
            places[name] = (left + i * (box[0] + gap), (len(RANKS) - 1 - rank) * row + 20)
    links = {(folder(path), folder(other)) for path, others in uses().items() for other in others}
    lines = []
    for above, below in sorted(links):
        # every part uses `_core`
        if above in places and below in places and below not in (above, RANKS[0][0]):
            x1, y1 = places[above][0] + box[0] / 2, places[above][1] + box[1]
            x2, y2 = places[below][0] + box[0] / 2, places[below][1]
            lines.append(
                f'<path d="M{x1:g} {y1:g} C{x1:g} {y1 + 40:g} {x2:g} {y2 - 40:g} {x2:g} {y2:g}"/>'
            )
    boxes = []
    for name, (x, y) in places.items():
        boxes.append(f'<rect x="{x:g}" y="{y:g}" width="{box[0]}" height="{box[1]}" rx="6"/>')
        middle = x + box[0] / 2
        boxes.append(f'<text x="{middle:g}" y="{y + 19:g}" class="name">{escape(name)}</text>')
        boxes.append(f'<text x="{middle:g}" y="{y + 36:g}">{escape(WHAT[name])}</text>')
    height = len(RANKS) * row
    style = (
        "path{fill:none;stroke:#5b7fa6;stroke-opacity:.45;stroke-width:1.2}"
        "rect{fill:#f4f7fb;stroke:#2b4a6f}text{font:12px sans-serif;text-anchor:middle;fill:#333}"
        ".name{font-weight:bold;font-size:14px;fill:#10243c}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    ground = f'<rect width="{width}" height="{height}" style="fill:#fff;stroke:none"/>'
    parts = [head, f"<style>{style}</style>", ground, *lines, *boxes, "</svg>"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture())
