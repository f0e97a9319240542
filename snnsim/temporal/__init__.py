"""Time: modules that know about it, the runners that step them, and the recorder of what they
did."""

from snnsim.temporal.module import Temporal
from snnsim.temporal.record import Recorder, Trace
from snnsim.temporal.runner import (
    MultiStep,
    SingleStep,
    checkpoint,
    detach,
    reset,
    set_states,
    states,
)

__all__ = [
    "MultiStep",
    "Recorder",
    "SingleStep",
    "Temporal",
    "Trace",
    "checkpoint",
    "detach",
    "reset",
    "set_states",
    "states",
]
