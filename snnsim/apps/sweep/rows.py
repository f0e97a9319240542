"""The line of a finished run: what must be in it, and of which kind."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from snnsim.apps.config import Config
from snnsim.errors import DataError, InvalidValueError

__all__ = ["sound_row"]

SHARES = ("accuracy", "firing_rate")
COUNTS = ("state_bytes", "weight_bytes", "threads")


def sound_row(row: object, where: str, needed: tuple[str, ...]) -> dict[str, Any]:
    """A run as it was kept, with the options that came later at their defaults.

    Args:
        row: from a file or a caller.
        where: it is from, opens the message.
        needed: what it must have besides its configuration.

    Raises:
        DataError: something lacks or cannot be.
    """
    if (
        not isinstance(row, Mapping)
        or not isinstance(row.get("config"), Mapping)
        or not set(needed) <= set(row)
    ):
        raise DataError(
            f"{where} is not a run of a sweep, which has {', '.join(('config', *needed))}"
        )
    try:
        config = Config.read(row["config"], where)
    except InvalidValueError as problem:
        raise DataError(f"{problem}; use snnsim {row.get('snnsim')}") from problem
    for name in ("loss", *SHARES, *COUNTS):
        if name in row and not _is_sound(name, row[name]):
            raise DataError(f"{where} is not a run of a sweep: its {name} is {row[name]!r:.100}")
    return {**row, "config": dataclasses.asdict(config)}


def _is_sound(name: str, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if name in COUNTS:
        return isinstance(value, int) and value >= 0
    return 0 <= value <= (1 if name in SHARES else math.inf)
