"""Whatever stands in a field of a node: it is read, or refused by its name."""

import nir
import numpy as np
import pytest
import torch

from snnsim.deploy import from_nir
from snnsim.errors import DataError, InvalidValueError, SnnsimError

DT = 1e-4


def full(value):
    return np.full(2, value, np.float32)


def second_order(kind, **fields):
    return kind(tau_syn=full(3 * DT), tau_mem=full(4 * DT), r=full(1.0), v_leak=full(0.0), **fields)


def convolution(kind, *size):
    shape = size if len(size) > 1 else size[0]
    return kind(
        shape, np.ones((2, 2, *[3] * len(size)), np.float32), 1, 1, 1, 1, np.zeros(2, np.float32)
    )


def pool(kind):
    return kind(*(np.array(pair) for pair in ((2, 2), (1, 1), (0, 0))))


# nodes, and the shapes in front of them
NODES = {
    "Affine": (lambda: nir.Affine(np.ones((2, 2), np.float32), full(0.0)), (2,)),
    "AvgPool2d": (lambda: pool(nir.AvgPool2d), (2, 5, 5)),
    "Conv1d": (lambda: convolution(nir.Conv1d, 5), (2, 5)),
    "Conv2d": (lambda: convolution(nir.Conv2d, 5, 5), (2, 5, 5)),
    "CubaLI": (lambda: second_order(nir.CubaLI), (2,)),
    "CubaLIF": (lambda: second_order(nir.CubaLIF, v_threshold=full(1.0)), (2,)),
    "Delay": (lambda: nir.Delay(full(2 * DT)), (2,)),
    "Flatten": (lambda: nir.Flatten({"input": np.array([2, 5, 5])}, 0, -1), (2, 5, 5)),
    "I": (lambda: nir.I(full(1 / DT)), (2,)),
    "IF": (lambda: nir.IF(full(1 / DT), full(1.0)), (2,)),
    "LI": (lambda: nir.LI(full(3 * DT), full(1.0), full(0.0)), (2,)),
    "LIF": (lambda: nir.LIF(full(3 * DT), full(1.0), full(0.0), full(1.0)), (2,)),
    "Linear": (lambda: nir.Linear(np.ones((2, 2), np.float32)), (2,)),
    "Scale": (lambda: nir.Scale(full(2.0)), (2,)),
    "SumPool2d": (lambda: pool(nir.SumPool2d), (2, 5, 5)),
    "Threshold": (lambda: nir.Threshold(full(0.5)), (2,)),
}
OUTPUTS = {"AvgPool2d": (2, 4, 4), "SumPool2d": (2, 4, 4), "Flatten": (50,)}
# no numbers, whatever the field
WRONG = [
    None,
    "text",
    b"text",
    np.array(["a", "b"]),
    np.array([1, None], object),
    np.array([1j, 2]),
    np.array([True, False]),
    True,
    np.zeros(0),
    [[1, 2], [3]],
    {"a": 1},
    object(),
    np.datetime64("2020"),
    np.ma.array([1.0, 2.0], mask=[True, False]),
    float("nan"),
    float("inf"),
    np.array([np.nan, 1]),
    np.array([-np.inf, 1]),
    1e300,
    np.ones((3, 7)),
    np.ones((2, 1, 1, 2, 2)),
]
# numbers that a field may hold or not
UNUSUAL = [
    -1,
    0,
    1.5,
    2,
    10**12,
    10**30,
    np.ones(3),
    np.ones((1, 2)),
    np.ones((2, 1)),
    np.array(1.0),
    np.array([1.5, 1]),
    [1, 2],
    (2, 2),
    torch.ones(2),
    torch.ones(2, requires_grad=True),
    np.array([2**40, 1]),
    "same",
    "valid",
]


def graph(kind, name=None, value=None):
    make, shape = NODES[kind]
    node = make()
    if name is not None:
        setattr(node, name, value)
    nodes = {
        "input": nir.Input(np.array(shape)),
        "n": node,
        "output": nir.Output(np.array(OUTPUTS.get(kind, shape))),
    }
    return nir.NIRGraph(nodes, [("input", "n"), ("n", "output")], type_check=False)


FIELDS = [
    (kind, name)
    for kind, (make, _) in NODES.items()
    for name in vars(make())
    if name not in ("input_type", "output_type", "metadata", "input_shape")
]


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_what_is_no_number_is_refused_by_name(kind, name):
    from_nir(graph(kind), dt=DT)
    for value in WRONG:
        if name == "padding" and isinstance(value, str | bytes):
            continue
        with pytest.raises(
            SnnsimError,
            match=rf"'n' \({kind}\).*({name}|constants|weight|bias has shape|does not take)",
        ):
            from_nir(graph(kind, name, value), dt=DT)


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_unusual_numbers_are_read_or_refused(kind, name):
    for value in UNUSUAL:
        try:
            net = from_nir(graph(kind, name, value), dt=DT)
        except SnnsimError:
            continue
        shape = NODES[kind][1]
        assert net(torch.rand(3, *shape)).shape == (3, *OUTPUTS.get(kind, shape))


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        (
            "LIF",
            "tau",
            np.array(["a", "b"]),
            r"its tau is array\(\['a', 'b'\].*and must be numbers; write it again",
        ),
        ("LIF", "r", np.zeros(0), r"its r is empty, of shape \(0,\), and must be numbers"),
        ("Affine", "bias", np.array([1, np.nan]), "bias = nan must be finite in float32"),
        ("Conv2d", "stride", np.array([1.5, 1]), r"stride = \[1.5, 1.0\] must be whole numbers"),
        ("Conv2d", "stride", 0, r"stride = \(0,\) must be 2 whole numbers of at least 1, or one"),
        (
            "Conv2d",
            "padding",
            -1,
            r"padding = \(-1,\) must be 2 whole numbers of at least 0, or one",
        ),
        ("Conv2d", "padding", "full", "padding = 'full' must be 'same', 'valid' or numbers"),
        ("Conv1d", "groups", 2.5, r"groups = \[2.5\] must be whole numbers"),
        ("Conv1d", "groups", 3, "groups = 3 must be at least 1 and divide the 2 channels"),
        (
            "SumPool2d",
            "kernel_size",
            np.array([2, 2, 2]),
            "kernel_size = .2, 2, 2. must be 2 whole numbers",
        ),
        (
            "Flatten",
            "end_dim",
            3,
            r"it flattens the axes 0 to 3 of \(2, 5, 5\), which has no such axis",
        ),
        ("Flatten", "start_dim", 0.5, "start_dim = .*must be whole numbers"),
        (
            "Delay",
            "delay",
            full(200.0),
            "delay = 200 is more than 1048576 time steps, dt = 0.0001; use a larger dt",
        ),
        (
            "Delay",
            "delay",
            np.array([DT, 2 * DT]),
            "delay = 0.0001 to 0.0002 differs between neurons.*give each delay a node of its own",
        ),
    ],
)
def test_messages(kind, name, value, message):
    with pytest.raises(
        (DataError, InvalidValueError, ValueError), match=rf"from_nir: 'n' \({kind}\): {message}"
    ):
        from_nir(graph(kind, name, value), dt=DT)


def test_metadata_that_is_none_is_no_metadata():
    for value in (None, "text", 3, np.ones(2), ["snnsim"]):
        made = graph("LIF", "metadata", value)
        made.metadata = value
        from_nir(made, dt=DT)


def test_shapes_and_names_that_are_none():
    made = graph("LIF")
    made.nodes["input"].input_type = {"input": np.array([2.5])}
    with pytest.raises(
        InvalidValueError, match=r"'input' .Input.: shape = \[2.5\] must be whole numbers"
    ):
        from_nir(made)
    made.nodes["input"].input_type = {"input": np.array([0])}
    with pytest.raises(
        DataError, match=r"'input' .Input.: its shape is \(0,\), and every size must be at least 1"
    ):
        from_nir(made)
    made = graph("LIF")
    made.nodes[3] = made.nodes["n"]
    with pytest.raises(DataError, match=r"the nodes of 'the graph' must be named by text, not 3"):
        from_nir(made)
    made.nodes, made.edges = graph("LIF").nodes, None
    with pytest.raises(DataError, match="None among the edges of 'the graph' is no pair of names"):
        from_nir(made)
    for edge in (("n",), ("input", "n", "output"), ("input", 3), "input"):
        made = graph("LIF")
        made.edges = [*made.edges, edge]
        with pytest.raises(DataError, match="among the edges of 'the graph' is no pair of names"):
            from_nir(made)


def test_subgraphs_within_themselves_and_names_that_meet():
    made = graph("LIF")
    made.nodes["n"] = made
    with pytest.raises(DataError, match="subgraphs lie more than 64 deep"):
        from_nir(made)
    inner = graph("LIF")
    nodes = {
        "input": nir.Input([2]),
        "a": inner,
        "a.n": NODES["LIF"][0](),
        "output": nir.Output([2]),
    }
    made = nir.NIRGraph(nodes, [("input", "a"), ("a", "a.n"), ("a.n", "output")], type_check=False)
    with pytest.raises(
        DataError,
        match=r"two nodes are called 'a.n' once the subgraphs are opened; rename one of them",
    ):
        from_nir(made)
