import json
from dataclasses import replace

import pytest

from bench import environment
from bench import plan as plan_module
from bench.child import Job, run_in_child
from bench.environment import describe, keep_freed_memory, why_not_kept
from bench.memory import why_no_peak
from bench.plan import Plan, full_plan, quick_plan, run_plan
from bench.results import Results
from snnsim.errors import ContractError, RunError


def test_full_plan_measures_each_shape_with_memory_returned_and_retained():
    jobs = list(full_plan().jobs())
    neurons = [(job.arguments["shapes"], job.memory) for job in jobs if job.kind == "neurons"]
    modes = ["returned"] + (["retained"] if why_not_kept() is None else [])
    shapes = [[16, 1_000_000], [100, 10_000], [8, 12_800], [1, 1000]]
    assert neurons == [([shape], memory) for shape in shapes for memory in modes]
    assert all(job.arguments["threads"] == [1, 2] for job in jobs if job.kind == "neurons")
    assert sum(job.kind == "training" for job in jobs) == 3 * len(modes)
    peaks = [job.arguments["name"] for job in jobs if job.kind == "peak"]
    assert peaks == (list(full_plan().peaks) if why_no_peak() is None else [])


def test_jobs_travel_as_json():
    for job in full_plan().jobs():
        assert Job(**json.loads(json.dumps(job.__dict__))) == job


def test_parts_and_names_are_left_out():
    plan = replace(full_plan(), parts=("memory",), names=("snnsim uniform 4", "plain loop"))
    jobs = list(plan.jobs())
    assert [job.kind for job in jobs] == ["saved"] + (
        ["peak", "peak"] if why_no_peak() is None else []
    )
    assert list(replace(plan, parts=()).jobs()) == []


def test_memory_is_returned_where_it_cannot_be_retained(monkeypatch):
    monkeypatch.setattr(plan_module, "why_not_kept", lambda: "this C library has no mallopt")
    assert {job.memory for job in full_plan().jobs()} == {"returned"}
    results = run_plan(Plan(names=("plain loop",), parts=()), lambda line: None)
    assert results.missing["memory retained"] == "this C library has no mallopt"


def test_keeping_memory_says_why_it_cannot(monkeypatch):
    monkeypatch.setattr(environment, "why_not_kept", lambda: "this C library has no mallopt")
    with pytest.raises(
        RunError,
        match=(
            "memory='retained': this C library has no mallopt; measure with memory='returned' only"
        ),
    ):
        keep_freed_memory()


def test_nothing_is_measured_when_the_engines_disagree(monkeypatch):
    def disagree(names):
        raise ContractError("no")

    def measure(job):
        raise AssertionError("measured")

    monkeypatch.setattr(plan_module, "check_engines", disagree)
    monkeypatch.setattr(plan_module, "run_in_child", measure)
    with pytest.raises(ContractError):
        run_plan(quick_plan(), lambda line: None)


def test_a_run_says_what_it_depends_on(monkeypatch):
    monkeypatch.setattr(
        plan_module, "run_in_child", lambda job: Results(missing={job.kind: job.label})
    )
    lines, kept = [], []
    results = run_plan(quick_plan(), lines.append, lambda found: kept.append(len(found.missing)))
    assert set(describe()) < set(results.environment)
    assert results.environment["rounds"] == "3"
    assert any(line.startswith("torch ") for line in lines)
    jobs = list(quick_plan().jobs())
    assert any(
        line.startswith(f"[1/{len(jobs)}] neurons 8x2000, 1x1000, memory returned: ")
        for line in lines
    )
    # what there is is handed over after each measurement
    assert len(kept) == len(jobs)
    assert kept == sorted(kept)
    assert results.missing["neurons"] == "neurons 8x2000, 1x1000, memory returned"


@pytest.mark.slow
@pytest.mark.skipif(why_not_kept() is not None, reason="needs mallopt")
def test_a_job_runs_in_a_process_of_its_own_with_memory_retained():
    arguments = {
        "names": ["snnsim uniform 4", "plain loop"],
        "shapes": [[2, 1000]],
        "threads": [1, 2],
        "rounds": 2,
    }
    results = run_in_child(Job("neurons", "retained", arguments, "neurons"))
    found = {(t.name, t.what, t.threads) for t in results.timings}
    names = ("memory floor", "snnsim uniform 4", "plain loop")
    assert found == {
        (name, what, n)
        for name in names
        for what in ("forward", "forward+backward")
        for n in (1, 2)
    }
    assert all(
        t.memory == "retained" and t.work == "2x1000" and len(t.samples) == 2
        for t in results.timings
    )


@pytest.mark.slow
def test_a_process_that_fails_shows_what_it_wrote():
    with pytest.raises(
        RunError, match=r"(?s)a job: its process ended with status 1 and wrote.*KeyError: 'nothing'"
    ):
        run_in_child(Job("nothing", "returned", {}, "a job"))
