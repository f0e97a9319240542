"""Training a small classifier, resumable: what `snnsim train` and the demo run."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from snnsim import calibrate, data, neurons, quant
from snnsim._version import __version__
from snnsim.checks import check_int, checked_number
from snnsim.data import batches
from snnsim.data.events import Cached, DigitsDVS, FrameDataset, FramesByTime
from snnsim.data.images import InMemory
from snnsim.errors import CheckpointError, InvalidTypeError, InvalidValueError, MissingDataError
from snnsim.event_network import event_network
from snnsim.files import user_cache, write_whole
from snnsim.metrics import FiringMeter
from snnsim.quant import Codebook
from snnsim.runners import MultiStep

__all__ = [
    "CODEBOOKS",
    "DATASETS",
    "NETWORKS",
    "Config",
    "Training",
    "build_network",
    "load_checkpoint",
    "load_datasets",
]

CHECKPOINT_FORMAT = 1
CHECKPOINT_PARTS = {"config", "model", "optimizer", "scheduler", "order", "rng", "history"}
DATASETS = ("digits", "mnist", "digits-dvs")
CODEBOOKS: dict[str, Callable[[int], Codebook]] = {
    "uniform": quant.uniform,
    "exponential": quant.exponential,
    "classic": quant.state_quant,
    "classic-exponential": lambda bits: quant.state_quant(bits, uniform=False),
    "learned": quant.LearnedUniform,
    # where its search starts; the ranges come from data once the float epochs are done
    "calibrated": quant.uniform,
}
# learning rate after the float epochs, as a share of that before
FINE_TUNING_RATE = 0.5
FROM_DATA = ("learned", "calibrated")
NETWORKS = ("mlp", "conv")
SIDES = {"digits": 8, "mnist": 28, "digits-dvs": 20}
# images that ranges are calibrated on, the first ones of the training set
CALIBRATION_IMAGES = 1000
# wider weights are as good as float ones here
MAX_WEIGHT_BITS = 8


@dataclass(frozen=True)
class Config:
    """Everything that determines a training run; equal configurations give equal weights on the same machine.

    Args:
        dataset: "digits" (ships with scikit-learn), "mnist" (four idx files in `data_dir`) or "digits-dvs" (the digits moving
            before a simulated event camera, seen by a convolutional network).
        bits: bits of every neuron state, 1..16; None keeps states in float32.
        codebook: recipe of the levels, a key of CODEBOOKS. "calibrated" chooses the ranges from the first images of the training
            set, after `float_epochs`; "learned" trains step and offset, and starts from the calibrated ranges where there are
            float epochs, from "uniform" where there are none.
        weight_bits: bits of every weight, 1..8, by the rules of `quant.weight_descriptor`: 1 is binary, 2 is ternary; None keeps
            weights in float32.
        network: "mlp", one hidden layer, or "conv", two convolutions of 16 and 32 channels; event recordings have one of their own,
            `snnsim.event_network`.
        hidden: neurons of the hidden layer of the mlp, and of the event network.
        time_steps: how often the image is presented; of an event recording, its frames.
        epochs: passes over the training set.
        float_epochs: how many of them come first with float states and weights; the rest start from those weights, with a new
            optimizer and a new cosine from half the learning rate.
        batch_size: images per step.
        learning_rate: of Adam at the start; falls to 0 along a cosine.
        tau: time constant of the neurons in time steps.
        hard_reset: reset to 0 after a spike instead of subtracting the threshold.
        seed: of weights and order of the images.
    """

    dataset: str = "digits"
    bits: int | None = 4
    codebook: str = "uniform"
    weight_bits: int | None = None
    network: str = "mlp"
    hidden: int = 256
    time_steps: int = 10
    epochs: int = 6
    float_epochs: int = 0
    batch_size: int = 128
    learning_rate: float = 2e-3
    tau: float = 3.0
    hard_reset: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("dataset", DATASETS), ("codebook", tuple(CODEBOOKS)), ("network", NETWORKS)):
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
        if self.weight_bits is not None:
            check_int("Config", "weight_bits", self.weight_bits, at_least=1)
            if self.weight_bits > MAX_WEIGHT_BITS:
                raise InvalidValueError(
                    f"Config(weight_bits={self.weight_bits}): must be in 1..{MAX_WEIGHT_BITS}, or None for float32"
                )
        check_int("Config", "float_epochs", self.float_epochs, at_least=0)
        if self.float_epochs >= self.epochs:
            raise InvalidValueError(
                f"Config(float_epochs={self.float_epochs}, epochs={self.epochs}): must be fewer than the epochs, which include them"
            )
        if self.codebook == "calibrated" and self.bits is not None and not self.float_epochs:
            raise InvalidValueError(
                "Config(codebook='calibrated', float_epochs=0): ranges are taken from a network trained with float states; "
                "set float_epochs to 1 or more"
            )

    def start(self) -> Config:
        """The configuration of the float epochs alone: all that start alike share it."""
        return replace(self, bits=None, codebook="uniform", weight_bits=None, epochs=self.float_epochs, float_epochs=0)

    def make_codebook(self) -> Codebook | None:
        """The codebook of one node; None for float states."""
        return None if self.bits is None else CODEBOOKS[self.codebook](self.bits)


def build_network(config: Config) -> MultiStep:
    """The default classifiers: pixels to spiking layers to 10 neurons, read by their firing rates.

    Returns:
        A runner that takes static images `[B, 1, H, W]`, or event frames `[T, B, 2, H, W]`, to output spikes `[T, B, 10]`.
    """

    def node() -> neurons.LIFNode:
        return neurons.LIFNode(
            tau=config.tau,
            decay_input=False,
            v_reset=0.0 if config.hard_reset else None,
            state_quant=config.make_codebook(),
        )

    side = SIDES[config.dataset]
    if config.dataset == "digits-dvs":
        net = event_network(side, node, hidden=config.hidden)
    elif config.network == "mlp":
        net = nn.Sequential(nn.Flatten(), nn.Linear(side**2, config.hidden), node(), nn.Linear(config.hidden, 10), node())
    else:
        # currents are pooled rather than spikes: the first layer then runs once, and its neurons are a quarter as many
        net = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.MaxPool2d(2),
            node(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            node(),
            nn.Flatten(),
            nn.Linear(32 * (side // 4) ** 2, 10),
            node(),
        )
    if config.weight_bits is not None:
        quant.quantize(net, weights=config.weight_bits)
    # event frames come one for each time step
    return MultiStep(net, time_steps=None if config.dataset == "digits-dvs" else config.time_steps)


def load_datasets(config: Config, data_dir: str | Path | None) -> tuple[InMemory, InMemory]:
    """Training and test set of a configuration.

    Args:
        config: names the dataset.
        data_dir: folder of the MNIST files, or the one that event recordings are kept in (the user's cache when None).

    Raises:
        MissingDataError: MNIST without a folder, or files missing there.
    """
    if config.dataset == "digits":
        return data.digits(train=True), data.digits(train=False)
    if config.dataset == "digits-dvs":
        folder = user_cache() / "digits-dvs" if data_dir is None else Path(data_dir)
        return load_event_frames(config, folder, train=True), load_event_frames(config, folder, train=False)
    if data_dir is None:
        raise MissingDataError("dataset 'mnist' is read from a folder with its four idx files; name it with --data DIR")
    return data.MNIST(data_dir, train=True), data.MNIST(data_dir, train=False)


def load_event_frames(config: Config, folder: Path, *, train: bool) -> FrameDataset:
    """What the event camera sees of the digits, as `time_steps` frames each; the recordings are kept in `folder`.

    Raises:
        OutputError: the folder cannot be written.
    """
    to_frames = FramesByTime((SIDES[config.dataset], SIDES[config.dataset]), config.time_steps)
    return FrameDataset.of(Cached(DigitsDVS(train), folder, [to_frames]))


class Training:
    """A training run, one epoch at a time.

    Args:
        config: what to train.
        train_set, test_set: see `load_datasets`.
        progress: show a progress bar on standard error.
    """

    def __init__(self, config: Config, train_set: InMemory, test_set: InMemory, *, progress: bool = True) -> None:
        self.config = config
        self.train_set, self.test_set = train_set, test_set
        self.progress = progress
        self.steps_per_epoch = -(-len(train_set) // config.batch_size)
        self.runner = self._new_runner(config.float_epochs == 0)
        self._start_descent(config.float_epochs or config.epochs)
        self.order = torch.Generator().manual_seed(config.seed)
        self.history: list[dict[str, float]] = []

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def _new_runner(self, quantized: bool) -> MultiStep:
        """The network before training, in the form of the float epochs or of those after."""
        # weights depend on the seed alone, whatever was drawn before
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            return build_network(self.config if quantized else self.config.start())

    def _start_descent(self, epochs: int, share: float = 1.0) -> None:
        """A new optimizer, whose rate falls to 0 within so many epochs."""
        self.optimizer = torch.optim.Adam(self.runner.parameters(), lr=share * self.config.learning_rate)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, epochs * self.steps_per_epoch)

    def _quantize(self) -> None:
        """Go on from float states and weights to those of the configuration."""
        config = self.config
        if config.bits is not None:
            calibrate.apply(self.runner, self._codebooks(config.bits))
        if config.weight_bits is not None:
            quant.quantize(self.runner, weights=config.weight_bits)
        self._start_descent(config.epochs - config.float_epochs, FINE_TUNING_RATE)

    def _codebooks(self, bits: int) -> dict[str, Codebook]:
        """By node; where ranges come from data, those that change the spikes of the float network least."""
        if self.config.codebook not in FROM_DATA:
            # thresholds and rest of these networks are what every recipe takes for granted
            nodes = [name for name, module in self.runner.named_modules() if isinstance(module, neurons.LIFNode)]
            return {name: CODEBOOKS[self.config.codebook](bits) for name in nodes}
        images, _ = self.train_set.take(torch.arange(min(CALIBRATION_IMAGES, len(self.train_set))))
        chosen = calibrate.states(self.runner, [images], bits, method="spikes")
        if self.config.codebook == "learned":
            return {name: quant.LearnedUniform.from_codebook(codebook) for name, codebook in chosen.items()}
        return chosen

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch and test; returns and remembers its record."""
        if self.epoch == self.config.float_epochs > 0:
            self._quantize()
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

    def checkpoint(self) -> dict[str, Any]:
        """Everything that `resume` needs, sharing its tensors with the run."""
        return {
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

    def save(self, path: str | Path) -> None:
        """Write a checkpoint, atomically: a kill at any moment leaves the old file or the new one.

        Raises:
            OutputError: the folder cannot be made or written.
        """
        write_whole(path, lambda file: torch.save(self.checkpoint(), file), "Training.save", durable=True)

    def resume(self, path: str | Path) -> None:
        """Continue from a checkpoint, to the weights an uninterrupted run would have.

        Raises:
            CheckpointError: a damaged file, or one of another configuration; nothing is changed then.
        """
        self._restore(load_checkpoint(path), self.config, str(path))

    def skip_float_epochs(self, saved: dict[str, Any]) -> None:
        """Continue from the checkpoint of a run of `config.start()`, as if this run had made its float epochs itself.

        Raises:
            CheckpointError: the checkpoint of another run, or of one that has not finished; nothing is changed then.
        """
        if len(saved["history"]) != self.config.float_epochs:
            raise CheckpointError(
                f"Training.skip_float_epochs: the checkpoint has {len(saved['history'])} epochs done and this run begins with "
                f"{self.config.float_epochs} float ones; train the start to its end first"
            )
        self._restore(saved, self.config.start(), "the checkpoint")

    def _restore(self, saved: dict[str, Any], expected: Config, where: str) -> None:
        # what a checkpoint of an older version does not name was as the defaults are
        theirs = {**dataclasses.asdict(Config()), **saved["config"]}
        differ = [
            f"{name} is {theirs.get(name)!r} there and {value!r} here"
            for name, value in dataclasses.asdict(expected).items()
            if theirs.get(name) != value
        ]
        if differ:
            raise CheckpointError(
                f"{where} is the checkpoint of another run: {'; '.join(differ)}; give the same options, or another --out"
            )
        runner = self._new_runner(len(saved["history"]) > self.config.float_epochs or self.config.float_epochs == 0)
        shapes = {name: value.shape for name, value in saved["model"].items()}
        if shapes != {name: value.shape for name, value in runner.state_dict().items()}:
            raise CheckpointError(f"{where} holds the weights of another network; give the same options, or another --out")
        runner.load_state_dict(saved["model"])
        self.runner = runner
        self._start_descent(self.config.epochs)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.order.set_state(saved["order"])
        torch.set_rng_state(saved["rng"])
        self.history = list(saved["history"])


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
            f"no checkpoint at {path}; snnsim train writes one (run it without --resume first, or name its folder with --out)"
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
