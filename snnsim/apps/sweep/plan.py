"""Which runs a sweep consists of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from dataclasses import dataclass, field, replace

from snnsim._core.checks import check_int
from snnsim.apps.config import CODEBOOKS, Config
from snnsim.apps.train import build_network
from snnsim.errors import InvalidValueError

__all__ = ["AXES", "Plan", "config_hash"]

# fields of a Config that differ within a sweep
AXES = ("bits", "weight_bits", "codebook", "seed")
# more runs than anyone waits for; a typing error beyond it would only be listed for hours
MOST_SEEDS = 10_000


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits that name a configuration; fields at their defaults do not
    enter."""
    default = dataclasses.asdict(Config())
    changed = {
        name: value for name, value in dataclasses.asdict(config).items() if value != default[name]
    }
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Plan:
    """A grid of configurations: every codebook at every width of states and weights, with every
    seed.

    Args:
        base: what all runs share; its bits, weight_bits, codebook and seed are not used.
        state_bits, weight_bits: widths; None is float32.
        codebooks: keys of `training.CODEBOOKS`. With float states they all are the same run, which
            is made once.
        seeds: how many, 0 and up.
    """

    base: Config = field(default_factory=Config)
    state_bits: tuple[int | None, ...] = (1, 2, 3, 4, 8, None)
    weight_bits: tuple[int | None, ...] = (None,)
    codebooks: tuple[str, ...] = ("uniform",)
    seeds: int = 3

    def __post_init__(self) -> None:
        check_int("Plan", "seeds", self.seeds, at_least=1, at_most=MOST_SEEDS)
        for name in ("state_bits", "weight_bits", "codebooks"):
            if not getattr(self, name):
                raise InvalidValueError(
                    f"Plan({name}=()): there is nothing to sweep; give at least one"
                )
        for name in self.codebooks:
            if name not in CODEBOOKS:
                raise InvalidValueError(
                    f"Plan(codebooks with {name!r}): must be among {', '.join(CODEBOOKS)}"
                )

    def configs(self) -> list[Config]:
        """All runs, a whole grid for one seed after the other, so that a sweep that is cut short is
        the same grid with fewer seeds.

        Raises:
            InvalidValueError: what no Config allows.
        """
        found: dict[Config, None] = {}
        for seed in range(self.seeds):
            for weight_bits in self.weight_bits:
                for codebook in self.codebooks:
                    for bits in self.state_bits:
                        name = "uniform" if bits is None else codebook
                        found[
                            replace(
                                self.base,
                                bits=bits,
                                weight_bits=weight_bits,
                                codebook=name,
                                seed=seed,
                            )
                        ] = None
        return list(found)

    def refused(self) -> dict[tuple[str, int], str]:
        """Codebooks and widths that the neurons of this network do not work on, and why.

        Raises:
            InvalidValueError: a network that cannot be built even with float states.
        """
        build_network(replace(self.base, bits=None, weight_bits=None, codebook="uniform"))
        reasons = {}
        for codebook in self.codebooks:
            for bits in self.state_bits:
                if bits is None:
                    continue
                try:
                    with warnings.catch_warnings():
                        # a recipe may be poor; the sweep is there to show it
                        warnings.simplefilter("ignore", UserWarning)
                        build_network(
                            replace(self.base, bits=bits, weight_bits=None, codebook=codebook)
                        )
                except InvalidValueError as problem:
                    reasons[codebook, bits] = str(problem)
        return reasons
