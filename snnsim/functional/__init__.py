"""Functions on spike trains: `encode`, `decode`, `loss`, and the small ones by name."""

# whole, before any part of them: see tests/test_imports.py
import snnsim.quant  # noqa: F401
from snnsim.functional import decode, encode, loss
from snnsim.functional.misc import (
    delay,
    first_spike_index,
    first_spike_time,
    kaiming_normal_conv_linear_weight,
    redundant_one_hot,
    set_threshold_margin,
    soft_first_spike_time,
)

__all__ = [
    "decode",
    "delay",
    "encode",
    "first_spike_index",
    "first_spike_time",
    "kaiming_normal_conv_linear_weight",
    "loss",
    "redundant_one_hot",
    "set_threshold_margin",
    "soft_first_spike_time",
]
