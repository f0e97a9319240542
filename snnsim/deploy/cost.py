"""What one inference costs: synaptic operations, counted, and an energy that rests on stated
assumptions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snnsim._core.checks import checked_number
from snnsim._core.restore import evaluating, hooked
from snnsim.deploy.lower import kind_of
from snnsim.deploy.ops.base import Cost, Operation
from snnsim.errors import InvalidValueError
from snnsim.temporal.runner import MultiStep


@dataclass(frozen=True)
class Operations:
    """Operations of one inference, a mean over samples.

    Attributes:
        additions: of a weight, one for every spike and every synapse that it reaches; weights of 0
            count too.
        multiplications: of a weight with an input that is not 0 and not 1, and their addition:
            pixels, sums of spikes.
        updates: of a neuron by one time step.
        layers: additions and multiplications of each layer, by name.
    """

    additions: float
    multiplications: float
    updates: float
    layers: dict[str, float]

    @property
    def synaptic(self) -> float:
        """Additions and multiplications together."""
        return self.additions + self.multiplications

    @classmethod
    def mean(cls, parts: Sequence[tuple[int, Operations]]) -> Operations:
        """The mean over several batches of one network, each with its number of samples."""
        total = sum(samples for samples, _ in parts)

        def mean_of(numbers: Iterable[float]) -> float:
            return (
                sum(samples * number for (samples, _), number in zip(parts, numbers, strict=True))
                / total
            )

        names = dict.fromkeys(name for _, part in parts for name in part.layers)
        return cls(
            mean_of(part.additions for _, part in parts),
            mean_of(part.multiplications for _, part in parts),
            mean_of(part.updates for _, part in parts),
            {name: mean_of(part.layers.get(name, 0.0) for _, part in parts) for name in names},
        )


@dataclass(frozen=True)
class Energy:
    """Energy of an operation in picojoules; a rough model, to compare networks rather than to
    predict a chip.

    A synaptic operation reads a weight of one byte and adds it in 32 bits, after a multiplication
    in 8 bits where the input is no spike. A neuron update is one multiplication, four additions and
    comparisons in 32 bits. Clock, leakage, state memory and input are not counted, and weigh more
    than all of it in most chips.

    Args:
        add: 32-bit integer addition.
        multiply: 8-bit integer multiplication.
        update: of a neuron.
        read: of one weight; 20 pJ for the 8 bytes that a 32 kB memory reads at once.

    Source: Horowitz 2014, "Computing's energy problem (and what we can do about it)", ISSCC, figure
        1.1.9: 45 nm, 0.9 V; 0.1 pJ,
    0.2 pJ, and 3.1 pJ for a 32-bit multiplication.
    """

    add: float = 0.1
    multiply: float = 0.2
    update: float = 3.5
    read: float = 2.5

    def __post_init__(self) -> None:
        for name in ("add", "multiply", "update", "read"):
            object.__setattr__(
                self, name, checked_number("Energy", name, getattr(self, name), at_least=0.0)
            )

    def of(self, operations: Operations) -> float:
        """Picojoules of one inference."""
        return (
            operations.synaptic * (self.add + self.read)
            + operations.multiplications * self.multiply
            + operations.updates * self.update
        )


@torch.no_grad()
def count_operations(net: nn.Module, x_seq: Tensor) -> Operations:
    """Count the operations of a network on a batch of sequences `[T, B, *n]`.

    Args:
        net: without a runner; run in eval mode, its modes are restored.
        x_seq: inputs as the network gets them; a static image repeated T times, as a chip without a
            memory of sums takes it.
    """
    costs: dict[str, Cost] = {}

    def of(name: str, kind: type[Operation]) -> Callable[..., None]:
        def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            cost = kind.cost(module, inputs[0], output)
            if cost is not None:
                # a layer that is used again adds to what it took before
                before = costs.get(name, Cost())
                costs[name] = Cost(*(a + b for a, b in zip(before, cost, strict=True)))

        return count

    kinds = ((name, module, kind_of(module)) for name, module in net.named_modules())
    hooks: list[tuple[nn.Module, Callable[..., None]]] = [
        (module, of(name, kind)) for name, module, kind in kinds if kind is not None
    ]
    with evaluating(net), hooked(hooks):
        MultiStep(net)(x_seq)
    samples, layers = x_seq.shape[1], {n: cost for n, cost in costs.items() if not cost.updates}
    if not layers:
        raise InvalidValueError(
            "count_operations(net): the network has no Linear and no convolution, so no synapse to"
            " count"
        )
    additions, multiplications, updates = (
        sum(numbers) / samples for numbers in zip(*costs.values(), strict=True)
    )
    synapses = {n: (cost.additions + cost.multiplications) / samples for n, cost in layers.items()}
    return Operations(additions, multiplications, updates, synapses)
