from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

from snnsim import viz
from snnsim.errors import InvalidTypeError, InvalidValueError, OutputError, ShapeError

FRAMES = torch.zeros(3, 2, 4, 6)
FRAMES[0, 0, 1, 2] = 3
FRAMES[1, 1, 1, 3] = 1
FRAMES[2, :, 0, 0] = 1


def pixels(ax) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def lightness(pixel: np.ndarray) -> float:
    return float(pixel @ [0.299, 0.587, 0.114])


def test_polarities_are_told_apart_without_colour():
    image = pixels(viz.event_frame(FRAMES[:2].sum(0)))
    assert image.shape == (4, 6, 3)
    darker, ground, brighter = (lightness(image[place]) for place in [(1, 2), (0, 0), (1, 3)])
    assert darker + 0.1 < ground < brighter - 0.1


def test_both_polarities_on_one_pixel_are_their_mean():
    frame = torch.zeros(2, 1, 3)
    frame[0, 0, 0] = frame[1, 0, 1] = 2
    frame[:, 0, 2] = 1
    dark, bright, mixed = pixels(viz.event_frame(frame))[0]
    assert mixed == pytest.approx((dark + bright) / 2)


def test_more_events_are_stronger_up_to_full():
    frame = torch.zeros(2, 1, 4)
    frame[0, 0] = torch.tensor([0.0, 1.0, 2.0, 4.0])
    none, one, two, four = (lightness(pixel) for pixel in pixels(viz.event_frame(frame, full=2))[0])
    assert none > one > two == four


def test_axes_are_rows_and_columns_with_row_0_on_top():
    ax = viz.event_frame(FRAMES[0])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("column (pixels)", "row (pixels)")
    assert ax.get_ylim() == (3.5, -0.5)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["darker", "brighter"]


def test_a_line_of_pixels_has_a_picture_of_ordinary_size():
    for shape in ((2, 500, 1), (2, 1, 500)):
        assert max(viz.event_frame(np.ones(shape)).figure.get_size_inches()) < 12


def test_empty_frame_is_ground():
    assert len(np.unique(pixels(viz.event_frame(torch.zeros(2, 4, 6))).reshape(-1, 3), axis=0)) == 1


def test_movie_has_one_picture_per_step_and_repeats(tmp_path):
    path = viz.event_movie(FRAMES, tmp_path / "a" / "movie.gif", fps=10)
    with Image.open(path) as movie:
        assert (movie.n_frames, movie.info["duration"], movie.info["loop"]) == (3, 100, 0)
        shots = []
        for step in range(3):
            movie.seek(step)
            shots.append(np.asarray(movie.convert("L"), dtype=float))
    darker, brighter = shots[0] - shots[2], shots[1] - shots[2]
    # away from the title and from pixel 0, 0, where the last frame has its event
    below = slice(len(shots[0]) // 4, None)
    assert darker[below].min() < -80
    assert brighter[below].max() > 30


def test_same_movie_is_the_same_bytes(tmp_path):
    first = viz.event_movie(FRAMES, tmp_path / "first.gif", step_ms=25).read_bytes()
    assert first == viz.event_movie(FRAMES, str(tmp_path / "second.gif"), step_ms=25).read_bytes()
    assert first != viz.event_movie(FRAMES, tmp_path / "third.gif").read_bytes()


def test_movie_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"event_movie\(path='.*movie.gif'\): cannot be written"):
        viz.event_movie(FRAMES, tmp_path / "file" / "movie.gif")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        (
            FRAMES,
            ShapeError,
            r"event_frame\(frame\) has shape \[3, 2, 4, 6\]: expected \[2, H, W\], both polarities",
        ),
        (torch.zeros(1, 4, 6), ShapeError, r"\[1, 4, 6\]: expected \[2, H, W\]"),
        (torch.zeros(2, 0, 6), ShapeError, r"\[2, 0, 6\]"),
        (
            -FRAMES[0],
            InvalidValueError,
            "holds values that are no counts; they must be finite and at least 0",
        ),
        (FRAMES[0] / 0, InvalidValueError, "holds values that are no counts"),
    ],
)
def test_bad_frame_is_refused(frame, error, message):
    with pytest.raises(error, match=message):
        viz.event_frame(frame)


@pytest.mark.parametrize(
    ("frames", "options", "error", "message"),
    [
        (
            FRAMES[0],
            {},
            ShapeError,
            r"expected \[T, 2, H, W\], .*; pick one sample of a batch with frames\[:, 0\]",
        ),
        (
            FRAMES,
            {"path": "movie.mp4"},
            InvalidValueError,
            r"path='movie.mp4'\): a movie is a GIF; let the name end in .gif",
        ),
        (FRAMES, {"fps": 0}, InvalidValueError, r"event_movie\(fps=0\): fps must be > 0"),
        (
            FRAMES,
            {"fps": 60},
            InvalidValueError,
            "viewers of GIFs show at most 50 frames per second",
        ),
        (
            FRAMES,
            {"step_ms": -1},
            InvalidValueError,
            r"event_movie\(step_ms=-1\): step_ms must be > 0",
        ),
        (
            FRAMES,
            {"full": "many"},
            InvalidTypeError,
            r"event_movie\(full='many'\): full must be a number",
        ),
    ],
)
def test_bad_movie_is_refused(tmp_path, frames, options, error, message):
    with pytest.raises(error, match=message):
        viz.event_movie(frames, **({"path": tmp_path / "movie.gif"} | options))
    assert os.listdir(tmp_path) == []
