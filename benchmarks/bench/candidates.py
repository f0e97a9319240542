"""Ways to run a layer of neurons over a sequence: snnsim's engines, a plain loop, and other
simulators.

The work is a leaky neuron with soft reset: tau 2, threshold 1, arctangent surrogate. snnTorch
subtracts a step later than the others, so its spikes are its own; all the rest give the same ones.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.environment import missing_peers
from snnsim import quant, surrogate
from snnsim.errors import InvalidValueError
from snnsim.kernels.scan import scan
from snnsim.neurons import LIFNode
from snnsim.temporal.runner import MultiStep

__all__ = [
    "CODEBOOKS",
    "NAMES",
    "OWN",
    "SAME_SPIKES",
    "Candidate",
    "build",
    "choose_names",
    "leaky_node",
    "reference_of",
    "spiking_node",
]

Run = Callable[[Tensor], Tensor]

SURROGATE = surrogate.ATan()
FLOAT = "float"
# what the membrane may be; the last one spans the widest range, where cells are hardest to find
CODEBOOKS: dict[str, Callable[[], quant.Codebook] | None] = {
    "uniform 4": lambda: quant.uniform(4),
    "uniform 8": lambda: quant.uniform(8),
    "exponential 4": lambda: quant.exponential(4),
    "exponential 8": lambda: quant.exponential(8),
    "classic exponential 8": lambda: quant.state_quant(8, uniform=False),
    FLOAT: None,
}
OWN = {f"snnsim {codebook}": codebook for codebook in CODEBOOKS}
REFERENCE = {
    f"reference {codebook}": codebook
    for codebook in CODEBOOKS
    if not codebook.startswith("classic")
}
LOOP, COMPILED = "plain loop", "torch.compile"
SNNTORCH, SPIKINGJELLY = "snntorch", "spikingjelly"
SNNTORCH_QUANT = {f"{SNNTORCH} state_quant {bits}": bits for bits in (4, 8)}
NAMES = (*OWN, *REFERENCE, LOOP, COMPILED, SNNTORCH, *SNNTORCH_QUANT, SPIKINGJELLY)
# same neuron, same arithmetic: spikes must be equal to those of snnsim's float neuron
SAME_SPIKES = (LOOP, COMPILED, SPIKINGJELLY)
# elements of the input, neurons times steps, beyond which only so many of the neurons are timed
MOST_ELEMENTS = {
    f"{SNNTORCH} state_quant 4": 2_000_000,
    f"{SNNTORCH} state_quant 8": 100_000,
} | dict.fromkeys(REFERENCE, 2_000_000)

COMPILERS = ("g++", "clang++", "c++")
# steps of the plain loop that are compiled as one
MOST_COMPILED_STEPS = 17


@dataclass(frozen=True)
class Candidate:
    """Something to time.

    Attributes:
        name: one of NAMES.
        run: from the input `[T, N]` to spikes `[T, N]`, from rest.
    """

    name: str
    run: Run

    def neurons(self, shape: tuple[int, int]) -> int:
        """How many of the N neurons of `[T, N]` are timed, so that a slow candidate does not take
        minutes.
        """
        time_steps, size = shape
        return min(size, max(1000, MOST_ELEMENTS.get(self.name, size * time_steps) // time_steps))


def choose_names(beginnings: Iterable[str] | None) -> tuple[str, ...]:
    """The candidates whose names begin with any of these; all for None.

    Raises:
        InvalidValueError: a beginning that no name has.
    """
    if beginnings is None:
        return NAMES
    wanted = tuple(beginnings)
    for beginning in wanted:
        if not any(name.startswith(beginning) for name in NAMES):
            raise InvalidValueError(
                f"only={beginning!r}: no candidate begins with that; there are"
                f" {', '.join(map(repr, NAMES))}"
            )
    return tuple(name for name in NAMES if name.startswith(wanted))


def build(names: Iterable[str]) -> tuple[list[Candidate], dict[str, str]]:
    """The candidates of these names, and why some of them are missing."""
    missing = missing_peers()
    if not any(map(shutil.which, COMPILERS)):
        missing[COMPILED] = f"no C++ compiler on the path, such as {COMPILERS[0]}"
    found, left_out = [], {}
    for name in names:
        peer = name.split(" ")[0]
        if peer in missing:
            left_out[peer] = missing[peer]
        else:
            found.append(Candidate(name, _runner(name)))
    return found, left_out


def leaky_node(codebook: str) -> LIFNode:
    """The neuron that is timed, with one of CODEBOOKS."""
    make = CODEBOOKS[codebook]
    with warnings.catch_warnings():
        # many levels of some of these never leak, which costs no time
        warnings.simplefilter("ignore")
        return LIFNode(
            tau=2.0,
            decay_input=False,
            v_reset=None,
            surrogate=SURROGATE,
            state_quant=None if make is None else make(),
        )


def reference_of(codebook: str) -> Run:
    """The same neuron run by the reference engine, which is the definition."""
    plan = leaky_node(codebook)._plan(torch.zeros(1))
    kernel, start = plan.kernel, plan.start
    if kernel is not None and start is not None:
        return lambda x: scan(x, start, kernel, "reference")[0]
    raise InvalidValueError(
        f"codebook={codebook!r}: its neuron has neither a table nor a linear membrane"
    )


def _runner(name: str) -> Run:
    if name in OWN:
        # a batch of single neurons: [T, B]
        return MultiStep(leaky_node(OWN[name]))
    if name in REFERENCE:
        return reference_of(REFERENCE[name])
    if name == LOOP:
        return plain_loop
    if name == COMPILED:
        return _compiled()
    return spiking_node(name)


def plain_loop(x: Tensor) -> Tensor:
    """The neuron, not quantized, as one would write it."""
    return _steps(x, torch.zeros_like(x[0]))[0]


def _steps(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    spikes = []
    for x_t in x.unbind(0):
        h = v * 0.5 + x_t
        s = SURROGATE(h - 1.0)
        v = h - s
        spikes.append(s)
    return torch.stack(spikes), v


def _compiled() -> Run:
    """The plain loop compiled; longer ones in parts, because compiling takes minutes for a hundred
    steps.
    """
    steps = torch.compile(_steps, fullgraph=True, dynamic=False)

    def run(x: Tensor) -> Tensor:
        length = max(n for n in range(1, MOST_COMPILED_STEPS + 1) if len(x) % n == 0)
        v, parts = torch.zeros_like(x[0]), []
        for part in x.split(length):
            spikes, v = steps(part, v)
            parts.append(spikes)
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    return run


def spiking_node(name: str) -> Run:
    """The neuron of a peer, from an input sequence `[T, *n]` to spikes, from rest."""
    return _spikingjelly() if name == SPIKINGJELLY else _snntorch(SNNTORCH_QUANT.get(name))


def _snntorch(bits: int | None) -> Run:
    import snntorch
    from snntorch.functional.quant import state_quant

    node = snntorch.Leaky(
        beta=0.5,
        threshold=1.0,
        reset_mechanism="subtract",
        spike_grad=snntorch.surrogate.atan(),
        state_quant=(
            False if bits is None else state_quant(num_bits=bits, uniform=True, threshold=1.0)
        ),
    )

    def run(x: Tensor) -> Tensor:
        v, spikes = torch.zeros_like(x[0]), []
        for x_t in x.unbind(0):
            s, v = node(x_t, v)
            spikes.append(s)
        return torch.stack(spikes)

    return run


def _spikingjelly() -> Run:
    from spikingjelly.activation_based import functional, neuron
    from spikingjelly.activation_based.surrogate import ATan

    node = neuron.LIFNode(
        tau=2.0, decay_input=False, v_reset=None, surrogate_function=ATan(), step_mode="m"
    )

    def run(x: Tensor) -> Tensor:
        functional.reset_net(node)
        return node(x)

    return run
