"""The notebooks run from top to bottom, and show what they were when their outputs were kept."""

import importlib.util
import os
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 2**20


def load_execute():
    """`execute` of notebooks/execute.py, which is no package."""
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.execute


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell):
    """Kind and text of each output; numbers aside, which differ in their last digits from machine
    to machine.
    """
    outputs = []
    for output in cell.outputs:
        data = output.get("data", {})
        text = output.get("text", "" if "image/png" in data else data.get("text/plain", ""))
        words = re.sub(r"-?\d+(\.\d*)?(e[-+]?\d+)?", "#", text).split()
        outputs.append((output.output_type, sorted(data), words))
    return outputs


def test_there_are_notebooks():
    assert [path.name[:2] for path in NOTEBOOKS][:6] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_outputs_are_of_one_run_from_top_to_bottom(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output.output_type for cell in cells for output in cell.outputs]
    assert "error" not in kinds
    assert not [
        output for cell in cells for output in cell.outputs if output.get("name") == "stderr"
    ]
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_between_notebooks_lead_somewhere(path):
    for target in re.findall(r"\]\(([^):]+\.ipynb)\)", path.read_text(encoding="utf-8")):
        assert (FOLDER / target).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_what_was_kept(path, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # nothing of the user's own settings, and nothing left behind
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    executed = load_execute()(path, tmp_path)
    kept = nbformat.read(path, as_version=4)
    for now, before in zip(code_cells(executed), code_cells(kept), strict=True):
        if "real-data" in now.metadata.get("tags", []) and not os.environ.get("SNNSIM_DATA"):
            continue
        assert shown(now) == shown(before), now.source
