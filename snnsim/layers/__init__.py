"""Layers that know about time or spikes."""

from snnsim.layers.delay import Delay
from snnsim.layers.dropout import Dropout
from snnsim.temporal import Temporal

__all__ = ["Delay", "Dropout", "Temporal"]
