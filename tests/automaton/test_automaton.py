import dataclasses

import pytest
import torch

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError


def test_a_table_knows_its_sizes(random_table):
    table = random_table(16, channels=3, dtype=torch.float64)
    assert (table.channels, table.levels, table.dtype) == (3, 16, torch.float64)
    assert repr(table).startswith("Automaton(3 x 16 codes, ")


def test_tensors_that_do_not_belong_together_are_refused(random_table):
    table = random_table(4, channels=3)
    with pytest.raises(
        InvalidTypeError, match=r"Automaton\(edges\): must be float32 or float64, got torch.float16"
    ):
        dataclasses.replace(table, edges=table.edges.half())
    with pytest.raises(
        ShapeError, match=r"Automaton\(edges\): needs shape \[L-1\] with L >= 2, got \(1, 3\)"
    ):
        dataclasses.replace(table, edges=table.edges[None])
    with pytest.raises(ShapeError, match=r"Automaton\(out\): needs shape \[C, L\], got \(4,\)"):
        dataclasses.replace(table, out=table.out[0])
    with pytest.raises(
        ShapeError,
        match=r"Automaton\(carry\): needs shape \[C, L\] = \(3, 4\) like the others, got \(2, 4\)",
    ):
        dataclasses.replace(table, carry=table.carry[:2])
    with pytest.raises(
        InvalidTypeError,
        match=r"d_out: is torch.float64 on cpu and must be torch.float32 on cpu like the rest",
    ):
        dataclasses.replace(table, d_out=table.d_out.double())
    with pytest.raises(
        InvalidValueError,
        match=r"Automaton\(inner=0\): neurons in a row that share a channel, at least 1",
    ):
        dataclasses.replace(table, inner=0)
    with pytest.raises(
        ShapeError, match=r"divisor: needs shape \[1\] or \[C\] = \[3\], got \(2,\)"
    ):
        dataclasses.replace(table, divisor=torch.ones(2))
