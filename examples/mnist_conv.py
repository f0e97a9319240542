"""A convolutional network with batch norm and pooling, and pictures of what its neurons do with
their levels.

    python examples/mnist_conv.py --data MNIST --out runs/mnist_conv
    python examples/mnist_conv.py --quick

The pictures: which levels each layer uses, how often it fires, and what 4 bits make of the
classifier's weights.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from snnsim import MultiStep, Recorder, data, neurons, quant, viz
from snnsim.functional import loss


def build(side: int, bits: int, time_steps: int) -> MultiStep:
    """Two convolutions and a classifier for square images. Ordinary layers: time is folded into
    their batch.
    """

    def node() -> neurons.LIFNode:
        return neurons.LIFNode(
            tau=2.0, decay_input=False, detach_reset=True, state_quant=quant.uniform(bits)
        )

    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        node(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        node(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (side // 4) ** 2, 10),
        node(),
    )
    return MultiStep(net, time_steps=time_steps)


def train(
    run: MultiStep, train_set: data.ImageDataset, epochs: int, time_steps: int, seed: int
) -> None:
    steps = epochs * -(-len(train_set) // 64)
    optimizer = torch.optim.AdamW(run.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    order = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        run.train()
        for images, labels in data.batches(train_set, 64, shuffle=True, generator=order):
            error = loss.rate_cross_entropy(run(images), labels, scale=time_steps)
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs}: loss of the last batch {error.item():.3f}")


@torch.no_grad()
def evaluate(run: MultiStep, test_set: data.ImageDataset) -> float:
    run.eval()
    right = sum(
        int((run(images).sum(0).argmax(1) == labels).sum())
        for images, labels in data.batches(test_set, 250)
    )
    return right / len(test_set)


@torch.no_grad()
def draw(run: MultiStep, test_set: data.ImageDataset, out: Path) -> None:
    """What 32 test images do to the levels and firing rates of each layer, and to the weights of
    the classifier.
    """
    names = ["conv 1", "conv 2", "output"]
    with Recorder(run) as recorder:
        run(test_set.take(torch.arange(32))[0])
    traces = dict(zip(names, recorder.traces().values(), strict=True))
    codebook = run.net[2].state_quant
    viz.save(
        viz.occupancy({name: trace.charged for name, trace in traces.items()}, codebook, 1.0),
        out / "levels.png",
    )
    viz.save(
        viz.firing_rates({name: float(trace.spikes.mean()) for name, trace in traces.items()}),
        out / "rates.png",
    )
    weight = run.net[-2].weight
    rounded = quant.fake_tensor_quant(weight, weight.abs().max(), num_bits=4)
    viz.save(viz.weight_histogram(weight, rounded), out / "weights.png")
    print(f"pictures in {out}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", help="folder with the four MNIST files; scikit-learn's digits without"
    )
    parser.add_argument("--bits", type=int, default=4, help="bits of a neuron state")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--time-steps", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/mnist_conv"), help="folder for the pictures"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="640 images, 1 epoch of 3 time steps: shows that it runs, not how well",
    )
    options = parser.parse_args()
    epochs, time_steps = (1, 3) if options.quick else (options.epochs, options.time_steps)
    root = options.data
    train_set, test_set = (
        data.MNIST(root, part) if root else data.digits(part) for part in (True, False)
    )
    if options.quick:
        train_set, test_set = train_set.subset(range(640)), test_set.subset(range(300))
    torch.manual_seed(options.seed)
    run = build(test_set.images.shape[-1], options.bits, time_steps)
    train(run, train_set, epochs, time_steps, options.seed)
    print(f"test accuracy with {options.bits}-bit states: {evaluate(run, test_set):.1%}")
    draw(run, test_set, options.out)


if __name__ == "__main__":
    main()
