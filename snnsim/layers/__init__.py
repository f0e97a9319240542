"""Layers that know about time or spikes."""

# whole, before any part of them: see tests/test_imports.py
import snnsim.surrogate
import snnsim.temporal  # noqa: F401
from snnsim.layers.delay import Delay
from snnsim.layers.dropout import Dropout
from snnsim.layers.scale import Driven, Scale
from snnsim.layers.spike_conv import SpikeConv2d
from snnsim.layers.spike_linear import SpikeLinear
from snnsim.layers.threshold import Threshold
from snnsim.layers.threshold_norm import (
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
