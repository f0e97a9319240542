"""Membranes and poisoned memory for the tests of the kernels."""

import pytest
import torch

from snnsim.kernels.cpu import host
from snnsim.kernels.linear import LinearMembrane


def _atan_slope(x):
    return 1 / (1 + (torch.pi * x) ** 2)


@pytest.fixture(scope="session")
def linear():
    """A linear membrane with the derivative of an arctangent."""

    def make(
        *, dtype=torch.float32, threshold=1.0, tau=None, divisor=None, channels=1, **kwargs
    ) -> LinearMembrane:
        def constant(value):
            return (
                None
                if value is None
                else torch.linspace(value, value + channels - 1, channels, dtype=dtype)
            )

        return LinearMembrane(
            constant(threshold), _atan_slope, tau=constant(tau), divisor=constant(divisor), **kwargs
        )

    return make


@pytest.fixture
def poisoned(monkeypatch):
    """Fresh memory holds NaN, or the integer with all bits set, so that an element nobody writes
    shows.
    """

    def poison(empty):
        def poisoned_empty(*args, **kwargs):
            made = empty(*args, **kwargs)
            return made.fill_(
                float("nan")
                if made.dtype.is_floating_point
                else (255 if made.dtype == torch.uint8 else -1)
            )

        return poisoned_empty

    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))
    monkeypatch.setattr(host, "empty", poison(host.empty))


def _same(a, b) -> bool:
    """Equal bit for bit, NaN in the same places."""
    if a is None or b is None:
        return a is b
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


@pytest.fixture(scope="session")
def same():
    return _same
