"""Tables and poisoned memory for the tests of the kernels."""

import pytest
import torch

from snnsim.automaton.automaton import Automaton
from snnsim.kernels.cpu import host
from snnsim.kernels.linear import LinearMembrane


def _random_table(
    levels,
    *,
    channels=1,
    dtype=torch.float32,
    clip=False,
    uniform=False,
    spiking=True,
    divisor=None,
    inner=1,
    seed=0,
) -> Automaton:
    """A table with random levels and slopes, a hard reset and a leak that differs between
    channels."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    values = (
        torch.linspace(-1.1, 1.2, levels, dtype=dtype) if uniform else randn(levels).sort().values
    )
    edges = ((values[1:].double() + values[:-1].double()) / 2).to(dtype)
    first = max(1, levels * 2 // 3)
    fires = torch.arange(levels) >= first
    after = torch.where(fires, values[first // 2], values) if spiking else values
    leak = torch.rand(channels, 1, generator=generator, dtype=torch.float64).to(dtype) / 2 + 0.5
    if isinstance(divisor, float):
        divisor = torch.full((1,), divisor, dtype=dtype)
    elif divisor == "channel":
        divisor = torch.rand(channels, generator=generator, dtype=torch.float64).to(dtype) + 1
    return Automaton(
        edges=edges,
        out=(fires.to(dtype) if spiking else values).expand(channels, -1).clone(),
        carry=after * leak,
        after=after.expand(channels, -1).clone(),
        d_out=randn(channels, levels),
        d_carry=randn(channels, levels),
        d_after=randn(channels, levels),
        low=float(values[0]),
        high=float(values[-1]),
        clip=clip,
        inner=inner,
        divisor=divisor,
    )


@pytest.fixture(scope="session")
def random_table():
    return _random_table


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
