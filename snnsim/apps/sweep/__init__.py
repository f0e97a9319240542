"""How many bits does a network need: a grid of training runs, resumable, and what it comes to."""

from snnsim.apps.sweep.plan import Plan, config_hash
from snnsim.apps.sweep.results import (
    config_of,
    draw,
    frame,
    grid,
    read_csv,
    smallest,
    summary,
    table,
)
from snnsim.apps.sweep.runs import BACKENDS, run_sweep, train_row
from snnsim.apps.sweep.store import Store

__all__ = [
    "BACKENDS",
    "Plan",
    "Store",
    "config_hash",
    "config_of",
    "draw",
    "frame",
    "grid",
    "read_csv",
    "run_sweep",
    "smallest",
    "summary",
    "table",
    "train_row",
]
