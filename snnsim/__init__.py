"""snnsim: spiking neural networks whose neuron states are quantized to a few bits.

Daily use:

    from snnsim import neurons, quant, surrogate, MultiStep

Parts are loaded on first use, so that the command line starts without torch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from typing import TYPE_CHECKING

from snnsim._core.debug import debug
from snnsim._version import __version__

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

if TYPE_CHECKING:
    from snnsim import calibrate, data, functional, layers, metrics, neurons, quant, surrogate
    from snnsim.temporal import (
        MultiStep,
        Recorder,
        SingleStep,
        checkpoint,
        detach,
        reset,
        set_states,
        states,
    )
else:
    # where a name is defined; what has no entry is a part of the package itself
    _RUNNING = (
        "MultiStep",
        "Recorder",
        "SingleStep",
        "checkpoint",
        "detach",
        "reset",
        "set_states",
        "states",
    )
    _HOMES = dict.fromkeys(_RUNNING, "temporal")
    _LOADING = threading.RLock()

    def __getattr__(name):
        """A public name, or a part of the package, loaded when it is first asked for."""
        home = f"{__name__}.{_HOMES.get(name, name)}"
        if name not in _HOMES and (
            name.startswith("_")
            or not name.isidentifier()
            or importlib.util.find_spec(home) is None
        ):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # threads that import different parts at once would meet each other's half-loaded modules;
        # the public parts import each other by their full names, so that none that is being loaded
        # ever waits here for another one
        with _LOADING if name in __all__ else contextlib.nullcontext():
            module = importlib.import_module(home)
        globals()[name] = getattr(module, name) if name in _HOMES else module
        return globals()[name]

    def __dir__():
        return sorted({*globals(), *__all__})
