"""Training a small classifier, resumable: what `snnsim train` and the demo run."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from snnsim import data, neurons, quant
from snnsim._version import __version__
from snnsim.checks import check_int, checked_number
from snnsim.data import ImageDataset, batches
from snnsim.errors import CheckpointError, InvalidTypeError, InvalidValueError, MissingDataError
from snnsim.files import write_whole
from snnsim.metrics import FiringMeter
from snnsim.quant import Codebook
from snnsim.runners import MultiStep

__all__ = [
    "CODEBOOKS",
    "DATASETS",
    "Config",
    "Training",
    "build_network",
    "load_checkpoint",
    "load_datasets",
]

CHECKPOINT_FORMAT = 1
CHECKPOINT_PARTS = {"config", "model", "optimizer", "scheduler", "order", "rng", "history"}
DATASETS = ("digits", "mnist")
CODEBOOKS: dict[str, Callable[[int], Codebook]] = {
    "uniform": quant.uniform,
    "exponential": quant.exponential,
    "classic": quant.state_quant,
    "classic-exponential": lambda bits: quant.state_quant(bits, uniform=False),
}


@dataclass(frozen=True)
class Config:
    """Everything that determines a training run; equal configurations give equal weights on the same machine.

    Args:
        dataset: "digits" (ships with scikit-learn) or "mnist" (four idx files in `data_dir`).
        bits: bits of every neuron state, 1..16; None keeps states in float32.
        codebook: recipe of the levels, a key of CODEBOOKS.
        hidden: neurons of the hidden layer.
        time_steps: how often the image is presented.
        epochs: passes over the training set.
        batch_size: images per step.
        learning_rate: of Adam at the start; falls to 0 along a cosine.
        tau: time constant of the neurons in time steps.
        hard_reset: reset to 0 after a spike instead of subtracting the threshold.
        seed: of weights and order of the images.
    """

    dataset: str = "digits"
    bits: int | None = 4
    codebook: str = "uniform"
    hidden: int = 256
    time_steps: int = 10
    epochs: int = 6
    batch_size: int = 128
    learning_rate: float = 2e-3
    tau: float = 3.0
    hard_reset: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("dataset", DATASETS), ("codebook", tuple(CODEBOOKS))):
            if getattr(self, name) not in allowed:
                raise InvalidValueError(f"Config({name}={getattr(self, name)!r}): must be one of {', '.join(allowed)}")
        for name in ("hidden", "time_steps", "epochs", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise InvalidTypeError(f"Config({name}={value!r}): must be an int")
            if value < 1:
                raise InvalidValueError(f"Config({name}={value}): must be at least 1")
        checked_number("Config", "learning_rate", self.learning_rate, above=0)
        check_int("Config", "seed", self.seed, at_least=0)
        if self.seed >= 2**63:
            raise InvalidValueError(f"Config(seed={self.seed}): must be below 2**63")
        if self.bits is not None:
            check_int("Config", "bits", self.bits, at_least=1)

    def make_codebook(self) -> Codebook | None:
        """The codebook of one node; None for float states."""
        return None if self.bits is None else CODEBOOKS[self.codebook](self.bits)


def build_network(config: Config) -> MultiStep:
    """The default classifier: pixels to `hidden` neurons to 10 neurons, read by their firing rates.

    Returns:
        A runner that takes static images `[B, 1, H, W]` to output spikes `[T, B, 10]`.
    """

    def node() -> neurons.LIFNode:
        return neurons.LIFNode(
            tau=config.tau,
            decay_input=False,
            v_reset=0.0 if config.hard_reset else None,
            state_quant=config.make_codebook(),
        )

    pixels = {"digits": 64, "mnist": 784}[config.dataset]
    net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, config.hidden), node(), nn.Linear(config.hidden, 10), node())
    return MultiStep(net, time_steps=config.time_steps)


def load_datasets(config: Config, data_dir: str | Path | None) -> tuple[ImageDataset, ImageDataset]:
    """Training and test set of a configuration.

    Raises:
        MissingDataError: MNIST without a folder, or files missing there.
    """
    if config.dataset == "digits":
        return data.digits(train=True), data.digits(train=False)
    if data_dir is None:
        raise MissingDataError("dataset 'mnist' is read from a folder with its four idx files; name it with --data DIR")
    return data.MNIST(data_dir, train=True), data.MNIST(data_dir, train=False)


class Training:
    """A training run, one epoch at a time.

    Args:
        config: what to train.
        train_set, test_set: see `load_datasets`.
        progress: show a progress bar on standard error.
    """

    def __init__(self, config: Config, train_set: ImageDataset, test_set: ImageDataset, *, progress: bool = True) -> None:
        self.config = config
        self.train_set, self.test_set = train_set, test_set
        self.progress = progress
        # weights depend on the seed alone, whatever was drawn before
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.runner = build_network(config)
        self.steps_per_epoch = -(-len(train_set) // config.batch_size)
        self.optimizer = torch.optim.Adam(self.runner.parameters(), lr=config.learning_rate)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, config.epochs * self.steps_per_epoch)
        self.order = torch.Generator().manual_seed(config.seed)
        self.history: list[dict[str, float]] = []

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch and test; returns and remembers its record."""
        self.runner.train()
        losses = []
        images = batches(self.train_set, self.config.batch_size, shuffle=True, generator=self.order)
        label = f"{describe_bits(self.config.bits)}, epoch {self.epoch + 1}/{self.config.epochs}"
        for x, y in tqdm(images, total=self.steps_per_epoch, desc=label, leave=False, disable=not self.progress):
            loss = classification_loss(self.runner(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            losses.append(loss.detach())
        accuracy, rate = self.evaluate()
        record = {
            "epoch": float(self.epoch + 1),
            "loss": float(torch.stack(losses).mean()),
            "accuracy": accuracy,
            "firing_rate": rate,
        }
        self.history.append(record)
        return record

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Test accuracy as a share in [0, 1], and the mean number of spikes per neuron and time step."""
        self.runner.eval()
        right = 0
        with FiringMeter(self.runner) as meter:
            for x, y in batches(self.test_set, 1000):
                right += int((self.runner(x).sum(0).argmax(1) == y).sum())
        return right / len(self.test_set), meter.mean()

    def save(self, path: str | Path) -> None:
        """Write a checkpoint, atomically: a kill at any moment leaves the old file or the new one.

        Raises:
            OutputError: the folder cannot be made or written.
        """
        content = {
            "format": CHECKPOINT_FORMAT,
            "version": __version__,
            "config": dataclasses.asdict(self.config),
            "model": self.runner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "order": self.order.get_state(),
            "rng": torch.get_rng_state(),
            "history": self.history,
        }
        write_whole(path, lambda file: torch.save(content, file), "Training.save", durable=True)

    def resume(self, path: str | Path) -> None:
        """Continue from a checkpoint, to the weights an uninterrupted run would have.

        Raises:
            CheckpointError: a damaged file, or one of another configuration; nothing is changed then.
        """
        saved = load_checkpoint(path)
        ours, theirs = dataclasses.asdict(self.config), saved["config"]
        differ = [
            f"{name} is {theirs.get(name)!r} there and {value!r} here" for name, value in ours.items() if theirs.get(name) != value
        ]
        if differ:
            raise CheckpointError(
                f"{path} is the checkpoint of another run: {'; '.join(differ)}; give the same options, or another --out"
            )
        shapes = {name: value.shape for name, value in saved["model"].items()}
        if shapes != {name: value.shape for name, value in self.runner.state_dict().items()}:
            raise CheckpointError(f"{path} holds the weights of another network; give the same options, or another --out")
        self.runner.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.order.set_state(saved["order"])
        torch.set_rng_state(saved["rng"])
        self.history = saved["history"]


def classification_loss(spikes: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the firing rates `[T, B, C]`, scaled so that a neuron that always fires is a confident one."""
    return cross_entropy(10 * spikes.mean(0), labels)


def describe_bits(bits: int | None) -> str:
    """`4-bit`, or `float32`."""
    return "float32" if bits is None else f"{bits}-bit"


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, loaded without executing anything from the file.

    Raises:
        MissingDataError: no such file.
        CheckpointError: not a checkpoint of this library, damaged, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError(
            f"no checkpoint at {path}; train without --resume first, or name the folder that holds it with --out"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged at {damaged!r}; delete it and train again")
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError, zipfile.BadZipFile) as problem:
        raise CheckpointError(f"{path} is damaged or not a checkpoint ({problem}); delete it and train again") from problem
    if not isinstance(saved, dict) or "format" not in saved:
        raise CheckpointError(f"{path} is not a checkpoint of snnsim; name another file")
    if saved["format"] == CHECKPOINT_FORMAT and not set(saved) >= CHECKPOINT_PARTS:
        raise CheckpointError(f"{path} lacks {sorted(CHECKPOINT_PARTS - set(saved))}; delete it and train again")
    if saved["format"] != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {saved['format']}, this version reads {CHECKPOINT_FORMAT}; "
            f"use the snnsim that wrote it, {saved.get('version')}"
        )
    return saved
