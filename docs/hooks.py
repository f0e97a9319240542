"""What the site makes from code: the gallery's pictures, and the tutorials from the notebooks."""

from __future__ import annotations

import base64
import dataclasses
import inspect
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import griffe
import torch
from matplotlib.axes import Axes
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from snnsim import MultiStep, Recorder, neurons, quant, surrogate, training, viz
from snnsim.quant import Codebook
from snnsim.surrogate import Surrogate, library

SURROGATES: dict[str, type[Surrogate]] = {
    name: getattr(surrogate, name) for name in sorted(library.__all__, key=str.lower)
}

RECIPES: dict[str, Callable[[int], Codebook]] = {
    "uniform(bits)": quant.uniform,
    "exponential(bits)": quant.exponential,
    "state_quant(bits)": quant.state_quant,
    "state_quant(bits, uniform=False)": lambda bits: quant.state_quant(bits, uniform=False),
}
WIDTHS = (2, 3, 4)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures and the tutorials to what the site is built from."""
    for name, content in [*_pictures(), *_tutorials(Path(config.docs_dir).parent / "notebooks")]:
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the gallery."""
    if page.file.src_uri != "gallery.md":
        return markdown
    slopes = [
        f"### {name}\n\n{_summary(kind)}\n\n![{name}](pictures/surrogate-{name}.svg)"
        for name, kind in SURROGATES.items()
    ]
    stairs = [
        f"### `{recipe}`\n\n"
        + "\n".join(
            f"![{recipe}, {bits} bits]({_staircase(index, bits)}){{ width=32% }}" for bits in WIDTHS
        )
        for index, recipe in enumerate(RECIPES)
    ]
    markdown = markdown.replace("<!-- surrogates -->", "\n\n".join(slopes))
    return markdown.replace("<!-- codebooks -->", "\n\n".join(stairs))


def _summary(kind: type) -> str:
    """First paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _staircase(recipe: int, bits: int) -> str:
    return f"pictures/codebook-{recipe}-{bits}.svg"


def _pictures() -> Iterator[tuple[str, bytes]]:
    """Path within the site and content of every picture."""
    for name, kind in SURROGATES.items():
        yield f"pictures/surrogate-{name}.svg", _drawn(viz.surrogate(kind()))
    for index, recipe in enumerate(RECIPES.values()):
        for bits in WIDTHS:
            yield _staircase(index, bits), _drawn(viz.codebook(recipe(bits), v_threshold=1.0))
    yield "pictures/occupancy.svg", _drawn(_occupancy())


def _occupancy() -> Axes:
    node = neurons.LIFNode(tau=2.0, state_quant=quant.uniform(4))
    x_seq = 1.0 + torch.randn(50, 1, 100, generator=torch.Generator().manual_seed(0))
    with Recorder(node) as recorder:
        MultiStep(node)(x_seq)
    return viz.occupancy(recorder[""].charged, node.state_quant, v_threshold=1.0)


def _drawn(axes: Axes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return viz.save(axes, Path(folder) / "picture.svg").read_bytes()


def _tutorials(folder: Path) -> Iterator[tuple[str, str | bytes]]:
    """Path within the site and content of every notebook, as Markdown, and of its pictures."""
    for path in sorted(folder.glob("*.ipynb")):
        parts = []
        for index, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                # links from notebook to notebook lead to the pages made of them
                parts.append(re.sub(r"\.ipynb\)", ".md)", source))
                continue
            parts.append(f"```python\n{source}\n```")
            for output in cell["outputs"]:
                data = output.get("data", {})
                if "image/png" in data:
                    picture = f"{path.stem}-{index}.png"
                    yield f"tutorials/{picture}", base64.b64decode(data["image/png"])
                    parts.append(f"![output]({picture})")
                else:
                    text = "".join(output.get("text", data.get("text/plain", "")))
                    parts.append(f"```text\n{text.rstrip()}\n```")
        yield f"tutorials/{path.stem}.md", "\n\n".join(parts)


class Docstrings(griffe.Extension):
    """Makes habits of our docstrings known to the reference."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Show paragraphs laid out in columns, equations mostly, as they are."""
        if obj.docstring:
            paragraphs = re.split(r"\n\n+", obj.docstring.value)
            obj.docstring.value = "\n\n".join(
                _indented(text) if _in_columns(text) else text for text in paragraphs
            )

    def on_class_members(self, *, cls: griffe.Class, **_: object) -> None:
        """Follow `__doc__ = Other.__doc__`; of an option, show what it is."""
        borrowed = cls.members.get("__doc__")
        if isinstance(borrowed, griffe.Attribute) and cls.parent is not None:
            cls.docstring = cls.parent[str(borrowed.value).removesuffix(".__doc__")].docstring
        if cls.path == "snnsim.apps.config.Config":
            for option in dataclasses.fields(training.Config):
                cls.members[option.name].docstring = griffe.Docstring(option.metadata["help"])


def _in_columns(paragraph: str) -> bool:
    return bool(re.search(r"^\S.*\S {2,}\S", paragraph, re.MULTILINE)) and not paragraph.startswith(
        ">>>"
    )


def _indented(paragraph: str) -> str:
    return "    " + paragraph.replace("\n", "\n    ")
