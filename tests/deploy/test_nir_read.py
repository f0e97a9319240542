"""Graphs of other tools: their equations, what does not fit, and what is refused."""

import itertools
import json
import os
import sys
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest
import torch
from deploy.nir_stepper import stepped
from torch import nn

from snnsim import MultiStep, SingleStep, neurons, quant
from snnsim.deploy import from_nir, lower, to_grid, to_nir, verify
from snnsim.deploy.nir_kinds import KINDS
from snnsim.errors import (
    DataError,
    InvalidTypeError,
    InvalidValueError,
    MissingDataError,
    RunError,
    ShapeError,
)
from snnsim.layers import Delay
from snnsim.layers.time import Feedback
from snnsim.quant.convert import quantize
from snnsim.quant.layers import QuantLinear
from snnsim.temporal.record import Recorder

DT = 1e-4
TRACES = Path(os.environ.get("SNNSIM_DATA", "")) / "nir" / "01_lif"


def full(value, size=1):
    return np.full(size, value, np.float32)


def lif(size=1, *, tau=25 * DT, r=1.0, v_leak=0.0, v_threshold=0.1, v_reset=0.0):
    return nir.LIF(*(full(value, size) for value in (tau, r, v_leak, v_threshold, v_reset)))


def chain(*nodes, size=1):
    """A graph of these nodes in a row, unchecked."""
    names = ["input", *(f"n{i}" for i in range(len(nodes))), "output"]
    nodes = [nir.Input([size]), *nodes, nir.Output([size])]
    return nir.NIRGraph(
        dict(zip(names, nodes, strict=True)), list(itertools.pairwise(names)), type_check=False
    )


def one():
    return nir.Linear(np.ones((1, 1), np.float32))


def traced(net, x):
    with Recorder(net) as recorder:
        MultiStep(net)(x)
    trace, *_ = recorder.traces().values()
    return trace


# -- the recorded example: one LIF neuron, 1000 steps of 0.1 ms

# tool: (its membrane in the unit of ours, time steps that it is late)
TOOLS = {"norse": (1.0, 0), "snntorch": (1 / 25, 0), "lava_cpu_float": (1.0, 1)}


@pytest.mark.skipif(not TRACES.is_dir(), reason="SNNSIM_DATA names no folder with nir/01_lif")
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("file", ["lif_norse.nir", "lif_rockpool.nir"])
def test_a_recorded_neuron_does_what_other_tools_made_of_it(file, tool):
    unit, late = TOOLS[tool]
    rows = np.loadtxt(TRACES / f"lif_{tool}.csv", delimiter=",", dtype=np.float64)
    net = from_nir(TRACES / file)
    if file == "lif_rockpool.nir":
        # its weight and r carry the factors of another rule than Euler's; with their product at 1
        # it is the same neuron
        with torch.no_grad():
            net[0].weight.fill_(1.0)
    trace = traced(net, torch.from_numpy(rows[:, :1]).float().unsqueeze(1))
    steps = len(rows) - late
    membrane, spikes = rows[late:, 1] * unit, rows[late:, 2]
    assert spikes.sum() == 4
    assert torch.equal(trace.spikes[:steps].flatten().double(), torch.from_numpy(spikes))
    assert np.abs(trace.membrane[:steps].flatten().double().numpy() - membrane).max() < 1e-6


@pytest.mark.skipif(not TRACES.is_dir(), reason="SNNSIM_DATA names no folder with nir/01_lif")
def test_a_leak_that_is_not_the_reset_is_read_from_a_recorded_graph():
    net = from_nir(TRACES / "two_lif_neurons.nir")
    assert net.linear1.bias.item() == pytest.approx(1.2)
    assert net.lif1.v_reset == 0


@pytest.mark.skipif(not TRACES.is_dir(), reason="SNNSIM_DATA names no folder with nir/03_rnn")
def test_a_recorded_graph_with_a_loop_runs_as_its_equations_say():
    path = TRACES.parent / "03_rnn" / "braille_noDelay_bias_zero.nir"
    with pytest.raises(
        DataError, match=r"'lif1.lif' -> 'lif1.w_rec' -> 'lif1.lif'.*delay_loops=True"
    ):
        from_nir(path)
    x = (torch.rand(100, 4, 12, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    with torch.no_grad():
        found = SingleStep(from_nir(path, delay_loops=True))(x)
    expected = stepped(nir.read(path, type_check=False), x)
    assert 0.1 < expected.mean() < 0.9
    assert (found != expected).double().mean() < 0.001


@pytest.mark.skipif(not TRACES.is_dir(), reason="SNNSIM_DATA names no folder with nir/01_lif")
@pytest.mark.parametrize("file", ["lif_norse.nir", "lif_rockpool.nir", "two_lif_neurons.nir"])
def test_a_recorded_graph_runs_as_its_equations_say(file):
    x = torch.rand(300, 2, 1, generator=torch.Generator().manual_seed(0)) * 40
    with torch.no_grad():
        found = MultiStep(from_nir(TRACES / file))(x)
    assert torch.equal(found.double(), stepped(nir.read(TRACES / file, type_check=False), x))


# -- the equations, on graphs made here


def test_one_neuron_follows_eulers_rule_and_fires_above_threshold():
    graph = chain(one(), lif(tau=4 * DT, r=3.0, v_leak=-0.1, v_threshold=0.5, v_reset=0.05))
    x = torch.rand(60, 1, 1, generator=torch.Generator().manual_seed(0))
    trace = traced(from_nir(graph), x)
    v, membranes, spikes = 0.05, [], []
    for value in x.flatten().tolist():
        v = v + (DT / (4 * DT)) * (-0.1 - v + 3.0 * value)
        spikes.append(float(v > 0.5))
        v = 0.05 if spikes[-1] else v
        membranes.append(v)
    assert 5 < sum(spikes) < 55
    assert trace.spikes.flatten().tolist() == spikes
    assert np.abs(trace.membrane.flatten().double().numpy() - membranes).max() < 1e-6


def test_a_potential_at_the_threshold_does_not_fire_there_and_does_here():
    graph = chain(one(), nir.IF(full(1 / DT), full(1.0)))
    x = torch.ones(2, 1, 1)
    assert MultiStep(from_nir(graph))(x).flatten().tolist() == [0, 1]
    net = nn.Sequential(nn.Linear(1, 1, bias=False), neurons.IFNode())
    nn.init.ones_(net[0].weight)
    back = from_nir(to_nir(net))
    assert back[1].v_threshold == 1.0
    for node in (graph := to_nir(net)).nodes.values():
        node.metadata = {}
    assert from_nir(graph)[1].v_threshold == 1.0
    assert MultiStep(back)(x).flatten().tolist() == [1, 1]


def test_a_second_order_neuron_follows_eulers_rule():
    fields = {
        "tau_syn": 2.5 * DT,
        "tau_mem": 8 * DT,
        "r": 2.0,
        "v_leak": 0.0,
        "v_threshold": 0.3,
        "v_reset": 0.1,
        "w_in": 3.0,
    }
    graph = chain(one(), nir.CubaLIF(**{name: full(value) for name, value in fields.items()}))
    x = (torch.rand(60, 1, 1, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    net = from_nir(graph)
    trace = traced(net, x)
    i, v, membranes = 0.0, 0.1, []
    for value in x.flatten().tolist():
        i += (3.0 * value - i) / 2.5
        v += (2.0 * i - v) / 8
        v = 0.1 if v > 0.3 else v
        membranes.append(v)
    assert np.abs(trace.membrane.flatten().double().numpy() - membranes).max() < 1e-6
    assert trace.spikes.sum() > 3


def test_an_integrator_that_leaks_to_its_own_potential():
    graph = chain(one(), nir.LI(full(5 * DT), full(2.0), full(-0.3)))
    out = MultiStep(from_nir(graph))(torch.ones(200, 1, 1))
    assert out[-1].item() == pytest.approx(2.0 - 0.3, abs=1e-5)


def test_constants_of_neurons_and_channels_are_kept_apart():
    shape = (2, 3, 3)
    tau = np.broadcast_to(np.array([2.0, 5.0]).reshape(2, 1, 1) * DT, shape).astype(np.float32)
    threshold = np.random.default_rng(0).uniform(0.5, 1.5, shape).astype(np.float32)
    weight = np.ones((2, 1, 1, 1), np.float32)
    r = np.broadcast_to(np.array([1.0, 4.0]).reshape(2, 1, 1), shape).astype(np.float32)
    graph = nir.NIRGraph(
        {
            "in": nir.Input([1, 3, 3]),
            "conv": nir.Conv2d((3, 3), weight, 1, 0, 1, 1, np.ones(2, np.float32)),
            "lif": nir.LIF(tau, r, np.zeros(shape, np.float32), threshold),
            "out": nir.Output(list(shape)),
        },
        [("in", "conv"), ("conv", "lif"), ("lif", "out")],
    )
    net = from_nir(graph)
    assert net.lif.tau.shape == (2, 1, 1)
    assert net.lif.tau.flatten().tolist() == [2.0, 5.0]
    assert net.lif.v_threshold.shape == shape
    assert net.conv.weight.flatten().tolist() == [1.0, 4.0]
    assert net.conv.bias.tolist() == [1.0, 4.0]
    # what differs within a channel is no matter of the convolution in front
    graph.nodes["lif"].r = np.arange(18, dtype=np.float32).reshape(shape) + 1
    net = from_nir(graph)
    assert net.conv.weight.flatten().tolist() == [1.0, 1.0]
    assert torch.equal(net.lif.gain, torch.arange(1.0, 19).reshape(shape))


@pytest.mark.parametrize(
    ("padding", "size"),
    [("same", 8), ("valid", 6), (1, 8), ((1, 0), (8, 6)), (np.array([2, 2]), 10)],
)
def test_padding_as_words_numbers_and_pairs(padding, size, tmp_path):
    size = (size, size) if isinstance(size, int) else size
    conv = nir.Conv2d(
        (8, 8), np.ones((3, 2, 3, 3), np.float32), 1, padding, 1, 1, np.zeros(3, np.float32)
    )
    graph = nir.NIRGraph(
        {"in": nir.Input([2, 8, 8]), "c": conv, "out": nir.Output([3, *size])},
        [("in", "c"), ("c", "out")],
    )
    nir.write(tmp_path / "a.nir", graph)
    for source in (graph, tmp_path / "a.nir"):
        net = from_nir(source)
        assert net(torch.ones(1, 2, 8, 8)).shape == (1, 3, *size)


def test_groups_and_oblong_kernels_that_nir_cannot_check(tmp_path):
    conv = nir.Conv2d(
        (8, 8), np.ones((4, 1, 3, 1), np.float32), 1, 0, 1, 2, np.zeros(4, np.float32)
    )
    nodes = {"in": nir.Input([2, 8, 8]), "c": conv, "out": nir.Output([4, 6, 8])}
    graph = nir.NIRGraph(nodes, [("in", "c"), ("c", "out")], type_check=False)
    nir.write(tmp_path / "a.nir", graph)
    assert from_nir(tmp_path / "a.nir")(torch.ones(1, 2, 8, 8)).shape == (1, 4, 6, 8)


def test_subgraphs_are_opened(tmp_path):
    inner = nir.NIRGraph(
        {"in": nir.Input([3]), "fire": lif(3), "out": nir.Output([3])},
        [("in", "fire"), ("fire", "out")],
    )
    graph = nir.NIRGraph(
        {
            "input": nir.Input([2]),
            "w": nir.Linear(np.ones((3, 2), np.float32)),
            "block": inner,
            "output": nir.Output([3]),
        },
        [("input", "w"), ("w", "block"), ("block", "output")],
    )
    nir.write(tmp_path / "a.nir", graph)
    for source in (graph, tmp_path / "a.nir"):
        net = from_nir(source)
        assert isinstance(net.get_submodule("block.fire"), neurons.LIFNode)
        assert MultiStep(net)(torch.ones(4, 5, 2)).shape == (4, 5, 3)


def test_names_that_python_modules_take_for_themselves():
    nodes = {
        "input": nir.Input([1]),
        "forward": one(),
        "a": one(),
        "a.b": one(),
        "half": lif(),
        "output": nir.Output([1]),
    }
    edges = list(itertools.pairwise(nodes))
    net = from_nir(nir.NIRGraph(nodes, edges))
    assert {name for name, _ in net.named_children()} == {"forward_", "a", "a_b", "half_"}
    assert MultiStep(net)(torch.ones(3, 1, 1)).shape == (3, 1, 1)


def test_a_loop_with_a_delay_runs_step_by_step():
    nodes = {
        "input": nir.Input([2]),
        "fire": nir.IF(full(1 / DT, 2), full(0.9, 2)),
        "late": nir.Delay(full(2 * DT, 2)),
        "back": nir.Linear(-np.eye(2, dtype=np.float32)),
        "output": nir.Output([2]),
    }
    edges = [
        ("input", "fire"),
        ("fire", "late"),
        ("late", "back"),
        ("back", "fire"),
        ("fire", "output"),
    ]
    net = from_nir(nir.NIRGraph(nodes, edges, type_check=False))
    x = torch.ones(8, 3, 2)
    # a spike takes 1 off the input two steps later
    assert SingleStep(net)(x)[:, 0, 0].tolist() == [1, 1, 0, 0, 1, 1, 0, 0]
    # from rest again, and the same
    assert torch.equal(SingleStep(net)(x), SingleStep(net)(x))
    with pytest.raises(RunError, match=r"has feedback.*use snnsim.SingleStep"):
        MultiStep(net)(x)
    with pytest.raises(InvalidValueError, match=r"has feedback"):
        to_nir(net, input_shape=(2,))
    nodes["late"] = nir.Delay(full(0.0, 2))
    with pytest.raises(
        InvalidValueError, match=r"'late' .Delay.: .*a loop needs a delay of at least one time step"
    ):
        from_nir(nir.NIRGraph(nodes, edges, type_check=False))
    nodes["late"] = nir.Delay(full(DT, 3))
    with pytest.raises(ShapeError, match=r"fed by tensors of shapes|does not take"):
        from_nir(nir.NIRGraph(nodes, edges, type_check=False))


# -- refusals


def edited(edit):
    graph = chain(one(), lif())
    edit(graph)
    return graph


def add(name, node, *edges):
    def edit(graph):
        graph.nodes[name] = node
        graph.edges += edges

    return edit


def replace(**fields):
    return lambda graph: vars(graph.nodes["n1"]).update(
        {name: np.asarray(value, np.float32) for name, value in fields.items()}
    )


def cut(*edge):
    return lambda graph: graph.edges.remove(edge)


CASES = [
    (
        add("t", type("Exotic", (nir.Threshold,), {})(full(1.0)), ("n1", "t"), ("t", "output")),
        DataError,
        "'t' is a Exotic, and no",
    ),
    (
        add("x", nir.LI(full(DT * 2), full(1), full(0)), ("n1", "y")),
        DataError,
        "names 'y', and there is no such node",
    ),
    (add("x", one(), ("n1", "x")), DataError, r"nothing reads 'x' \(Linear\)"),
    (add("x", one(), ("x", "n1")), DataError, r"nothing feeds 'x' \(Linear\)"),
    (cut("n0", "n1"), DataError, r"nothing reads 'n0' \(Linear\)"),
    (
        add("b", one(), ("n1", "b"), ("b", "n1")),
        DataError,
        "a loop without delay: 'b' -> 'n1' -> 'b'; put a nir.Delay",
    ),
    (add("z", nir.Output([1]), ("n1", "z")), DataError, "the graph has 2 nodes of kind Output"),
    (add("z", nir.Input([1]), ("z", "n1")), DataError, "the graph has 2 nodes of kind Input"),
    (lambda graph: graph.edges.append(("input", "n0")), DataError, "is there twice"),
    (lambda graph: graph.edges.append(("n1", "input")), DataError, "the wrong way"),
    (
        lambda graph: graph.nodes.update(input=nir.Input({"input": None})),
        DataError,
        "'input' .Input. has no shape",
    ),
    (
        lambda graph: graph.nodes.update(input=nir.Input([3])),
        ShapeError,
        r"'n0' \(Linear\) does not take what feeds it, of shape \(3,\)",
    ),
    (
        lambda graph: graph.nodes.update(output=nir.Output([3])),
        ShapeError,
        r"'output' \(Output\) has shape \(3,\), and what feeds it \(1,\)",
    ),
    (
        lambda graph: graph.nodes.update(n1=lif(2)),
        ShapeError,
        r"'n1' \(LIF\): its constants have shape \(2,\)",
    ),
    (
        lambda graph: graph.nodes.update(n0=nir.Linear(np.ones((2, 1, 1), np.float32))),
        ShapeError,
        "a linear layer here is",
    ),
    (
        replace(tau=[DT]),
        InvalidValueError,
        "tau = 0.0001 must be longer than a time step, dt = 0.0001; use a smaller dt",
    ),
    (replace(tau=[np.inf]), InvalidValueError, "tau = inf must be finite"),
    (
        replace(v_threshold=[-1.0]),
        InvalidValueError,
        "'n1' .LIF.: LIFNode.*the threshold must lie above",
    ),
    (
        add("d", nir.Delay(full(1.5 * DT)), ("n1", "d"), ("d", "output")),
        InvalidValueError,
        "no whole number of time steps",
    ),
]


@pytest.mark.parametrize(
    ("edit", "kind", "message"), CASES, ids=[message[:30] for _, _, message in CASES]
)
def test_a_graph_that_cannot_be_read_says_why(edit, kind, message):
    with pytest.raises(kind, match=message):
        from_nir(edited(edit))


def test_an_integrator_that_counts_time_in_steps_is_read_with_one_step():
    graph = chain(one(), nir.IF(full(1.0), full(1.0)))
    with pytest.raises(
        InvalidValueError,
        match=r"r = 1 and dt = 0.0001.*read with dt=1, and dt=0.0001 means what it says",
    ):
        from_nir(graph)
    assert from_nir(graph, dt=1.0)[0].weight.item() == 1.0
    assert from_nir(graph, dt=1e-4)[0].weight.item() == pytest.approx(1e-4)


@pytest.mark.parametrize("kind", ["LIF", "LI", "CubaLIF", "CubaLI"])
@pytest.mark.parametrize("field", ["tau", "tau_syn", "tau_mem"])
def test_a_time_constant_below_a_step_is_refused_with_a_step_that_does(kind, field):
    names = KINDS[kind].fields
    if field not in names:
        return
    fields = {
        name: full(3 * DT if name.startswith("tau") else 0.5 * (name != "v_reset"))
        for name in names
    }
    fields[field] = full(DT / 5)
    graph = chain(one(), getattr(nir, kind)(**fields))
    with pytest.raises(
        InvalidValueError,
        match=rf"{field} = 2e-05 must be .*a time step, dt = 0.0001; use a smaller dt, such as "
        r"dt=2e-06",
    ):
        from_nir(graph)
    assert MultiStep(from_nir(graph, dt=2e-6))(torch.ones(3, 1, 1)).isfinite().all()


@pytest.mark.parametrize("reset", ["none", "Zero", 0, True])
def test_a_reset_that_is_none(reset):
    with pytest.raises(
        InvalidValueError, match=r'from_nir\(reset=.*must be "zero", "subtract", or None'
    ):
        from_nir(chain(one(), lif()), reset=reset)


def test_a_reset_that_the_graph_says_is_not_said_again():
    with pytest.raises(
        InvalidValueError,
        match=r"v_reset = 0.05, and reset='subtract' is for graphs that cannot say it",
    ):
        from_nir(chain(one(), lif(v_reset=0.05)), reset="subtract")
    assert from_nir(chain(one(), lif()), reset="zero")[1].v_reset == 0
    assert from_nir(chain(one(), lif()), reset="subtract")[1].v_reset is None
    soft = to_nir(nn.Sequential(nn.Linear(1, 1), neurons.IFNode(v_reset=None)))
    assert from_nir(soft, reset="subtract")[1].v_reset is None
    with pytest.raises(
        InvalidValueError,
        match=r"reset='zero' is not the reset that its metadata says; leave reset out",
    ):
        from_nir(soft, reset="zero")


def test_a_layer_that_feeds_others_too_takes_over_nothing():
    nodes = {"in": nir.Input([1]), "w": one(), "a": lif(r=2.0), "b": lif(), "out": nir.Output([1])}
    edges = [("in", "w"), ("w", "a"), ("w", "b"), ("a", "out"), ("b", "out")]
    net = from_nir(nir.NIRGraph(nodes, edges))
    assert net.w.weight.item() == 1.0
    assert net.a.gain.item() == 2.0


def test_sums_of_different_shapes_are_refused():
    nodes = {
        "in": nir.Input([2]),
        "w": nir.Linear(np.ones((1, 2), np.float32)),
        "out": nir.Output([2]),
    }
    with pytest.raises(
        ShapeError, match=r"'out' \(Output\) is fed by tensors of shapes \[\(1,\), \(2,\)\]"
    ):
        from_nir(nir.NIRGraph(nodes, [("in", "w"), ("w", "out"), ("in", "out")], type_check=False))


def test_wrong_calls_and_files(tmp_path):
    with pytest.raises(
        InvalidTypeError, match=r"must be a nir.NIRGraph or the path of its file, got Linear"
    ):
        from_nir(nn.Linear(1, 1))
    with pytest.raises(MissingDataError, match=r"no file at"):
        from_nir(tmp_path / "none.nir")
    (tmp_path / "text.nir").write_text("no HDF5")
    with pytest.raises(DataError, match=r"is damaged or no NIR graph"):
        from_nir(tmp_path / "text.nir")
    with h5py.File(tmp_path / "other.nir", "w") as file:
        file["x"] = 1
    with pytest.raises(DataError, match=r"is damaged or no NIR graph"):
        from_nir(tmp_path / "other.nir")
    nir.write(tmp_path / "a.nir", chain(one(), lif()))
    with h5py.File(tmp_path / "a.nir", "r+") as file:
        del file["node/nodes/n1/type"]
        file["node/nodes/n1/type"] = "Izhikevich"
    with pytest.raises(
        DataError, match=r"'n1' is a Izhikevich, and no module here computes that; known are Affine"
    ):
        from_nir(tmp_path / "a.nir")
    content = (tmp_path / "a.nir").read_bytes()
    (tmp_path / "half.nir").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"is damaged or no NIR graph"):
        from_nir(tmp_path / "half.nir")


# -- metadata


def exported():
    return to_nir(nn.Sequential(QuantLinear(3, 2), neurons.IFNode(state_quant=quant.uniform(4))))


def change(name, **changes):
    graph = exported()
    values = json.loads(graph.nodes[name].metadata["snnsim"])
    graph.nodes[name].metadata["snnsim"] = json.dumps({**values, **changes})
    return graph


@pytest.mark.parametrize(
    ("name", "changes", "kind", "message"),
    [
        (
            "1",
            {"version": 2},
            DataError,
            r"'1' \(IF\): its metadata 'snnsim' has version 2, this snnsim reads 1",
        ),
        ("1", {"shapes": {"w": [1]}}, DataError, "its metadata 'snnsim' is damaged"),
        (
            "1",
            {"kind": "os.system"},
            InvalidValueError,
            "is of a 'os.system', which is no module for a IF",
        ),
        ("1", {"kind": "QuantLinear"}, InvalidValueError, "which is no module for a IF"),
        (
            "1",
            {"surrogate": {"kind": "Popen", "args": "ls"}},
            DataError,
            "is damaged .KeyError..Popen",
        ),
        ("1", {"surrogate": {"kind": "ATan", "beta": 1}}, DataError, "is damaged"),
        (
            "1",
            {
                "state_quant": {
                    "kind": "Codebook",
                    "levels": [1, 0],
                    "edges": [1],
                    "ste": "clip",
                    "dtype": "float32",
                }
            },
            InvalidValueError,
            "strictly increasing",
        ),
        ("1", {"min_decay": "yes", "v_threshold": None}, DataError, "is damaged"),
        ("1", {"v_threshold": 0.5}, InvalidValueError, "its metadata says other than its fields"),
        ("1", {"v_reset": 0.1}, InvalidValueError, "its metadata says other than its fields"),
        (
            "0",
            {"grid_bits": "16"},
            DataError,
            "is damaged .*must be an int.*the number of fractional bits",
        ),
        ("0", {"bias": None}, DataError, "is damaged"),
        (
            "0",
            {"inputs": ["1", "1"]},
            DataError,
            r"its metadata says that \['1', '1'\] feed it, and its edges that \['input'\] do",
        ),
        ("0", {"inputs": 3}, DataError, "names no order of its inputs"),
    ],
)
def test_metadata_is_checked(name, changes, kind, message):
    with pytest.raises(kind, match=message):
        from_nir(change(name, **changes))


def test_fields_that_were_changed_after_the_export_are_not_passed_over():
    graph = exported()
    graph.nodes["0"].weight = graph.nodes["0"].weight * 2
    with pytest.raises(
        InvalidValueError, match=r"'0' \(Affine\): its metadata says other than its fields"
    ):
        from_nir(graph)
    graph.nodes["0"].metadata = {}
    net = from_nir(graph)
    assert type(net[0]) is nn.Linear
    assert net[1].state_quant is not None


def test_metadata_of_other_tools_is_left_alone():
    graph = chain(one(), lif())
    graph.nodes["n0"].metadata = {"tool": "x", "scale": np.ones(3)}
    assert isinstance(from_nir(graph)[0], nn.Linear)
    graph = exported()
    graph.nodes["1"].metadata["snnsim_tensors"] = {"w": np.array([b"x"])}
    with pytest.raises(DataError, match=r"damaged"):
        from_nir(graph)


def test_another_time_step_than_that_of_the_export_is_refused():
    with pytest.raises(
        InvalidValueError,
        match=r"from_nir\(dt=0.001\): the graph was written for time steps of 0.0001; leave dt out",
    ):
        from_nir(exported(), dt=1e-3)
    with pytest.raises(InvalidValueError, match=r"dt must be > 0"):
        from_nir(exported(), dt=0)
    graph = exported()
    graph.metadata["snnsim"] = json.dumps({"version": 9, "shapes": {}})
    with pytest.raises(
        DataError, match=r"from_nir: the graph: its metadata 'snnsim' has version 9"
    ):
        from_nir(graph)


def test_a_delay_in_a_line_needs_no_loop():
    net = from_nir(chain(one(), nir.Delay(full(3 * DT))))
    assert type(net[1]) is Delay
    assert not isinstance(net[1], Feedback)
    assert net[1].delay_steps == 3


def test_without_nir_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(
        ModuleNotFoundError,
        match=r"NIR graphs need nir, which is not installed; pip install 'snnsim\[nir\]'",
    ):
        from_nir("a.nir")
    with pytest.raises(ModuleNotFoundError, match="NIR graphs need nir"):
        to_nir(nn.Sequential(nn.Linear(1, 1), neurons.IFNode()))


def test_a_graph_that_was_read_is_quantized_and_lowered():
    graph = nir.NIRGraph(
        {
            "input": nir.Input([6]),
            "w": nir.Affine(np.random.default_rng(0).normal(0, 1, (5, 6)), np.zeros(5)),
            "a": lif(5, tau=5 * DT, r=2.0, v_leak=0.1, v_threshold=0.6),
            "v": nir.Linear(np.random.default_rng(1).normal(0, 1, (4, 5))),
            "b": nir.IF(full(1 / DT, 4), full(1.0, 4)),
            "output": nir.Output([4]),
        },
        [("input", "w"), ("w", "a"), ("a", "v"), ("v", "b"), ("b", "output")],
    )
    net = from_nir(graph)
    quantize(net, weights=4)
    for node in (net.a, net.b):
        node.set_state_quant(quant.uniform(6))
    to_grid(net)
    x = (torch.rand(9, 3, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    assert verify(net, lower(net, (6,)), [x]).exact


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        (nir.Scale(full(2.0)), "Scale"),
        (nir.Threshold(full(0.5)), "Threshold"),
        (lif(r=2.0), "Driven"),
    ],
)
def test_what_has_no_integers_is_refused_by_name(node, kind):
    with pytest.raises(InvalidValueError, match=rf"'n0' \({kind}\) cannot be lowered"):
        lower(from_nir(chain(node, nir.Linear(np.ones((1, 1), np.float32)))), (1,))
