"""Event recordings: readers, datasets, transforms, frames and a simulated event camera."""

from snnsim.data.events.aedat import read_aedat3
from snnsim.data.events.array import EVENT, event_array, from_structured
from snnsim.data.events.atis import read_atis
from snnsim.data.events.cache import Cached
from snnsim.data.events.camera import EventCamera, saccades
from snnsim.data.events.dataset import (
    EventDataset,
    FromDataset,
    Transform,
    collate,
    collate_padded,
    set_epoch,
)
from snnsim.data.events.digits_dvs import DigitsDVS
from snnsim.data.events.frames import FramesByCount, FramesByTime, FramesByWindow
from snnsim.data.events.gesture import DVSGesture, read_gesture_labels
from snnsim.data.events.memory import FrameDataset
from snnsim.data.events.nmnist import NMNIST
from snnsim.data.events.prophesee import read_dat, read_evt3
from snnsim.data.events.spoken import SpokenSpikes
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
