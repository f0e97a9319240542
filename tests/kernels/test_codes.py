import pytest
import torch

from snnsim.kernels.codes import code_dtype, is_marked, mark_bit, stored_nan, unpack


@pytest.mark.parametrize(
    ("levels", "clip", "plain", "dtype"),
    [
        (2, True, True, torch.uint8),
        (128, True, True, torch.uint8),
        (129, True, True, torch.int16),
        (256, False, True, torch.uint8),
        (256, False, False, torch.int16),
        (257, False, True, torch.int16),
        (2**15, True, True, torch.int16),
        (2**15 + 1, False, True, torch.int32),
    ],
)
def test_codes_take_the_smallest_integer_that_holds_them_and_the_mark(levels, clip, plain, dtype):
    assert code_dtype(levels, clip, plain) == dtype


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
@pytest.mark.parametrize("levels", [2, 3, 65, 128])
def test_codes_marks_and_nan_come_back(levels, dtype):
    mark, last = mark_bit(dtype), levels - 1
    stored = torch.tensor([0, last, mark, last + mark, stored_nan(levels, dtype)]).to(dtype)
    code, blocked, nan = unpack(stored, levels, None)
    assert code.tolist() == [0, last, 0, last, 0]
    assert blocked.tolist() == [False, False, True, True, True]
    assert nan.tolist() == [False, False, False, False, True]


def test_codes_without_a_mark_are_told_apart_from_nan_by_what_is_kept_aside():
    assert not is_marked(256, torch.uint8)
    aside = torch.tensor([False, True])
    code, blocked, nan = unpack(torch.tensor([255, 0], dtype=torch.uint8), 256, aside)
    assert code.tolist() == [255, 0]
    assert torch.equal(blocked, aside)
    assert torch.equal(nan, aside)
