"""The options of a training run, each of them one field: the command line, the checks, the hash and
the files of a run are made from these. Nothing here needs torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import snnsim
from snnsim._core.scalars import MAX_STATE_BITS, check_int, checked_bool, checked_number, short
from snnsim.errors import InvalidTypeError, InvalidValueError, refuse

if TYPE_CHECKING:
    from snnsim.quant import Codebook

__all__ = ["CODEBOOKS", "DATASETS", "NETWORKS", "Config", "config_hash", "describe_bits"]

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
# Python reads no longer numbers
MOST_DIGITS = 1000


class Kind:
    """The values that an option may have."""

    def typed(self) -> dict[str, Any]:
        """Arguments for argparse."""
        return {"type": self.parse, "metavar": "N"}

    def parse(self, text: str) -> Any:
        """The value that is typed as `text`."""
        raise NotImplementedError

    def check(self, where: str, name: str, value: Any) -> None:
        """Raise unless `value` is one of them."""
        raise NotImplementedError


@dataclass(frozen=True)
class Whole(Kind):
    """Whole numbers within bounds."""

    at_least: int = 1
    at_most: int = LARGEST

    def parse(self, text: str) -> int | None:
        large = text.isdecimal() and (len(text) > MOST_DIGITS or int(text) > self.at_most)
        if large:
            raise argparse.ArgumentTypeError(
                f"{short(text)} is too large; give at most {self.at_most}"
            )
        if not text.isdecimal() or int(text) < self.at_least:
            raise argparse.ArgumentTypeError(
                f"{short(text)} is not a whole number of at least {self.at_least}"
            )
        return int(text)

    def check(self, where: str, name: str, value: Any) -> None:
        check_int(where, name, value, self.at_least, self.at_most)


@dataclass(frozen=True)
class Bits(Whole):
    """Widths in bits, some of them by name; None is float."""

    names: tuple[tuple[str, int], ...] = ()

    def typed(self) -> dict[str, Any]:
        return {"type": self.parse, "metavar": "N|float"}

    def parse(self, text: str) -> int | None:
        if text in ("float", "float32"):
            return None
        try:
            return dict(self.names).get(text) or super().parse(text)
        except argparse.ArgumentTypeError as problem:
            names = ", ".join(f"{name!r} ({bits})" for name, bits in self.names)
            raise argparse.ArgumentTypeError(
                f"{short(text)} is neither a number of bits in 1..{self.at_most} nor"
                f" {names + ' or ' if names else ''}'float'"
            ) from problem

    def check(self, where: str, name: str, value: Any) -> None:
        if value is None:
            return
        check_int(where, name, value, at_least=1)
        if value > self.at_most:
            refuse(where, name, value, f"must be in 1..{self.at_most}, or None for float32")


@dataclass(frozen=True)
class Number(Kind):
    """Finite numbers within bounds.

    Attributes:
        unit: what is typed, for the message.
    """

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    unit: str = ""

    def typed(self) -> dict[str, Any]:
        return {"type": self.parse, "metavar": self.unit.upper() or "X"}

    def parse(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        low = -math.inf if self.at_least is None else self.at_least
        above = -math.inf if self.above is None else self.above
        if above < value < (math.inf if self.below is None else self.below) and low <= value:
            return value
        bounds = (("above", self.above), ("of at least", self.at_least), ("below", self.below))
        rule = " and".join(f" {word} {bound:g}" for word, bound in bounds if bound is not None)
        unit = f" of {self.unit}" if self.unit else ""
        raise argparse.ArgumentTypeError(f"{short(text)} is not a number{unit}{rule}")

    def check(self, where: str, name: str, value: Any) -> None:
        checked_number(where, name, value, self.above, self.at_least)


@dataclass(frozen=True)
class Choice(Kind):
    """One of some names."""

    names: tuple[str, ...]

    def typed(self) -> dict[str, Any]:
        return {"choices": self.names}

    def check(self, where: str, name: str, value: Any) -> None:
        if not isinstance(value, str) or value not in self.names:
            refuse(where, name, value, f"must be one of {', '.join(self.names)}")


class Switch(Kind):
    """True where it is typed, otherwise False."""

    def typed(self) -> dict[str, Any]:
        return {"action": "store_true"}

    def check(self, where: str, name: str, value: Any) -> None:
        checked_bool(where, name, value)


def _option(default: Any, kind: Kind, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"kind": kind, "help": help})


@dataclass(frozen=True)
class Config:
    """Everything that determines a training run; equal configurations give equal weights on the
    same machine. What each option means stands beside it, and in `snnsim train --help`.
    """

    dataset: str = _option(
        "digits",
        Choice(DATASETS),
        "digits ships with scikit-learn; digits-dvs are these digits moving before a simulated"
        " event camera, for a convolutional network of their own; mnist needs --data",
    )
    bits: int | None = _option(
        4, Bits(at_most=MAX_STATE_BITS), f"bits of a neuron state, 1..{MAX_STATE_BITS}, or float"
    )
    codebook: str = _option(
        "uniform",
        Choice(tuple(CODEBOOKS)),
        "recipe of the levels; calibrated takes ranges from training images after the float epochs,"
        " learned trains step and offset, from those ranges where there are float epochs",
    )
    weight_bits: int | None = _option(
        None,
        Bits(at_most=MAX_WEIGHT_BITS, names=(("binary", 1), ("ternary", 2))),
        f"bits of a weight, 1..{MAX_WEIGHT_BITS} (1 is binary, 2 ternary), or float",
    )
    network: str = _option(
        "mlp",
        Choice(NETWORKS),
        "mlp has one hidden layer, conv two convolutions of 16 and 32 channels",
    )
    hidden: int = _option(256, Whole(), "neurons of the hidden layer")
    time_steps: int = _option(
        10, Whole(), "how often an image is presented, or frames of a recording"
    )
    epochs: int = _option(6, Whole(), "passes over the training set")
    float_epochs: int = _option(
        0,
        Whole(at_least=0),
        "how many of them come first with float states and weights; the others start with a new"
        " optimizer at half the learning rate",
    )
    batch_size: int = _option(128, Whole(), "images per step")
    learning_rate: float = _option(
        2e-3, Number(above=0), "of Adam at the start, decays along a cosine"
    )
    # its range is the neurons' to say
    tau: float = _option(3.0, Number(), "time constant in time steps")
    hard_reset: bool = _option(
        False, Switch(), "reset to 0 after a spike instead of subtracting the threshold"
    )
    seed: int = _option(0, Whole(0, 2**63 - 1), "of weights and image order")

    def __post_init__(self) -> None:
        for option in fields(self):
            option.metadata["kind"].check("Config", option.name, getattr(self, option.name))
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
        known = {option.name for option in fields(cls)}
        if unknown := sorted(str(name) for name in values if name not in known):
            raise InvalidValueError(
                f"{where} has options that this version does not know, {', '.join(unknown)}"
            )
        try:
            return cls(**values)
        except (InvalidValueError, InvalidTypeError) as problem:
            raise InvalidValueError(f"{where} holds no sound configuration: {problem}") from problem

    def differences(self, theirs: Config, besides: Collection[str] = ()) -> str:
        """Options that have other values there, in words; none of those `besides`."""
        return "; ".join(
            f"{option.name} is {getattr(theirs, option.name)!r} there and"
            f" {getattr(self, option.name)!r} here"
            for option in fields(self)
            if option.name not in besides
            and getattr(theirs, option.name) != getattr(self, option.name)
        )

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


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits that name a configuration; fields at their defaults do not
    enter."""
    default = dataclasses.asdict(Config())
    changed = {
        name: value for name, value in dataclasses.asdict(config).items() if value != default[name]
    }
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:12]


def describe_bits(bits: int | None) -> str:
    """`4-bit`, or `float32`."""
    return "float32" if bits is None else f"{bits}-bit"
