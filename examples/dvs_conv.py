"""Event-camera digits with a convolutional network: cross-validated, 4-bit states beside float
ones.

    python examples/dvs_conv.py --data NMNIST        # N-MNIST, a folder or zip archive
    python examples/dvs_conv.py                      # scikit-learn's digits before a simulated
    camera, no download python examples/dvs_conv.py --quick

Every setting is trained on the same folds, so that the difference between two of them is known
better than either.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import ClassVar

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Subset

from snnsim import MultiStep, neurons, quant, viz
from snnsim.data.events import NMNIST, DigitsDVS, EventDataset, FramesByTime, Transform, collate
from snnsim.functional import loss

BATCH = 32


@dataclass(frozen=True)
class Shift:
    """A transform of one's own: moves a recording's frames by up to `pixels` in both directions,
    drawn anew in every epoch.
    """

    draws: ClassVar[bool] = True
    pixels: int

    def __call__(self, frames: Tensor, generator: np.random.Generator) -> Tensor:
        rows, columns = generator.integers(-self.pixels, self.pixels + 1, size=2).tolist()
        return frames.roll((rows, columns), dims=(2, 3))


def recordings(root: str | None, time_steps: int, shifted: bool) -> list[EventDataset]:
    """Both parts of the data set, as frames `[T, 2, H, W]`."""
    size, pixels = ((34, 34), 2) if root else ((20, 20), 1)
    transforms: list[Transform] = [FramesByTime(size, time_steps)]
    if shifted:
        transforms.append(Shift(pixels))
    return [
        NMNIST(root, part, transforms) if root else DigitsDVS(part, transforms)
        for part in (True, False)
    ]


def build(side: int, bits: int | None) -> MultiStep:
    def node() -> neurons.LIFNode:
        codebook = quant.uniform(bits) if bits else None
        return neurons.LIFNode(tau=2.0, decay_input=False, detach_reset=True, state_quant=codebook)

    # each convolution halves the picture, rounding up
    side = -(-side // 4)
    net = nn.Sequential(
        nn.Conv2d(2, 16, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(16),
        node(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        node(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(32 * side**2, 10),
        node(),
    )
    return MultiStep(net)


def train(run: MultiStep, parts: list[EventDataset], index: np.ndarray, epochs: int) -> None:
    """Train on the recordings at `index`, counted through both parts."""
    loader = DataLoader(
        Subset(ConcatDataset(parts), index), BATCH, shuffle=True, collate_fn=collate
    )
    optimizer = torch.optim.AdamW(run.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 5e-3, total_steps=epochs * len(loader)
    )
    run.train()
    for epoch in range(epochs):
        for part in parts:
            part.epoch = epoch
        for frames, labels in loader:
            spikes = run(frames)
            optimizer.zero_grad()
            loss.rate_cross_entropy(spikes, labels, scale=len(frames)).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def evaluate(run: MultiStep, loader: DataLoader) -> float:
    run.eval()
    right = total = 0
    for frames, labels in loader:
        right += int((run(frames).sum(0).argmax(1) == labels).sum())
        total += len(labels)
    return right / total


def with_error(values: list[float]) -> str:
    """Mean and its standard error, in percent."""
    return f"{100 * mean(values):.1f} ± {100 * stdev(values) / math.sqrt(len(values)):.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", help="N-MNIST, a folder or zip archive; the simulated camera without"
    )
    parser.add_argument("--bits", type=int, default=4, help="bits of a neuron state")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--time-steps", type=int, default=20)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/dvs_conv"),
        help="folder for the movie of a recording",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="200 recordings, 2 folds, 10 epochs of 5 time steps: shows that it runs, not how well",
    )
    options = parser.parse_args()
    epochs, time_steps, folds = (
        (10, 5, 2) if options.quick else (options.epochs, options.time_steps, options.folds)
    )

    parts, shifted = (recordings(options.data, time_steps, shifted) for shifted in (False, True))
    dataset, labels = ConcatDataset(parts), torch.tensor(parts[0].labels + parts[1].labels)
    kept = torch.arange(200 if options.quick else len(dataset))
    first, label = dataset[0]
    print(
        f"{len(kept)} recordings of {parts[0].size[0]} x {parts[0].size[1]} pixels, {time_steps}"
        " time steps"
    )
    print(f"one of digit {label}: {viz.event_movie(first, options.out / 'recording.gif')}")

    accuracies: dict[int | None, list[float]] = {None: [], options.bits: []}
    splits = StratifiedKFold(folds, shuffle=True, random_state=options.seed).split(
        kept, labels[kept]
    )
    for fold, (train_index, test_index) in enumerate(splits, start=1):
        for bits, results in accuracies.items():
            torch.manual_seed(options.seed + fold)
            run = build(parts[0].size[0], bits)
            train(run, shifted, train_index, epochs)
            results.append(
                evaluate(run, DataLoader(Subset(dataset, test_index), 100, collate_fn=collate))
            )
        print(
            f"fold {fold}/{folds}: float {accuracies[None][-1]:.1%}, {options.bits} bits"
            f" {accuracies[options.bits][-1]:.1%}",
            flush=True,
        )
    pairs = zip(accuracies[options.bits], accuracies[None], strict=True)
    print(f"float    {with_error(accuracies[None])}")
    print(f"{options.bits} bits   {with_error(accuracies[options.bits])}")
    print(
        f"{options.bits} bits - float, fold by fold:"
        f" {with_error([quantized - exact for quantized, exact in pairs])}"
    )


if __name__ == "__main__":
    main()
