from __future__ import annotations

import numpy as np
import pytest
import torch

from snnsim.data import digits
from snnsim.data.events import DigitsDVS, EventCamera, FramesByTime, collate
from snnsim.errors import InvalidValueError


def test_labels_are_those_of_the_digits():
    dataset = DigitsDVS(train=False)
    assert dataset.labels == digits(train=False).labels.tolist()
    assert len(DigitsDVS(train=True)) == 1438


def test_recording_lasts_three_saccades_on_the_sensor():
    events, _ = DigitsDVS(train=False)[0]
    assert 0 <= events["t"][0] < events["t"][-1] <= 300_000
    assert max(events["x"].max(), events["y"].max()) < 20
    assert 100 < len(events) < 10_000
    assert 0.3 < events["p"].mean() < 0.7


def test_noise_depends_on_the_seed_alone():
    def recording(seed: int, first: int = 3) -> np.ndarray:
        dataset = DigitsDVS(train=False, camera=EventCamera(noise=10.0), seed=seed)
        dataset[first]
        return dataset[3][0]

    assert np.array_equal(recording(0), recording(0, first=7))
    assert not np.array_equal(recording(0), recording(1))


def test_items_make_a_batch():
    dataset = DigitsDVS(train=False, transforms=[FramesByTime((20, 20), 12)])
    frames, labels = collate([dataset[index] for index in range(3)])
    assert frames.shape == (12, 3, 2, 20, 20)
    assert torch.equal(labels, digits(train=False).labels[:3])


def test_negative_seed_is_refused():
    with pytest.raises(InvalidValueError, match=r"DigitsDVS\(seed=-1\): a seed must be at least 0"):
        DigitsDVS(train=True, seed=-1)


def test_change_to_a_recording_does_not_reach_the_dataset():
    dataset = DigitsDVS(train=False)
    first = dataset.recording(0).copy()
    dataset.recording(0)["x"].fill(0)
    dataset[0][0]["t"].fill(0)
    assert np.array_equal(dataset.recording(0), first)
