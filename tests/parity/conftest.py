"""The peers, where they are installed; what they warn of while they are imported is not our
concern.
"""

import importlib
import importlib.util
import warnings
from types import SimpleNamespace

import pytest


def _imported(package: str, **modules: str) -> SimpleNamespace:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; run: make parity")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SimpleNamespace(
            **{name: importlib.import_module(path) for name, path in modules.items()}
        )


@pytest.fixture(scope="session")
def jelly() -> SimpleNamespace:
    """SpikingJelly's modules, by their own names."""
    parts = ("functional", "layer", "neuron", "quantize", "surrogate")
    return _imported(
        "spikingjelly", **{part: f"spikingjelly.activation_based.{part}" for part in parts}
    )


@pytest.fixture(scope="session")
def torch_snn() -> SimpleNamespace:
    """snnTorch's modules: `snn` itself, `surrogate` and `quant`."""
    return _imported(
        "snntorch",
        snn="snntorch",
        surrogate="snntorch.surrogate",
        quant="snntorch.functional.quant",
    )
