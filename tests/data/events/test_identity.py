from __future__ import annotations

import enum
import functools
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from snnsim.data.events.identity import identity
from snnsim.errors import InvalidTypeError

FACTOR = 2


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True, eq=False)
class Settings:
    value: object
    others: list[int] = field(default_factory=list)


class Slots:
    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class Reads:
    """Reads a constant of its class and one of its module."""

    constant = 1

    @property
    def product(self) -> int:
        return self.constant * FACTOR

    @staticmethod
    def negative(value: int) -> int:
        return -value


def closure(value: object):
    return lambda: value


def local_class(value: object) -> type:
    class Local:
        def __call__(self) -> object:
            return value

    return Local


def circle(value: object) -> list[object]:
    parts: list[object] = [value]
    parts.append(parts)
    return parts


def with_default(value: object):
    def give(given: object = value) -> object:
        return given

    return give


def masked(value: int) -> np.ndarray:
    return np.ma.array([1, 2], mask=[value == 1, value == 2])


MAKERS = [
    lambda value: value,
    str,
    float,
    lambda value: str(value).encode(),
    lambda value: [value],
    lambda value: (value, None),
    lambda value: {"a": value},
    lambda value: {value: "a"},
    lambda value: {value, "a"},
    lambda value: frozenset([value]),
    range,
    slice,
    lambda value: np.full(5000, value),
    lambda value: np.full(value, 1.0),
    lambda value: np.array([value, "a"], object),
    lambda value: np.int16(value),
    masked,
    lambda value: torch.full((5000,), value),
    lambda value: torch.full((2,), value, dtype=torch.bfloat16),
    lambda value: torch.tensor(value),
    lambda value: torch.nn.Parameter(torch.full((2,), float(value))),
    np.random.default_rng,
    lambda value: Colour(value),
    lambda value: Path(str(value)),
    Settings,
    Slots,
    closure,
    lambda value: local_class(value)(),
    circle,
    with_default,
    lambda value: functools.partial(max, value),
    lambda value: Slots(value).__getattribute__,
    lambda value: type("Made", (), {"constant": value}),
    lambda value: type("Made", (), {"call": closure(value)}),
]


@pytest.mark.parametrize("make", MAKERS)
def test_equal_content_is_one_and_other_content_another(make):
    assert identity(make(1)) == identity(make(1))
    assert identity(make(1)) != identity(make(2))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros(3, np.float32), np.zeros(3)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros(3), torch.zeros(3, dtype=torch.float64)),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int32)),
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ("1", b"1"),
        ([1], (1,)),
        (["ab", "c"], ["a", "bc"]),
        ([[1], [2]], [[1, 2]]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (np.sin, np.cos),
        (len, max),
        (np, torch),
        (int, float),
    ],
)
def test_kinds_are_told_apart(one, other):
    assert identity(one) != identity(other)


def test_order_of_a_set_does_not_matter():
    assert identity({"a", "b", "c"}) == identity({"c", "b", "a"})


def test_code_and_what_it_names_count(monkeypatch):
    before = identity(Reads())
    monkeypatch.setattr(Reads, "constant", 5)
    changed_class = identity(Reads())
    monkeypatch.undo()
    monkeypatch.setitem(globals(), "FACTOR", 3)
    changed_module = identity(Reads())
    monkeypatch.undo()
    monkeypatch.setattr(Reads, "negative", staticmethod(lambda value: value))
    assert len({before, changed_class, changed_module, identity(Reads())}) == 4
    monkeypatch.undo()
    assert identity(Reads()) == before


def test_file_counts_by_its_content(tmp_path):
    path = tmp_path / "file"
    absent = identity(path)
    path.write_bytes(b"a")
    before = identity(path)
    path.write_bytes(b"ab")
    assert len({absent, before, identity(path)}) == 3


def test_relative_path_is_known_by_where_it_leads(tmp_path, monkeypatch):
    here = identity(Path("data"))
    monkeypatch.chdir(tmp_path)
    assert identity(Path("data")) != here
    assert identity(Path("data")) == identity(tmp_path / "data")


@pytest.mark.parametrize("value", [threading.Lock(), (part for part in "ab"), sys.stderr.buffer], ids=["lock", "generator", "file"])
def test_what_does_not_show_its_content_is_refused(value):
    with pytest.raises(InvalidTypeError, match=r"a .* does not show what it holds"):
        identity([Settings(value)])


PROGRAM = """
import sys
import numpy as np
from snnsim.data.events import DigitsDVS, FramesByTime
from snnsim.data.events.identity import identity
class Transform:
    draws = False
    kinds = {"a", "b", "c"}
    def __call__(self, events, generator=None):
        return np.sort(events[: len(self.kinds)]) if "t" in {"t", "u"} else None
print(identity([DigitsDVS(False, [Transform(), FramesByTime((20, 20), 4)]), Transform]))
"""


def test_processes_agree():
    runs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout.strip()) == 64
