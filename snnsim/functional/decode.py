"""Decoders: from sequences `[T, B, *n]` to one value per neuron, `[B, *n]`; all differentiable.

An argument out of the stated range raises an InvalidValueError, one of another type an
InvalidTypeError, one of another shape a ShapeError.
"""

from __future__ import annotations

from torch import Tensor

from snnsim._core.checks import check_real, check_sequence, summable
from snnsim.functional.misc import earliest

__all__ = ["first_spike", "membrane", "rate"]


def rate(s_seq: Tensor) -> Tensor:
    """Spikes per time step: the mean over time.

    Args:
        s_seq: spikes, `[T, B, *n]`, any numeric or bool dtype.

    Returns:
        Rates `[B, *n]` within 0..1, float32 or float64: half precision, which merges different
            rates, is widened.
    """
    check_sequence("rate", "s_seq", s_seq)
    return summable("rate", "s_seq", s_seq).mean(0)


def first_spike(s_seq: Tensor) -> Tensor:
    """Earliness of the first spike: 1 at step 0, falling by 1/T per step, 0 without a spike.

    The gradient is that of `soft_first_spike_time`.

    Args:
        s_seq: spikes, `[T, B, *n]`, within 0..1.

    Returns:
        Scores `[B, *n]` within 0..1, float32 or float64.
    """
    check_sequence("first_spike", "s_seq", s_seq)
    return 1 - earliest("first_spike", "s_seq", s_seq) / len(s_seq)


def membrane(v_seq: Tensor) -> Tensor:
    """Largest membrane potential over time, of a readout that does not fire.

    For its mean take `v_seq.mean(0)`, for its last value `v_seq[-1]`.

    Args:
        v_seq: membranes, `[T, B, *n]`, in the unit of the threshold.

    Returns:
        Potentials `[B, *n]`; the gradient goes to the time step of the maximum, shared where
        several are equal.

    Source: Cramer et al. 2020, "The Heidelberg spiking datasets for the systematic evaluation of
    spiking neural networks", arXiv 1910.07407.
    """
    check_sequence("membrane", "v_seq", v_seq)
    check_real("membrane", "v_seq", v_seq)
    return v_seq.amax(0)
