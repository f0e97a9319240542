"""Layers that know about time or spikes."""

# whole, before any part of them: see tests/test_imports.py
import snnsim.surrogate
import snnsim.temporal  # noqa: F401
from snnsim.layers.spikes import SpikeConv2d, SpikeLinear
from snnsim.layers.time import (
    Delay,
    Driven,
    Dropout,
    Scale,
    Threshold,
    ThresholdDependentBatchNorm1d,
    ThresholdDependentBatchNorm2d,
)
from snnsim.temporal.module import Temporal

__all__ = [
    "Delay",
    "Driven",
    "Dropout",
    "Scale",
    "SpikeConv2d",
    "SpikeLinear",
    "Temporal",
    "Threshold",
    "ThresholdDependentBatchNorm1d",
    "ThresholdDependentBatchNorm2d",
]
