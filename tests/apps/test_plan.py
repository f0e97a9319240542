import dataclasses

import pytest

from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.sweep import Plan, config_hash
from snnsim.training import Config


def test_every_combination_is_a_run_and_float_states_are_one_whatever_the_codebook():
    plan = Plan(Config(hidden=8), (2, 4, None), (2, None), ("uniform", "exponential"), seeds=2)
    configs = plan.configs()
    assert len(configs) == len(set(configs)) == 2 * 2 * (2 * 2 + 1)
    assert {config.hidden for config in configs} == {8}
    floats = [config for config in configs if config.bits is None]
    assert [(config.seed, config.weight_bits, config.codebook) for config in floats] == [
        (0, 2, "uniform"),
        (0, None, "uniform"),
        (1, 2, "uniform"),
        (1, None, "uniform"),
    ]


def test_a_plan_with_more_seeds_begins_with_the_plan_with_fewer():
    few, many = (
        Plan(Config(), (2, None), codebooks=("uniform",), seeds=seeds).configs() for seeds in (1, 3)
    )
    assert many[: len(few)] == few


def test_a_hash_names_the_configuration_and_survives_new_options():
    # a store written by one version is read by the next: these are not to change
    assert config_hash(Config()) == "44136fa355b3"
    assert (
        config_hash(Config(dataset="mnist", bits=2, codebook="learned", float_epochs=3, seed=1))
        == "142571029af3"
    )
    hashes = {
        config_hash(dataclasses.replace(Config(), **change))
        for change in ({}, {"seed": 1}, {"bits": None}, {"tau": 3.5})
    }
    assert len(hashes) == 4


def test_codebooks_that_no_neuron_works_on_are_found_before_training():
    plan = Plan(Config(hidden=8), (1, 2, None), codebooks=("uniform", "classic"))
    refused = plan.refused()
    assert set(refused) == {("classic", 1)}
    assert "would fire for ever" in refused["classic", 1]
    # a hard reset lands below the threshold
    assert not Plan(Config(hidden=8, hard_reset=True), (2,), codebooks=("classic",)).refused()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"seeds": 0}, InvalidValueError, "seeds"),
        ({"seeds": 10**11}, InvalidValueError, "seeds must be <= 10000"),
        ({"seeds": 1.5}, InvalidTypeError, "seeds"),
        (
            {"state_bits": ()},
            InvalidValueError,
            r"Plan\(state_bits=\(\)\): there is nothing to sweep; give at least one",
        ),
        ({"weight_bits": ()}, InvalidValueError, "nothing to sweep"),
        (
            {"codebooks": ("best",)},
            InvalidValueError,
            "Plan.codebooks with 'best'.: must be among uniform, exponential",
        ),
    ],
)
def test_plans_are_checked(changes, error, message):
    with pytest.raises(error, match=message):
        Plan(**changes)


def test_what_no_config_allows_no_plan_does():
    with pytest.raises(InvalidValueError, match=r"weight_bits=9\): must be in 1\.\.8"):
        Plan(weight_bits=(9,)).configs()
    with pytest.raises(InvalidValueError, match="set float_epochs to 1 or more"):
        Plan(codebooks=("calibrated",)).configs()
