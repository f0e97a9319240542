"""What a picture accepts as numbers: tensors, arrays and sequences, checked and turned into NumPy
arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from snnsim._core.checks import checked_numbers
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError

__all__ = [
    "Numbers",
    "as_array",
    "as_labels",
    "as_levels",
    "as_number",
    "as_share",
    "as_spikes",
    "as_text",
]

Numbers = Tensor | np.ndarray | Sequence[float] | Sequence[Sequence[float]]


def as_array(name: str, values: Any) -> np.ndarray:
    """Values as a float64 array; a tensor may be on any device and require a gradient. `name` is
    "function(argument)".
    """
    where, _, argument = name.partition("(")
    return checked_numbers(where, argument.removesuffix(")"), values).cpu().numpy()


def as_spikes(name: str, values: Any) -> np.ndarray:
    """Spikes as a bool array `[T, N]`; `[T]` is one neuron."""
    spikes = as_array(name, values)
    if spikes.ndim == 1:
        spikes = spikes[:, None]
    if spikes.ndim != 2:
        raise ShapeError(
            f"{name} has shape {list(spikes.shape)}: expected [T, N], time first; pick one sample"
            " of a batch with x[:, 0], then lay feature maps out as neurons with .flatten(1)"
        )
    if spikes.size == 0:
        raise ShapeError(
            f"{name} has shape {list(spikes.shape)}: expected at least one time step and one neuron"
        )
    strange = spikes[(spikes != 0) & (spikes != 1)]
    if strange.size:
        raise InvalidValueError(
            f"{name} holds {strange[0]:g}: a spike is 0 or 1; draw potentials with membrane"
        )
    return spikes.astype(bool)


def as_levels(name: str, values: Any) -> np.ndarray:
    """Levels `[L]` of a codebook, or of anything with a `levels` attribute."""
    levels = as_array(name, getattr(values, "levels", values))
    if levels.ndim != 1 or levels.size == 0:
        raise ShapeError(
            f"{name} has shape {list(levels.shape)}: expected [L], the levels of one codebook"
        )
    if not (np.isfinite(levels).all() and (np.diff(levels) > 0).all()):
        raise InvalidValueError(
            f"{name} must be finite and strictly increasing; sort them and remove repeated ones"
        )
    return levels


def as_number(name: str, value: Any) -> float:
    """One finite number, such as a threshold; of a tensor too."""
    number = as_array(name, value)
    if number.ndim or not np.isfinite(number):
        raise InvalidValueError(f"{name}={number}: expected one finite number")
    return float(number)


def as_labels(name: str, labels: Any, count: int, what: str) -> list[str]:
    """One str for each of so many things."""
    if isinstance(labels, str) or not isinstance(labels, Sequence | np.ndarray):
        raise InvalidTypeError(f"{name}={labels!r}: expected a list of str, one for each {what}")
    if len(labels) != count or not all(isinstance(label, str) for label in labels):
        raise InvalidValueError(f"{name}={labels!r}: expected {count} str, one for each {what}")
    return [str(label) for label in labels]


def as_share(name: str, value: Any) -> float:
    """One number in [0, 1], such as an accuracy or a firing rate."""
    share = as_array(name, value)
    if share.ndim or not 0 <= share <= 1:
        raise InvalidValueError(
            f"{name}={share}: expected a share in [0, 1]; divide percentages by 100"
        )
    return float(share)


def as_text(value: float) -> str:
    """A number as a picture shows it: three digits and a true minus sign."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
