"""Graphs at random: what is read does what NIR's equations say, and comes back from another graph
as it is.
"""

import itertools

import nir
import numpy as np
import pytest
import torch
from deploy.nir_stepper import stepped

from snnsim import MultiStep, SingleStep
from snnsim.deploy import from_nir, to_nir

DT = 1e-4
SHAPES = ((5,), (3, 6), (2, 6, 4))
NEURONS = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")


class Draw:
    """One random graph."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.dtype = self.random.choice([np.float32, np.float64])

    def chance(self, share=0.5):
        return self.random.random() < share

    def field(self, shape, low, high):
        """A field for a population: one number in all, one for each channel, or one for each
        neuron.
        """
        kind = self.random.integers(3)
        size = {0: (1,) * len(shape), 1: (shape[0], *[1] * (len(shape) - 1)), 2: shape}[int(kind)]
        return np.broadcast_to(self.random.uniform(low, high, size), shape).astype(self.dtype)

    def neuron(self, kind, shape):
        tau = {
            name: self.field(shape, 1.5, 12) * self.dtype(DT)
            for name in ("tau", "tau_syn", "tau_mem")
        }
        if self.chance(0.2):
            tau["tau_syn"] = np.full(shape, DT, self.dtype)
        v_leak = self.field(shape, -0.3, 0.3) if self.chance() else np.zeros(shape, self.dtype)
        v_reset = self.field(shape, -0.5, 0.2) if self.chance() else np.zeros(shape, self.dtype)
        v_threshold = self.field(shape, 0.3, 1.2)
        r = self.field(shape, 0.5, 3)
        if self.chance(0.3):
            r = np.ones(shape, self.dtype)
        elif self.chance(0.3):
            r = tau["tau_mem" if kind.startswith("C") else "tau"] / self.dtype(DT)
        if kind in ("I", "IF"):
            r = r / self.dtype(DT) / 4
        fields = {
            "I": {"r": r},
            "IF": {"r": r, "v_threshold": v_threshold, "v_reset": v_reset},
            "LI": {"tau": tau["tau"], "r": r, "v_leak": v_leak},
            "LIF": {
                "tau": tau["tau"],
                "r": r,
                "v_leak": v_leak,
                "v_threshold": v_threshold,
                "v_reset": v_reset,
            },
        }
        second = {
            "tau_syn": tau["tau_syn"],
            "tau_mem": tau["tau_mem"],
            "r": r,
            "v_leak": v_leak,
            "w_in": self.field(shape, 0.5, 3),
        }
        fields["CubaLI"] = second
        fields["CubaLIF"] = second | {"v_threshold": v_threshold, "v_reset": v_reset}
        return getattr(nir, kind)(**fields[kind])

    def layer(self, shape):
        """A layer for a sample of this shape, and the shape behind it; None for none."""
        weight = lambda *size: self.random.normal(0.2, 1, size).astype(self.dtype)  # noqa: E731
        choice = int(self.random.integers(4))
        if choice == 0:
            return None, shape
        if choice == 1:
            return nir.Scale(self.field(shape, 0.5, 2)), shape
        if choice == 2 and len(shape) == 1:
            out = int(self.random.integers(1, 7))
            return (
                nir.Linear(weight(out, *shape))
                if self.chance()
                else nir.Affine(weight(out, *shape), weight(out))
            ), (out,)
        if choice == 2 and len(shape) == 2:
            return nir.Conv1d(shape[1], weight(4, shape[0], 3), 1, "same", 1, 1, weight(4)), (
                4,
                shape[1],
            )
        if choice == 2:
            return nir.Conv2d(shape[1:], weight(3, shape[0], 3, 1), 1, (1, 0), 1, 1, weight(3)), (
                3,
                *shape[1:],
            )
        if len(shape) == 3:
            pool = nir.SumPool2d if self.chance() else nir.AvgPool2d
            return pool(*(np.array(pair) for pair in ((2, 2), (2, 2), (0, 0)))), (
                shape[0],
                shape[1] // 2,
                shape[2] // 2,
            )
        return nir.Threshold(self.field(shape, 0.2, 0.8)), shape

    def chain(self, *, weighted=False):
        """A graph, and the shape of its input; its first layer may have to have weights."""
        shape = start = SHAPES[self.random.integers(len(SHAPES))]
        nodes = []
        for _ in range(self.random.integers(1, 3)):
            layer, after = self.layer(shape)
            while weighted and not nodes and not hasattr(layer, "weight"):
                layer, after = self.layer(shape)
            shape = after
            nodes += [] if layer is None else [layer]
            nodes.append(self.neuron(self.random.choice(NEURONS), shape))
            if self.chance(0.2):
                nodes.append(nir.Delay(np.full(shape, 2 * DT)))
            if len(shape) > 1 and self.chance(0.2):
                nodes.append(nir.Flatten({"input": np.array(shape)}, 0, -1))
                shape = (int(np.prod(shape)),)
        named = {
            "input": nir.Input(np.array(start)),
            **{f"n{i}": node for i, node in enumerate(nodes)},
        }
        named["output"] = nir.Output(np.array(shape))
        return nir.NIRGraph(named, list(itertools.pairwise(named)), type_check=False), start


def inputs(shape, seed, steps=30):
    return torch.rand(steps, 3, *shape, generator=torch.Generator().manual_seed(seed))


def assert_close(found, expected, tolerance=2e-4):
    """Equal but for what float32 rounds otherwise: membranes nearly, spikes nearly everywhere."""
    difference = (found.double() - expected).abs()
    scale = expected.abs().max() + 1
    assert (difference > tolerance * scale).double().mean() < 0.01


def with_batch_axes(graph):
    """The same graph with an axis of length 1 in front of every shape, as tools write it that know
    batches.
    """
    nodes = {}
    for name, node in graph.nodes.items():
        fields = {
            key: given
            for key, given in vars(node).items()
            if key not in ("input_type", "output_type", "metadata")
        }
        kind = type(node).__name__
        if kind in ("Input", "Output"):
            fields = {
                f"{kind.lower()}_type": {kind.lower(): np.array([1, *node.input_type["input"]])}
            }
        elif kind in (*NEURONS, "Scale", "Threshold", "Delay"):
            fields = {key: given[None] for key, given in fields.items()}
        elif kind == "Flatten":
            fields |= {
                "input_type": {"input": np.array([1, *node.input_type["input"]])},
                "start_dim": 1,
            }
        nodes[name] = type(node)(**fields)
    return nir.NIRGraph(nodes, graph.edges, type_check=False)


@pytest.mark.parametrize("seed", range(40))
def test_a_random_graph_does_what_its_equations_say(seed, tmp_path):
    graph, shape = Draw(seed).chain()
    x = inputs(shape, seed)
    net = from_nir(graph, dt=DT)
    with torch.no_grad():
        found = MultiStep(net)(x)
        assert_close(found, stepped(graph, x))
        # step by step the same, and from a file
        torch.testing.assert_close(SingleStep(net)(x), found)
        nir.write(tmp_path / "a.nir", graph)
        assert torch.equal(MultiStep(from_nir(tmp_path / "a.nir", dt=DT))(x), found)
        # out again, and back
        back = from_nir(to_nir(net, input_shape=shape, dt=DT))
        assert torch.equal(MultiStep(back)(x), found)


@pytest.mark.parametrize("seed", range(12))
def test_a_soft_reset_takes_the_threshold_off(seed):
    graph, shape = Draw(seed).chain()
    for node in graph.nodes.values():
        if hasattr(node, "v_reset"):
            node.v_reset = np.zeros_like(node.v_reset)
    x = inputs(shape, seed)
    with torch.no_grad():
        found = MultiStep(from_nir(graph, dt=DT, reset="subtract"))(x)
        assert_close(found, stepped(graph, x, subtract=True))


@pytest.mark.parametrize("seed", range(12))
def test_axes_for_batches_change_nothing(seed):
    graph, shape = Draw(seed).chain(weighted=True)
    x = inputs(shape, seed)
    with torch.no_grad():
        found = MultiStep(from_nir(with_batch_axes(graph), dt=DT))(x)
        assert torch.equal(found, MultiStep(from_nir(graph, dt=DT))(x))


@pytest.mark.parametrize("kind", [*NEURONS, "Scale", "Threshold"])
def test_vectors_with_an_axis_for_batches_need_no_layer_to_tell(kind):
    draw = Draw(0)
    node = (
        draw.neuron(kind, (5,))
        if kind in NEURONS
        else getattr(nir, kind)(draw.field((5,), 0.2, 0.8))
    )
    graph = nir.NIRGraph.from_list(node)
    x = inputs((5,), 0)
    read = from_nir(with_batch_axes(graph), dt=DT)
    with torch.no_grad():
        found = torch.stack([read(step) for step in x]) if kind == "Scale" else MultiStep(read)(x)
    assert_close(found, stepped(graph, x))


# -- a population that feeds itself


def recurrent(seed, kind, *, bias=False, delayed=None):
    """A population that feeds itself through weights, behind a layer and in front of another."""
    draw = Draw(seed)
    n = int(draw.random.integers(1, 6))
    weights = [draw.random.normal(0.1, 1, (n, n)).astype(np.float32) for _ in range(3)]
    back = (
        nir.Affine(weights[1], draw.random.normal(0, 0.3, n).astype(np.float32))
        if bias
        else nir.Linear(weights[1])
    )
    nodes = {
        "input": nir.Input(np.array([n])),
        "back": back,
        "front": nir.Linear(weights[0]),
        "pop": draw.neuron(kind, (n,)),
        "out": nir.Linear(weights[2]),
        "output": nir.Output(np.array([n])),
    }
    edges = [
        ("input", "front"),
        ("front", "pop"),
        ("pop", "out"),
        ("out", "output"),
        ("back", "pop"),
    ]
    if delayed is None:
        edges.append(("pop", "back"))
    else:
        nodes["late"] = nir.Delay(np.full(n, delayed * DT))
        edges += [("pop", "late"), ("late", "back")]
    return nir.NIRGraph(nodes, edges, type_check=False), n


@pytest.mark.parametrize("kind", ["IF", "LIF", "CubaLIF"])
@pytest.mark.parametrize("seed", range(4))
def test_a_loop_feeds_back_the_step_before(seed, kind, tmp_path):
    graph, n = recurrent(seed, kind, bias=seed % 2 == 1)
    x = inputs((n,), seed)
    net = from_nir(graph, dt=DT, delay_loops=True)
    with torch.no_grad():
        found = SingleStep(net)(x)
        assert_close(found, stepped(graph, x))
        # the same as with the delay written down
        delayed, _ = recurrent(seed, kind, bias=seed % 2 == 1, delayed=1)
        assert torch.equal(found, SingleStep(from_nir(delayed, dt=DT))(x))
        nir.write(tmp_path / "a.nir", graph)
        assert torch.equal(
            found, SingleStep(from_nir(tmp_path / "a.nir", dt=DT, delay_loops=True))(x)
        )
