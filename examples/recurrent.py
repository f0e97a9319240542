"""Feedback: a layer that hears its own spikes of the step before, run step by step.

    python examples/recurrent.py
    python examples/recurrent.py --quick

Every digit is shown one row of 8 pixels per time step, so that the network has to remember what it
saw. The memory is compared with that of the same neurons without feedback. The feedback is outside
the neuron, in an ordinary module: SingleStep runs it.
"""

import argparse

import torch
from torch import Tensor, nn

from snnsim import SingleStep, data, layers, neurons, quant
from snnsim.functional import decode


class Recurrent(layers.Temporal):
    """A layer of neurons driven by its input and, through weights, by its own spikes of the step
    before.

    A Temporal module may hold tensors from one step to the next; runners and `snnsim.reset` take
    care of them.
    """

    def __init__(self, inputs: int, neurons_: int, node: nn.Module) -> None:
        super().__init__()
        self.forth = nn.Linear(inputs, neurons_)
        self.back = nn.Linear(neurons_, neurons_, bias=False)
        self.node = node

    def forward(self, x: Tensor) -> Tensor:
        """One time step, `[B, inputs]` to `[B, neurons]`."""
        current = self.forth(x)
        before = self.held("spikes")
        if before is not None:
            current = current + self.back(before)
        spikes = self.node(current)
        self.hold(spikes=spikes)
        return spikes


def build(feedback: bool, bits: int) -> SingleStep:
    def node() -> neurons.LIFNode:
        return neurons.LIFNode(tau=3.0, decay_input=False, state_quant=quant.uniform(bits))

    hidden = [Recurrent(8, 64, node())] if feedback else [nn.Linear(8, 64), node()]
    return SingleStep(nn.Sequential(*hidden, nn.Linear(64, 10), neurons.LIReadout(tau=3.0)))


def rows(images: Tensor) -> Tensor:
    """Images `[B, 1, 8, 8]` as sequences of rows, `[8, B, 8]`."""
    return images.squeeze(1).movedim(1, 0)


def train(run: SingleStep, train_set: data.ImageDataset, epochs: int, seed: int) -> None:
    optimizer = torch.optim.Adam(run.parameters(), lr=5e-3)
    order = torch.Generator().manual_seed(seed)
    run.train()
    for _ in range(epochs):
        for images, labels in data.batches(train_set, 64, shuffle=True, generator=order):
            potentials = decode.membrane(run(rows(images)))
            error = nn.functional.cross_entropy(potentials, labels)
            optimizer.zero_grad()
            error.backward()
            optimizer.step()


@torch.no_grad()
def evaluate(run: SingleStep, test_set: data.ImageDataset) -> float:
    run.eval()
    images, labels = test_set.tensors()
    return float((decode.membrane(run(rows(images))).argmax(1) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bits", type=int, default=4, help="bits of a hidden neuron's state")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick", action="store_true", help="3 epochs: shows that it runs, not how well"
    )
    options = parser.parse_args()
    train_set, test_set = data.digits(train=True), data.digits(train=False)
    for feedback in (False, True):
        torch.manual_seed(options.seed)
        run = build(feedback, options.bits)
        train(run, train_set, 3 if options.quick else options.epochs, options.seed)
        print(
            f"{'with   ' if feedback else 'without'} feedback: test accuracy"
            f" {evaluate(run, test_set):.1%}"
        )


if __name__ == "__main__":
    main()
