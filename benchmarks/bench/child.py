"""Measurements in a process of their own: what one leaves behind in memory, the next does not find.

`python -m bench.child JOB FILE` runs one job, given as JSON, and writes what it found to a
file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.environment import keep_freed_memory
from bench.memory import measure_peak, measure_saved
from bench.neurons import measure_neurons
from bench.results import Results
from bench.training import measure_training
from snnsim.errors import RunError

__all__ = ["JOBS", "Job", "run_in_child", "run_job"]

JOBS: dict[str, Callable[..., Results]] = {
    "neurons": measure_neurons,
    "saved": measure_saved,
    "peak": measure_peak,
    "training": measure_training,
}
# where this package lies, which is not installed
HOME = Path(__file__).parents[1]
# lines of what a failed process wrote that are shown
SHOWN_LINES = 15


@dataclass(frozen=True)
class Job:
    """One measurement.

    Attributes:
        kind: one of JOBS.
        memory: what its process does with freed memory.
        arguments: of the function that measures.
        label: in words, for whoever waits.
    """

    kind: str
    memory: str
    arguments: dict[str, Any]
    label: str


def run_in_child(job: Job) -> Results:
    """Run a job in a fresh process.

    Raises:
        RunError: it failed; the message ends with what it wrote.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "results.json"
        command = [sys.executable, "-m", "bench.child", json.dumps(asdict(job)), str(out)]
        path = os.pathsep.join(filter(None, (str(HOME), os.environ.get("PYTHONPATH"))))
        env = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        if done.returncode != 0 or not out.is_file():
            wrote = "\n".join((done.stdout + done.stderr).strip().splitlines()[-SHOWN_LINES:])
            raise RunError(
                f"{job.label}: its process ended with status {done.returncode} and wrote\n{wrote}"
            )
        return Results.load(out)


def run_job(job: Job) -> Results:
    """Run a job in this process, whose handling of memory may change for good."""
    if job.memory == "retained":
        keep_freed_memory()
    arguments = dict(job.arguments)
    if job.kind in ("neurons", "training"):
        arguments["memory"] = job.memory
    with warnings.catch_warnings():
        # of the peers, about themselves
        warnings.simplefilter("ignore")
        return JOBS[job.kind](**arguments)


def main() -> None:
    """Run the job given on the command line."""
    run_job(Job(**json.loads(sys.argv[1]))).save(sys.argv[2])


if __name__ == "__main__":
    main()
