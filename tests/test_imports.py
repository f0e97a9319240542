"""Imports go downward only: the order of DESIGN, read from the source."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import house
import pytest

import snnsim

PACKAGE = Path(snnsim.__file__).parent


@pytest.mark.parametrize("path", house.files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    own = house.folder(path)
    for name in house.imported(path):
        other = name.split(".")[0]
        assert other == own or house.RANK[other] < house.RANK[own], f"{own} must not import {other}"


def test_no_files_import_one_another_in_a_circle():
    knots = house.circles(house.uses())
    assert not [[str(path.relative_to(PACKAGE)) for path in knot] for knot in knots]


def test_the_picture_of_the_house_is_that_of_its_imports():
    assert house.PICTURE.read_text() == house.picture(), "run: python docs/house.py"


def run_python(code):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.strip()


HEAVY = (
    "print([m for m in ('torch', 'matplotlib', 'numba', 'sklearn', 'triton') if m in sys.modules])"
)


def test_import_is_quiet_and_light():
    assert run_python(f"import sys, snnsim; {HEAVY}") == "[]"
    assert run_python(f"import sys; from snnsim import *; {HEAVY}") == "['torch']"


@pytest.mark.parametrize("name", snnsim.__all__)
def test_every_public_name_is_there(name):
    assert hasattr(snnsim, name)
    assert name in dir(snnsim)


@pytest.mark.parametrize("name", ["debug", "checkpoint"])
def test_a_name_is_that_of_its_home_whatever_was_loaded_before(name):
    # `debug` is a module and a function: the function it is
    code = (
        f"from snnsim import {name}; import snnsim.temporal.runner, snnsim._core.debug;"
        f" print(callable({name}), snnsim.{name} is {name})"
    )
    assert run_python(code) == "True True"


def test_parts_that_are_no_public_names_are_loaded_too():
    assert (
        run_python(
            "import snnsim; print(snnsim.errors.SnnsimError.__name__, snnsim.deploy.__name__)"
        )
        == "SnnsimError snnsim.deploy"
    )


@pytest.mark.parametrize("name", ["nope", "_nope", "__path_of_nothing__"])
def test_what_is_not_there_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=f"module 'snnsim' has no attribute '{name}'"):
        getattr(snnsim, name)


def test_tools_see_what_is_loaded_on_first_use():
    tree = ast.parse(Path(snnsim.__file__).read_text())
    seen = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(snnsim.__all__) <= seen


@pytest.mark.parametrize("name", ["", "..", "a.b", "neurons.", "config.Config", "a b", "\0"])
def test_what_can_be_no_name_is_an_attribute_error(name):
    assert not hasattr(snnsim, name)


def test_parts_can_be_asked_for_by_many_threads_at_once():
    code = """
import threading
import snnsim

barrier, wrong = threading.Barrier(len(snnsim.__all__)), []

def load(name):
    barrier.wait()
    try:
        getattr(snnsim, name)
    except BaseException as problem:
        wrong.append(repr(problem))

threads = [threading.Thread(target=load, args=(name,)) for name in snnsim.__all__]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(wrong)
"""
    assert run_python(code) == "[]"


PUBLIC = {name for name in snnsim.__all__ if not name.startswith("_")}
LOADED_TOGETHER = [
    path
    for path in house.files()
    if path.relative_to(PACKAGE).parts[0].removesuffix(".py") in PUBLIC | {"temporal"}
]


@pytest.mark.parametrize("path", LOADED_TOGETHER, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_parts_import_each_other_by_their_full_names(path):
    # whoever loads one holds the lock that the names of `snnsim` itself wait for
    tree = ast.parse(path.read_text())
    assert not [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "snnsim"
    ]


def whole_packages(name):
    """Packages that are loaded before a part of this one is, by what its first file imports."""
    file = PACKAGE / name / "__init__.py"
    tree = ast.parse((file if file.exists() else file.parent.with_suffix(".py")).read_text())
    direct = {
        alias.name.removeprefix("snnsim.")
        for node in tree.body
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.startswith("snnsim.") and alias.name.count(".") == 1
    }
    return direct.union(*(whole_packages(other) for other in direct))


@pytest.mark.parametrize("name", sorted(PUBLIC & set(house.RANK) | {"automaton", "deploy", "viz"}))
def test_packages_below_are_loaded_whole(name):
    # a thread that asks for a part of a package waits for the package itself, and one that loads
    # the package for its parts
    parts = [
        path for path in house.files() if path.relative_to(PACKAGE).parts[0] in (name, f"{name}.py")
    ]
    used = {
        node.module.split(".")[1]
        for path in parts
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("snnsim.")
        and node.module.count(".") > 1
    } - {name}
    firsts = {other: PACKAGE / other / "__init__.py" for other in used}
    folders = {
        other for other, first in firsts.items() if first.exists() and "import" in first.read_text()
    }
    assert folders <= whole_packages(name)


def test_parts_can_be_imported_by_two_threads_at_once():
    code = """
import sys, threading
sys.setswitchinterval(1e-6)
import torch, snnsim

barrier, wrong = threading.Barrier(2), []

def load(statement):
    barrier.wait()
    try:
        exec(statement, {})
    except BaseException as problem:
        wrong.append(repr(problem))

statements = ("import snnsim.quant", "import snnsim.neurons")
threads = [threading.Thread(target=load, args=(statement,)) for statement in statements]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(wrong)
"""
    for _ in range(3):
        assert run_python(code) == "[]"


NAME = re.compile(r"(?<![\w./-])snnsim(?:\.[A-Za-z_]\w*)+")
# a key, no name
NO_NAMES = {"snnsim.bounds"}


def exists(name):
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        return not parts[length:] or hasattr(thing, parts[length])
    return False


def test_names_in_texts_exist_and_are_not_private():
    texts = [
        node.value
        for path in house.files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    names = {name for text in texts for name in NAME.findall(text)} - NO_NAMES
    assert len(names) > 20
    assert not sorted(name for name in names if "._" in name or not exists(name))
