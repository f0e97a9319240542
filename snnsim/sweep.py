"""How many bits does a network need: a grid of training runs, resumable, and what it comes to."""

from snnsim.apps.config import config_hash
from snnsim.apps.results import (
    config_of,
    draw,
    frame,
    grid,
    read_csv,
    smallest,
    summary,
    table,
)
from snnsim.apps.runs import run_sweep, train_row
from snnsim.apps.sweep import BACKENDS, Plan, Store

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
