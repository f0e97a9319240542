from __future__ import annotations

import os
import subprocess
import sys

import matplotlib.style
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snnsim import surrogate, viz
from snnsim.errors import InvalidTypeError, InvalidValueError, OutputError

SPIKES = np.eye(4)


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_same_picture_is_the_same_bytes(tmp_path, kind):
    first = viz.save(viz.raster(SPIKES), tmp_path / f"first.{kind}").read_bytes()
    second = viz.save(viz.raster(SPIKES), tmp_path / f"second.{kind}").read_bytes()
    assert first == second
    assert b"Matplotlib" not in first


def test_save_makes_folders_and_returns_the_path(tmp_path):
    path = tmp_path / "a" / "b" / "raster.png"
    assert viz.save(viz.raster(SPIKES), str(path)) == path
    assert path.read_bytes().startswith(b"\x89PNG")


def test_save_takes_a_figure_and_axes_of_a_subfigure(tmp_path):
    figure = Figure()
    part = figure.subfigures(1, 2)[0]
    ax = viz.raster(SPIKES, ax=part.add_subplot())
    assert (
        viz.save(figure, tmp_path / "whole.svg").read_bytes()
        == viz.save(ax, tmp_path / "part.svg").read_bytes()
    )


def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = viz.save(viz.raster(SPIKES), tmp_path / "raster.png")
    before = path.read_bytes()

    def fail(*args, **kwargs):
        args[1].write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(
        OutputError, match=r"cannot be written \(No space left on device\); pick a folder"
    ):
        viz.save(viz.raster(SPIKES), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["raster.png"]


def test_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"save\(path='.*file/raster.png'\): cannot be written"):
        viz.save(viz.raster(SPIKES), tmp_path / "file" / "raster.png")


def test_a_picture_of_too_many_pixels_is_refused(tmp_path):
    ax = viz.firing_rates({f"layer {index}": 0.1 for index in range(1000)})
    with pytest.raises(
        InvalidValueError,
        match=r"a side of 341 inches would have more than 65535 pixels; pass dpi=192 or less",
    ):
        viz.save(ax, tmp_path / "rates.png")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["raster", "raster.gif"])
def test_unknown_format_is_refused(tmp_path, name):
    with pytest.raises(
        InvalidValueError, match=r"the suffix picks the format and must be .png, .pdf or .svg"
    ):
        viz.save(viz.raster(SPIKES), tmp_path / name)


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: viz.raster(SPIKES, ax=ax),
        lambda ax: viz.membrane(SPIKES, ax=ax),
        lambda ax: viz.codebook([0.0, 1.0], [0.5], ax=ax),
        lambda ax: viz.learning_curve({"loss": [1.0]}, ax=ax),
        lambda ax: viz.occupancy([0.0], [0.0, 1.0], ax=ax),
        lambda ax: viz.firing_rates({"a": 0.5}, ax=ax),
        lambda ax: viz.weight_histogram(SPIKES, SPIKES, ax=ax),
        lambda ax: viz.bits_accuracy({"a": {2: 0.5}}, ax=ax),
        lambda ax: viz.surrogate(surrogate.ATan(), ax=ax),
        lambda ax: viz.event_frame(np.ones((2, 3, 3)), ax=ax),
    ],
)
def test_every_picture_draws_into_the_axes_given(draw):
    ax = Figure().add_subplot()
    assert draw(ax) is ax
    assert isinstance(draw(None), Axes)
    assert draw(None) is not ax
    with pytest.raises(
        InvalidTypeError, match=r"expected one matplotlib Axes; .* such as ax=grid\[0\]"
    ):
        draw(Figure().subplots(2))
    with pytest.raises(
        InvalidValueError, match="expected plain axes, not polar ones; leave projection= out"
    ):
        draw(Figure().add_subplot(projection="polar"))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: viz.learning_curve([{"loss": [1.0]}] * 2, ["_a", "_b"]),
        lambda: viz.learning_curve({"_loss": [1.0], "_accuracy": [0.5]}),
        lambda: viz.firing_rates({"_a": {"layer": 0.5}, "_b": {"layer": 0.5}}),
        lambda: viz.bits_accuracy({"_a": {2: 0.9}}, 0.9, baseline_name="_b"),
    ],
)
def test_names_that_begin_with_an_underscore_are_in_the_legend(draw):
    names = [text.get_text().strip() for text in draw().get_legend().get_texts()]
    assert len([name for name in names if name != "Pareto front"]) == 2


@pytest.mark.parametrize(
    "draw",
    [
        lambda: viz.learning_curve({"loss": [1.0]}),
        lambda: viz.membrane([0.5]),
        lambda: viz.raster([[1]]),
        lambda: viz.raster({"layer": [[1]]}),
        lambda: viz.event_frame(np.ones((2, 1, 1))),
        lambda: viz.bits_accuracy({"uniform": {4: 0.9}}),
    ],
)
def test_an_axis_of_one_whole_number_has_a_tick_there_and_no_other(draw):
    ax = draw()
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, sorted(ax.get_ylim()))):
        if axis.get_label_text().startswith(("epoch", "time", "neuron (", "column", "row", "bits")):
            ticks = [float(tick) for tick in axis.get_ticklocs() if low <= tick <= high]
            assert len(ticks) == 1
            assert ticks == np.rint(ticks).tolist()


def test_pyplot_is_never_imported(tmp_path):
    code = (
        "import sys; from snnsim import surrogate, viz; viz.raster([[0, 1]]); viz.membrane([0.5]);"
        " viz.codebook([0, 1], [0.5]);viz.learning_curve({'loss': [1.0]}); viz.occupancy([0.0],"
        " [0, 1]); viz.firing_rates({'a': 0.5});viz.weight_histogram([0.1], [0.0]);"
        " viz.bits_accuracy({'a': {2: 0.5}});"
        " viz.surrogate_gallery([surrogate.ATan()]);viz.event_movie([[[[1.0]], [[0.0]]]],"
        f" {str(tmp_path / 'movie.gif')!r}); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "draw",
    [
        lambda: viz.raster({"a": SPIKES, "b": SPIKES}),
        lambda: viz.membrane([0.1, 0.6], [0.0, 1.0], 1.0, [0, 1]),
        lambda: viz.codebook([0.0, 1.0], [0.5], 1.0),
        lambda: viz.learning_curve({"loss": [1.0], "accuracy": [0.5]}),
        lambda: viz.occupancy({"a": [0.0, 1.0], "b": [0.0]}, [0.0, 1.0], 1.0),
        lambda: viz.firing_rates({"a": {"layer": 0.5}, "b": {"layer": 0.5}}),
        lambda: viz.weight_histogram(SPIKES, SPIKES),
        lambda: viz.bits_accuracy({"a": {2: [0.5, 0.6]}}, [0.8, 0.9]),
        lambda: viz.surrogate(surrogate.ATan()),
    ],
)
def test_nothing_is_drawn_in_the_colour_of_a_dark_ground(draw):
    with matplotlib.style.context("dark_background"):
        ax = draw()
        colors = [artist.get_edgecolor() for artist in [*ax.patches, *ax.collections]] + [
            line.get_color() for line in ax.lines
        ]
    colors = [color for several in colors for color in matplotlib.colors.to_rgba_array(several)]
    assert colors
    assert all(max(color[:3]) > 0.4 for color in colors if color[3])
