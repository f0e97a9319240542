"""Calibration: what a network should be set to, from data that is run through it."""

# whole, before any part of them: see tests/test_imports.py
import snnsim.layers
import snnsim.neurons  # noqa: F401
from snnsim.calibrate.conversion import BalancedIFNode, Scale, convert
from snnsim.calibrate.findings import Finding, inspect
from snnsim.calibrate.state_codebooks import (
    BitSchedule,
    Recipe,
    apply,
    codebooks,
    ranges,
    states,
    warm_start,
)

__all__ = [
    "BalancedIFNode",
    "BitSchedule",
    "Finding",
    "Recipe",
    "Scale",
    "apply",
    "codebooks",
    "convert",
    "inspect",
    "ranges",
    "states",
    "warm_start",
]
