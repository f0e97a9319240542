"""What must hold before anything is timed: the engines agree bit for bit, and who runs the same
neuron gives the same spikes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bench.candidates import (
    FLOAT,
    OWN,
    SAME_SPIKES,
    Candidate,
    Run,
    leaky_node,
    reference_of,
)
from snnsim.errors import ContractError, EngineError

__all__ = ["check_engines", "check_peers"]

# odd sizes, and one of several blocks of a kernel
SHAPES = ((1, 1), (17, 1025), (2, 70_001))


def check_engines(names: Iterable[str]) -> int:
    """Compare spikes and gradients of snnsim's candidates with the reference, bit for bit; returns
    how many were compared.

    Raises:
        EngineError: a candidate would not be run by a fused engine.
        ContractError: one differs.
    """
    checked = 0
    for name in names:
        if name not in OWN:
            continue
        (candidate,) = _built(name)
        how = leaky_node(OWN[name]).explain(torch.zeros(1, 1))
        if "cpu: runs" not in how:
            raise EngineError(
                f"{name}: is not run by the fused CPU engine here, which is what would be"
                f" timed:\n{how}"
            )
        for shape in SHAPES:
            _compare(candidate.name, candidate.run, reference_of(OWN[name]), shape)
        checked += 1
    return checked


def check_peers(candidates: Iterable[Candidate]) -> int:
    """Compare the spikes of those that run the same float neuron with the reference; returns how
    many were compared.

    Raises:
        ContractError: one differs.
    """
    checked = 0
    for candidate in candidates:
        if candidate.name in SAME_SPIKES:
            x = _input((16, 1025))
            with torch.no_grad():
                same = torch.equal(candidate.run(x), reference_of(FLOAT)(x))
            if not same:
                raise ContractError(
                    f"{candidate.name}: gives other spikes than snnsim's float neuron; the two"
                    " cannot be compared"
                )
            checked += 1
    return checked


def _built(name: str) -> list[Candidate]:
    from bench.candidates import build

    return build([name])[0]


def _compare(name: str, run: Run, reference: Run, shape: tuple[int, int]) -> None:
    x = _input(shape)
    results = []
    for which in (run, reference):
        leaf = x.clone().requires_grad_()
        spikes = which(leaf)
        results.append((spikes.detach(), torch.autograd.grad(spikes, leaf, x)[0]))
    for what, found, expected in zip(("spikes", "gradients"), *results, strict=True):
        if not torch.equal(found, expected):
            raise ContractError(
                f"{name}: {what} differ from the reference engine's on shape {shape}; nothing is"
                " timed, report this"
            )


def _input(shape: tuple[int, int]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.4
