"""A neuron, a surrogate and a codebook of one's own: written, proved against the library's
contracts, trained.

    python examples/custom_neuron.py
    python examples/custom_neuron.py --quick

None of the three is registered anywhere, and all of them run fused: the library evaluates `leak` on
the levels once and sees a table from then on.
"""

import argparse
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snnsim import MultiStep, data, neurons, quant
from snnsim.functional import loss
from snnsim.surrogate import Surrogate, parameter
from snnsim.testing import check_codebook, check_node, check_surrogate


class QuadraticNode(neurons.BaseNode):
    """Quadratic integrate-and-fire: below the critical potential the membrane decays to rest, above
    it rises by itself.

    leak(v) = v + v (v - v_critical) / tau,  1/tau learned
    """

    def __init__(self, tau: float = 4.0, v_critical: float = 0.7, **options) -> None:
        super().__init__(**options)
        self.rate = nn.Parameter(torch.tensor(1 / tau))
        self.v_critical = v_critical

    def leak(self, v: Tensor) -> Tensor:
        return v + self.rate * v * (v - self.v_critical)


@dataclass(frozen=True)
class Cosine(Surrogate):
    """One arch of a cosine, of area 1.

    derivative  pi / (4 width) cos(pi x / (2 width)) for abs(x) < width, 0 outside
    primitive   (1 + sin(pi x / (2 width))) / 2 inside, 0 below, 1 above
    """

    width: float = parameter(1.0, above=0)

    def derivative(self, x: Tensor) -> Tensor:
        angle = math.pi / 2 * (x / self.width).clamp(-1, 1)
        return math.pi / (4 * self.width) * angle.cos().clamp(min=0) * (x.abs() < self.width)

    def primitive(self, x: Tensor) -> Tensor:
        return (1 + (math.pi / 2 * (x / self.width).clamp(-1, 1)).sin()) / 2


def codebook() -> quant.Codebook:
    """12 levels, more than fit 3 bits and fewer than 4: fine where the membrane spends its time,
    coarse elsewhere.
    """
    return quant.from_levels([-1.0, -0.5, -0.25, 0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05, 1.4])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--time-steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="2 epochs of 4 time steps: shows that it runs, not how well",
    )
    options = parser.parse_args()
    epochs, time_steps = (2, 4) if options.quick else (options.epochs, options.time_steps)

    def node() -> QuadraticNode:
        return QuadraticNode(surrogate=Cosine(), state_quant=codebook())

    # each raises ContractError, with what is wrong, for a part that breaks a rule
    check_surrogate(Cosine())
    check_codebook(codebook())
    check_node(node)
    print("surrogate, codebook and neuron keep their contracts")

    torch.manual_seed(options.seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), node(), nn.Linear(128, 10), node())
    run = MultiStep(net, time_steps=time_steps)
    optimizer = torch.optim.Adam(run.parameters(), lr=3e-3)
    order = torch.Generator().manual_seed(options.seed)
    for _ in range(epochs):
        for images, labels in data.batches(
            data.digits(train=True), 64, shuffle=True, generator=order
        ):
            optimizer.zero_grad()
            loss.rate_cross_entropy(run(images), labels, scale=time_steps).backward()
            optimizer.step()
    run.eval()
    images, labels = data.digits(train=False).tensors()
    with torch.no_grad():
        accuracy = (run(images).sum(0).argmax(1) == labels).float().mean()
    learned = ", ".join(f"{1 / float(layer.rate.detach()):.2f}" for layer in (net[2], net[4]))
    print(f"test accuracy {accuracy.item():.1%}; tau started at 4 and was learned to be {learned}")


if __name__ == "__main__":
    main()
