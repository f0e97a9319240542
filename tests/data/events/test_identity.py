from __future__ import annotations

import enum
import functools
import importlib
import os
import subprocess
import sys
import threading
import types
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


@pytest.mark.parametrize(
    "value",
    [threading.Lock(), (part for part in "ab"), sys.stderr.buffer],
    ids=["lock", "generator", "file"],
)
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
            [sys.executable, "-c", PROGRAM],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout.strip()) == 64


def made(source: str, name: str = "f", module: str = "mine", **given: object) -> object:
    space = {"__name__": module, **given}
    exec(source, space)
    return space[name]


@pytest.mark.parametrize(
    "sources",
    [
        ("def f(events, a, b): return a - b", "def f(events, b, a): return b - a"),
        (
            "import functools\n@functools.lru_cache\ndef f(e): return e",
            "import functools\n@functools.lru_cache\ndef f(e): return -e",
        ),
        ("def f(a, *, b=1): return a", "def f(a, b=1): return a"),
        (
            (
                "def f(e):\n try:\n  x = e + 1\n  y = e + 2\n except ValueError:\n  return 3\n"
                " return x"
            ),
            "def f(e):\n x = e + 1\n try:\n  y = e + 2\n except ValueError:\n  return 3\n return x",
        ),
    ],
    ids=["names of arguments", "remembers calls", "only by name", "what is tried"],
)
def test_functions_are_told_apart(sources):
    one, again, other = (identity(made(source)) for source in (sources[0], *sources))
    assert one == again != other


@pytest.mark.parametrize(
    "use",
    [
        "import helper_of_mine as helper\ndef f(events): return helper.shift(events)",
        "def f(events):\n import helper_of_mine\n return helper_of_mine.shift(events)",
        "def f(events):\n from helper_of_mine import shift\n return shift(events)",
        "import helper_of_mine\ndef f(events, use=helper_of_mine): return use.shift(events)",
    ],
    ids=["global", "inside", "from", "default"],
)
@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_users_own_module_counts_with_what_is_used_of_it(tmp_path, monkeypatch, use, is_loaded):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found = []
    for number in (1, 2):
        (tmp_path / "helper_of_mine.py").write_text(
            f"def shift(events): return events + {number}\n"
        )
        function = made(use)
        if is_loaded:
            importlib.import_module("helper_of_mine")
        found.append(identity(function))
        sys.modules.pop("helper_of_mine", None)
        importlib.invalidate_caches()
    assert found[0] != found[1]


def test_attribute_with_the_name_of_a_global_is_none():
    source = "def f(self): return self.frames"
    assert identity(made(source)) == identity(made(source, frames=3))


def test_own_module_with_the_name_of_one_of_python_counts_by_content(tmp_path, monkeypatch):
    module = types.ModuleType("code")
    module.__file__ = str(tmp_path / "code.py")
    monkeypatch.setitem(sys.modules, "code", module)
    one, other = (identity(made(f"def f(): return {number}", module="code")) for number in (1, 2))
    assert one != other


def test_what_is_derived_once_does_not_count():
    value = Derived()
    before = identity(value)
    assert value.table == [1]
    assert identity(value) == before


class Derived:
    @functools.cached_property
    def table(self) -> list[int]:
        return [1]


def test_sparse_tensors_are_told_apart():
    one, other = (identity(torch.tensor(values).to_sparse()) for values in ([1.0, 0.0], [0.0, 1.0]))
    assert one != other


def test_function_behind_a_name_is_refused():
    with pytest.raises(InvalidTypeError, match="a ufunc does not show the function that it calls"):
        identity(np.frompyfunc(lambda value: value, 1, 1))
    assert identity(np.sin) != identity(np.cos)


def test_what_is_nested_too_deeply_is_refused():
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InvalidTypeError, match="a list is nested too deeply"):
        identity(deep)
