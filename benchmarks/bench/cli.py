"""`snnsim bench`: times of the engines against the memory floor and other simulators, and which
targets are met.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

from bench.candidates import choose_names
from bench.neurons import shape_name
from bench.options import PARTS
from bench.plan import Plan, full_plan, quick_plan, run_plan
from bench.plot import draw
from bench.report import markdown, tables
from bench.results import Results
from bench.training import STEP
from snnsim import viz
from snnsim._core.files import claimed, write_whole
from snnsim.apps.cli.train import table


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
