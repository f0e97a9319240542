"""Results as tables, and the page of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.environment import MEMORY
from bench.floor import FLOOR
from bench.results import Peak, Results, Spread, Timing, ratio
from bench.targets import Verdict, judge

__all__ = ["Table", "markdown", "markdown_table", "tables"]

Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A title, a head, rows of as many cells, and remarks below."""

    title: str
    head: Row
    rows: list[Row]
    remarks: list[str] = field(default_factory=list)


def tables(results: Results) -> list[Table]:
    """Everything measured: the targets first, then times, memory and training steps."""
    kinds = list(dict.fromkeys((t.work, t.what, t.threads) for t in results.timings))
    found = [_verdicts(judge(results)), *(_times(results, *kind) for kind in kinds)]
    if results.saved or results.peaks:
        found.append(_memory(results))
    return found


def markdown(results: Results, picture: str) -> str:
    """The page of a run: how it was measured, every table, and the picture.

    Args:
        results: of the run.
        picture: link to the picture.
    """
    parts = [
        "# Benchmarks",
        (
            "Made by `snnsim bench`, which times everything in turns, in one run on one machine,"
            " after checking that the engines agree bit for bit. Of each ratio the median over"
            " rounds is given, with its quartiles. On one thread it is processor time that counts,"
            " on several wall time. `snnsim bench --report benchmarks.json` writes this page again"
            " from its numbers."
        ),
        "The neuron is leaky, with soft reset, tau 2 and threshold 1; input from N(0.4, 0.6), shape"
        " `TxN`. The memory floor reads the input once and writes spikes and a byte of code"
        " (backward: reads a gradient and codes, writes a gradient), into memory that is there"
        " already. Memory returned: "
        + MEMORY["returned"]
        + ". Retained: "
        + MEMORY["retained"]
        + ".",
        f"![Times by candidate]({picture})",
        markdown_table(Table("Machine", ("what", "value"), list(results.environment.items()))),
    ]
    if results.missing:
        parts.append(
            markdown_table(Table("Left out", ("what", "why"), list(results.missing.items())))
        )
    return "\n\n".join([*parts, *map(markdown_table, tables(results))]) + "\n"


def markdown_table(table: Table) -> str:
    """A table under its title."""
    lines = [
        f"| {' | '.join(row)} |"
        for row in (table.head, ("---", *("---:",) * (len(table.head) - 1)), *table.rows)
    ]
    return "\n\n".join([f"## {table.title}", "\n".join(lines), *table.remarks])


def _verdicts(verdicts: Sequence[Verdict]) -> Table:
    head = ("target, one thread", "required", "goal", *MEMORY, "outcome")
    rows = []
    for verdict in verdicts:
        target, measured = verdict.target, verdict.measured
        if not measured:
            continue
        sign = "<= " if target.at_most else ">= "
        cells = [_spread(measured.get(memory, measured.get(""))) for memory in MEMORY]
        rows.append(
            (
                target.row,
                f"{sign}{target.required:g}",
                f"{sign}{target.goal:g}",
                *cells,
                verdict.outcome,
            )
        )
    counts = {
        outcome: [v.outcome for v in verdicts].count(outcome)
        for outcome in ("goal", "met", "missed", "not measured")
    }
    remark = "; ".join(f"{outcome}: {count}" for outcome, count in counts.items())
    return Table(
        "Targets",
        head,
        rows,
        [f"{remark}. Judged is the less favourable of the two ways to handle freed memory."],
    )


def _times(results: Results, work: str, what: str, threads: int) -> Table:
    """Milliseconds and ratios of every candidate at one piece of work, with memory returned and
    retained.
    """
    names = dict.fromkeys(
        t.name for t in results.timings if (t.work, t.what, t.threads) == (work, what, threads)
    )
    base = FLOOR if FLOOR in names else next(iter(names))
    modes = [
        m
        for m in MEMORY
        if any(
            (t.work, t.what, t.threads, t.memory) == (work, what, threads, m)
            for t in results.timings
        )
    ]
    head = ("candidate", *(cell for memory in modes for cell in (f"ms, {memory}", f"x {base}")))
    rows, scaled = [], False
    for name in names:
        cells: list[str] = []
        for memory in modes:
            timing, against = (results.timing(work, what, n, threads, memory) for n in (name, base))
            cells += _time_cells(timing, against)
            scaled |= timing is not None and timing.share < 1
        rows.append((name, *cells))
    remarks = ["\\* measured on a part of the neurons and scaled up"] if scaled else []
    return Table(
        f"{work}, {what}, {threads} thread{'s' if threads > 1 else ''}", head, rows, remarks
    )


def _time_cells(timing: Timing | None, base: Timing | None) -> list[str]:
    if timing is None:
        return ["", ""]
    mark = "\\*" if timing.share < 1 else ""
    return [
        f"{timing.milliseconds:.4g}{mark}",
        "" if base is None else _spread(ratio(timing, base)),
    ]


def _memory(results: Results) -> Table:
    """Bytes per neuron and step."""
    works = list(dict.fromkeys(peak.work for peak in results.peaks))
    names = dict.fromkeys([*(s.name for s in results.saved), *(p.name for p in results.peaks)])
    saved = {s.name: f"{s.bytes:.2f}" for s in results.saved}
    peaks: dict[tuple[str, str], Peak] = {(p.name, p.work): p for p in results.peaks}
    rows: list[Row] = []
    for name in names:
        cells = [
            f"{peaks[name, work].bytes:.2f}" if (name, work) in peaks else "" for work in works
        ]
        rows.append((name, saved.get(name, ""), *cells))
    remark = (
        "The peak is that of forward and backward, beyond input, output and their gradients; memory"
        " returned."
    )
    head = ("candidate", "kept for backward", *(f"peak, {work}" for work in works))
    return Table("Memory, bytes per neuron and step", head, rows, [remark])


def _spread(value: Spread | None) -> str:
    if value is None:
        return ""
    if value.low == value.high:
        return f"{value.median:.3g}"
    return f"{value.median:.3g} ({value.low:.3g} to {value.high:.3g})"
