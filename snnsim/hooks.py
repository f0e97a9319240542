"""Forward hooks of modules: which of them only compute a weight, and which may change anything."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

__all__ = ["compute_weights", "has_global_hooks", "has_hooks"]

# torch's own, which set a weight from parameters before each forward
WEIGHT_HOOKS = (BasePruningMethod, SpectralNorm, WeightNorm)


def has_hooks(module: nn.Module) -> bool:
    """Whether forward hooks may change what a module takes or returns."""
    return bool(module._forward_hooks) or any(not isinstance(hook, WEIGHT_HOOKS) for hook in module._forward_pre_hooks.values())


def has_global_hooks() -> bool:
    """Whether forward hooks of every module may."""
    kinds: Any = nn.modules.module
    return bool(kinds._global_forward_hooks or kinds._global_forward_pre_hooks)


def compute_weights(net: nn.Module) -> None:
    """Set the weights that hooks compute, as the next forward would."""
    for module in net.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WEIGHT_HOOKS):
                hook(module, ())
