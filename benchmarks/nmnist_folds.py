"""N-MNIST by five-fold cross-validation: a small convolutional network with quantized and with
float states.

    python benchmarks/nmnist_folds.py --data NMNIST [--epochs 12] [--out
    benchmarks/results/nmnist_folds.csv]

All settings are trained on the same folds, from the same weights, for as many epochs, so that the
difference is taken fold by fold. Rows that are in the file already are not run again. Prints mean
and standard error over the folds as a Markdown table.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from snnsim import MultiStep, neurons, quant
from snnsim.apps.networks import event_network
from snnsim.data.events import NMNIST, Downsample, FramesByTime
from snnsim.functional import loss

SIDE = 34
BATCH = 32
# how far training moves a recording about, in pixels of the sensor
SHIFT = 2
FIELDS = ("bits", "fold", "folds", "pixels", "time_steps", "epochs", "seed", "accuracy")
SETTINGS = ("folds", "pixels", "time_steps", "epochs", "seed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="PATH",
        help="N-MNIST, a folder or zip archive with both parts",
    )
    parser.add_argument(
        "--bits",
        type=int,
        nargs="+",
        default=[4],
        help="widths of a neuron state to compare with float",
    )
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--time-steps", type=int, default=20)
    parser.add_argument(
        "--downsample",
        type=int,
        default=2,
        help="pixels of the sensor, in each direction, that become one",
    )
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/nmnist_folds.csv"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    frames, labels = recordings(options.data, options.time_steps, options.downsample)
    pixels = frames.shape[-1]
    settings = tuple(
        map(str, (options.folds, pixels, options.time_steps, options.epochs, options.seed))
    )
    splits = StratifiedKFold(options.folds, shuffle=True, random_state=options.seed).split(
        frames, labels
    )
    for fold, (train_index, test_index) in enumerate(splits, start=1):
        for bits in (None, *options.bits):
            key = (str(bits), str(fold), *settings)
            if key in {tuple(row[name] for name in FIELDS[:-1]) for row in read(options.out)}:
                continue
            started = time.perf_counter()
            torch.manual_seed(options.seed + fold)
            run = build(pixels, bits)
            train(
                run,
                frames[train_index],
                labels[train_index],
                options.epochs,
                shift=SHIFT // options.downsample,
            )
            accuracy = evaluate(run, frames[test_index], labels[test_index])
            append(options.out, (*key, f"{accuracy:.6f}"))
            seconds = time.perf_counter() - started
            print(
                f"fold {fold}/{options.folds} {bits or 'float'}: {accuracy:.2%} in {seconds:.0f} s",
                flush=True,
            )
    print(
        table(
            [row for row in read(options.out) if tuple(row[name] for name in SETTINGS) == settings]
        )
    )


def recordings(path: str, time_steps: int, factor: int) -> tuple[Tensor, Tensor]:
    """Every recording of both parts, as frames `[N, T, 2, H, H]` with H = 34 / factor, rounded up,
    and the labels `[N]`.
    """
    pixels = -(-SIDE // factor)
    transforms = [Downsample(factor), FramesByTime((pixels, pixels), time_steps)]
    parts = [NMNIST(path, part, transforms) for part in (True, False)]
    items = [part[index] for part in parts for index in range(len(part))]
    return torch.stack([frames for frames, _ in items]), torch.tensor([label for _, label in items])


def build(pixels: int, bits: int | None) -> MultiStep:
    """The network and the neurons of `snnsim train --dataset digits-dvs --hidden 64`."""

    def node() -> neurons.LIFNode:
        codebook = quant.uniform(bits) if bits else None
        return neurons.LIFNode(tau=3.0, decay_input=False, v_reset=None, state_quant=codebook)

    return MultiStep(event_network(pixels, node, hidden=64, dropout=0.2))


def shifted(frames: Tensor, pixels: int) -> Iterator[Tensor]:
    """Each recording `[T, 2, H, W]` moved by up to `pixels` in both directions, drawn anew."""
    moves = torch.randint(-pixels, pixels + 1, (len(frames), 2))
    for recording, move in zip(frames, moves.tolist(), strict=True):
        yield recording.roll(move, dims=(2, 3))


def train(run: MultiStep, frames: Tensor, labels: Tensor, epochs: int, shift: int) -> None:
    """Train on recordings that are moved about by up to `shift` pixels."""
    steps = -(-len(frames) // BATCH)
    optimizer = torch.optim.AdamW(run.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=epochs * steps)
    run.train()
    for _ in range(epochs):
        for index in torch.randperm(len(frames)).split(BATCH):
            # the runner takes time first
            x_seq = torch.stack(list(shifted(frames[index], shift)), dim=1)
            optimizer.zero_grad()
            loss.rate_cross_entropy(run(x_seq), labels[index], scale=x_seq.shape[0]).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def evaluate(run: MultiStep, frames: Tensor, labels: Tensor) -> float:
    """Share of the recordings whose class fires most."""
    run.eval()
    right = 0
    for index in torch.arange(len(frames)).split(100):
        right += int((run(frames[index].transpose(0, 1)).sum(0).argmax(1) == labels[index]).sum())
    return right / len(frames)


def read(path: Path) -> list[dict[str, str]]:
    """Rows written so far."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: tuple[str, ...]) -> None:
    """Add one row, with a head where the file is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(FIELDS)
        writer.writerow(row)


def with_error(values: list[float]) -> str:
    """Mean and its standard error, of values in percent."""
    return (
        f"{statistics.mean(values):.2f} ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}"
    )


def table(rows: list[dict[str, str]]) -> str:
    """Accuracy by width, and the difference from float fold by fold, as Markdown."""
    accuracy: dict[str, dict[str, float]] = {}
    for row in rows:
        accuracy.setdefault(row["bits"], {})[row["fold"]] = 100 * float(row["accuracy"])
    lines = ["| states | accuracy | against float, fold by fold | folds |", "|---|---|---|---|"]
    for bits, by_fold in accuracy.items():
        name, difference = "float32", ""
        if bits != "None":
            name = f"{bits} bits"
            difference = with_error(
                [value - accuracy["None"][fold] for fold, value in by_fold.items()]
            )
        lines.append(
            f"| {name} | {with_error(list(by_fold.values()))} % | {difference} | {len(by_fold)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
