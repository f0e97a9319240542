"""`snnsim bench`: times of the engines against the memory floor and other simulators, and which
targets are met.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from snnsim import viz
from snnsim._core.files import claimed, write_whole
from snnsim.apps.cli.demo import table
from snnsim.apps.cli.options import folder, positive_int, workers
from snnsim.bench.candidates import choose_names
from snnsim.bench.neurons import shape_name
from snnsim.bench.plan import PARTS, Plan, full_plan, quick_plan, run_plan
from snnsim.bench.plot import draw
from snnsim.bench.report import markdown, tables
from snnsim.bench.results import Results
from snnsim.bench.training import STEP

DESCRIPTION = """Time snnsim's engines, a plain loop, torch.compile, snnTorch and SpikingJelly in
turns, in one run, against the memory that has to be moved; measure what they keep for backward
and their peak memory; time whole training steps; and say which targets are met. The engines must
agree bit for bit first. A full run takes about 10 minutes on two cores that do nothing else.
Peers take part where they are installed: pip install snntorch;
pip install --no-deps spikingjelly"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to its parser."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small shapes and few rounds: shows that everything runs, not how fast",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="what to measure (default: all)")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="candidates of the layer of neurons, or how their names begin",
    )
    parser.add_argument(
        "--shapes", nargs="+", type=shape, metavar="TxN", help="time steps and neurons of a layer"
    )
    parser.add_argument(
        "--threads",
        nargs="+",
        type=workers,
        metavar="N",
        help="numbers of torch threads (default: 1 2)",
    )
    parser.add_argument(
        "--rounds", type=positive_int, metavar="N", help="samples of each (default: 7)"
    )
    parser.add_argument(
        "--out",
        type=folder,
        default=Path("runs/bench"),
        metavar="DIR",
        help="where results go (default: runs/bench)",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="JSON",
        help=(
            "measure nothing; write page and picture of these results, or of what the other options"
            " choose of them"
        ),
    )


def run(options: argparse.Namespace) -> int:
    """Measure and report; returns the exit status."""
    if options.report is not None:
        return report(chosen(Results.load(options.report), options), options)
    started = time.perf_counter()
    plan = plan_of(options)
    path = options.out / "benchmarks.json"
    with claimed(options.out, "--out"):
        results = run_plan(
            plan, lambda line: print(line, flush=True), lambda found: found.save(path)
        )
        results.save(path)
        status = report(results, options)
    print(f"results     {path}\n{time.perf_counter() - started:.0f} s")
    return status


def plan_of(options: argparse.Namespace) -> Plan:
    """What was asked for."""
    plan = quick_plan() if options.quick else full_plan()
    if options.only is not None:
        plan = replace(plan, names=choose_names(options.only))
    return replace(
        plan,
        parts=tuple(options.parts or plan.parts),
        shapes=tuple(options.shapes or plan.shapes),
        threads=tuple(options.threads or plan.threads),
        rounds=options.rounds or plan.rounds,
    )


def chosen(results: Results, options: argparse.Namespace) -> Results:
    """What the options leave of results that are there already."""
    names = None if options.only is None else choose_names(options.only)
    shapes = None if options.shapes is None else {shape_name(one) for one in options.shapes}
    parts = options.parts or (PARTS if shapes is None else ("neurons",))
    timings = [
        t
        for t in results.timings
        if ("training" if t.what == STEP else "neurons") in parts
        and (names is None or t.what == STEP or t.name in names)
        and (shapes is None or t.what == STEP or t.work in shapes)
        and (options.threads is None or t.threads in options.threads)
    ]
    memory = "memory" in parts
    return replace(
        results,
        timings=timings,
        saved=results.saved if memory else [],
        peaks=results.peaks if memory else [],
    )


def report(results: Results, options: argparse.Namespace) -> int:
    """Print the tables; write the page and the picture."""
    for one in tables(results):
        # in Markdown a star has to be told from emphasis
        print(
            f"\n{one.title}\n\n"
            + "\n".join([table(one.head, one.rows), *one.remarks]).replace("\\*", "*")
        )
    picture, page = options.out / "benchmarks.png", options.out / "benchmarks.md"
    viz.save(draw(results), picture)
    write_whole(
        page, lambda file: file.write(markdown(results, picture.name).encode()), "snnsim bench"
    )
    print(f"\npage        {page}\npicture     {picture}")
    return 0


def shape(text: str) -> tuple[int, int]:
    """Time steps and neurons of "TxN"."""
    parts = text.split("x")
    if len(parts) == 2 and all(part.isdecimal() and int(part) >= 1 for part in parts):
        return int(parts[0]), int(parts[1])
    raise argparse.ArgumentTypeError(
        f"{text!r} is not of the form TxN, such as 16x1000000: time steps and neurons, at least 1"
        " each"
    )
