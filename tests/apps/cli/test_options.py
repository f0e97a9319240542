"""What stands after a command, and where `bench` is found."""

from pathlib import Path

import pytest

import snnsim
from snnsim.__main__ import main
from snnsim.apps.cli.options import ENERGY
from snnsim.deploy.cost import Energy

ROOT = Path(__file__).parents[3]


def test_the_energies_of_an_export_are_those_of_the_library():
    assert Energy(**{name: value for name, (value, _) in ENERGY.items()}) == Energy()


@pytest.fixture
def _installed(tmp_path, monkeypatch):
    """A package without a checkout around it, used in an empty folder."""
    monkeypatch.setattr(snnsim, "__file__", str(tmp_path / "site" / "snnsim" / "__init__.py"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("arguments", [[], ["--help"], ["--quick"]])
def test_bench_without_a_checkout_says_how_to_get_it(arguments, capsys):
    assert main(["bench", *arguments]) == 2
    assert capsys.readouterr() == (
        "",
        "snnsim: bench is no part of the installed package; run it in a checkout of snnsim, which"
        " has it in benchmarks/bench\n",
    )


@pytest.mark.usefixtures("_installed")
def test_bench_is_found_in_a_checkout_that_one_is_in(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    assert "usage: snnsim bench" in capsys.readouterr().out
