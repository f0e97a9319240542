import pytest
import torch
from torch import nn

from bench import memory
from bench.candidates import build
from bench.memory import measure_saved, peak_bytes, saved_bytes, why_no_peak
from snnsim.errors import RunError


class Keeps(torch.autograd.Function):
    """Keeps a given number of float64 for the backward pass, which is never run."""

    @staticmethod
    def forward(ctx, x, count):
        ctx.save_for_backward(torch.empty(count, dtype=torch.float64))
        return x.clone()


@pytest.mark.parametrize("count", [1, 1000])
def test_saved_bytes_are_what_autograd_keeps(count):
    assert saved_bytes(lambda x: Keeps.apply(x, count), torch.zeros(7)) == 8 * count


def test_input_and_what_shares_memory_count_once():
    x = torch.ones(10)
    # the square keeps its input, a sigmoid its output
    assert saved_bytes(torch.square, x) == 0
    assert saved_bytes(torch.sigmoid, x) == 40

    def both(x):
        y = torch.sigmoid(x)
        return y * y.view(2, 5).view(10)

    assert saved_bytes(both, x) == 40
    # the weight too, and the input not
    layer = nn.Linear(10, 3)
    assert saved_bytes(layer, torch.ones(2, 10)) == 10 * 3 * 4


def test_nothing_is_kept_by_an_addition():
    assert saved_bytes(lambda x: x + 1, torch.ones(10)) == 0


def test_four_bits_keep_a_byte_or_less_and_float_four():
    saved = {
        s.name: s.bytes
        for s in measure_saved(["snnsim uniform 4", "snnsim float", "plain loop"], (16, 2000)).saved
    }
    assert saved["snnsim uniform 4"] <= 1
    assert saved["snnsim float"] == 4
    assert saved["plain loop"] >= 4


@pytest.mark.skipif(why_no_peak() is not None, reason="needs Linux")
def test_peak_sees_memory_that_was_there_for_a_moment():
    shape, megabyte = (4, 500_000), 1 << 20

    def wasteful(x):
        # written to, or it would not be there
        torch.ones(16 * megabyte).sum()
        return x * 2

    plain, more = (peak_bytes(run, shape) for run in (lambda x: x * 2, wasteful))
    assert plain < 4 * megabyte
    # output and gradient, 8 megabytes each, were not there yet when the 64 were
    assert 44 * megabyte < more < 68 * megabyte


def test_peak_is_refused_where_the_system_does_not_say(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "none")
    assert "keeps no high-water mark" in why_no_peak()
    with pytest.raises(
        RunError,
        match=(
            "peak memory: this system keeps no high-water mark of a process's memory; measure it on"
            " Linux"
        ),
    ):
        peak_bytes(lambda x: x, (1, 1))


@pytest.mark.skipif(why_no_peak() is not None, reason="needs Linux")
def test_our_candidate_makes_no_copy_of_input_or_gradient():
    shape = (16, 300_000)
    (candidate,), _ = build(["snnsim uniform 4"])
    # codes and states take about 1.3 bytes per neuron and step; a copy would take 4 more
    assert peak_bytes(candidate.run, shape) / (shape[0] * shape[1]) < 3
