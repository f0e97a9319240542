"""snnsim: spiking neural networks whose neuron states are quantized to a few bits.

Daily use:

    from snnsim import neurons, quant, surrogate, MultiStep
"""

from snnsim import calibrate, data, functional, layers, metrics, neurons, quant, surrogate
from snnsim._version import __version__
from snnsim.debug import debug
from snnsim.record import Recorder
from snnsim.runners import MultiStep, SingleStep, checkpoint, detach, reset, set_states, states

__all__ = [
    "MultiStep",
    "Recorder",
    "SingleStep",
    "__version__",
    "calibrate",
    "checkpoint",
    "data",
    "debug",
    "detach",
    "functional",
    "layers",
    "metrics",
    "neurons",
    "quant",
    "reset",
    "set_states",
    "states",
    "surrogate",
]
