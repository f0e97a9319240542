"""Runs notebooks from top to bottom and keeps their outputs: `python notebooks/execute.py
[NAME.ipynb ...]`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent


def execute(path: Path, folder: Path) -> NotebookNode:
    """The notebook at `path` after a run in a fresh kernel, with `folder` as its working directory.

    What differs from run to run or from machine to machine is left out: times, the version of
    Python, progress bars.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the message holds its traceback.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=900,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
    }
    return notebook


def main() -> None:
    """Execute the notebooks named on the command line, or all of them, in place."""
    for path in [FOLDER / name for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(execute(path, FOLDER), path)


if __name__ == "__main__":
    main()
