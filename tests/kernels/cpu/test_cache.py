import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("numba")

from snnsim.kernels.cpu import cache, passes
from snnsim.kernels.cpu.engine import warm_up

RUN = """
import torch
from snnsim.kernels.cpu import cache, passes
cache.kernel("histogram", False)
"""


def run(folder, **environment):
    """Load one kernel in a process of its own; the names of the files it leaves."""
    variables = {**os.environ, "NUMBA_CACHE_DIR": str(folder), **environment}
    subprocess.run([sys.executable, "-W", "error", "-c", RUN], check=True, env=variables)
    place = folder / "snnsim"
    return sorted(path.name for path in place.iterdir()) if place.is_dir() else []


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The cache folder, in an empty place; kernels are compiled anew by `fresh`."""
    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "kernels")
    cache.kernel.cache_clear()
    yield tmp_path / "kernels"
    cache.kernel.cache_clear()


@pytest.fixture
def compilations(monkeypatch):
    """Names of the kernels that are compiled, not loaded."""
    compiled = []
    save = cache._File.save_overload
    monkeypatch.setattr(
        cache._File,
        "save_overload",
        lambda self, *args: compiled.append(self.name) or save(self, *args),
    )
    return compiled


def fresh(name="histogram"):
    cache.kernel.cache_clear()
    return cache.kernel(name, False)


def test_a_kernel_is_compiled_once_and_then_loaded(place, compilations):
    assert fresh() is not fresh()
    assert compilations == ["histogram"]
    assert len(list(place.iterdir())) == 1


def test_types_and_kernels_have_files_of_their_own(place):
    fresh()
    cache.kernel("histogram", True)
    cache.kernel("linear_forward", False)
    assert len(list(place.iterdir())) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-10],
        lambda content: b"",
        lambda content: content[:40] + b"?" + content[41:],
    ],
)
def test_a_damaged_file_is_compiled_again_and_replaced(damage, place, compilations):
    fresh()
    (file,) = place.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    fresh()
    fresh()
    assert compilations == ["histogram", "histogram"]


def test_a_file_that_others_could_have_written_is_not_loaded(place, compilations):
    fresh()
    place.chmod(0o777)
    fresh()
    assert compilations == ["histogram", "histogram"]


def test_another_version_of_the_source_is_another_file(place, compilations, monkeypatch):
    fresh()
    monkeypatch.setattr(cache, "_source", lambda: b"changed")
    fresh()
    assert compilations == ["histogram", "histogram"]
    assert len(list(place.iterdir())) == 2


def test_where_nothing_can_be_written_kernels_are_compiled_in_memory(place, compilations, caplog):
    place.write_text("a file where the folder should be")
    with caplog.at_level(logging.INFO, logger="snnsim"):
        assert fresh().address
    assert "compiled kernel histogram is not kept: " in caplog.text
    assert place.read_text() == "a file where the folder should be"


def test_a_write_that_fails_leaves_no_file_behind(place, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    assert fresh().address
    assert list(place.iterdir()) == []


def test_processes_that_start_at_once_leave_one_whole_file(tmp_path):
    with ThreadPoolExecutor(2) as executor:
        list(executor.map(run, [tmp_path, tmp_path]))
    assert len(run(tmp_path)) == 1


def test_without_a_home_folder_kernels_are_compiled_in_memory(place, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(cache, "folder", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert fresh().address


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(vars(cache.config), "CACHE_DIR", "")
    assert cache.folder() == tmp_path / "snnsim" / "kernels"
    monkeypatch.setitem(vars(cache.config), "CACHE_DIR", str(tmp_path / "numba"))
    assert cache.folder() == tmp_path / "numba" / "snnsim"


def test_warming_up_asks_for_every_kernel_in_both_types(monkeypatch):
    asked = []
    monkeypatch.setattr(cache, "kernel", lambda name, wide: asked.append((name, wide)))
    warm_up()
    kernels = {
        name for name in passes.__all__ if callable(getattr(passes, name)) and name.islower()
    }
    assert sorted(asked) == sorted((name, wide) for name in kernels for wide in (False, True))
    assert {
        "forward_by_tree",
        "backward",
        "histogram",
        "linear_forward",
        "linear_backward",
    } <= kernels
