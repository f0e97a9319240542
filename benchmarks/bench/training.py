"""Times of whole training steps: forward, loss, backward, and Adam.

Everyone gets the layers on time folded into the batch, which is how they are fastest, and the same
weights; what differs are the neurons, and in the candidates that say so the layer that adds up
spikes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.candidates import SNNTORCH, SPIKINGJELLY, leaky_node, spiking_node
from bench.environment import missing_peers
from bench.results import Results, Timing
from bench.turns import clock_of, take_turns
from snnsim.layers import SpikeLinear
from snnsim.temporal.runner import MultiStep

__all__ = ["CONVOLUTIONAL", "DENSE", "NETWORKS", "QUICK", "STEP", "Network", "measure_training"]

STEP = "training step"
IDENTITY, OWN, SPARSE = "identity nodes", "snnsim uniform 4", "snnsim uniform 4, SpikeLinear"
SNNTORCH_4 = f"{SNNTORCH} state_quant 4"

Nodes = Callable[[], nn.Module]
# of a network, from what makes its nodes
Layers = Callable[[Nodes], nn.Sequential]


@dataclass(frozen=True)
class Network:
    """A training step.

    Attributes:
        name: of it among the results.
        layers: makes the network.
        shape: of its input [T, B, *n], zeros and ones.
        firing: share of ones in the input.
        candidates: names of what is compared.
    """

    name: str
    layers: Layers
    shape: tuple[int, ...]
    firing: float
    candidates: tuple[str, ...]


def perceptron(node: Nodes) -> nn.Sequential:
    """784-1000-10."""
    return nn.Sequential(
        _strong(nn.Linear(784, 1000), 4.0), node(), _strong(nn.Linear(1000, 10), 2.0), node()
    )


def convolutional(node: Nodes) -> nn.Sequential:
    """Two convolutions with pooling, and a readout layer, on frames of an event camera."""
    return nn.Sequential(
        _strong(nn.Conv2d(2, 32, 3, padding=1), 4.0),
        node(),
        nn.MaxPool2d(2),
        _strong(nn.Conv2d(32, 64, 3, padding=1), 2.0),
        node(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 8 * 8, 10),
        node(),
    )


def small_perceptron(node: Nodes) -> nn.Sequential:
    """A network that only shows that everything runs."""
    return nn.Sequential(_strong(nn.Linear(64, 64), 4.0), node(), nn.Linear(64, 10), node())


# the input fires at the two ends of what the target asks
DENSE = tuple(
    Network(
        f"784-1000-10, T=25, B=128, {firing:.0%} input",
        perceptron,
        (25, 128, 784),
        firing,
        (OWN, SPARSE, IDENTITY, SNNTORCH_4, SPIKINGJELLY),
    )
    for firing in (0.05, 0.1)
)
CONVOLUTIONAL = Network(
    "conv32-conv64-fc, T=16, B=16, 3% input",
    convolutional,
    (16, 16, 2, 34, 34),
    0.03,
    (OWN, IDENTITY, SNNTORCH_4, SPIKINGJELLY),
)
QUICK = Network(
    "64-64-10, T=5, B=32, 10% input",
    small_perceptron,
    (5, 32, 64),
    0.1,
    (OWN, SPARSE, IDENTITY, SPIKINGJELLY),
)
NETWORKS = {network.name: network for network in (*DENSE, CONVOLUTIONAL, QUICK)}


def measure_training(name: str, threads: Sequence[int], rounds: int, memory: str) -> Results:
    """Times of one of NETWORKS for each candidate, with each number of threads.

    Args:
        name: of the network.
        threads: numbers of torch threads.
        rounds: samples of each.
        memory: what this process does with freed memory, to be noted.
    """
    network = NETWORKS[name]
    x_seq = (
        torch.rand(network.shape, generator=torch.Generator().manual_seed(0)) < network.firing
    ).float()
    labels = torch.randint(10, (network.shape[1],), generator=torch.Generator().manual_seed(1))
    missing = missing_peers()
    kept = [c for c in network.candidates if c.split(" ")[0] not in missing]
    results = Results(
        missing={
            c.split(" ")[0]: missing[c.split(" ")[0]] for c in network.candidates if c not in kept
        }
    )
    steps = {candidate: _step(network, candidate, x_seq, labels) for candidate in kept}
    for count in threads:
        torch.set_num_threads(count)
        for candidate, samples in take_turns(steps, rounds, clock_of(count)).items():
            results.timings.append(Timing(name, STEP, candidate, count, memory, samples))
    return results


def _step(network: Network, candidate: str, x_seq: Tensor, labels: Tensor) -> Callable[[], None]:
    run = _network(network, candidate, len(x_seq))
    optimizer = torch.optim.Adam(run.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(run(x_seq).mean(0), labels)
        loss.backward()
        optimizer.step()

    return step


def _network(network: Network, candidate: str, time_steps: int) -> nn.Module:
    # the same weights for everyone
    torch.manual_seed(0)
    if candidate == IDENTITY:
        return _Folded(network.layers(nn.Identity))
    if candidate in (OWN, SPARSE):
        net = network.layers(lambda: leaky_node("uniform 4"))
        return MultiStep(_with_sparse_products(net) if candidate == SPARSE else net)
    return _Folded(network.layers(lambda: _Unfolded(spiking_node(candidate), time_steps)))


def _with_sparse_products(net: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(
        *(SpikeLinear.from_linear(layer) if type(layer) is nn.Linear else layer for layer in net)
    )


def _strong(layer: nn.Linear | nn.Conv2d, factor: float) -> nn.Linear | nn.Conv2d:
    """The layer with larger weights, so that sparse input makes the next neurons fire."""
    with torch.no_grad():
        layer.weight.mul_(factor)
    return layer


class _Folded(nn.Module):
    """Runs layers on time folded into the batch."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_seq: Tensor) -> Tensor:
        return self.net(x_seq.flatten(0, 1)).unflatten(0, x_seq.shape[:2])


class _Unfolded(nn.Module):
    """Runs a peer's neurons on the sequence within folded layers."""

    def __init__(self, run: Callable[[Tensor], Tensor], time_steps: int) -> None:
        super().__init__()
        self.run = run
        self.time_steps = time_steps

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x.unflatten(0, (self.time_steps, -1))).flatten(0, 1)
