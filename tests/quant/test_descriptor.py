import copy
import json
import math
import pickle
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.quant import descriptor as module
from snnsim.quant.descriptor import QuantDescriptor

CASES = json.loads((Path(__file__).parent / "data" / "tensor_quant.json").read_text())["cases"]
SOME = [
    QuantDescriptor(),
    QuantDescriptor(4, "w", axis=0, narrow_range=True, calib_method="mse", power_of_two=True),
    QuantDescriptor(amax=0.1, scale_amax=0.9, fake_quant=False),
    QuantDescriptor(axis=-1, amax=[[1.5], [0.1]]),
    QuantDescriptor(3, learn_amax=True, unsigned=True),
]


@pytest.mark.parametrize("desc", SOME)
def test_descriptor_survives_dict_json_pickle_and_copies(desc):
    for other in (
        QuantDescriptor.from_dict(desc.to_dict()),
        QuantDescriptor.from_json(desc.to_json()),
        QuantDescriptor(**desc.to_dict()),
        pickle.loads(pickle.dumps(desc)),
        copy.deepcopy(desc),
    ):
        assert other == desc
        assert hash(other) == hash(desc)


def test_descriptors_differ_by_any_field():
    assert len(set(SOME)) == len(SOME)
    assert all(replace(desc, narrow_range=not desc.narrow_range) != desc for desc in SOME)


def test_descriptor_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        QuantDescriptor().num_bits = 4


@pytest.mark.parametrize(
    "amax",
    [
        2,
        2.0,
        [2.0, 3.0],
        (2, 3),
        np.array([2.0, 3.0]),
        np.float32(2),
        torch.tensor(2.0),
        torch.ones(2, 1),
    ],
)
def test_amax_may_be_any_kind_of_numbers(amax):
    desc = QuantDescriptor(amax=amax)
    assert torch.equal(desc.amax_tensor(), torch.as_tensor(amax, dtype=torch.float32))
    assert QuantDescriptor.from_json(desc.to_json()) == desc


def test_equal_amax_of_different_kinds_compares_equal():
    assert QuantDescriptor(amax=[2.0, 3.0]) == QuantDescriptor(amax=torch.tensor([2.0, 3.0]))


@pytest.mark.parametrize("name", ["desc_neg_bits", "desc_name_int", "desc_amax_str", "desc_unused"])
def test_recorded_refusals_hold(name):
    kwargs = {
        "desc_neg_bits": {"num_bits": -1},
        "desc_name_int": {"name": 3},
        "desc_amax_str": {"amax": "oops"},
    }
    error = {"ValueError": ValueError, "TypeError": TypeError}[CASES[name]["raises"]]
    with pytest.raises(error):
        QuantDescriptor(**kwargs.get(name, {"foo": 1}))


def test_recorded_amax_list_and_axis_are_accepted():
    assert QuantDescriptor(amax=[1.3, 1.4]).amax == (1.3, 1.4)
    assert QuantDescriptor(axis=0).axis == 0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_bits": 8.0}, "num_bits must be an int, not float"),
        ({"num_bits": True}, "num_bits must be an int, not bool"),
        ({"name": 3}, "name must be a str or None"),
        ({"axis": 1.0}, "axis must be one int or None"),
        ({"axis": (0, 1)}, "axis must be one int or None"),
        (
            {"axis": 0, "learn_amax": True},
            "a learned range is one per tensor; use axis=None, or learn_amax=False",
        ),
        ({"amax": "oops"}, "must be a number, list, array or tensor, not str"),
        ({"amax": True}, "not bool"),
        ({"amax": [[1.0], [1.0, 2.0]]}, "must hold numbers, in rows of one length"),
        ({"unsigned": 1}, "unsigned must be True or False"),
    ],
)
def test_wrong_types_are_refused(kwargs, message):
    with pytest.raises(InvalidTypeError, match=message):
        QuantDescriptor(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_bits": 0}, "num_bits must be 1 to 24"),
        ({"num_bits": 25}, "num_bits must be 1 to 24"),
        ({"amax": -1.0}, "must be finite and >= 0"),
        ({"amax": [1.0, math.nan]}, "must be finite and >= 0"),
        ({"amax": []}, "one value or one per channel"),
        ({"scale_amax": 0.0}, "scale_amax multiplies the range and must be positive"),
        (
            {"calib_method": "median"},
            "must be one of max, histogram, percentile, mse, entropy, twn",
        ),
        ({"calib_method": "twn"}, "use num_bits=2, narrow_range=True"),
        (
            {"num_bits": 2, "narrow_range": True, "calib_method": "twn", "learn_amax": True},
            "learn_amax=False",
        ),
    ],
)
def test_wrong_values_are_refused(kwargs, message):
    with pytest.raises(InvalidValueError, match=message):
        QuantDescriptor(**kwargs)


def test_from_dict_refuses_unknown_fields():
    with pytest.raises(InvalidTypeError, match="foo"):
        QuantDescriptor.from_dict({"num_bits": 4, "foo": 1})


@pytest.mark.parametrize(
    ("kwargs", "bounds"),
    [
        ({}, (-128, 127)),
        ({"narrow_range": True}, (-127, 127)),
        ({"unsigned": True}, (0, 255)),
        ({"num_bits": 1}, (-1, 1)),
        ({"num_bits": 1, "unsigned": True}, (0, 1)),
        ({"num_bits": 2, "narrow_range": True}, (-1, 1)),
    ],
)
def test_bounds_are_the_integers_of_the_format(kwargs, bounds):
    assert QuantDescriptor(**kwargs).bounds == bounds


def test_nine_descriptors_are_predefined_with_the_axis_of_the_output_channels():
    predefined = {
        name: getattr(module, name) for name in module.__all__ if name.startswith("QUANT_DESC")
    }
    assert len(predefined) == 9
    for name, desc in predefined.items():
        axis = (
            1
            if "CONVTRANSPOSE" in name
            else 0
            if "PER_CHANNEL" in name or "PER_ROW" in name
            else None
        )
        assert desc == QuantDescriptor(8, axis=axis, unsigned="UNSIGNED" in name)
