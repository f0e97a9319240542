import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
import threading

import pytest
import torch

from snnsim.errors import EngineError
from snnsim.kernels.cpu import host
from snnsim.kernels.scan import scan

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="torch's pool is joined on Linux only"
)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def work(random_table):
    """A table and enough input for two threads, and what the reference makes of it."""
    table, x = random_table(16, clip=True), torch.randn(3, 60_001)
    return table, x, scan(x, torch.zeros(1), table, "reference")


def gradient(table, x, engine):
    leaf = x.clone().requires_grad_()
    out, v = scan(leaf, torch.zeros(1), table, engine)
    (out.sum() + v.sum()).backward()
    return leaf.grad


def test_several_threads_give_what_one_gives(work, two_threads):
    table, x, expected = work
    assert host.why_serial() is None
    assert host.thread_count(x.numel()) == 2
    assert all(map(torch.equal, scan(x, torch.zeros(1), table, "cpu"), expected))
    assert torch.equal(gradient(table, x, "cpu"), gradient(table, x, "reference"))


def test_both_threads_of_the_pool_run_the_kernel(work, two_threads, monkeypatch):
    calls = []
    pool = host._Pool()
    parallel = pool.parallel
    pool.parallel = lambda *args: calls.append(args[2]) or parallel(*args)
    monkeypatch.setattr(host, "_pool", pool)
    table, x, _ = work
    scan(x, torch.zeros(1), table, "cpu")
    scan(x[:, :1000], torch.zeros(1), table, "cpu")
    assert calls == [2]


def test_little_work_and_a_limit_of_one_thread_stay_on_this_thread(two_threads):
    assert host.thread_count(host.SERIAL_ELEMENTS - 1) == 1
    torch.set_num_threads(1)
    assert host.thread_count(10**9) == 1


def test_several_python_threads_at_once_do_not_disturb_each_other(work, two_threads):
    table, x, expected = work
    start = threading.Barrier(4)

    def run(_):
        start.wait()
        return [scan(x, torch.zeros(1), table, "cpu") for _ in range(5)]

    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        for results in executor.map(run, range(4)):
            for result in results:
                assert all(map(torch.equal, result, expected))


def _in_child(connection, table, x):
    out, v = scan(x, torch.zeros(1), table, "cpu")
    connection.send((host.why_serial(), float(out.double().sum()), float(v.double().sum())))


def test_a_forked_child_runs_on_one_thread_after_the_parent_used_more(work, two_threads):
    table, x, _ = work
    out, v = scan(x, torch.zeros(1), table, "cpu")
    # torch's own reductions may hang in a forked child, so the child must not meet a parent that
    # limits it to two threads
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        _in_child(sender, table, x)
        os._exit(0)
    assert receiver.poll(60)
    reason, total, total_v = receiver.recv()
    assert os.waitpid(child, 0)[1] == 0
    assert reason == "this process was forked, and a forked process has none of the pool's threads"
    assert (total, total_v) == (float(out.double().sum()), float(v.double().sum()))


class _Batches(torch.utils.data.Dataset):
    def __init__(self, table):
        self.table = table

    def __len__(self):
        return 4

    def __getitem__(self, index):
        x = torch.randn(2, 40_000, generator=torch.Generator().manual_seed(index))
        return scan(x, torch.zeros(1), self.table)[0]


def test_data_loader_workers_can_run_it(random_table):
    data = _Batches(random_table(16))
    loader = torch.utils.data.DataLoader(
        data, num_workers=2, batch_size=None, multiprocessing_context="fork"
    )
    for index, batch in enumerate(loader):
        assert torch.equal(batch, data[index])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("sys.platform = 'plan9'", "no way into torch's thread pool is known on plan9"),
        (
            "torch.backends.openmp.is_available = lambda: False",
            "this torch was built without OpenMP",
        ),
        ("host._loaded_gomp = lambda: None", "torch's OpenMP library (libgomp) is not loaded"),
    ],
)
def test_where_the_pool_is_not_found_kernels_run_on_one_thread(change, reason):
    code = (
        "import sys, torch\nfrom snnsim.kernels.cpu import"
        f" host\n{change}\nprint(host.why_serial(), host.thread_count(10**9))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert printed == f"{reason} 1\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_kernel_that_ends_half_way_raises(random_table, monkeypatch):
    pytest.importorskip("numba")
    from snnsim.kernels.cpu import cache

    def stops(memory):
        if memory[0] == memory[0]:
            raise ValueError

    broken = cache.compiled(stops, False)
    monkeypatch.setattr(cache, "kernel", lambda name, wide: broken)
    with pytest.raises(EngineError, match="stops: ended before its work was done"):
        scan(torch.zeros(2, 3), torch.zeros(1), random_table(4), "cpu")
