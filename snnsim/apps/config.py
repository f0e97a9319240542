"""The options of a training run, each of them one field: the command line, the checks, the hash and
the files of a run are made from these. Nothing here needs torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import snnsim
from snnsim._core.scalars import MAX_STATE_BITS, check_int, checked_bool, checked_number, short
from snnsim.errors import InvalidTypeError, InvalidValueError, SnnsimError, refuse

if TYPE_CHECKING:
    from snnsim.quant import Codebook

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
FLOAT = (("float", None), ("float32", None))


class Kind:
    """The values that an option may have."""

    metavar = "N"

    def typed(self) -> dict[str, Any]:
        """Arguments for argparse."""
        return {"type": self.parse, "metavar": self.metavar}

    def parse(self, text: str) -> Any:
        """The value that is typed as `text`."""
        raise NotImplementedError

    def check(self, where: str, name: str, value: Any) -> None:
        """Raise unless `value` is one of them."""
        raise NotImplementedError


@dataclass(frozen=True)
class Whole(Kind):
    """Whole numbers within bounds, and words that stand for other values or for numbers."""

    at_least: int = 1
    at_most: int = LARGEST
    words: tuple[tuple[str, Any], ...] = ()

    @property
    def metavar(self) -> str:  # type: ignore[override]
        # of several words for one value the first
        words = {value: word for word, value in reversed(self.words) if not isinstance(value, int)}
        return "|".join(["N", *reversed(words.values())])

    def parse(self, text: str) -> Any:
        words, numbers = dict(self.words), f"a whole number in {self.at_least}..{self.at_most}"
        if text in words:
            return words[text]
        if text.isdecimal() and len(text) < MOST_DIGITS and self._has(int(text)):
            return int(text)
        named = " or ".join(
            f"{word!r} ({value})" if isinstance(value, int) else repr(word)
            for word, value in self.words
        )
        rule = f"neither {numbers} nor {named}" if words else f"not {numbers}"
        raise argparse.ArgumentTypeError(f"{short(text)} is {rule}")

    def _has(self, number: int) -> bool:
        return self.at_least <= number <= self.at_most

    def check(self, where: str, name: str, value: Any) -> None:
        optional = None in dict(self.words).values()
        if optional and type(value) is int and not self._has(value):
            bounds = f"{self.at_least}..{self.at_most}"
            refuse(where, name, value, f"must be in {bounds}, or None for float32")
        if not optional or value is not None:
            check_int(where, name, value, self.at_least, self.at_most)


@dataclass(frozen=True)
class Number(Kind):
    """Finite numbers within bounds, typed in a unit."""

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    metavar: str = "X"

    def parse(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        bounds = (
            ("above", self.above, operator.gt),
            ("of at least", self.at_least, operator.ge),
            ("below", self.below, operator.lt),
        )
        rules = [(word, bound, holds) for word, bound, holds in bounds if bound is not None]
        if math.isfinite(value) and all(holds(value, bound) for _, bound, holds in rules):
            return value
        rule = " and".join(f" {word} {bound:g}" for word, bound, _ in rules)
        unit = "" if self.metavar == "X" else f" of {self.metavar.lower()}"
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
        4, Whole(1, MAX_STATE_BITS, FLOAT), f"bits of a neuron state, 1..{MAX_STATE_BITS}, or float"
    )
    codebook: str = _option(
        "uniform",
        Choice(tuple(CODEBOOKS)),
        "recipe of the levels; calibrated takes ranges from training images after the float epochs,"
        " learned trains step and offset, from those ranges where there are float epochs",
    )
    weight_bits: int | None = _option(
        None,
        Whole(1, MAX_WEIGHT_BITS, (*FLOAT, ("binary", 1), ("ternary", 2))),
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
    def read(
        cls,
        values: object,
        where: str,
        remedy: str = "",
        kind: type[SnnsimError] = InvalidValueError,
    ) -> Config:
        """The configuration that a file holds; what an older version did not name is at its
        default.

        Args:
            values: from the file, by name of the field.
            where: the file, opens the message.
            remedy: closes it.
            kind: of the error.

        Raises:
            InvalidValueError: no configuration, or one that this version does not know.
        """
        known = {option.name for option in fields(cls)}
        if not isinstance(values, Mapping):
            problem = f"holds no configuration but {type(values).__name__}"
        elif unknown := sorted({str(name) for name in values} - known):
            problem = f"has options that this version does not know, {', '.join(unknown)}"
        else:
            try:
                return cls(**values)
            except (InvalidValueError, InvalidTypeError) as error:
                problem = f"holds no sound configuration: {error}"
        raise kind(f"{where} {problem}" + (f"; {remedy}" if remedy else ""))

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
