"""Making the runs of a sweep, through joblib: in this process, in others, or on a cluster."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snnsim._core.checks import check_int
from snnsim._core.optional import optional
from snnsim._core.scalars import MOST_WORKERS
from snnsim._version import __version__
from snnsim.apps.config import Config, config_hash
from snnsim.apps.datasets import load_datasets
from snnsim.apps.sweep import BACKENDS, Plan, Store
from snnsim.apps.train import Training
from snnsim.data import batches
from snnsim.data.images import InMemory
from snnsim.errors import EngineError, InvalidValueError, SnnsimError, refuse
from snnsim.metrics import footprint

# seconds until a cluster that does not answer is given up
PATIENCE = 10
# delayed calls, and their results as they come
Parallel = Callable[[Iterable[Any]], Iterable[Any]]


def run_sweep(
    plan: Plan,
    store: Store,
    data_dir: str | Path | None = None,
    *,
    jobs: int = 1,
    backend: str = "loky",
    address: str | None = None,
    threads: int = 1,
    tell: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Make every run of a plan that is not in the store yet, and keep each as soon as it is
    finished.

    Float starts, which runs of one seed share, are made first.

    Args:
        plan: which runs.
        store: where they are kept; those that are there are not made again.
        data_dir: folder of the data, as the workers see it.
        jobs: runs at once, each in a process of its own; on a cluster, its workers decide.
        backend: "loky", processes of this machine, or "dask", the cluster whose scheduler is at
            `address`.
        address: of the scheduler, such as "tcp://10.0.0.1:8786".
        threads: of torch, for each run; the order of its sums and so the last bits of weights
            depend on it.
        tell: called with a line of text for every finished run.

    Returns:
        What went wrong, a line for each run that failed; they are made again by the next call.

    Raises:
        InvalidValueError: an unknown back-end, an address without a cluster, or a plan that no run
            is left of.
        MissingPackageError: joblib or dask is not installed.
        EngineError: the cluster does not answer, or a worker died.
        CheckpointError, OutputError: the store belongs to another sweep, cannot be written, or is
            being written to by another one.
        MissingDataError: the data is not there.
    """
    check_int("run_sweep", "jobs", jobs, at_least=1, at_most=MOST_WORKERS)
    check_int("run_sweep", "threads", threads, at_least=1, at_most=MOST_WORKERS)
    if backend not in BACKENDS:
        refuse("run_sweep", "backend", backend, f"must be one of {', '.join(BACKENDS)}")
    if (backend == "dask") != (address is not None):
        raise InvalidValueError(
            f"run_sweep(backend={backend!r}, address={address!r}): backend 'dask' needs the address"
            " of its scheduler, such as tcp://127.0.0.1:8786, and no other back-end takes one"
        )
    configs, refused = plan.configs(), plan.refused()
    for (codebook, bits), reason in refused.items():
        tell(f"left out: {codebook} at {bits} bits; {reason}")
    configs = [config for config in configs if (config.codebook, config.bits) not in refused]
    if not configs:
        raise InvalidValueError(
            "run_sweep(plan): its neurons work on none of the codebooks; see what was left out"
        )
    with store.claimed():
        # shows missing data, and a folder that is not ours, before any work
        load_data(plan.base, data_dir)
        store.begin(plan.base)
        missing = [config for config in configs if not store.has(config)]
        tell(f"{len(configs)} runs, {len(configs) - len(missing)} of them finished before")
        with _workers(backend, address, jobs) as parallel:
            return _make(missing, store, data_dir, threads, tell, parallel)


def _make(
    missing: list[Config],
    store: Store,
    data_dir: str | Path | None,
    threads: int,
    tell: Callable[[str], None],
    parallel: Parallel,
) -> list[str]:
    """Make runs and keep them; returns what went wrong."""
    delayed = optional("joblib", "apps").delayed
    starts = {config.start(): None for config in missing if config.float_epochs}
    anew = [start for start in starts if store.start(start) is None]
    for start, checkpoint in parallel(
        delayed(train_start)(start, data_dir, threads) for start in anew
    ):
        store.add_start(start, checkpoint)
        tell(f"float start of seed {start.seed}: {checkpoint['history'][-1]['accuracy']:.2%}")

    def tasks() -> Iterator[Any]:
        for config in missing:
            start = store.start(config.start()) if config.float_epochs else None
            yield delayed(_attempt)(config, data_dir, threads, start)

    failures: list[str] = []
    for done, (config, row, problem) in enumerate(parallel(tasks()), 1):
        text = f"{_describe(config)}: {problem}"
        if row is None:
            failures.append(text)
        else:
            store.add(row)
            text = f"{_describe(config)}: {row['accuracy']:.2%}  ({row['seconds']:.0f} s)"
        tell(f"{done}/{len(missing)}  {text}")
    return failures


@contextmanager
def _workers(backend: str, address: str | None, jobs: int) -> Iterator[Parallel]:
    """Processes here, or those of a cluster."""
    joblib = optional("joblib", "apps")
    if backend == "loky":
        try:
            yield joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
        except BrokenProcessPool as problem:
            raise EngineError(
                f"run_sweep(jobs={jobs}): a process was killed, most often for want of memory;"
                " finished runs are kept: start it again, with fewer jobs"
            ) from problem
        return
    distributed = optional("distributed", "dask")
    where = f"run_sweep(backend='dask', address={address!r})"
    try:
        client = distributed.Client(address, timeout=PATIENCE)
    # asyncio's was no OSError before Python 3.11
    except (OSError, asyncio.TimeoutError, ValueError) as problem:
        raise EngineError(
            f"{where}: no scheduler answers there ({problem}); start one with `dask scheduler`, and"
            " give the address that it prints"
        ) from problem
    lost = (distributed.KilledWorker, distributed.CancelledError)
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except (OSError, asyncio.TimeoutError) as problem:
            raise EngineError(
                f"{where}: the scheduler has no workers; start some with `dask worker {address}`"
            ) from problem
        try:
            with joblib.parallel_config(backend="dask", wait_for_workers_timeout=PATIENCE):
                yield joblib.Parallel(n_jobs=-1, return_as="generator_unordered")
        except (*lost, distributed.comm.CommClosedError) as problem:
            raise EngineError(
                f"{where}: the cluster was lost or a run killed its workers"
                f" ({type(problem).__name__}); finished runs are kept: see the log of the workers,"
                " and start it again"
            ) from problem


def load_data(config: Config, data_dir: str | Path | None) -> tuple[InMemory, InMemory, str]:
    """Training set, test set and twelve digits of their SHA-256; kept for the next run in this
    process.
    """
    # all else makes no difference to the data
    return _load_data(Config(dataset=config.dataset, time_steps=config.time_steps), data_dir)


@lru_cache(maxsize=1)
def _load_data(config: Config, data_dir: str | Path | None) -> tuple[InMemory, InMemory, str]:
    train_set, test_set = load_datasets(config, data_dir)
    digest = hashlib.sha256()
    for part in (train_set, test_set):
        for x, labels in batches(part, 1000):
            digest.update(x.numpy().tobytes())
            digest.update(labels.numpy().tobytes())
    return train_set, test_set, digest.hexdigest()[:12]


def train_start(
    config: Config, data_dir: str | Path | None, threads: int
) -> tuple[Config, dict[str, Any]]:
    """A float start and its checkpoint."""
    torch.set_num_threads(threads)
    train_set, test_set, _ = load_data(config, data_dir)
    training = Training(config, train_set, test_set, progress=False)
    while training.epoch < config.epochs:
        training.run_epoch()
    return config, training.checkpoint()


def train_row(
    config: Config,
    data_dir: str | Path | None = None,
    threads: int = 1,
    start: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Make one run.

    Args:
        config: what to train; the result depends on nothing else but the versions, the machine and
            `threads`.
        data_dir: folder of the data.
        threads: of torch.
        start: checkpoint of `config.start()`, to save its epochs.

    Returns:
        What is known of the run: accuracy after the last epoch, bytes, firing rate, and what it
            takes to repeat it.
    """
    torch.set_num_threads(threads)
    began = time.perf_counter()
    train_set, test_set, digest = load_data(config, data_dir)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        training = Training(config, train_set, test_set, progress=False)
        if start is not None:
            training.skip_float_epochs(start)
        while training.epoch < config.epochs:
            training.run_epoch()
        size = footprint(training.runner, test_set.take(torch.tensor([0]))[0])
    last = training.history[-1]
    return {
        "config": dataclasses.asdict(config),
        "config_hash": config_hash(config),
        **{name: last[name] for name in ("accuracy", "loss", "firing_rate")},
        "state_bytes": size.state_bytes,
        "weight_bytes": size.weight_bytes,
        "warning": str(caught[0].message) if caught else "",
        "snnsim": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": threads,
        "data": digest,
        "seconds": round(time.perf_counter() - began, 1),
    }


def _attempt(
    config: Config, data_dir: str | Path | None, threads: int, start: dict[str, Any] | None
) -> tuple[Config, dict[str, Any] | None, str]:
    """A run, or what was wrong with it: one failure does not end a sweep."""
    try:
        return config, train_row(config, data_dir, threads, start), ""
    except SnnsimError as problem:
        return config, None, str(problem)


def _describe(config: Config) -> str:
    states = "float" if config.bits is None else f"{config.codebook} {config.bits}-bit"
    weights = "float" if config.weight_bits is None else f"{config.weight_bits}-bit"
    return f"{states} states, {weights} weights, seed {config.seed}"
