"""What each bit of neuron state costs on MNIST: accuracy of the default network by codebook, width and seed.

    python benchmarks/mnist_state_bits.py --data DIR [--seeds 3] [--epochs 6] [--out results/mnist_state_bits.csv]

Each row is one training run of `snnsim train --dataset mnist` with its other defaults. Rows that are in the file already are not
run again. Prints the mean over seeds, and the difference from float states, as a Markdown table.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import statistics
from pathlib import Path

import torch

from snnsim.training import Config, Training, load_datasets

RUNS = [
    ("float", None),
    *(("uniform", bits) for bits in (8, 4, 3, 2, 1)),
    *(("exponential", bits) for bits in (4, 3, 2)),
    *(("classic", bits) for bits in (4, 3, 2)),
]
FIELDS = ("codebook", "bits", "seed", "epochs", "accuracy", "firing_rate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR", help="folder with the four MNIST idx files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=Config().epochs)
    parser.add_argument("--out", type=Path, default=Path("results/mnist_state_bits.csv"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", metavar="CODEBOOK", help="run these codebooks only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    base = Config(dataset="mnist", epochs=options.epochs)
    sets = load_datasets(base, options.data)
    for seed in range(options.seeds):
        for codebook, bits in RUNS:
            key = (codebook, str(bits), str(seed), str(options.epochs))
            if key in {tuple(row[name] for name in FIELDS[:4]) for row in read(options.out)}:
                continue
            if options.only and codebook not in options.only:
                continue
            config = dataclasses.replace(base, bits=bits, codebook="uniform" if bits is None else codebook, seed=seed)
            training = Training(config, *sets, progress=False)
            while training.epoch < config.epochs:
                record = training.run_epoch()
            append(options.out, (*key, f"{record['accuracy']:.4f}", f"{record['firing_rate']:.4f}"))
            print(*key, f"{record['accuracy']:.2%}", flush=True)
    print(table(read(options.out), options.epochs))


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
        writer = csv.writer(file)
        if new:
            writer.writerow(FIELDS)
        writer.writerow(row)


def table(rows: list[dict[str, str]], epochs: int) -> str:
    """Mean over seeds by codebook and width, as Markdown."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        if row["epochs"] == str(epochs):
            groups.setdefault((row["codebook"], row["bits"]), []).append(row)
    mean = {key: statistics.mean(100 * float(row["accuracy"]) for row in group) for key, group in groups.items()}
    lines = ["| codebook | bits | accuracy | against float | spikes per neuron and step | seeds |", "|---|---|---|---|---|---|"]
    for (codebook, bits), group in groups.items():
        rate = statistics.mean(float(row["firing_rate"]) for row in group)
        difference = mean[codebook, bits] - mean["float", "None"]
        name = ("float32", "32") if codebook == "float" else (codebook, bits)
        lines.append(f"| {name[0]} | {name[1]} | {mean[codebook, bits]:.2f} % | {difference:+.2f} | {rate:.3f} | {len(group)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
