import pytest
import torch

from snnsim._core.autograd import stored
from snnsim.errors import ShapeError
from snnsim.kernels.launch import Layout


def channels_last(*shape):
    time_steps, batch, channels, height, width = shape
    return (
        torch.arange(torch.tensor(shape).prod())
        .view(time_steps, batch, height, width, channels)
        .permute(0, 1, 4, 2, 3)
    )


def test_rows_of_a_dense_sequence_are_its_own_memory():
    for x in (
        torch.randn(3, 4, 5),
        channels_last(2, 3, 4, 5, 6),
        torch.randn(1, 4).expand(5, 4),
        torch.randn(6, 4)[::2],
    ):
        layout = Layout.of(x, 1, 1)
        rows = layout.rows(x)
        assert rows.data_ptr() == x.data_ptr()
        assert torch.equal(layout.unrows(rows), x)
        assert torch.equal(layout.unrow(layout.row(x[0])), x[0])


def test_rows_of_a_sequence_with_gaps_are_a_copy_in_row_major_order():
    x = torch.randn(3, 4, 10)[..., ::2]
    rows = Layout.of(x, 1, 1).rows(x)
    assert torch.equal(rows, x.reshape(3, 20))


def test_channels_are_found_again_in_the_order_of_memory():
    x = channels_last(2, 3, 4, 5, 6)
    layout = Layout.of(x, 4, 30)
    assert layout.inner == 1
    channel = torch.arange(4).view(1, 1, 4, 1, 1).expand_as(x)
    assert torch.equal(layout.rows(channel)[0], torch.arange(3 * 4 * 5 * 6) // layout.inner % 4)


def test_a_sequence_whose_memory_tears_the_channels_apart_is_copied():
    # channels run over the axes of size 4 and 5, between which memory has the axis of size 6
    x = torch.randn(2, 3, 4, 6, 5).transpose(-1, -2)
    layout = Layout.of(x, 20, 6)
    assert layout.order is None
    assert torch.equal(layout.rows(x), x.reshape(2, -1))


def test_one_step_that_holds_no_whole_number_of_channels_is_refused():
    with pytest.raises(
        ShapeError,
        match=(
            r"a table of 3 channels of 2 neurons each needs a multiple of 6 neurons; the first axis"
        ),
    ):
        Layout.of(torch.zeros(2, 4), 3, 2)


def test_a_sequence_of_single_neurons_and_an_empty_one_have_rows():
    assert Layout.of(torch.zeros(4), 1, 1).rows(torch.zeros(4)).shape == (4, 1)
    assert Layout.of(torch.zeros(4, 0, 3), 1, 1).rows(torch.zeros(4, 0, 3)).shape == (4, 0)


def test_values_that_torch_keeps_with_a_mark_are_written_out():
    negated = torch.randn(6, dtype=torch.cfloat).conj().imag
    nothing = torch._efficientzerotensor((6,))
    assert negated.is_neg()
    assert nothing._is_zerotensor()
    for marked in (negated, nothing):
        plain = stored(marked)
        assert not plain.is_neg()
        assert not plain._is_zerotensor()
        assert torch.equal(plain, marked.clone())
    plain = torch.randn(6)
    assert stored(plain) is plain
