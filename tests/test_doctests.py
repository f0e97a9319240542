"""Every example in a docstring of the package runs, and prints what it says."""

import doctest
import importlib
from pathlib import Path

import pytest

import snnsim

PACKAGE = Path(snnsim.__file__).parent
# told by their text: importing every module, to find that most have no example, takes seconds
MODULES = [
    ".".join(["snnsim", *path.relative_to(PACKAGE).with_suffix("").parts])
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


def test_there_are_examples():
    assert "snnsim.temporal.record" in MODULES


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name):
    module = importlib.import_module(name)
    failed, attempted = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert attempted > 0
    assert failed == 0, f"{failed} of {attempted} examples of {name} failed; their output is above"
