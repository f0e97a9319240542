"""Training by the settings of the command line, as functions."""

from snnsim.apps.train import (
    CODEBOOKS,
    DATASETS,
    NETWORKS,
    Config,
    Training,
    build_network,
    load_checkpoint,
    load_datasets,
)

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
