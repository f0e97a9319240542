"""What is compared with the peers, and the page that says so.

A test says with `same` or `differs` what it shows; `python tests/parity/cases.py` writes
docs/migrate/parity.md from these notes.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "migrate" / "parity.md"
FILES = ("test_neurons", "test_surrogates", "test_functional", "test_quant")
GROUPS = ("Neurons", "Surrogates", "Functions", "Quantizers")
SPIKINGJELLY, SNNTORCH = "SpikingJelly", "snnTorch"
EXACT = "bit for bit"
ROUNDING = "to rounding: 1e-6 in float32"
GRADIENTS = "spikes bit for bit; gradients to rounding: 1e-5 in float32, 1e-4 those of parameters"
SLOPES = "forward bit for bit; slope to rounding: 1e-6 in float32"

HEAD = """# Parity with SpikingJelly and snnTorch

`make parity` installs SpikingJelly 2.0.0 and snnTorch 1.0.0 beside the project and
compares every part that both sides have. This page is written from those tests (`python
tests/parity/cases.py`), and each line of it is one of them: what is said to be equal is
asserted equal, and what is said to differ is asserted to differ, so that a change on
either side shows. Code side by side is in [From SpikingJelly](spikingjelly.md) and
[From snnTorch](snntorch.md).
"""


@dataclass(frozen=True)
class Case:
    """One line of the page."""

    peer: str
    subject: str
    outcome: str
    equal: bool


def same(peer: str, subject: str, how: str = EXACT) -> Callable[[FunctionType], FunctionType]:
    """Mark a test that shows two parts to be equal, `how` closely."""
    return _mark(Case(peer, subject, how, equal=True))


def differs(peer: str, subject: str, why: str) -> Callable[[FunctionType], FunctionType]:
    """Mark a test that shows two parts to differ, and say how and why."""
    return _mark(Case(peer, subject, why, equal=False))


def _mark(case: Case) -> Callable[[FunctionType], FunctionType]:
    def mark(test: FunctionType) -> FunctionType:
        test.parity = case  # type: ignore[attr-defined]
        return test

    return mark


def comparisons(module: ModuleType) -> list[FunctionType]:
    """The tests of a file, which are marked by `same` and `differs`, in order."""
    return [
        value
        for name, value in vars(module).items()
        if name.startswith("test_") and isinstance(value, FunctionType)
    ]


def module_of(name: str) -> ModuleType:
    """A file of tests, read anew."""
    spec = importlib.util.spec_from_file_location(f"parity_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page() -> str:
    """The page as Markdown."""
    groups = {
        group: [test.parity for test in comparisons(module_of(name))]
        for group, name in zip(GROUPS, FILES, strict=True)
    }
    parts = [HEAD, "## What is equal\n"]
    for group, cases in groups.items():
        rows = [
            f"| {case.subject} | {case.peer} | {case.outcome} |" for case in cases if case.equal
        ]
        parts.append(
            "\n".join([f"### {group}\n", "| what | peer | equal |", "|---|---|---|", *rows]) + "\n"
        )
    parts.append("## Where results differ, and why\n")
    for group, cases in groups.items():
        lines = [
            f"- **{case.subject}** ({case.peer}). {case.outcome}"
            for case in cases
            if not case.equal
        ]
        if lines:
            parts.append("\n".join([f"### {group}\n", *lines]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    # the test files import this one as a part of `tests`
    sys.path.insert(0, str(HERE.parent))
    PAGE.write_text(page(), encoding="utf-8")
