"""Shared fixtures."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# the suite runs in several processes; threads of torch's own would fight over the same cores
torch.set_num_threads(1)


# the same examples every time, and none that fails for being slow
settings.register_profile(
    "snnsim", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("snnsim")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def default_dtype():
    """Sets torch's default dtype until the test ends."""
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@pytest.fixture
def without_data(monkeypatch):
    """No folder of data is named in the environment."""
    monkeypatch.delenv("SNNSIM_DATA", raising=False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with MNIST and other recordings; tests that need it are skipped where it is not
    set."""
    folder = os.environ.get("SNNSIM_DATA")
    if not folder:
        pytest.skip("SNNSIM_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def random_table():
    from random_automata import random_automaton

    return random_automaton
