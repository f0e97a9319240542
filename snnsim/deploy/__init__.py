"""From a trained network to integers with the same spikes."""

# whole, before any part of them: see tests/test_imports.py
import snnsim.calibrate  # noqa: F401
from snnsim.deploy.grid import OnGrid, to_grid
from snnsim.deploy.lower import lower
from snnsim.deploy.network import IntegerNetwork
from snnsim.deploy.nir import from_nir, to_nir
from snnsim.deploy.ops import Operation, Signal
from snnsim.deploy.preset_network import preset_network
from snnsim.deploy.verify import Certificate, verify

__all__ = [
    "Certificate",
    "IntegerNetwork",
    "OnGrid",
    "Operation",
    "Signal",
    "from_nir",
    "lower",
    "preset_network",
    "to_grid",
    "to_nir",
    "verify",
]
