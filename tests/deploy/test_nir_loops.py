"""Loops without delay: one time step where asked for, refused with the remedy where not."""

import nir
import numpy as np
import pytest
import torch
from deploy.nir_stepper import stepped

from snnsim import SingleStep
from snnsim.deploy import from_nir
from snnsim.errors import DataError, InvalidTypeError

N = 3


def full(value, *shape):
    return np.full(shape or N, value, np.float32)


def lif():
    return nir.LIF(full(5e-4), full(2.0), full(0.1), full(0.6), full(-0.1))


def weights(seed):
    return nir.Linear(np.random.default_rng(seed).normal(0, 1, (N, N)).astype(np.float32))


def graph(text, *, shape=(N,), **nodes):
    """A graph of edges such as "input a, a output"."""
    ends = {"input": nir.Input(np.array(shape)), "output": nir.Output(np.array(shape))}
    return nir.NIRGraph(
        ends | nodes, [tuple(edge.split()) for edge in text.split(",")], type_check=False
    )


def second_order(r=2.0, **fields):
    kind = nir.CubaLIF if fields else nir.CubaLI
    return kind(
        tau_syn=full(3e-4),
        tau_mem=full(6e-4),
        r=full(r),
        v_leak=full(0.1),
        w_in=full(3.0),
        **fields,
    )


def convolution(seed):
    weight = np.random.default_rng(seed).normal(0, 1, (2, 2, 3, 3)).astype(np.float32)
    return nir.Conv2d((4, 4), weight, 1, 1, 1, 1, np.full(2, 0.1, np.float32))


LOOPS = {
    "itself": lambda: graph("input a, a a, a output", a=lif()),
    "weights": lambda: graph("input a, a w, w a, a output", a=lif(), w=weights(1)),
    "the same weights as the input": lambda: graph(
        "input w, w a, a w, a output", a=lif(), w=weights(1)
    ),
    "two layers": lambda: graph(
        "input a, a v, v b, b w, w a, b output", a=lif(), b=lif(), v=weights(1), w=weights(2)
    ),
    "loops in a loop": lambda: graph(
        "input a, a v, v b, b w, w a, b output, a p, p a, b q, q b",
        a=lif(),
        b=lif(),
        v=weights(1),
        w=weights(2),
        p=weights(3),
        q=weights(4),
    ),
    "weights on the way": lambda: graph(
        "input a, a w, w s, s a, a output", a=lif(), w=weights(1), s=nir.Scale(full(0.5))
    ),
    "second order": lambda: graph(
        "input v, v a, a w, w a, a output",
        a=second_order(v_threshold=full(0.6), v_reset=full(-0.1)),
        v=weights(1),
        w=weights(2),
    ),
    "no spikes": lambda: graph(
        "input v, v a, a w, w a, a output", a=second_order(0.2), v=weights(1), w=weights(2)
    ),
    "apart from the input": lambda: graph(
        "input a, a output, w b, b w, b output", a=lif(), b=lif(), w=weights(1)
    ),
    "images": lambda: graph(
        "input c, c a, a d, d a, a output",
        shape=(2, 4, 4),
        c=convolution(1),
        d=convolution(2),
        a=nir.IF(full(1e4, 2, 4, 4), full(1.0, 2, 4, 4)),
    ),
    "one with a delay of its own": lambda: graph(
        "input a, a w, w a, a late, late v, v a, a output",
        a=lif(),
        w=weights(1),
        v=weights(2),
        late=nir.Delay(full(3e-4)),
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_brings_back_what_neurons_put_out_one_step_before(name):
    made = LOOPS[name]()
    x = (
        torch.rand(
            40,
            2,
            *made.nodes["input"].input_type["input"],
            generator=torch.Generator().manual_seed(0),
        )
        * 2
    )
    with torch.no_grad():
        found = SingleStep(from_nir(made, dt=1e-4, delay_loops=True))(x)
    expected = stepped(made, x)
    assert 0.01 < expected.abs().mean() < 100
    assert ((found - expected).abs() > 1e-3).double().mean() < 0.005
    with pytest.raises(
        DataError,
        match=(
            r"a loop without delay: .*read it with delay_loops=True, which takes the loop to be one"
        ),
    ):
        from_nir(made, dt=1e-4)


def test_a_loop_around_a_subgraph_is_the_loop_of_its_neuron():
    inner = nir.NIRGraph(
        {"in": nir.Input([N]), "a": lif(), "out": nir.Output([N])}, [("in", "a"), ("a", "out")]
    )
    nested = graph("input block, block w, w block, block output", block=inner, w=weights(1))
    x = torch.rand(30, 2, N, generator=torch.Generator().manual_seed(0)) * 2
    with torch.no_grad():
        found = SingleStep(from_nir(nested, delay_loops=True))(x)
        assert torch.equal(found, SingleStep(from_nir(LOOPS["weights"](), delay_loops=True))(x))


def test_what_a_step_late_means_has_to_be_clear():
    with pytest.raises(
        DataError,
        match=r"'w' \(Linear\) brings the loop back to 'a' and feeds 'output' too.*put a nir.Delay",
    ):
        from_nir(graph("input a, a w, w a, w output", a=lif(), w=weights(1)), delay_loops=True)
    with pytest.raises(
        DataError, match=r"a loop without delay and without a neuron: 'v', 'w'; put a nir.Delay"
    ):
        from_nir(graph("input v, v w, w v, w output", v=weights(1), w=weights(2)), delay_loops=True)
    relay = nir.NIRGraph({"in": nir.Input([N]), "out": nir.Output([N])}, [("in", "out")])
    with pytest.raises(DataError, match=r"without a neuron: 'a.in', 'a.out'"):
        from_nir(graph("input a, a a, a output", a=relay), delay_loops=True)
    with pytest.raises(
        InvalidTypeError, match=r"delay_loops=1\): delay_loops must be True or False"
    ):
        from_nir(graph("input a, a output", a=lif()), delay_loops=1)


def test_a_graph_without_loops_is_what_it_was():
    made = graph("input w, w a, a output", a=lif(), w=weights(1))
    assert repr(from_nir(made, delay_loops=True)) == repr(from_nir(made))


def test_feedback_of_another_shape_is_no_broadcast():
    net = from_nir(LOOPS["weights"](), delay_loops=True)
    with pytest.raises(ValueError, match=r"what comes back has shape|must broadcast|has shape"):
        SingleStep(net)(torch.rand(4, 2, 1, N))
