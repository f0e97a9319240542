"""Starting a quantized network from the weights of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from snnsim._core.checks import check_mapping, check_module
from snnsim.errors import CheckpointError

__all__ = ["warm_start"]


def warm_start(net: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load the weights of a network trained with other codebooks, or with none: this network keeps
    its own.

    `load_state_dict` asks for every codebook, and for the size it has here. A float network of the
    same form has none to give.

    Args:
        net: network with codebooks.
        state_dict: of a network that is the same but for its codebooks.

    Raises:
        CheckpointError: anything else is missing, left over or of another shape; nothing is loaded
            then.
    """
    check_module("warm_start", "net", net)
    check_mapping("warm_start", "state_dict", state_dict)
    own = net.state_dict()
    kept = {key: value for key, value in own.items() if _is_codebook(key)}
    given = {key: value for key, value in state_dict.items() if not _is_codebook(key)}
    missing = sorted(set(own) - set(kept) - set(given))
    unknown = sorted(set(given) - set(own))
    differ = sorted(
        key for key in set(given) & set(own) if getattr(given[key], "shape", None) != own[key].shape
    )
    if missing or unknown or differ:
        raise CheckpointError(
            f"warm_start(state_dict): it is of another network: missing {missing}, unknown"
            f" {unknown}, of another shape {differ}; build the same layers, and give a runner the"
            " state_dict of a runner"
        )
    net.load_state_dict({**given, **kept})


def _is_codebook(key: str) -> bool:
    return "state_quant" in key.split(".")[:-1]
