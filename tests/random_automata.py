"""Automata with random levels and slopes."""

import torch

from snnsim.automaton.automaton import Automaton


def random_automaton(
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
    """An automaton with random levels and slopes, a hard reset and a leak that differs between
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
