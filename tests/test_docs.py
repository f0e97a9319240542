"""The documentation stays true: its code runs and prints what the pages show, and the site is built
without a warning.
"""

import contextlib
import importlib.util
import inspect
import io
import re
import subprocess
import sys
import zlib
from importlib import import_module
from pathlib import Path

import pytest

from bench import report
from bench.environment import MEMORY
from bench.report import markdown_table
from bench.results import Results
from snnsim import sweep

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    path for path in sorted(DOCS.rglob("*.md")) if "```python" in path.read_text(encoding="utf-8")
]
# code, and what it prints where the page shows that
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
PEERS = ("snntorch", "spikingjelly")


def blocks_that_run(path: Path) -> list[tuple[str, str]]:
    """Code blocks of a page with their output; of a page about a peer that is not installed, those
    about snnsim alone.
    """
    text = path.read_text(encoding="utf-8")
    blocks = BLOCK.findall(text)
    needed = [peer for peer in PEERS if re.search(rf"^(import|from) {peer}", text, re.MULTILINE)]
    if all(importlib.util.find_spec(peer) for peer in needed):
        return blocks
    return [(code, shown) for code, shown in blocks if code.startswith("# snnsim\n")]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
@pytest.mark.filterwarnings("ignore::DeprecationWarning:(snntorch|spikingjelly)")
def test_code_on_page_runs_and_prints_what_it_shows(path, tmp_path):
    blocks = blocks_that_run(path)
    assert blocks
    names = {"__name__": "docs_page"}
    for number, (code, shown) in enumerate(blocks):
        # from a file: a class needs its source
        file = tmp_path / f"{path.stem}_{number}.py"
        file.write_text(code, encoding="utf-8")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(file), "exec"), names)
        assert printed.getvalue() == shown


def test_every_page_shows_some_output():
    # the pattern above finds an output only right below its code
    shown = {
        path.name: sum(
            bool(output) for _, output in BLOCK.findall(path.read_text(encoding="utf-8"))
        )
        for path in PAGES
    }
    outputs = {path.name: path.read_text(encoding="utf-8").count("```text") for path in PAGES}
    assert shown == outputs


@pytest.mark.parametrize(
    "name", ["sweep_mnist", "sweep_mnist_one_epoch", "sweep_mnist_hard_reset", "sweep_mnist_conv"]
)
def test_tables_of_a_sweep_are_those_of_its_runs(name):
    results = sweep.summary(sweep.read_csv(ROOT / "benchmarks" / "results" / f"{name}.csv"))
    assert sweep.grid(results) in (DOCS / "how-many-bits.md").read_text(encoding="utf-8")
    if name == "sweep_mnist":
        assert sweep.grid(results) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_of_speed_and_memory_are_those_of_the_run():
    results = Results.load(ROOT / "benchmarks" / "results" / "benchmarks.json")
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    tables = {table.title: markdown_table(table) for table in report.tables(results)}
    shown = [title for title in re.findall(r"^## (.+)$", page, re.MULTILINE) if title in tables]
    assert {"Targets", "Memory, bytes per neuron and step"} < {*shown}
    for title in shown:
        assert tables[title] in page
    row = []
    for name in (
        "snnsim uniform 4",
        "snnsim float",
        "torch.compile",
        "spikingjelly",
        "snntorch",
        "snntorch state_quant 4",
    ):
        times = (
            results.timing("16x1000000", "forward+backward", name, 1, memory).milliseconds
            for memory in MEMORY
        )
        row.append(" / ".join(f"{time:.0f}" for time in times))
    assert f"| {' | '.join(row)} |" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built with every warning an error."""
    for package in ("mkdocs", "material", "mkdocstrings_handlers"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(folder),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_site_has_no_pages_left_out(site):
    built = {str(path.parent.relative_to(site)) for path in site.rglob("index.html")}
    written = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")} - {
        "index"
    } | {"."}
    written |= {f"tutorials/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert built == written


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        "snnsim",
        "snnsim.neurons",
        "snnsim.surrogate",
        "snnsim.quant",
        "snnsim.functional",
        "snnsim.functional.encode",
        "snnsim.functional.decode",
        "snnsim.functional.loss",
        "snnsim.layers",
        "snnsim.deploy",
        "snnsim.data",
        "snnsim.data.events",
        "snnsim.viz",
        "snnsim.metrics",
        "snnsim.training",
        "snnsim.sweep",
        "snnsim.testing",
    ],
)
def test_reference_documents_every_public_name(site, module):
    # after four lines of header the inventory is compressed: one documented object per line
    inventory = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    documented = {line.split(" ")[0] for line in inventory.splitlines()}
    public = import_module(module)
    for name in public.__all__:
        thing = getattr(public, name)
        # of constants the value says all; a module has a page of its own
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert (
                f"{thing.__module__}.{thing.__qualname__}" in documented
                or f"{module}.{name}" in documented
            )


@pytest.mark.slow
def test_gallery_shows_every_surrogate(site):
    from snnsim.surrogate import library

    page = (site / "gallery" / "index.html").read_text(encoding="utf-8")
    for name in library.__all__:
        assert f"pictures/surrogate-{name}.svg" in page
        assert (site / "pictures" / f"surrogate-{name}.svg").is_file()
