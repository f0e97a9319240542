"""Training by the settings of the command line, as functions."""

from snnsim.apps.checkpoints import load_checkpoint
from snnsim.apps.config import CODEBOOKS, DATASETS, NETWORKS, Config
from snnsim.apps.datasets import load_datasets
from snnsim.apps.networks import build_network
from snnsim.apps.train import Training

__all__ = [
    "CODEBOOKS",
    "DATASETS",
    "NETWORKS",
    "Config",
    "Training",
    "build_network",
    "load_checkpoint",
    "load_datasets",
]
