"""`snnsim sweep`: how many bits a network needs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from snnsim import viz
from snnsim._core.files import write_whole
from snnsim.apps import results, runs
from snnsim.apps.cli.options import given
from snnsim.apps.config import Config
from snnsim.apps.sweep import AXES, GRID, Plan, Store
from snnsim.errors import InvalidValueError

if TYPE_CHECKING:
    import pandas as pd


def run(options: argparse.Namespace) -> int:
    """Sweep as asked; returns the exit status: 1 where runs failed or a rerun differs."""
    if options.report is not None:
        options.out = options.out or options.report.parent
        report(results.read_csv(options.report), options)
        return 0
    options.out = options.out or Path("runs/sweep")
    store = Store(options.out)
    if options.rerun is not None:
        return rerun(store, options)
    base = Config(**given(options, without=AXES))
    grid = {name: tuple(getattr(options, name)) for name in GRID}
    failures = runs.run_sweep(
        Plan(base, **grid, seeds=options.seeds),
        store,
        options.data,
        jobs=options.jobs,
        backend=options.backend,
        address=options.address,
        threads=options.threads,
        tell=lambda text: print(text, flush=True),
    )
    if rows := store.rows():
        found = results.frame(rows)
        text = found.to_csv(index=False)
        write_whole(options.out / "results.csv", lambda file: file.write(text.encode()), "--out")
        print(f"\nwrote {options.out / 'results.csv'}")
        report(found, options)
    if failures:
        print(f"\n{len(failures)} runs failed; the same command makes them again:")
        print("\n".join(failures))
    return 1 if failures else 0


def report(found: pd.DataFrame, options: argparse.Namespace) -> None:
    """Print what the runs come to, and write it to --out."""
    lines = results.summary(found)
    best = results.smallest(lines, options.within)
    if best is None:
        answer = "No float run to compare with; add float to --state-bits and --weight-bits."
    else:
        states = f"{best.state_bits}-bit {best.codebook}" if best.state_bits != "float" else "float"
        weights = f"{best.weight_bits}-bit" if best.weight_bits != "float" else "float"
        answer = (
            f"Smallest within {options.within:g} points of float: {states} states, {weights}"
            f" weights: {best.accuracy:.2%} ({100 * best.against_float:+.2f}),"
            f" {best.state_bytes:,} bytes of state and {best.weight_bytes:,} of weights."
        )
    text = f"{results.grid(lines)}\n\n{results.table(lines)}\n\n{answer}\n"
    page, picture = options.out / "summary.md", options.out / "bits_accuracy.png"
    write_whole(page, lambda file: file.write(text.encode()), "--out")
    lowest = None if options.lowest is None else options.lowest / 100
    viz.save(results.draw(found, lowest), picture)
    print(f"\n{text}wrote {page}, {picture}")


def rerun(store: Store, options: argparse.Namespace) -> int:
    """Make one run of a sweep again, from its line alone."""
    store.base()
    rows = {row["config_hash"]: row for row in store.rows()}
    if options.rerun not in rows:
        raise InvalidValueError(
            f"--rerun {options.rerun}: no such run in {store.path}; results.csv lists them as"
            " config_hash"
        )
    before = rows[options.rerun]
    again = runs.train_row(Config(**before["config"]), options.data, before["threads"])
    differ = [
        f"{name} {before[name]!r}, now {again[name]!r}"
        for name in ("accuracy", "loss", "firing_rate")
        if before[name] != again[name]
    ]
    for name in ("snnsim", "torch", "numpy", "python", "machine", "data"):
        if before[name] != again[name]:
            print(f"made with another {name}: {before[name]}, here {again[name]}")
    result = "; ".join(differ) or f"the same, accuracy {again['accuracy']:.2%}"
    print(f"{options.rerun}: {result}")
    return 1 if differ else 0
