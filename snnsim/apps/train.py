"""Training a small classifier, resumable: what `snnsim train` and the demo run."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR
from tqdm import tqdm

from snnsim import calibrate, data, neurons, quant
from snnsim._core.files import user_cache
from snnsim._version import __version__
from snnsim.apps.checkpoints import (
    CHECKPOINT_FORMAT,
    check_model,
    check_optimizer,
    check_same,
    generator_of,
    load_checkpoint,
    save_checkpoint,
    sound_parts,
)
from snnsim.apps.config import CODEBOOKS, DATASETS, NETWORKS, Config
from snnsim.apps.networks import event_network
from snnsim.data import batches
from snnsim.data.events import Cached, DigitsDVS, FrameDataset, FramesByTime
from snnsim.data.images import InMemory
from snnsim.errors import CheckpointError, MissingDataError, SnnsimError
from snnsim.metrics import FiringMeter
from snnsim.quant import Codebook
from snnsim.temporal.runner import MultiStep

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

# learning rate after the float epochs, as a share of that before
FINE_TUNING_RATE = 0.5
FROM_DATA = ("learned", "calibrated")
SIDES = {"digits": 8, "mnist": 28, "digits-dvs": 20}
# images that ranges are calibrated on, the first ones of the training set
CALIBRATION_IMAGES = 1000


def build_network(config: Config) -> MultiStep:
    """The default classifiers: pixels to spiking layers to 10 neurons, read by their firing rates.

    Returns:
        A runner that takes static images `[B, 1, H, W]`, or event frames `[T, B, 2, H, W]`, to
        output spikes `[T, B, 10]`.
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
        net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(side**2, config.hidden),
            node(),
            nn.Linear(config.hidden, 10),
            node(),
        )
    else:
        # currents are pooled rather than spikes: the first layer then runs once, and its neurons
        # are a quarter as many
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
        data_dir: folder of the MNIST files, or one above it; the one that SNNSIM_DATA names when
            None. For event recordings the folder that they are kept in; the user's cache when None.

    Raises:
        MissingDataError: MNIST without a folder, or files missing there.
    """
    if config.dataset == "digits":
        return data.digits(train=True), data.digits(train=False)
    if config.dataset == "digits-dvs":
        folder = user_cache() / "digits-dvs" if data_dir is None else Path(data_dir)
        return load_event_frames(config, folder, train=True), load_event_frames(
            config, folder, train=False
        )
    root = _mnist_folder(data_dir)
    return data.MNIST(root, train=True), data.MNIST(root, train=False)


def _mnist_folder(data_dir: str | Path | None) -> Path:
    """Where the files are: in the folder that was named, or where torchvision and others put them
    below it.
    """
    named = data_dir or os.environ.get("SNNSIM_DATA")
    if not named:
        raise MissingDataError(
            "dataset 'mnist' is read from a folder with its four idx files; name it with --data DIR"
            " or in SNNSIM_DATA"
        )
    folders = [
        Path(os.path.expanduser(named), inner)
        for inner in ("", "MNIST", "mnist", "raw", "MNIST/raw")
    ]
    return next(
        (folder for folder in folders if any(folder.glob("t*-images?idx3-ubyte*"))), folders[0]
    )


def load_event_frames(config: Config, folder: Path, *, train: bool) -> FrameDataset:
    """What the event camera sees of the digits, as `time_steps` frames each; the recordings are
    kept in `folder`.

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

    def __init__(
        self, config: Config, train_set: InMemory, test_set: InMemory, *, progress: bool = True
    ) -> None:
        self.config = config
        self.train_set, self.test_set = train_set, test_set
        self.progress = progress
        self.steps_per_epoch = -(-len(train_set) // config.batch_size)
        self.runner = self._new_runner(config.float_epochs == 0)
        self.optimizer, self.scheduler = self._new_descent(
            self.runner, config, config.float_epochs == 0
        )
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

    def _new_descent(
        self, runner: MultiStep, config: Config, quantized: bool, steps: int = 0
    ) -> tuple[Adam, CosineAnnealingLR]:
        """An optimizer without moments after so many steps: its rate falls to 0 in the float
        epochs, and again in those after.
        """
        epochs, share = config.epochs, 1.0
        if config.float_epochs:
            epochs, share = (
                (config.epochs - config.float_epochs, FINE_TUNING_RATE)
                if quantized
                else (config.float_epochs, 1.0)
            )
        optimizer = Adam(runner.parameters(), lr=share * config.learning_rate)
        scheduler = CosineAnnealingLR(optimizer, epochs * self.steps_per_epoch)
        if steps:
            # without gradients it moves nothing; a schedule may not go first
            optimizer.step()
        for _ in range(steps):
            scheduler.step()
        return optimizer, scheduler

    def _quantize(self) -> None:
        """Go on from float states and weights to those of the configuration."""
        config = self.config
        if config.bits is not None:
            calibrate.apply(self.runner, self._codebooks(config.bits))
        if config.weight_bits is not None:
            quant.quantize(self.runner, weights=config.weight_bits)
        self.optimizer, self.scheduler = self._new_descent(self.runner, config, quantized=True)

    def _codebooks(self, bits: int) -> dict[str, Codebook]:
        """By node; where ranges come from data, those that change the spikes of the float network
        least.
        """
        if self.config.codebook not in FROM_DATA:
            # thresholds and rest of these networks are what every recipe takes for granted
            nodes = [
                name
                for name, module in self.runner.named_modules()
                if isinstance(module, neurons.LIFNode)
            ]
            return {name: CODEBOOKS[self.config.codebook](bits) for name in nodes}
        images, _ = self.train_set.take(torch.arange(min(CALIBRATION_IMAGES, len(self.train_set))))
        chosen = calibrate.states(self.runner, [images], bits, method="spikes")
        if self.config.codebook == "learned":
            return {
                name: quant.LearnedUniform.from_codebook(codebook)
                for name, codebook in chosen.items()
            }
        return chosen

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch and test; returns and remembers its record."""
        if self.epoch == self.config.float_epochs > 0:
            self._quantize()
        self.runner.train()
        losses = []
        images = batches(self.train_set, self.config.batch_size, shuffle=True, generator=self.order)
        label = f"{describe_bits(self.config.bits)}, epoch {self.epoch + 1}/{self.config.epochs}"
        for x, y in tqdm(
            images, total=self.steps_per_epoch, desc=label, leave=False, disable=not self.progress
        ):
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
        """Test accuracy as a share in [0, 1], and the mean number of spikes per neuron and time
        step.
        """
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
        save_checkpoint(self.checkpoint(), path, "Training.save")

    def resume(self, path: str | Path) -> None:
        """Continue from a checkpoint, to the weights an uninterrupted run would have.

        The configuration may have more epochs than that of the checkpoint: the learning rate then
        follows the longer cosine from here on.

        Raises:
            CheckpointError: a damaged file, or one of another configuration; nothing is changed
                then.
        """
        self._restore(load_checkpoint(path), self.config, str(path))

    def skip_float_epochs(self, saved: dict[str, Any]) -> None:
        """Continue from the checkpoint of a run of `config.start()`, as if this run had made its
        float epochs itself.

        Raises:
            CheckpointError: the checkpoint of another run, or of one that has not finished; nothing
                is changed then.
        """
        _, history = sound_parts(saved, "Training.skip_float_epochs: the checkpoint")
        if len(history) != self.config.float_epochs:
            raise CheckpointError(
                f"Training.skip_float_epochs: the checkpoint has {len(history)} epochs done and"
                f" this run begins with {self.config.float_epochs} float ones; train the start to"
                " its end first"
            )
        self._restore(saved, self.config.start(), "the checkpoint")

    def _restore(self, saved: dict[str, Any], expected: Config, where: str) -> None:
        """Take over a checkpoint. What follows from configuration and epochs is made anew and
        compared; only the rest is read.
        """
        theirs, history = sound_parts(saved, where)
        differ = [
            f"{name} is {getattr(theirs, name)!r} there and {value!r} here"
            for name, value in dataclasses.asdict(expected).items()
            if getattr(theirs, name) != value and not (name == "epochs" and theirs.epochs < value)
        ]
        if differ:
            raise CheckpointError(
                f"{where} is the checkpoint of another run: {'; '.join(differ)}; give the same"
                " options, or another --out"
            )
        before = self.config.float_epochs
        quantized = len(history) > before or before == 0
        steps = (len(history) - before * quantized) * self.steps_per_epoch
        runner = self._new_runner(quantized)
        check_model(saved["model"], runner, self.config.codebook in FROM_DATA, where)
        try:
            runner.load_state_dict(saved["model"])
        except (RuntimeError, SnnsimError) as problem:
            raise CheckpointError(
                f"{where} holds the weights of another network ({problem}); give another --out"
            ) from problem
        optimizer, scheduler = self._new_descent(runner, theirs, quantized, steps)
        check_optimizer(saved["optimizer"], optimizer, steps, where)
        check_same(saved["scheduler"], scheduler.state_dict(), "the learning rate", where)
        order, rng = (generator_of(saved[name], name, where) for name in ("order", "rng"))
        optimizer, scheduler = self._new_descent(runner, self.config, quantized, steps)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": saved["optimizer"]["state"]})
        # nothing below this line can fail
        self.runner, self.optimizer, self.scheduler, self.order = (
            runner,
            optimizer,
            scheduler,
            order,
        )
        self.history = list(history)
        torch.set_rng_state(rng.get_state())


def classification_loss(spikes: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the firing rates `[T, B, C]`, scaled so that a neuron that always fires is a
    confident one.
    """
    return cross_entropy(10 * spikes.mean(0), labels)


def describe_bits(bits: int | None) -> str:
    """`4-bit`, or `float32`."""
    return "float32" if bits is None else f"{bits}-bit"
