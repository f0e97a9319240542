"""`snnsim sweep`: how many bits a network needs."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from snnsim import viz
from snnsim._core.files import write_whole
from snnsim.apps import sweep
from snnsim.apps.cli.options import (
    Defaults,
    add_config,
    folder,
    given,
    percent,
    points,
    positive_int,
    state_bits,
    weight_bits,
    workers,
)
from snnsim.apps.config import CODEBOOKS, Config
from snnsim.apps.sweep.plan import AXES
from snnsim.errors import InvalidValueError

DESCRIPTION = """Train a grid of networks, by width of states and weights, codebook and seed, and
say which is the smallest that is good enough. Finished runs are kept one by one in --out: start
the command again to go on where it stopped, or with more seeds or widths to extend it. Writes
results.csv (a line for each run), summary.md and bits_accuracy.png."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to its parser."""
    plan = sweep.Plan()
    parser.description, parser.formatter_class = DESCRIPTION, Defaults
    grid = parser.add_argument_group("grid")
    grid.add_argument(
        "--state-bits",
        type=state_bits,
        nargs="+",
        default=plan.state_bits,
        metavar="N|float",
        help="bits of a neuron state, 1..16",
    )
    grid.add_argument(
        "--weight-bits",
        type=weight_bits,
        nargs="+",
        default=plan.weight_bits,
        metavar="N|float",
        help="bits of a weight, 1..8 (1 is binary, 2 ternary)",
    )
    grid.add_argument(
        "--codebook",
        choices=tuple(CODEBOOKS),
        nargs="+",
        default=plan.codebooks,
        help="recipes of the levels",
    )
    grid.add_argument("--seeds", type=positive_int, default=plan.seeds, help="how many")
    runs = parser.add_argument_group("every run")
    add_config(runs, without=AXES)
    runs.add_argument(
        "--data",
        type=folder,
        metavar="DIR",
        help="folder with the four MNIST idx files, or one above it, as the workers see it",
    )
    where = parser.add_argument_group("where and how")
    where.add_argument("--jobs", type=workers, default=1, help="runs at once on this machine")
    where.add_argument("--threads", type=workers, default=1, help="of torch in each run")
    where.add_argument(
        "--backend",
        choices=sweep.BACKENDS,
        default="loky",
        help="processes here, or a Dask cluster",
    )
    where.add_argument("--address", help="of the Dask scheduler, such as tcp://127.0.0.1:8786")
    where.add_argument(
        "--out",
        type=folder,
        metavar="DIR",
        help="where runs and results go; runs/sweep unless given",
    )
    where.add_argument(
        "--within",
        type=points,
        default=0.5,
        metavar="POINTS",
        help="loss against float that is good enough",
    )
    where.add_argument(
        "--rerun",
        metavar="HASH",
        help="make the run of this config_hash in --out again and compare",
    )
    where.add_argument(
        "--report",
        type=Path,
        metavar="CSV",
        help="train nothing: write table and picture of this results.csv, to its folder or --out",
    )
    where.add_argument(
        "--lowest",
        type=percent,
        metavar="PERCENT",
        help="accuracy at which the picture ends; by default all points show",
    )


def run(options: argparse.Namespace) -> int:
    """Sweep as asked; returns the exit status: 1 where runs failed or a rerun differs."""
    if options.report is not None:
        options.out = options.out or options.report.parent
        report(sweep.read_csv(options.report), options)
        return 0
    options.out = options.out or Path("runs/sweep")
    store = sweep.Store(options.out)
    if options.rerun is not None:
        return rerun(store, options)
    base = Config(**given(options, without=AXES))
    plan = sweep.Plan(
        base,
        tuple(options.state_bits),
        tuple(options.weight_bits),
        tuple(options.codebook),
        options.seeds,
    )
    failures = sweep.run_sweep(
        plan,
        store,
        options.data,
        jobs=options.jobs,
        backend=options.backend,
        address=options.address,
        threads=options.threads,
        tell=lambda text: print(text, flush=True),
    )
    if store.rows():
        runs = sweep.frame(store.rows())
        text = runs.to_csv(index=False)
        write_whole(options.out / "results.csv", lambda file: file.write(text.encode()), "--out")
        print(f"\nwrote {options.out / 'results.csv'}")
        report(runs, options)
    if failures:
        print(
            f"\n{len(failures)} runs failed; the same command makes them again:\n"
            + "\n".join(failures)
        )
    return 1 if failures else 0


def report(runs: pd.DataFrame, options: argparse.Namespace) -> None:
    """Print what the runs come to, and write it to --out."""
    results = sweep.summary(runs)
    text = f"{sweep.grid(results)}\n\n{sweep.table(results)}"
    best = sweep.smallest(results, options.within)
    if best is None:
        answer = "No float run to compare with; add float to --state-bits and --weight-bits."
    else:
        states = (
            "float states"
            if best.state_bits == "float"
            else f"{best.state_bits}-bit {best.codebook} states"
        )
        weights = (
            "float weights" if best.weight_bits == "float" else f"{best.weight_bits}-bit weights"
        )
        answer = (
            f"Smallest within {options.within:g} points of float: {states}, {weights}:"
            f" {best.accuracy:.2%} ({100 * best.against_float:+.2f}), {best.state_bytes:,} bytes of"
            f" state and {best.weight_bytes:,} of weights."
        )
    page, picture = options.out / "summary.md", options.out / "bits_accuracy.png"
    write_whole(page, lambda file: file.write(f"{text}\n\n{answer}\n".encode()), "--out")
    viz.save(sweep.draw(runs, options.lowest), picture)
    print(f"\n{text}\n\n{answer}\nwrote {page}, {picture}")


def rerun(store: sweep.Store, options: argparse.Namespace) -> int:
    """Make one run of a sweep again, from its line alone."""
    store.base()
    rows = {row["config_hash"]: row for row in store.rows()}
    if options.rerun not in rows:
        raise InvalidValueError(
            f"--rerun {options.rerun}: no such run in {store.path}; results.csv lists them as"
            " config_hash"
        )
    before = rows[options.rerun]
    again = sweep.train_row(Config(**before["config"]), options.data, before["threads"])
    kept = ("accuracy", "loss", "firing_rate")
    differ = [
        f"{name} {before[name]!r}, now {again[name]!r}"
        for name in kept
        if before[name] != again[name]
    ]
    for name in ("snnsim", "torch", "numpy", "python", "machine", "data"):
        if before[name] != again[name]:
            print(f"made with another {name}: {before[name]}, here {again[name]}")
    print(
        f"{options.rerun}: {'; '.join(differ)}"
        if differ
        else f"{options.rerun}: the same, accuracy {again['accuracy']:.2%}"
    )
    return 1 if differ else 0
