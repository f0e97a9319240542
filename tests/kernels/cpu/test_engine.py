import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("numba")

from snnsim.kernels import codes
from snnsim.kernels.cpu import records
from snnsim.kernels.cpu.engine import CpuAutomaton, CpuMembrane
from snnsim.kernels.launch import Launch
from snnsim.kernels.reference import ReferenceMembrane
from snnsim.kernels.scan import scan


def test_a_field_that_a_record_has_not_is_refused():
    with pytest.raises(AttributeError):
        records.fill(records.FORWARD, tme_steps=1)
    record = records.FORWARD()
    with pytest.raises(AttributeError):
        record.grad = 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 15), (2, 513), (4, 4096), (3, 9000), (7, 0)])
def test_sums_of_products_are_those_of_the_reference(dtype, shape, linear, same, poisoned):
    grad, x, v0 = (
        torch.randn(shape, dtype=dtype),
        torch.randn(shape, dtype=dtype),
        torch.randn(shape[1], dtype=dtype),
    )
    if shape[1] > 2:
        # neither may count
        grad[:, 0], grad[:, 2] = 0.0, 0.0
        x[0, 0], x[0, 2] = torch.inf, torch.nan
    ours, theirs = (kind(linear(dtype=dtype)) for kind in (CpuMembrane, ReferenceMembrane))
    for other in (x, x[:1].expand(shape), x.T.contiguous().T):
        total = ours.input_product(grad, other)
        assert total.dtype == torch.float64
        assert torch.equal(total, theirs.input_product(grad, other))
        plain = (grad.double() * other.double()).nan_to_num(0.0).sum()
        torch.testing.assert_close(total, plain, rtol=1e-12, atol=1e-12)
    for reset in (None, 0.2):
        membrane = linear(dtype=dtype, tau=3.0, reset=reset, rest=0.1)
        for above in (x, x.nan_to_num(0.5, posinf=2.0)):
            for start in (v0, torch.full((1,), 0.3, dtype=dtype).expand(shape[1])):
                totals = [
                    kind(membrane).state_product(grad, above, start)
                    for kind in (CpuMembrane, ReferenceMembrane)
                ]
                assert same(*totals)
        # without NaN, against the definition
        v, plain = start.double(), 0.0
        for t in range(shape[0]):
            plain = plain + (grad[t].double() * (v - membrane.rest)).sum()
            fired = above[t] >= 0
            v = torch.where(
                fired, above[t] if reset is None else reset, above[t] + membrane.threshold
            ).double()
        torch.testing.assert_close(
            totals[0], torch.as_tensor(plain, dtype=torch.float64), rtol=1e-12, atol=1e-12
        )


def test_input_and_tables_are_left_as_they_were(random_table):
    table, x = random_table(16, clip=True, divisor=3.0), torch.randn(3, 500, requires_grad=True)
    tensors = [
        x,
        table.edges,
        table.out,
        table.carry,
        table.after,
        table.d_out,
        table.d_carry,
        table.d_after,
        table.divisor,
    ]
    before = [tensor.detach().clone() for tensor in tensors]
    out, v = scan(x, torch.zeros(1), table, "cpu")
    (out.sum() + v.sum()).backward()
    assert all(map(torch.equal, before, (tensor.detach() for tensor in tensors)))


def test_what_an_automaton_needs_is_found_out_once(random_table, monkeypatch):
    from snnsim.kernels.cpu import engine as cpu

    asked, found = [], cpu._cells
    monkeypatch.setattr(cpu, "_cells", lambda table: asked.append(table) or found(table))
    x = torch.randn(3, 50, requires_grad=True)
    launch = Launch(random_table(16, clip=True, divisor=3.0), x, "cpu")
    for _ in range(3):
        launch.run(x, torch.zeros(50))[0].sum().backward()
    assert len(asked) == 1


def test_a_table_whose_entries_are_copied_for_the_kernels_is_followed(random_table):
    table, x = random_table(16), torch.randn(3, 50)
    gaps = dataclasses.replace(table, carry=torch.stack([table.carry, table.carry], 2)[..., 0])
    assert not gaps.carry.is_contiguous()
    for _ in range(2):
        gaps.carry.mul_(0.5)
        assert torch.equal(
            scan(x, torch.zeros(1), gaps, "cpu")[1], scan(x, torch.zeros(1), gaps, "reference")[1]
        )


def test_a_changed_edge_changes_the_cells(random_table):
    table = random_table(32, uniform=True)
    x = table.edges[None].clone()
    before = scan(x, torch.zeros(1), table, "cpu")[1]
    table.edges.data += 0.01
    assert not torch.equal(scan(x, torch.zeros(1), table, "cpu")[1], before)
    assert torch.equal(
        scan(x, torch.zeros(1), table, "cpu")[1], scan(x, torch.zeros(1), table, "reference")[1]
    )


def test_results_do_not_depend_on_where_blocks_end(random_table, monkeypatch):
    from snnsim.kernels.cpu import engine as cpu

    table, x = random_table(256, clip=True), torch.randn(3, 5000)
    whole = scan(x, torch.zeros(1), table, "cpu")
    for block in (1024, 1111):
        monkeypatch.setattr(cpu, "BLOCK", block)
        assert all(map(torch.equal, scan(x, torch.zeros(1), table, "cpu"), whole))


@pytest.mark.slow
def test_a_processor_without_wide_permutes_gives_the_same(tmp_path):
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    code = "import sys; from snnsim.kernels.cpu import vector; sys.exit(vector.PERMUTES)"
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )
    name = "test_engines_agree_bit_for_bit_on_outputs_states_and_all_gradients"
    chain = f"{Path(__file__).parents[1] / 'test_scan.py'}::{name}"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        chain,
        "-k",
        "dtype0",
    ]
    assert (
        subprocess.run(command, env=environment, check=False, capture_output=True).returncode == 0
    )


def test_an_automaton_keeps_the_edges_of_every_form_of_its_codes(random_table):
    table, x = random_table(200), torch.randn(3, 1000)
    passes = CpuAutomaton(table)
    start = torch.zeros(1000)
    first = passes.forward(x, start, save=True)
    passes.forward(x, start, save=True, plain=False)
    # what else refers to them forgets them
    codes.cell_finder.cache_clear()
    again = passes.forward(x, start, save=True)
    assert {*passes.forwards} == {torch.uint8, torch.int16}
    assert all(map(torch.equal, (*first[:2], first[2][0]), (*again[:2], again[2][0])))
