import importlib.util
from functools import partial

import pytest
import torch

from bench import candidates, environment
from bench.candidates import (
    NAMES,
    OWN,
    REFERENCE,
    SAME_SPIKES,
    build,
    choose_names,
    leaky_node,
    reference_of,
)
from snnsim import quant
from snnsim.errors import InvalidValueError

INSTALLED = [name for name in environment.PEERS if importlib.util.find_spec(name)]


def test_names_are_chosen_by_how_they_begin():
    assert choose_names(None) == NAMES
    assert choose_names(["snnsim"]) == tuple(OWN)
    assert choose_names(["plain loop", "reference float"]) == ("reference float", "plain loop")
    with pytest.raises(
        InvalidValueError,
        match=r"only='nobody': no candidate begins with that; there are 'snnsim uniform 4', ",
    ):
        choose_names(["snnsim", "nobody"])


def test_our_candidates_cover_what_is_asked():
    assert {
        "snnsim uniform 4",
        "snnsim uniform 8",
        "snnsim exponential 4",
        "snnsim exponential 8",
        "snnsim float",
    } <= set(OWN)
    assert torch.equal(leaky_node("uniform 4").state_quant.levels, quant.uniform(4).levels)
    assert leaky_node("float").state_quant is None


def test_peers_that_are_not_installed_are_named_with_the_line_that_helps(monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    found, missing = build(["plain loop", "snntorch", "snntorch state_quant 4", "spikingjelly"])
    assert [candidate.name for candidate in found] == ["plain loop"]
    assert missing == {
        "snntorch": "not installed; pip install snntorch",
        "spikingjelly": "not installed; pip install --no-deps spikingjelly",
    }


def test_compiled_loop_is_missing_without_a_compiler(monkeypatch):
    monkeypatch.setattr(candidates.shutil, "which", lambda name: None)
    assert build(["torch.compile"]) == (
        [],
        {"torch.compile": "no C++ compiler on the path, such as g++"},
    )


@pytest.mark.parametrize("name", [*OWN, *REFERENCE, "plain loop"])
def test_candidates_give_spikes_of_the_shape_of_the_input(name):
    (candidate,), missing = build([name])
    x = torch.randn(3, 50) + 0.5
    spikes = candidate.run(x)
    assert missing == {}
    assert spikes.shape == x.shape
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    # from rest each time
    assert torch.equal(candidate.run(x), spikes)


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_peers_run_from_rest(name):
    x = torch.randn(3, 50) + 0.5
    for candidate in build([n for n in NAMES if n.split(" ")[0] == name])[0]:
        spikes = candidate.run(x)
        assert torch.equal(candidate.run(x), spikes)
        if name in SAME_SPIKES:
            assert torch.equal(spikes, reference_of("float")(x))


def test_compiled_loop_runs_long_sequences_in_parts(monkeypatch):
    lengths = []

    def compile_(function, **options):
        def run(x, v):
            lengths.append(len(x))
            return function(x, v)

        return run

    monkeypatch.setattr(candidates.torch, "compile", compile_)
    (candidate,), _ = build(["torch.compile"])
    for steps, expected in ((100, [10] * 10), (16, [16]), (8, [8]), (1, [1])):
        lengths.clear()
        x = torch.randn(steps, 20)
        assert torch.equal(candidate.run(x), reference_of("float")(x))
        assert lengths == expected


def test_compiled_loop_gives_the_same_spikes(monkeypatch):
    # as the real back-end sees it, without its compiler
    monkeypatch.setattr(candidates.torch, "compile", partial(torch.compile, backend="aot_eager"))
    (candidate,), _ = build(["torch.compile"])
    x = torch.randn(2, 20)
    assert torch.equal(candidate.run(x), reference_of("float")(x))


def test_slow_candidates_are_timed_on_a_part():
    def part(name, shape):
        return candidates.Candidate(name, lambda x: x).neurons(shape)

    assert part("snnsim uniform 4", (16, 1_000_000)) == 1_000_000
    assert part("snntorch state_quant 4", (16, 1_000_000)) == 125_000
    assert part("snntorch state_quant 8", (100, 10_000)) == 1000
    assert part("snntorch state_quant 8", (1, 500)) == 500
