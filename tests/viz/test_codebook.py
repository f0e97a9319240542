from __future__ import annotations

import pytest
import torch

from snnsim import viz
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError
from snnsim.quant.codebook import Codebook


def line(ax, label: str):
    return next(line for line in ax.lines if line.get_label() == label)


def test_treads_run_from_edge_to_edge():
    ax = viz.codebook(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, 1.5]))
    low, high = ax.get_xlim()
    assert line(ax, "rounded").get_xdata().tolist() == [low, 0.5, 0.5, 1.5, 1.5, high]
    assert line(ax, "rounded").get_ydata().tolist() == [0, 0, 1, 1, 2, 2]
    assert line(ax, "edges").get_xdata().tolist() == [0.5, 1.5]
    assert line(ax, "levels").get_xdata().tolist() == [0, 1, 2]
    assert low < 0 < 2 < high
    assert ax.get_xlabel() == "charged membrane (unit of the threshold)"
    assert ax.get_ylabel() == "quantized membrane (unit of the threshold)"


def test_level_at_the_threshold_is_filled():
    ax = viz.codebook([0.0, 1.0, 2.0], [0.5, 1.5], v_threshold=1.0)
    assert line(ax, "level, silent").get_xdata().tolist() == [0]
    assert line(ax, "level, fires").get_xdata().tolist() == [1, 2]
    assert list(line(ax, "threshold").get_xdata()) == [1, 1]


def test_codebook_brings_its_edges():
    book = Codebook([0.0, 1.0, 2.0], edges=[0.75, 1.25])
    assert line(viz.codebook(book), "edges").get_xdata().tolist() == [0.75, 1.25]
    assert line(viz.codebook(book, [0.5, 1.5]), "edges").get_xdata().tolist() == [0.5, 1.5]


def test_single_level_is_one_tread():
    assert line(viz.codebook([0.5], []), "rounded").get_ydata().tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("levels", "edges", "error", "message"),
    [
        (
            [0.0, 1.0],
            None,
            InvalidTypeError,
            r"bare levels do not say .* pass the edges, \[L-1\], or a Codebook",
        ),
        (
            [0.0, 1.0],
            [0.2, 0.4],
            ShapeError,
            r"codebook\(edges\) has shape \[2\]: 2 levels have 1 edges between them",
        ),
        (
            [0.0, 1.0],
            [0.0],
            InvalidValueError,
            r"an edge lies between its levels, level\[i\] < edge\[i\] <= level\[i\+1\]",
        ),
        ([0.0, 1.0], [1.1], InvalidValueError, "an edge lies between its levels"),
        (
            [0.0, 0.0],
            [0.0],
            InvalidValueError,
            r"codebook\(levels\) must be finite and strictly increasing",
        ),
        (
            [],
            [],
            ShapeError,
            r"codebook\(levels\) has shape \[0\]: expected \[L\], the levels of one codebook",
        ),
    ],
)
def test_bad_codebook_is_refused(levels, edges, error, message):
    with pytest.raises(error, match=message):
        viz.codebook(levels, edges)
