"""Checkpoints of training runs: sound in every part, or refused."""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snnsim._core.files import write_whole
from snnsim.apps.config import Config
from snnsim.errors import CheckpointError, InvalidValueError, MissingDataError
from snnsim.quant import Codebook

__all__ = [
    "CHECKPOINT_FORMAT",
    "check_model",
    "check_optimizer",
    "check_same",
    "generator_of",
    "load_checkpoint",
    "save_checkpoint",
    "sound_parts",
]

CHECKPOINT_FORMAT = 1
PARTS = {"config", "model", "optimizer", "scheduler", "order", "rng", "history"}
RECORD = {"epoch", "loss", "accuracy", "firing_rate"}
# of an optimizer and its schedule, which older versions of torch do not write
LATER = {"_is_initial", "decoupled_weight_decay"}
REMEDY = "delete it and train again"
# what torch raises for content that it did not write itself
UNREADABLE = (
    *(
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        ArithmeticError,
    ),
    *(MemoryError, pickle.PickleError, zipfile.BadZipFile, zlib.error),
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
    sound_parts(saved, str(path))
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


def sound_parts(saved: object, where: str) -> tuple[Config, list[dict[str, float]]]:
    """Configuration and history of a checkpoint that is whole; its tensors can only be told beside
    a network.

    Raises:
        CheckpointError: another format, a part that lacks, a configuration that none can have,
            records that no epoch leaves.
    """
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
        raise CheckpointError(f"{where} is damaged: its version is no text; {REMEDY}")
    try:
        config = Config.read(saved["config"], where)
    except InvalidValueError as problem:
        raise CheckpointError(f"{problem}; use the snnsim that wrote it, or {REMEDY}") from problem
    history = saved["history"]
    if not isinstance(history, list) or len(history) > config.epochs:
        raise CheckpointError(
            f"{where} is damaged: its history is no list of at most {config.epochs} epochs;"
            f" {REMEDY}"
        )
    for index, record in enumerate(history):
        if not _is_record(record, index + 1):
            raise CheckpointError(
                f"{where} is damaged: nothing that epoch {index + 1} leaves behind is"
                f" {record!r:.100}; {REMEDY}"
            )
    return config, history


def _is_record(record: object, epoch: int) -> bool:
    """Whether this is what an epoch came to."""
    if (
        not isinstance(record, dict)
        or set(record) != RECORD
        or any(type(value) is not float for value in record.values())
    ):
        return False
    shares = record["accuracy"], record["firing_rate"]
    return (
        record["epoch"] == epoch
        and 0 <= record["loss"] < math.inf
        and all(0 <= share <= 1 for share in shares)
    )


def check_model(saved: object, runner: nn.Module, from_data: bool, where: str) -> None:
    """Raise unless these can be the weights of this network.

    Args:
        saved: entry of a checkpoint.
        runner: the network as it is before training.
        from_data: the ranges of its codebooks come from data.
    """
    fresh = runner.state_dict()
    if not isinstance(saved, Mapping) or not set(saved) <= set(fresh):
        raise CheckpointError(
            f"{where} holds the weights of another network; give the same options, or another --out"
        )
    learned = {name for name, _ in runner.named_parameters()}
    changing = set(learned)
    for prefix, module in runner.named_modules():
        # statistics of a batch norm change with every batch
        if isinstance(module, nn.modules.batchnorm._BatchNorm) or (
            from_data and isinstance(module, Codebook)
        ):
            changing |= {f"{prefix}.{name}" for name, _ in module.named_buffers(recurse=False)}
    for name, value in saved.items():
        if (
            isinstance(value, Tensor)
            and isinstance(fresh[name], Tensor)
            and value.shape != fresh[name].shape
        ):
            raise CheckpointError(
                f"{where} holds the weights of another network; give the same options, or another"
                " --out"
            )
        if name in changing:
            _check_tensor(value, fresh[name], f"weights {name}", where)
            if (
                name not in learned
                and bool((fresh[name] > 0).all())
                and not bool((value > 0).all())
            ):
                raise CheckpointError(f"{where} is damaged: {name} is not positive; {REMEDY}")
        else:
            check_same(value, fresh[name], f"constant {name}", where)


def check_optimizer(saved: object, expected: torch.optim.Optimizer, steps: int, where: str) -> None:
    """Raise unless this can be the state of an Adam after so many steps.

    Args:
        saved: entry of a checkpoint.
        expected: an optimizer of the same weights and rate, without moments.
        steps: that it made; before the first it has no moments yet.
    """
    if not isinstance(saved, dict) or not {"state", "param_groups"} <= set(saved):
        raise CheckpointError(f"{where} is damaged: its optimizer has no state; {REMEDY}")
    check_same(saved["param_groups"], expected.state_dict()["param_groups"], "the optimizer", where)
    parameters = [weight for group in expected.param_groups for weight in group["params"]]
    state = saved["state"]
    if not isinstance(state, dict) or set(state) != set(range(len(parameters) if steps else 0)):
        raise CheckpointError(
            f"{where} is damaged: its optimizer moves other weights than the network has; {REMEDY}"
        )
    for index, moments in state.items():
        what = f"optimizer, weight {index}"
        if not isinstance(moments, dict) or set(moments) != {"step", "exp_avg", "exp_avg_sq"}:
            raise CheckpointError(f"{where} is damaged: {what}; {REMEDY}")
        check_same(moments["step"], torch.tensor(float(steps)), what, where)
        for name in ("exp_avg", "exp_avg_sq"):
            _check_tensor(moments[name], parameters[index], what, where)
        if bool((moments["exp_avg_sq"] < 0).any()):
            raise CheckpointError(
                f"{where} is damaged: {what} has a negative mean of squares; {REMEDY}"
            )


def check_same(saved: object, expected: object, what: str, where: str) -> None:
    """Raise unless a part is what the configuration and the number of epochs make it; rates may
    differ by a rounding.
    """
    if not _is_same(saved, expected):
        raise CheckpointError(
            f"{where} is damaged, or was made with other data: {what} is not what its options and"
            f" epochs lead to; {REMEDY}"
        )


def _is_same(saved: Any, expected: Any) -> bool:
    if isinstance(expected, Tensor):
        return _is_alike(saved, expected) and torch.equal(saved, expected)
    if type(saved) is not type(expected):
        return False
    if isinstance(expected, dict):
        return all(
            name in LATER if name not in saved else _is_same(saved[name], value)
            for name, value in expected.items()
        )
    if isinstance(expected, (list, tuple)):
        return len(saved) == len(expected) and all(map(_is_same, saved, expected))
    if isinstance(expected, float):
        # machines round the cosine differently, and near its end nothing is left of it but rounding
        return math.isclose(saved, expected, rel_tol=1e-9, abs_tol=1e-12)
    return bool(saved == expected)


def _is_alike(saved: object, expected: Tensor) -> bool:
    return (
        isinstance(saved, Tensor)
        and saved.layout == torch.strided
        and (saved.dtype, saved.device, saved.shape)
        == (expected.dtype, expected.device, expected.shape)
    )


def _check_tensor(saved: Any, expected: Tensor, what: str, where: str) -> None:
    if not _is_alike(saved, expected):
        raise CheckpointError(
            f"{where} is damaged: {what} are not {expected.dtype} {list(expected.shape)}; {REMEDY}"
        )
    if not bool(torch.isfinite(saved).all()):
        raise CheckpointError(
            f"{where} is damaged, or its training diverged: {what} are not all finite; {REMEDY}"
        )


def generator_of(state: Any, what: str, where: str) -> torch.Generator:
    """A generator in a saved state."""
    generator = torch.Generator()
    if _is_alike(state, generator.get_state()):
        with contextlib.suppress(RuntimeError):
            return generator.set_state(state)
    raise CheckpointError(
        f"{where} is damaged: its {what} is no state of a random generator; {REMEDY}"
    )
