"""Shared fixtures."""

import os
from pathlib import Path

import pytest
import torch

# the suite runs in several processes; threads of torch's own would fight over the same cores
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def without_data(monkeypatch):
    """No folder of data is named in the environment."""
    monkeypatch.delenv("SNNSIM_DATA", raising=False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with MNIST and other recordings; tests that need it are skipped where it is not set."""
    folder = os.environ.get("SNNSIM_DATA")
    if not folder:
        pytest.skip("SNNSIM_DATA is not set")
    return Path(folder)
