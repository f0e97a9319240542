"""Training a small classifier, resumable: what `snnsim train` and the demo run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from snnsim import calibrate, neurons, quant
from snnsim._core.optional import optional
from snnsim._version import __version__
from snnsim.apps.checkpoints import (
    CHECKPOINT_FORMAT,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from snnsim.apps.config import Config, describe_bits
from snnsim.apps.networks import build_network
from snnsim.data import batches
from snnsim.data.images import InMemory
from snnsim.errors import CheckpointError, SnnsimError
from snnsim.metrics import FiringMeter
from snnsim.quant import Codebook
from snnsim.temporal.runner import MultiStep

# learning rate after the float epochs, as a share of that before
FINE_TUNING_RATE = 0.5
FROM_DATA = ("learned", "calibrated")
# images that ranges are calibrated on, the first ones of the training set
CALIBRATION_IMAGES = 1000


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
        quantized = config.float_epochs == 0
        self.runner = self._new_runner(quantized)
        self.optimizer, self.scheduler = self._new_descent(self.runner, config, quantized)
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
        before = config.float_epochs
        epochs = config.epochs - before if quantized else before or config.epochs
        share = FINE_TUNING_RATE if quantized and before else 1.0
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

    def _codebooks(self, bits: int) -> Mapping[str, Codebook | None]:
        """By node; where ranges come from data, those that change the spikes of the float network
        least.
        """
        if self.config.codebook not in FROM_DATA:
            # thresholds and rest of these networks are what every recipe takes for granted
            return {
                name: self.config.make_codebook()
                for name, module in self.runner.named_modules()
                if isinstance(module, neurons.LIFNode)
            }
        images, _ = self.train_set.take(torch.arange(min(CALIBRATION_IMAGES, len(self.train_set))))
        chosen = calibrate.states(self.runner, [images], bits, method="spikes")
        if self.config.codebook == "learned":
            from_codebook = quant.LearnedUniform.from_codebook
            return {name: from_codebook(codebook) for name, codebook in chosen.items()}
        return chosen

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch and test; returns and remembers its record."""
        if self.epoch == self.config.float_epochs > 0:
            self._quantize()
        self.runner.train()
        losses = []
        for x, y in self._batches():
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

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over the training set, behind a progress bar where that is wanted."""
        size = self.config.batch_size
        found = batches(self.train_set, size, shuffle=True, generator=self.order)
        if not self.progress:
            return found
        label = f"{describe_bits(self.config.bits)}, epoch {self.epoch + 1}/{self.config.epochs}"
        tqdm = optional("tqdm", "apps").tqdm
        return iter(tqdm(found, total=self.steps_per_epoch, desc=label, leave=False))

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
        done = len(Checkpoint(saved, "Training.skip_float_epochs: the checkpoint").history)
        if done != self.config.float_epochs:
            raise CheckpointError(
                f"Training.skip_float_epochs: the checkpoint has {done} epochs done and this run"
                f" begins with {self.config.float_epochs} float ones; train the start to its end"
                " first"
            )
        self._restore(saved, self.config.start(), "the checkpoint")

    def _restore(self, saved: dict[str, Any], expected: Config, where: str) -> None:
        """Take over a checkpoint. What follows from configuration and epochs is made anew and
        compared; only the rest is read.
        """
        checkpoint = Checkpoint(saved, where)
        theirs, done, before = checkpoint.config, len(checkpoint.history), self.config.float_epochs
        longer = ("epochs",) if theirs.epochs < expected.epochs else ()
        if differ := expected.differences(theirs, besides=longer):
            raise CheckpointError(
                f"{where} is the checkpoint of another run: {differ}; give the same options, or"
                " another --out"
            )
        quantized = done > before or before == 0
        steps = (done - before * quantized) * self.steps_per_epoch
        runner = self._new_runner(quantized)
        model = checkpoint.model(runner, self.config.codebook in FROM_DATA)
        try:
            runner.load_state_dict(model)
        except (RuntimeError, SnnsimError) as problem:
            raise CheckpointError(
                f"{where} holds the weights of another network ({problem}); give another --out"
            ) from problem
        optimizer, scheduler = self._new_descent(runner, theirs, quantized, steps)
        moments = checkpoint.moments(optimizer, steps)
        checkpoint.check_scheduler(scheduler)
        order, rng = (checkpoint.generator(name) for name in ("order", "rng"))
        optimizer, scheduler = self._new_descent(runner, self.config, quantized, steps)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        # nothing below this line can fail
        self.runner, self.optimizer, self.scheduler = runner, optimizer, scheduler
        self.order, self.history = order, checkpoint.history
        torch.set_rng_state(rng.get_state())


def classification_loss(spikes: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the firing rates `[T, B, C]`, scaled so that a neuron that always fires is a
    confident one.
    """
    return cross_entropy(10 * spikes.mean(0), labels)
