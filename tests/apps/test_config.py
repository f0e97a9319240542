"""Options are fields: typed, checked, hashed and read from files by one description of each."""

import argparse
import dataclasses
import subprocess
import sys

import pytest

from snnsim.apps.cli.options import build_parser, given, option_of
from snnsim.apps.config import Config, Number, Switch, Whole, config_hash
from snnsim.errors import InvalidTypeError, InvalidValueError

FIELDS = dataclasses.fields(Config)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dataset": "cifar"}, InvalidValueError, "must be one of digits, mnist"),
        ({"codebook": "best"}, InvalidValueError, "must be one of uniform"),
        ({"hidden": 0}, InvalidValueError, "hidden"),
        ({"epochs": 1.5}, InvalidTypeError, "must be an int"),
        ({"learning_rate": 0.0}, InvalidValueError, "learning_rate"),
        ({"learning_rate": float("inf")}, InvalidValueError, "finite"),
        ({"seed": 2**70}, InvalidValueError, "seed"),
        ({"bits": True}, InvalidTypeError, "bits"),
        ({"network": "rnn"}, InvalidValueError, "must be one of mlp, conv"),
        ({"weight_bits": 9}, InvalidValueError, r"must be in 1\.\.8, or None for float32"),
        ({"weight_bits": "ternary"}, InvalidTypeError, "weight_bits"),
        (
            {"float_epochs": 3},
            InvalidValueError,
            "must be fewer than the epochs, which include them",
        ),
        ({"float_epochs": -1}, InvalidValueError, "float_epochs"),
        ({"hidden": 2**31}, InvalidValueError, "hidden must be <= 2147483647"),
        ({"bits": 17}, InvalidValueError, r"must be in 1\.\.16, or None for float32"),
        ({"tau": "3"}, InvalidTypeError, "tau"),
        ({"tau": float("nan")}, InvalidValueError, "tau"),
        ({"hard_reset": 1}, InvalidTypeError, "hard_reset"),
        ({"dataset": ["digits"]}, InvalidValueError, "must be one of"),
        ({"codebook": "calibrated"}, InvalidValueError, "set float_epochs to 1 or more"),
    ],
)
def test_configurations_are_checked(changes, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(Config(epochs=3), **changes)


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


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_is_an_option_of_train_that_reads_what_the_field_allows(field):
    kind = field.metadata["kind"]
    arguments = [option_of(field.name)]
    if not isinstance(kind, Switch):
        arguments.append("float" if field.default is None else str(field.default))
    found = given(build_parser().parse_args(["train", *arguments]))
    assert found == {field.name: True if isinstance(kind, Switch) else field.default}
    kind.check("Config", field.name, field.default)
    with pytest.raises((InvalidValueError, InvalidTypeError), match=rf"Config\({field.name}="):
        kind.check("Config", field.name, [1])


def test_options_that_are_not_typed_leave_no_trace():
    assert given(build_parser().parse_args(["train"])) == {}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Whole(), "0"),
        (Whole(), "٣.5"),
        (Whole(), "9" * 5000),
        (Whole(1, 8, (("float", None),)), "9"),
        (Number(), "nan"),
        (Number(above=0), "0"),
        (Number(at_least=0, below=100), "100"),
    ],
)
def test_what_is_no_such_number_is_not_read(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"is (neither|not) a "):
        kind.parse(text)


def test_options_load_no_torch():
    code = "import sys, snnsim.apps.config, snnsim.apps.cli.options; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_differences_are_told_by_name():
    ours, theirs = Config(bits=2, epochs=9), Config(tau=2.5)
    assert ours.differences(ours) == ""
    assert ours.differences(theirs, besides=("epochs",)) == (
        "bits is 4 there and 2 here; tau is 2.5 there and 3.0 here"
    )
