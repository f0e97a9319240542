"""A margin for spiking classifiers: while training, the right class has a higher threshold than the
others.

    python examples/threshold_margin.py
    python examples/threshold_margin.py --quick

The right neuron must reach 1.1 to fire, a wrong one 0.9 not to; in eval mode both have 1.
`redundant_one_hot` gives each class a group of output neurons, whose spikes are added up.
"""

import argparse

import torch
from torch import nn

from snnsim import MultiStep, data, functional, neurons, quant

CLASSES = 10


def build(group: int, bits: int, time_steps: int) -> MultiStep:
    def node(codebook: quant.Codebook) -> neurons.IFNode:
        return neurons.IFNode(state_quant=codebook)

    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 64),
        node(quant.uniform(bits)),
        nn.Linear(64, CLASSES * group),
        # 8 bits at the output: 0.9, 1 and 1.1 must lie in different cells to be different
        # thresholds
        node(quant.uniform(8)),
    )
    return MultiStep(net, time_steps=time_steps)


def train(
    run: MultiStep, train_set: data.ImageDataset, group: int, margin: bool, epochs: int, seed: int
) -> None:
    optimizer = torch.optim.Adam(run.parameters(), lr=2e-3)
    order = torch.Generator().manual_seed(seed)
    run.train()
    for _ in range(epochs):
        for images, labels in data.batches(train_set, 32, shuffle=True, generator=order):
            target = functional.redundant_one_hot(labels, CLASSES, group)
            if margin:
                # for the batch that follows; in eval mode the threshold is 1, whatever was set
                functional.set_threshold_margin(run.net[-1], target, threshold0=0.9, threshold1=1.1)
            error = functional.loss.rate_mse(run(images), target)
            optimizer.zero_grad()
            error.backward()
            optimizer.step()


@torch.no_grad()
def evaluate(run: MultiStep, test_set: data.ImageDataset, group: int) -> float:
    run.eval()
    images, labels = test_set.tensors()
    votes = run(images).sum(0).view(len(labels), CLASSES, group).sum(2)
    return float((votes.argmax(1) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bits", type=int, default=4, help="bits of a hidden neuron's state")
    parser.add_argument("--group", type=int, default=5, help="output neurons per class")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--time-steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="2 epochs of 4 time steps: shows that it runs, not how well",
    )
    options = parser.parse_args()
    epochs, time_steps = (2, 4) if options.quick else (options.epochs, options.time_steps)
    train_set, test_set = data.digits(train=True), data.digits(train=False)
    for group, margin in ((1, False), (1, True), (options.group, False), (options.group, True)):
        torch.manual_seed(options.seed)
        run = build(group, options.bits, time_steps)
        train(run, train_set, group, margin, epochs, options.seed)
        accuracy = evaluate(run, test_set, group)
        print(
            f"output neurons per class: {group}, {'with   ' if margin else 'without'} margin: test"
            f" accuracy {accuracy:.1%}"
        )


if __name__ == "__main__":
    main()
