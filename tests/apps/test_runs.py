import dataclasses
import os
import signal
import sys

import pytest
import torch
from joblib.externals.loky import get_reusable_executor

from snnsim.apps import runs
from snnsim.errors import (
    CheckpointError,
    EngineError,
    InvalidTypeError,
    InvalidValueError,
    MissingDataError,
    MissingPackageError,
)
from snnsim.sweep import Plan, Store, run_sweep, train_row
from snnsim.training import Config, Training, load_datasets

pytestmark = pytest.mark.usefixtures("without_data")

TINY = Config(hidden=8, time_steps=3, epochs=2, batch_size=64, learning_rate=5e-3)
PLAN = Plan(TINY, (2, None), (4, None), ("uniform",), seeds=1)
STARTED = Plan(
    dataclasses.replace(TINY, float_epochs=1), (2, 3), (None,), ("learned", "calibrated"), seeds=1
)
VOLATILE = ("seconds", "warning")


def steady(rows):
    """Rows without what differs from run to run."""
    return [{name: value for name, value in row.items() if name not in VOLATILE} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("whole") / "sweep")
    assert run_sweep(PLAN, store) == []
    return store


def test_a_row_says_all_that_a_run_needs(whole):
    rows = whole.rows()
    assert [Config(**row["config"]) for row in rows] == sorted(
        PLAN.configs(), key=lambda config: runs.config_hash(config)
    )
    for row in rows:
        assert 0.05 < row["accuracy"] <= 1
        assert row["torch"] == torch.__version__
        assert (row["threads"], len(row["data"])) == (1, 12)
        assert {"snnsim", "numpy", "python", "machine", "loss", "firing_rate"} <= set(row)
    by = {(row["config"]["bits"], row["config"]["weight_bits"]): row for row in rows}
    # 18 neurons, 64 * 8 + 8 * 10 weights and 18 biases in float32
    assert by[2, None]["state_bytes"] == 5
    assert by[None, None]["state_bytes"] == 18 * 4
    assert by[None, None]["weight_bytes"] == 4 * (592 + 18)
    assert by[2, 4]["weight_bytes"] < by[2, None]["weight_bytes"] / 5


def test_a_run_is_what_train_makes(whole):
    config = PLAN.configs()[0]
    training = Training(config, *load_datasets(config, None), progress=False)
    while training.epoch < config.epochs:
        training.run_epoch()
    row = next(row for row in whole.rows() if Config(**row["config"]) == config)
    assert [row[name] for name in ("accuracy", "loss", "firing_rate")] == [
        training.history[-1][name] for name in ("accuracy", "loss", "firing_rate")
    ]


def test_runs_in_other_processes_are_the_same_runs(whole, tmp_path):
    store, said = Store(tmp_path / "sweep"), []
    assert run_sweep(PLAN, store, jobs=2, tell=said.append) == []
    assert steady(store.rows()) == steady(whole.rows())
    assert said[0] == "4 runs, 0 of them finished before"
    assert sorted(line[:3] for line in said[1:]) == ["1/4", "2/4", "3/4", "4/4"]


def test_what_stops_a_sweep_costs_only_the_runs_in_flight(whole, tmp_path, monkeypatch):
    store, made = Store(tmp_path / "sweep"), []
    original = runs.train_row

    def interrupted(config, *rest):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(config)
        return original(config, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "train_row", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(PLAN, store)
    assert len(store.rows()) == 2
    said = []
    monkeypatch.setattr(
        runs, "train_row", lambda config, *rest: made.append(config) or original(config, *rest)
    )
    assert run_sweep(PLAN, store, tell=said.append) == []
    assert said[0] == "4 runs, 2 of them finished before"
    assert len(made) == len(set(made)) == 4
    assert steady(store.rows()) == steady(whole.rows())
    # complete: nothing is left to make
    assert run_sweep(PLAN, store) == []
    assert len(made) == 4


def test_a_deleted_run_is_made_again_as_it_was(whole):
    before = whole.rows()
    (whole.path / "runs" / f"{before[1]['config_hash']}.json").unlink()
    run_sweep(PLAN, whole)
    assert steady(whole.rows()) == steady(before)


def test_killed_workers_are_explained_and_finished_runs_kept(tmp_path):
    store = Store(tmp_path / "sweep")
    plan = Plan(dataclasses.replace(TINY, epochs=6), (2, 3, 4, None), seeds=2)

    def kill(text):
        if text.startswith("1/"):
            for process in list(get_reusable_executor(reuse=True)._processes):
                os.kill(process, signal.SIGKILL)

    with pytest.raises(
        EngineError,
        match=(
            r"run_sweep\(jobs=2\): a process was killed, most often for want of memory; finished"
            r" runs are kept"
        ),
    ):
        run_sweep(plan, store, jobs=2, tell=kill)
    kept = store.rows()
    assert 1 <= len(kept) < 8
    assert run_sweep(plan, store) == []
    assert len(store.rows()) == 8
    assert all(row in store.rows() for row in kept)


def test_float_starts_are_made_once_and_change_no_run(tmp_path, monkeypatch):
    store, said, starts = Store(tmp_path / "sweep"), [], []
    original = runs.train_start
    monkeypatch.setattr(
        runs, "train_start", lambda config, *rest: starts.append(config) or original(config, *rest)
    )
    assert run_sweep(STARTED, store, tell=said.append) == []
    assert starts == [STARTED.configs()[0].start()]
    assert said[1].startswith("float start of seed 0: ")
    assert len(list((store.path / "starts").glob("*.pt"))) == 1
    for row in store.rows():
        assert steady([train_row(Config(**row["config"]))]) == steady([row])
    # more widths share it
    run_sweep(dataclasses.replace(STARTED, state_bits=(4,)), store)
    assert len(starts) == 1
    assert len(store.rows()) == 6


def test_a_run_that_fails_is_reported_and_the_others_are_made(tmp_path, monkeypatch):
    store, said = Store(tmp_path / "sweep"), []
    original = runs.train_row

    def failing(config, *rest):
        if config.bits == 2:
            raise InvalidValueError("no good")
        return original(config, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "train_row", failing)
        failures = run_sweep(PLAN, store, tell=said.append)
    assert sorted(failures) == [
        "uniform 2-bit states, 4-bit weights, seed 0: no good",
        "uniform 2-bit states, float weights, seed 0: no good",
    ]
    assert len(store.rows()) == 2
    assert any(line.endswith("no good") for line in said)
    assert run_sweep(PLAN, store) == []
    assert len(store.rows()) == 4


def test_codebooks_that_do_not_work_are_left_out(tmp_path):
    said = []
    plan = Plan(dataclasses.replace(TINY, epochs=1), (1, None), codebooks=("classic",), seeds=1)
    assert run_sweep(plan, Store(tmp_path / "sweep"), tell=said.append) == []
    assert said[0].startswith("left out: classic at 1 bits; ")
    assert len(Store(tmp_path / "sweep").rows()) == 1
    with pytest.raises(
        InvalidValueError, match="work on none of the codebooks; see what was left out"
    ):
        run_sweep(dataclasses.replace(plan, state_bits=(1,)), Store(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"jobs": 0}, InvalidValueError, "jobs"),
        ({"threads": 0}, InvalidValueError, "threads"),
        ({"jobs": 10**20}, InvalidValueError, "jobs must be <= 1024"),
        ({"threads": 2**31}, InvalidValueError, "threads must be <= 1024"),
        ({"jobs": "two"}, InvalidTypeError, "jobs"),
        (
            {"backend": "ray"},
            InvalidValueError,
            r"run_sweep\(backend='ray'\): must be one of loky, dask",
        ),
        (
            {"backend": "dask"},
            InvalidValueError,
            r"address=None\): backend 'dask' needs the address of its scheduler",
        ),
        ({"address": "tcp://127.0.0.1:1"}, InvalidValueError, "and no other back-end takes one"),
    ],
)
def test_arguments_are_checked_before_any_work(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        run_sweep(PLAN, Store(tmp_path / "sweep"), **options)
    assert not (tmp_path / "sweep").exists()


def test_missing_data_and_folders_of_others_are_found_before_any_work(whole, tmp_path):
    with pytest.raises(MissingDataError, match="--data DIR"):
        run_sweep(Plan(Config(dataset="mnist")), Store(tmp_path / "sweep"))
    with pytest.raises(MissingDataError, match="/no/such/folder"):
        run_sweep(Plan(Config(dataset="mnist")), Store(tmp_path / "sweep"), "/no/such/folder")
    assert not (tmp_path / "sweep").exists()
    with pytest.raises(
        CheckpointError, match="sweep of another configuration: hidden is 8 there and 9 here"
    ):
        run_sweep(dataclasses.replace(PLAN, base=dataclasses.replace(TINY, hidden=9)), whole)


@pytest.fixture
def impatient(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(runs, "PATIENCE", 1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://here", "127.0.0.1"])
def test_a_scheduler_that_does_not_answer(tmp_path, address):
    with pytest.raises(
        EngineError,
        match=(
            f"address='{address}'\\): no scheduler answers there .*; start one with `dask"
            " scheduler`"
        ),
    ):
        run_sweep(PLAN, Store(tmp_path / "sweep"), backend="dask", address=address)


@pytest.fixture
def patient(monkeypatch):
    pytest.importorskip("distributed")
    # a scheduler and workers that are there are waited for, however slow the machine
    monkeypatch.setattr(runs, "PATIENCE", 900)


@pytest.mark.usefixtures("patient")
def test_a_scheduler_without_workers(tmp_path, monkeypatch):
    from distributed import Client, LocalCluster

    wait = Client.wait_for_workers
    monkeypatch.setattr(
        Client, "wait_for_workers", lambda client, n, timeout: wait(client, n, timeout=0.1)
    )
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        with pytest.raises(
            EngineError,
            match=f"the scheduler has no workers; start some with `dask worker {address}`",
        ):
            run_sweep(PLAN, Store(tmp_path / "sweep"), backend="dask", address=address)


@pytest.mark.usefixtures("patient")
def test_a_cluster_that_is_lost(tmp_path):
    from distributed import CancelledError, LocalCluster

    def lose(text):
        raise CancelledError

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        plan = Plan(dataclasses.replace(TINY, epochs=1), (None,), seeds=1)
        store = Store(tmp_path / "sweep")
        with pytest.raises(
            EngineError,
            match=(
                r"was lost or a run killed its workers \(CancelledError\); finished runs are kept"
            ),
        ):
            run_sweep(
                plan,
                store,
                backend="dask",
                address=address,
                tell=lambda text: text[:2] == "1/" and lose(text),
            )
    assert len(store.rows()) == 1


def test_without_dask_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'snnsim\[dask\]'"):
        run_sweep(PLAN, Store(tmp_path / "sweep"), backend="dask", address="tcp://127.0.0.1:8786")


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_a_cluster_of_two_workers_makes_the_same_runs(whole, tmp_path):
    LocalCluster = pytest.importorskip("distributed").LocalCluster
    store, said = Store(tmp_path / "sweep"), []
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        assert (
            run_sweep(
                PLAN, store, backend="dask", address=cluster.scheduler_address, tell=said.append
            )
            == []
        )
    assert steady(store.rows()) == steady(whole.rows())
    assert len(said) == 5
