"""Two fully connected layers on handwritten digits, with neuron states of a few bits, beside the
same network in float.

    python examples/mnist_mlp.py --data MNIST        # a folder with the four idx files
    python examples/mnist_mlp.py                     # scikit-learn's 8 x 8 digits, no download
    python examples/mnist_mlp.py --quick

Images are static: shown as constant currents in every time step, classified by the firing rates of
ten neurons.
"""

import argparse

import torch
from torch import nn

from snnsim import MultiStep, data, neurons, quant
from snnsim.functional import loss
from snnsim.metrics import FiringMeter, footprint


def build(pixels: int, bits: int | None, time_steps: int) -> MultiStep:
    """Pixels as constant currents, 256 hidden neurons, one output neuron per class."""

    def node() -> neurons.LIFNode:
        return neurons.LIFNode(
            tau=2.0, decay_input=False, state_quant=quant.uniform(bits) if bits else None
        )

    net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 256), node(), nn.Linear(256, 10), node())
    # the first Linear sees the same image at every step, and runs once
    return MultiStep(net, time_steps=time_steps)


def train(
    run: MultiStep, train_set: data.ImageDataset, epochs: int, time_steps: int, seed: int
) -> None:
    optimizer = torch.optim.Adam(run.parameters(), lr=2e-3)
    order = torch.Generator().manual_seed(seed)
    run.train()
    for _ in range(epochs):
        for images, labels in data.batches(train_set, 64, shuffle=True, generator=order):
            optimizer.zero_grad()
            loss.rate_cross_entropy(run(images), labels, scale=time_steps).backward()
            optimizer.step()


@torch.no_grad()
def evaluate(run: MultiStep, test_set: data.ImageDataset) -> tuple[float, float]:
    """Accuracy, and spikes per neuron and time step."""
    run.eval()
    right = 0
    with FiringMeter(run) as meter:
        for images, labels in data.batches(test_set, 500):
            right += int((run(images).sum(0).argmax(1) == labels).sum())
    return right / len(test_set), meter.mean()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", help="folder with the four MNIST files; scikit-learn's digits without"
    )
    parser.add_argument("--bits", type=int, default=4, help="bits of a neuron state")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--time-steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="640 images, 2 epochs of 4 time steps: shows that it runs, not how well",
    )
    options = parser.parse_args()
    epochs, time_steps = (2, 4) if options.quick else (options.epochs, options.time_steps)
    root = options.data
    train_set, test_set = (
        data.MNIST(root, part) if root else data.digits(part) for part in (True, False)
    )
    if options.quick:
        train_set, test_set = train_set.subset(range(640)), test_set.subset(range(300))

    for bits in (None, options.bits):
        torch.manual_seed(options.seed)
        image, _ = test_set.take(torch.tensor([0]))
        run = build(image.numel(), bits, time_steps)
        train(run, train_set, epochs, time_steps, options.seed)
        accuracy, rate = evaluate(run, test_set)
        size = footprint(run, image).state_bytes
        name = f"{bits} bits" if bits else "float32"
        print(
            f"{name:>8}: test accuracy {accuracy:.1%}, {rate:.3f} spikes per neuron and step,"
            f" {size} bytes of neuron state"
        )


if __name__ == "__main__":
    main()
