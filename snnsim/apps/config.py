"""The options of a training run; nothing here needs torch, so that the command line shows them at
once.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import snnsim
from snnsim._core.scalars import MAX_STATE_BITS, check_int, checked_bool, checked_number
from snnsim.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    from snnsim.quant import Codebook

__all__ = ["CODEBOOKS", "DATASETS", "NETWORKS", "Config"]

DATASETS = ("digits", "mnist", "digits-dvs")
NETWORKS = ("mlp", "conv")
CODEBOOKS: dict[str, Callable[[int], Codebook]] = {
    "uniform": lambda bits: snnsim.quant.uniform(bits),
    "exponential": lambda bits: snnsim.quant.exponential(bits),
    "classic": lambda bits: snnsim.quant.state_quant(bits),
    "classic-exponential": lambda bits: snnsim.quant.state_quant(bits, uniform=False),
    "learned": lambda bits: snnsim.quant.LearnedUniform(bits),
    # where its search starts; the ranges come from data once the float epochs are done
    "calibrated": lambda bits: snnsim.quant.uniform(bits),
}
# wider weights are as good as float ones here
MAX_WEIGHT_BITS = 8
# of sizes and counts: beyond it is no mistake of one digit, and products of two still fit 64 bits
LARGEST = 2**31 - 1


def state_bits(text: str) -> int | None:
    """Bits of a state; None for "float"."""
    if text in ("float", "float32"):
        return None
    if text.isdecimal() and 1 <= int(text) <= MAX_STATE_BITS:
        return int(text)
    raise argparse.ArgumentTypeError(
        f"{text!r} is neither a number of bits in 1..{MAX_STATE_BITS} nor 'float'"
    )


def weight_bits(text: str) -> int | None:
    """Bits of a weight; None for "float"."""
    named = {"float": None, "float32": None, "binary": 1, "ternary": 2}
    if text in named:
        return named[text]
    if text.isdecimal() and 1 <= int(text) <= MAX_WEIGHT_BITS:
        return int(text)
    raise argparse.ArgumentTypeError(
        f"{text!r} is neither a number of bits in 1..{MAX_WEIGHT_BITS} nor 'binary' (1), 'ternary'"
        " (2) or 'float'"
    )


def whole_number(text: str) -> int:
    """A whole number of at least 0."""
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")


def _option(default: Any, help: str, **typed: Any) -> Any:
    """A field with what the command line needs to know of it: how it is typed, and what it is."""
    return dataclasses.field(default=default, metadata={"help": help, **typed})


@dataclass(frozen=True)
class Config:
    """Everything that determines a training run; equal configurations give equal weights on the
    same machine.

    Args:
        dataset: "digits" (ships with scikit-learn), "mnist" (four idx files in `data_dir`) or
            "digits-dvs" (the digits moving before a simulated event camera, seen by a convolutional
            network).
        bits: bits of every neuron state, 1..16; None keeps states in float32.
        codebook: recipe of the levels, a key of CODEBOOKS. "calibrated" chooses the ranges from the
            first images of the training set, after `float_epochs`; "learned" trains step and
            offset, and starts from the calibrated ranges where there are float epochs, from
            "uniform" where there are none.
        weight_bits: bits of every weight, 1..8, by the rules of `quant.weight_descriptor`: 1 is
            binary, 2 is ternary; None keeps weights in float32.
        network: "mlp", one hidden layer, or "conv", two convolutions of 16 and 32 channels; event
            recordings have one of their own, `snnsim.apps.networks`.
        hidden: neurons of the hidden layer of the mlp, and of the event network.
        time_steps: how often the image is presented; of an event recording, its frames.
        epochs: passes over the training set.
        float_epochs: how many of them come first with float states and weights; the rest start from
            those weights, with a new optimizer and a new cosine from half the learning rate.
        batch_size: images per step.
        learning_rate: of Adam at the start; falls to 0 along a cosine.
        tau: time constant of the neurons in time steps.
        hard_reset: reset to 0 after a spike instead of subtracting the threshold.
        seed: of weights and order of the images.
    """

    dataset: str = _option(
        "digits",
        "digits ships with scikit-learn, and so does digits-dvs, its digits before an event camera;"
        " mnist needs --data",
        choices=DATASETS,
    )
    bits: int | None = _option(
        4, "bits of a neuron state, 1..16, or float", type=state_bits, metavar="N|float"
    )
    codebook: str = _option("uniform", "recipe of the levels", choices=tuple(CODEBOOKS))
    weight_bits: int | None = _option(
        None,
        "bits of a weight, 1..8 (1 is binary, 2 ternary), or float",
        type=weight_bits,
        metavar="N|float",
    )
    network: str = _option("mlp", "one hidden layer, or two convolutions", choices=NETWORKS)
    hidden: int = _option(256, "neurons of the hidden layer", type=positive_int)
    time_steps: int = _option(
        10, "how often an image is presented, or frames of a recording", type=positive_int
    )
    epochs: int = _option(6, "passes over the training set", type=positive_int)
    float_epochs: int = _option(
        0, "how many of them come first with float states and weights", type=whole_number
    )
    batch_size: int = _option(128, "images per step", type=positive_int)
    learning_rate: float = _option(2e-3, "of Adam at the start, decays along a cosine", type=float)
    tau: float = _option(3.0, "time constant in time steps", type=float)
    hard_reset: bool = _option(
        False, "reset to 0 after a spike instead of subtracting the threshold", action="store_true"
    )
    seed: int = _option(0, "of weights and image order", type=int)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, allowed = getattr(self, field.name), field.metadata.get("choices")
            if allowed is not None and not (isinstance(value, str) and value in allowed):
                raise InvalidValueError(
                    f"Config({field.name}={value!r}): must be one of {', '.join(allowed)}"
                )
        for name in ("hidden", "time_steps", "epochs", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise InvalidTypeError(f"Config({name}={value!r}): must be an int")
            if not 1 <= value <= LARGEST:
                raise InvalidValueError(
                    f"Config({name}={value}): must be at least 1 and below 2**31"
                )
        checked_number("Config", "learning_rate", self.learning_rate, above=0)
        # its range is the neurons' to say
        checked_number("Config", "tau", self.tau)
        checked_bool("Config", "hard_reset", self.hard_reset)
        check_int("Config", "seed", self.seed, at_least=0)
        if self.seed >= 2**63:
            raise InvalidValueError(f"Config(seed={self.seed}): must be below 2**63")
        for name, most in (("bits", MAX_STATE_BITS), ("weight_bits", MAX_WEIGHT_BITS)):
            value = getattr(self, name)
            if value is not None:
                check_int("Config", name, value, at_least=1)
                if value > most:
                    raise InvalidValueError(
                        f"Config({name}={value}): must be in 1..{most}, or None for float32"
                    )
        check_int("Config", "float_epochs", self.float_epochs, at_least=0)
        if self.float_epochs >= self.epochs:
            raise InvalidValueError(
                f"Config(float_epochs={self.float_epochs}, epochs={self.epochs}): must be fewer"
                " than the epochs, which include them"
            )
        if self.codebook == "calibrated" and self.bits is not None and not self.float_epochs:
            raise InvalidValueError(
                "Config(codebook='calibrated', float_epochs=0): ranges are taken from a network"
                " trained with float states; set float_epochs to 1 or more"
            )

    @classmethod
    def read(cls, values: object, where: str) -> Config:
        """The configuration that a file holds; what an older version did not name is at its
        default.

        Args:
            values: from the file, by name of the field.
            where: the file, opens the message.

        Raises:
            InvalidValueError: no configuration, or one that this version does not know.
        """
        if not isinstance(values, Mapping):
            raise InvalidValueError(f"{where} holds no configuration but {type(values).__name__}")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(str(name) for name in values if name not in known):
            raise InvalidValueError(
                f"{where} has options that this version does not know, {', '.join(unknown)}"
            )
        try:
            return cls(**values)
        except (InvalidValueError, InvalidTypeError) as problem:
            raise InvalidValueError(f"{where} holds no sound configuration: {problem}") from problem

    def start(self) -> Config:
        """The configuration of the float epochs alone: all that start alike share it."""
        return replace(
            self,
            bits=None,
            codebook="uniform",
            weight_bits=None,
            epochs=self.float_epochs,
            float_epochs=0,
        )

    def make_codebook(self) -> Codebook | None:
        """The codebook of one node; None for float states."""
        return None if self.bits is None else CODEBOOKS[self.codebook](self.bits)
