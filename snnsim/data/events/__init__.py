"""Event recordings: readers, datasets, transforms, frames and a simulated event camera."""

from snnsim.data.events.array import EVENT, event_array, from_structured
from snnsim.data.events.batches import FrameDataset, collate, collate_padded
from snnsim.data.events.cache import Cached
from snnsim.data.events.camera import DigitsDVS, EventCamera, saccades
from snnsim.data.events.dataset import EventDataset, FromDataset, Transform, set_epoch
from snnsim.data.events.formats import read_aedat3, read_atis, read_dat, read_evt3
from snnsim.data.events.frames import FramesByCount, FramesByTime, FramesByWindow
from snnsim.data.events.published import NMNIST, DVSGesture, SpokenSpikes, read_gesture_labels
from snnsim.data.events.transforms import (
    Crop,
    Denoise,
    Downsample,
    DropEvents,
    FlipHorizontal,
    Jitter,
    ScaleTime,
)

__all__ = [
    "EVENT",
    "NMNIST",
    "Cached",
    "Crop",
    "DVSGesture",
    "Denoise",
    "DigitsDVS",
    "Downsample",
    "DropEvents",
    "EventCamera",
    "EventDataset",
    "FlipHorizontal",
    "FrameDataset",
    "FramesByCount",
    "FramesByTime",
    "FramesByWindow",
    "FromDataset",
    "Jitter",
    "ScaleTime",
    "SpokenSpikes",
    "Transform",
    "collate",
    "collate_padded",
    "event_array",
    "from_structured",
    "read_aedat3",
    "read_atis",
    "read_dat",
    "read_evt3",
    "read_gesture_labels",
    "saccades",
    "set_epoch",
]
