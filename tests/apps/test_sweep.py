import dataclasses
import json

import pytest

from snnsim.errors import (
    CheckpointError,
    DataError,
    InvalidTypeError,
    InvalidValueError,
    MissingDataError,
    OutputError,
)
from snnsim.sweep import Plan, Store, config_hash
from snnsim.training import Config

CONFIG = Config(hidden=8)


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


def row(config=CONFIG, accuracy=0.5):
    return {
        "config": dataclasses.asdict(config),
        "config_hash": config_hash(config),
        "accuracy": accuracy,
    }


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "sweep")
    store.begin(CONFIG)
    store.add(row())
    return store


def run_file(store):
    return store.path / "runs" / f"{config_hash(CONFIG)}.json"


def test_runs_are_found_again(store):
    assert store.has(CONFIG)
    assert not store.has(dataclasses.replace(CONFIG, seed=1))
    assert Store(store.path).rows() == [row()]
    # begun again with the same options, or others of the grid, it goes on
    store.begin(dataclasses.replace(CONFIG, bits=2, seed=7, codebook="exponential", weight_bits=4))
    assert store.rows() == [row()]


def test_another_configuration_is_refused(store):
    with pytest.raises(
        CheckpointError,
        match=(
            r"sweep of another configuration: hidden is 8 there and 16 here; tau is 3.0 there"
            r" and 4.0"
        ),
    ):
        store.begin(dataclasses.replace(CONFIG, hidden=16, tau=4.0))


def test_options_newer_than_the_store_count_as_their_defaults(store):
    head = store.path / "sweep.json"
    content = json.loads(head.read_text())
    del content["base"]["float_epochs"]
    head.write_text(json.dumps(content))
    kept = json.loads(run_file(store).read_text())
    del kept["config"]["float_epochs"]
    run_file(store).write_text(json.dumps(kept))
    store.begin(CONFIG)
    assert store.has(CONFIG)
    with pytest.raises(CheckpointError, match="float_epochs is 0 there and 1 here"):
        store.begin(dataclasses.replace(CONFIG, float_epochs=1))


def test_a_folder_of_something_else_is_not_written_to(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(
        OutputError, match="is not empty and holds no sweep; give --out a new folder"
    ):
        Store(tmp_path).begin(CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(OutputError, match="cannot be written"):
        Store(tmp_path / "thesis.tex" / "sweep").begin(CONFIG)


def test_no_sweep_there(tmp_path):
    with pytest.raises(
        MissingDataError, match=r"no sweep at .*; name the folder that holds sweep.json"
    ):
        Store(tmp_path).base()


@pytest.mark.parametrize("content", ['{"format": 9, "base": {}}', '{"format": 1, "base": 3}', "{}"])
def test_a_head_of_another_format(store, content):
    (store.path / "sweep.json").write_text(content)
    with pytest.raises(CheckpointError, match="this version reads 1; give another --out"):
        store.begin(CONFIG)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is damaged .*; delete it and start the sweep again, which makes it anew"),
        ('{"config": {"hid', "is damaged"),
        ("[]", "is damaged .it holds no object.; delete it"),
        (b"\xff\xfe\x00", "is damaged"),
        ("{}", "is not a run of a sweep; delete it and start the sweep again"),
        (json.dumps(row(dataclasses.replace(CONFIG, seed=3))), "is not a run of a sweep"),
        (
            json.dumps({**row(), "config": {"spin": 1, "hidden": 8}, "snnsim": "9.9"}),
            "has options that this version does not know, spin; use snnsim 9.9",
        ),
    ],
)
def test_a_damaged_run_is_named_and_not_lost_among_the_others(store, content, message):
    run_file(store).write_bytes(content if isinstance(content, bytes) else content.encode())
    for use in (store.rows, lambda: store.has(CONFIG)):
        with pytest.raises(DataError, match=f"{config_hash(CONFIG)}.json {message}"):
            use()


def test_of_two_configurations_with_one_hash_only_one_is_there(store):
    kept = json.loads(run_file(store).read_text())
    kept["config"]["hidden"] = 16
    run_file(store).write_text(json.dumps(kept))
    assert not store.has(CONFIG)


def test_a_sweep_that_was_killed_at_its_first_file_is_begun_again(tmp_path):
    for name in (".sweep.json.1-1.partial", ".0123456789abcdef.partial", ".lock"):
        (tmp_path / name).touch()
    Store(tmp_path).begin(CONFIG)
    assert (tmp_path / "sweep.json").is_file()


def test_a_sweep_holds_its_folder_and_removes_what_killed_ones_left(store):
    left = store.path / "runs" / ".0123456789abcdef.partial"
    left.touch()
    with store.claimed():
        assert not left.exists()
        with (
            pytest.raises(OutputError, match="another run is writing there"),
            Store(store.path).claimed(),
        ):
            pass
    assert store.rows() == [row()]


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"spin": 1}, "options that this version does not know, spin"),
        ({"hidden": "8"}, "no sound configuration"),
    ],
)
def test_a_head_with_a_wrong_configuration(store, base, message):
    (store.path / "sweep.json").write_text(json.dumps({"format": 1, "base": base}))
    with pytest.raises(CheckpointError, match=message):
        store.begin(CONFIG)
