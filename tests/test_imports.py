"""Imports go downward only: the order of DESIGN, read from the source."""

import ast
from pathlib import Path

import pytest

import snnsim

PACKAGE = Path(snnsim.__file__).parent

# lower number, lower layer; a module may import from lower layers and from its own folder
LAYERS = {
    "errors": 0,
    "_version": 0,
    "warn": 1,
    "checks": 1,
    "files": 1,
    "debug": 1,
    "fixed_dtype": 1,
    "functions": 1,
    "restore": 1,
    "surrogate": 2,
    "quant": 2,
    "kernels": 3,
    "transition": 4,
    "temporal": 5,
    "event_network": 6,
    "run": 6,
    "quiet": 6,
    "neurons": 6,
    "layers": 6,
    "runners": 7,
    "record": 7,
    "functional": 7,
    "metrics": 8,
    "calibrate": 8,
    "deploy": 9,
    "data": 9,
    "viz": 9,
    "testing": 9,
    "training": 10,
    "bench": 11,
    "sweep": 11,
    "cli": 12,
    "__main__": 13,
}


def imported(path):
    """Names of the snnsim parts that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "snnsim":
            parts = node.module.split(".")[1:]
            yield from [parts[0]] if parts else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("snnsim."))


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imported(path):
        assert other == own or LAYERS[other] < LAYERS[own], f"{own} must not import {other}"


def test_import_is_quiet_and_light():
    import subprocess
    import sys

    code = "import sys, snnsim; print([m for m in ('matplotlib', 'numba', 'sklearn', 'triton') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


@pytest.mark.parametrize("name", snnsim.__all__)
def test_every_public_name_is_there(name):
    assert hasattr(snnsim, name)
