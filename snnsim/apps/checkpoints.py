"""Checkpoints of training runs: sound in every part, or refused."""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LRScheduler

from snnsim._core.files import write_whole
from snnsim.apps.config import Config
from snnsim.errors import CheckpointError, MissingDataError
from snnsim.quant import Codebook

CHECKPOINT_FORMAT = 1
PARTS = {"config", "model", "optimizer", "scheduler", "order", "rng", "history"}
RECORD = {"epoch", "loss", "accuracy", "firing_rate"}
# of an optimizer and its schedule, which older versions of torch do not write
LATER = {"_is_initial", "decoupled_weight_decay"}
REMEDY = "delete it and train again"
# what torch raises for content that it did not write itself
UNREADABLE = (
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError),
    *(AssertionError, ArithmeticError, MemoryError, pickle.PickleError, zipfile.BadZipFile),
    zlib.error,
)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, loaded without executing anything from the file.

    Raises:
        MissingDataError: no such file.
        CheckpointError: not a checkpoint of this library, damaged, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingDataError(
            f"no checkpoint at {path}; snnsim train writes one (run it without --resume first, or"
            " name its folder with --out)"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            # torch compresses nothing: a small file is small in memory too
            packed = [
                entry.filename
                for entry in archive.infolist()
                if entry.compress_type != zipfile.ZIP_STORED
            ]
            damaged = packed[0] if packed else archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged at {damaged!r}; {REMEDY}")
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except UNREADABLE as problem:
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint ({problem}); {REMEDY}"
        ) from problem
    Checkpoint(saved, str(path))
    return saved


def save_checkpoint(saved: dict[str, Any], path: str | Path, caller: str) -> None:
    """Write a checkpoint, atomically and to the disk itself.

    Raises:
        OutputError: it cannot be written there.
    """
    # torch ends the process where a file that it writes to cannot grow
    content = io.BytesIO()
    torch.save(saved, content)
    write_whole(path, lambda file: file.write(content.getbuffer()), caller, durable=True)


@dataclass(frozen=True)
class Moved:
    """Where training changes a tensor: others like it, of finite numbers.

    Attributes:
        above, at_least: what they are besides.
    """

    like: Tensor
    above: float = -math.inf
    at_least: float = -math.inf


class Checkpoint:
    """The parts of a checkpoint, each of them sound. Tensors can only be told beside a network.

    Args:
        saved: content of the file.
        where: it is from, opens messages.

    Raises:
        CheckpointError: another format, a part that lacks, a configuration that none can have,
            records that no epoch leaves.
    """

    def __init__(self, saved: Any, where: str) -> None:
        self.saved, self.where = saved, where
        if not isinstance(saved, dict) or "format" not in saved:
            raise CheckpointError(f"{where} is not a checkpoint of snnsim; name another file")
        number = saved["format"]
        if type(number) is not int or number != CHECKPOINT_FORMAT:
            raise CheckpointError(
                f"{where} has checkpoint format {number}, this version reads {CHECKPOINT_FORMAT}; "
                f"use the snnsim that wrote it, {saved.get('version')}"
            )
        if lacking := sorted(PARTS - set(saved)):
            raise CheckpointError(f"{where} lacks {lacking}; {REMEDY}")
        if not isinstance(saved.get("version", ""), str):
            self._refuse(": its version is no text")
        remedy = f"use the snnsim that wrote it, or {REMEDY}"
        self.config = Config.read(saved["config"], where, remedy, CheckpointError)
        history, most = saved["history"], self.config.epochs
        if not isinstance(history, list) or len(history) > most:
            self._refuse(f": its history is no list of at most {most} epochs")
        for epoch, record in enumerate(history, 1):
            if not _is_record(record, epoch):
                self._refuse(f": nothing that epoch {epoch} leaves behind is {record!r:.100}")
        self.history: list[dict[str, float]] = list(history)

    def _refuse(self, what: str) -> NoReturn:
        raise CheckpointError(f"{self.where} is damaged{what}; {REMEDY}")

    def model(self, runner: nn.Module, from_data: bool) -> dict[str, Any]:
        """Weights.

        Args:
            runner: the network as it is before training.
            from_data: the ranges of its codebooks come from data.
        """
        saved, fresh = self.saved["model"], runner.state_dict()
        other = "holds the weights of another network; give the same options, or another --out"
        if not isinstance(saved, Mapping) or not set(saved) <= set(fresh):
            raise CheckpointError(f"{self.where} {other}")
        learned, counted = {name for name, _ in runner.named_parameters()}, set()
        for prefix, module in runner.named_modules():
            # statistics of a batch norm change with every batch
            if isinstance(module, _BatchNorm) or (from_data and isinstance(module, Codebook)):
                counted |= {f"{prefix}.{name}" for name, _ in module.named_buffers(recurse=False)}
        expected = {}
        for name, value in saved.items():
            before = fresh[name]
            if isinstance(value, Tensor) and value.shape != getattr(before, "shape", value.shape):
                raise CheckpointError(f"{self.where} {other}")
            if name in learned:
                before = Moved(before)
            elif name in counted:
                before = Moved(before, above=0 if bool((before > 0).all()) else -math.inf)
            expected[name] = before
        return self._sound(saved, expected, "the model")

    def moments(self, optimizer: torch.optim.Optimizer, steps: int) -> dict[int, Any]:
        """State of an Adam after so many steps; before the first it has none.

        Args:
            optimizer: of the same weights and rate, without moments.
            steps: that it made.
        """
        weights = [
            weight.detach() for group in optimizer.param_groups for weight in group["params"]
        ]
        moments = {
            index: {
                "step": torch.tensor(float(steps)),
                "exp_avg": Moved(weight),
                "exp_avg_sq": Moved(weight, at_least=0),
            }
            for index, weight in enumerate(weights if steps else [])
        }
        expected = {"state": moments, "param_groups": optimizer.state_dict()["param_groups"]}
        return self._sound(self.saved["optimizer"], expected, "the optimizer")["state"]

    def check_scheduler(self, scheduler: LRScheduler) -> None:
        """Raise unless the schedule stands where this one does."""
        self._sound(self.saved["scheduler"], scheduler.state_dict(), "the learning rate")

    def generator(self, name: str) -> torch.Generator:
        """A generator of random numbers, "order" or "rng"."""
        generator = torch.Generator()
        if _is_alike(self.saved[name], generator.get_state()):
            with contextlib.suppress(RuntimeError):
                return generator.set_state(self.saved[name])
        self._refuse(f": its {name} is no state of a random generator")

    def _sound(self, saved: Any, expected: Any, what: str) -> Any:
        """What is expected of a part: all that configuration and epochs make is compared (rates may
        differ by a rounding), and what training moves is taken over.
        """
        if isinstance(expected, Moved):
            return self._moved(saved, expected, what)
        if isinstance(expected, dict) and isinstance(saved, Mapping):
            if set(expected) - LATER <= set(saved):
                return {
                    name: self._sound(saved[name], part, f"{what}, {name}")
                    for name, part in expected.items()
                    if name in saved
                }
        elif isinstance(expected, Tensor):
            if _is_alike(saved, expected) and torch.equal(saved, expected):
                return saved
        elif type(saved) is type(expected):
            if isinstance(expected, (list, tuple)) and len(saved) == len(expected):
                pairs = zip(saved, expected, strict=True)
                return type(expected)(self._sound(one, part, what) for one, part in pairs)
            # machines round the cosine differently, and near its end nothing is left of it but
            # rounding
            if saved == expected or (
                isinstance(expected, float)
                and math.isclose(saved, expected, rel_tol=1e-9, abs_tol=1e-12)
            ):
                return saved
        self._refuse(
            f", or was made with other data: {what} is not what its options and epochs lead to"
        )

    def _moved(self, saved: Any, expected: Moved, what: str) -> Tensor:
        like = expected.like
        if not _is_alike(saved, like):
            self._refuse(f": {what} is not {like.dtype} {list(like.shape)}")
        if not bool(torch.isfinite(saved).all()):
            self._refuse(f", or its training diverged: {what} is not all finite")
        if not bool(((saved > expected.above) & (saved >= expected.at_least)).all()):
            self._refuse(f": {what} is not positive")
        return saved


def _is_record(record: object, epoch: int) -> bool:
    if not isinstance(record, dict) or set(record) != RECORD:
        return False
    return (
        all(type(value) is float for value in record.values())
        and record["epoch"] == epoch
        and 0 <= record["loss"] < math.inf
        and all(0 <= record[name] <= 1 for name in ("accuracy", "firing_rate"))
    )


def _is_alike(saved: object, expected: Tensor) -> bool:
    return (
        isinstance(saved, Tensor)
        and saved.layout == torch.strided
        and (saved.dtype, saved.device, saved.shape)
        == (expected.dtype, expected.device, expected.shape)
    )
