import subprocess
import sys

import pytest
import torch

from snnsim.errors import EngineError, InvalidValueError, RunError
from snnsim.kernels.cpu import host
from snnsim.kernels.launch import choose, engines, explain
from snnsim.kernels.scan import scan


def test_the_fastest_engine_that_can_is_chosen(random_table):
    assert choose(torch.zeros(1, 1), random_table(4)).name == "cpu"
    assert choose(torch.zeros(1, 1), random_table(4), "reference").name == "reference"
    assert choose(torch.zeros(1, 1, device="meta"), random_table(4)).name == "reference"


def test_the_last_engine_runs_everything(random_table, linear):
    for neuron in (random_table(300, channels=3, dtype=torch.float64), linear(channels=3)):
        assert engines()[-1].why_not(torch.zeros(1, 3, device="meta"), neuron) is None


def test_explain_says_what_runs_and_why_the_faster_ones_do_not(random_table, linear):
    assert explain(torch.zeros(1, 1), random_table(4)) == "cpu: runs"
    reasons = explain(torch.zeros(1, 1, device="meta"), random_table(4)).splitlines()
    assert reasons == ["cpu: the input is on meta", "gpu: the input is on meta", "reference: runs"]
    per_channel = explain(torch.zeros(1, 3), linear(channels=3))
    assert "cpu: an un-quantized neuron whose constants differ between channels" in per_channel


def test_an_engine_that_cannot_run_raises_where_it_was_asked_for_by_name(random_table, linear):
    with pytest.raises(
        EngineError,
        match=r"engine='cpu' cannot run here: an un-quantized neuron whose .* leave engine out",
    ):
        scan(torch.zeros(2, 3), torch.zeros(1), linear(channels=3), engine="cpu")


def test_an_engine_that_does_not_exist_raises(random_table):
    with pytest.raises(
        InvalidValueError, match=r"engine='fpga': choose one of 'cpu', 'gpu', 'reference', or None"
    ):
        scan(torch.zeros(1, 1), torch.zeros(1), random_table(4), engine="fpga")


def test_without_numba_the_reference_runs_and_explain_says_so(random_table, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    table, x = random_table(4), torch.randn(2, 3)
    assert explain(x, table).splitlines() == [
        "cpu: numba is not installed; pip install numba",
        "gpu: the input is on cpu",
        "reference: runs",
    ]
    with pytest.raises(EngineError, match=r"engine='cpu' cannot run here: numba is not installed"):
        scan(x, torch.zeros(1), table, engine="cpu")
    missing = scan(x, torch.zeros(1), table)
    monkeypatch.undo()
    assert torch.equal(missing[0], scan(x, torch.zeros(1), table)[0])


def test_a_numba_that_cannot_be_imported_is_named_as_the_reason(random_table, monkeypatch):
    def broken(name):
        raise ImportError("llvmlite is missing")

    host._import_problem.cache_clear()
    monkeypatch.setattr(host.importlib, "import_module", broken)
    reasons = explain(torch.zeros(1, 1), random_table(4))
    assert "cpu: numba cannot be imported: llvmlite is missing" in reasons
    host._import_problem.cache_clear()


def test_numba_is_imported_only_when_a_kernel_runs():
    code = "import sys, snnsim.kernels.scan; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_scan_that_torch_compile_traces_is_refused(random_table):
    table = random_table(4)
    torch._dynamo.reset()
    run = torch.compile(
        lambda x: scan(x, torch.zeros(1), table)[0], fullgraph=True, backend="aot_eager"
    )
    with pytest.raises(Exception, match=r"scan: torch\.compile cannot look into it") as caught:
        run(torch.zeros(2, 3))
    assert isinstance(caught.value, RunError | torch._dynamo.exc.Unsupported)
    torch._dynamo.reset()
