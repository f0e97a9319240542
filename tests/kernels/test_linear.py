import pytest
import torch

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError
from snnsim.kernels.linear import LinearMembrane


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
