import dataclasses

import pytest
import torch
from snnsim.kernels.table import LinearMembrane

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError


def test_a_table_knows_its_sizes(random_table):
    table = random_table(16, channels=3, dtype=torch.float64)
    assert (table.channels, table.levels, table.dtype) == (3, 16, torch.float64)
    assert repr(table).startswith("Table(3 x 16 codes, ")


def test_tensors_that_do_not_belong_together_are_refused(random_table):
    table = random_table(4, channels=3)
    with pytest.raises(
        InvalidTypeError, match=r"Table\(edges\): must be float32 or float64, got torch.float16"
    ):
        dataclasses.replace(table, edges=table.edges.half())
    with pytest.raises(
        ShapeError, match=r"Table\(edges\): needs shape \[L-1\] with L >= 2, got \(1, 3\)"
    ):
        dataclasses.replace(table, edges=table.edges[None])
    with pytest.raises(ShapeError, match=r"Table\(out\): needs shape \[C, L\], got \(4,\)"):
        dataclasses.replace(table, out=table.out[0])
    with pytest.raises(
        ShapeError,
        match=r"Table\(carry\): needs shape \[C, L\] = \(3, 4\) like the others, got \(2, 4\)",
    ):
        dataclasses.replace(table, carry=table.carry[:2])
    with pytest.raises(
        InvalidTypeError,
        match=r"d_out: is torch.float64 on cpu and must be torch.float32 on cpu like the rest",
    ):
        dataclasses.replace(table, d_out=table.d_out.double())
    with pytest.raises(
        InvalidValueError,
        match=r"Table\(inner=0\): neurons in a row that share a channel, at least 1",
    ):
        dataclasses.replace(table, inner=0)
    with pytest.raises(
        ShapeError, match=r"divisor: needs shape \[1\] or \[C\] = \[3\], got \(2,\)"
    ):
        dataclasses.replace(table, divisor=torch.ones(2))


def test_constants_of_a_membrane_that_do_not_belong_together_are_refused():
    with pytest.raises(
        InvalidTypeError,
        match=r"LinearMembrane\(threshold\): must be float32 or float64, got torch.int64",
    ):
        LinearMembrane(torch.ones(1, dtype=torch.int64), torch.abs)
    with pytest.raises(
        ShapeError, match=r"threshold: needs shape \[1\] or \[C\] = \[3\], got \(2,\)"
    ):
        LinearMembrane(torch.ones(2), torch.abs, tau=torch.ones(3))
    with pytest.raises(InvalidValueError, match=r"LinearMembrane\(inner=0\)"):
        LinearMembrane(torch.ones(1), torch.abs, inner=0)


def test_a_membrane_has_as_many_channels_as_its_longest_constant():
    assert LinearMembrane(torch.ones(1), torch.abs, tau=torch.ones(3)).channels == 3


def test_a_derivative_that_the_kernels_could_not_read_is_refused(linear):
    above = torch.zeros(2, 3)
    with pytest.raises(
        InvalidValueError, match="derivative: changes its argument in place; return a new tensor"
    ):
        LinearMembrane(torch.ones(1), lambda x: x.add_(1)).slopes(above.clone())
    with pytest.raises(
        ShapeError,
        match=(
            r"derivative: needs a result of the shape of its argument, \(2, 3\), got \(\); it"
            r" has to"
        ),
    ):
        LinearMembrane(torch.ones(1), torch.sum).slopes(above)
    with pytest.raises(
        InvalidTypeError,
        match=r"derivative: is torch.float64 on cpu and must be torch.float32 on cpu like the rest",
    ):
        LinearMembrane(torch.ones(1), torch.Tensor.double).slopes(above)
    assert torch.equal(linear().slopes(above), torch.ones(2, 3))
