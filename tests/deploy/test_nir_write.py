"""What to_nir refuses."""

import pytest
import torch
from torch import nn

from snnsim import layers, neurons, quant
from snnsim.deploy import OnGrid, to_nir
from snnsim.errors import InvalidTypeError, InvalidValueError, OutputError, ShapeError
from snnsim.surrogate import from_derivative


class Own(neurons.LIFNode):
    pass


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.fire = nn.Linear(4, 4), neurons.IFNode()

    def forward(self, x):
        return self.fire(self.layer(self.layer(x)))


class Doubled(Twice):
    def forward(self, x):
        y = self.layer(x)
        return self.fire(y + y)


def slope(x):
    return torch.ones_like(x)


def slashed():
    net = nn.Sequential()
    net.add_module("a/b", nn.Linear(4, 4))
    return net


def fired(**options):
    return lambda: nn.Sequential(nn.Linear(4, 4), neurons.LIFNode(**options))


CASES = [
    (
        lambda: nn.Sequential(nn.Linear(4, 4), Own()),
        (4,),
        r"'1' \(Own\) cannot be exported: a neuron of your own",
    ),
    (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
        (4,),
        r"'1' \(ReLU\) cannot be exported: NIR has no node for it",
    ),
    (
        lambda: nn.Sequential(nn.Conv1d(1, 1, 1), nn.AvgPool1d(2)),
        (1, 4),
        "it has SumPool2d and AvgPool2d",
    ),
    (
        lambda: nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2)),
        (1, 4, 4),
        "it has SumPool2d and AvgPool2d",
    ),
    (
        lambda: nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)),
        (1, 4, 4),
        "fold it with snnsim.quant.fold_batch_norm",
    ),
    (
        lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")),
        (1, 4, 4),
        "not padding_mode='circular'",
    ),
    (
        lambda: nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), neurons.IFNode()),
        (1, 5, 5),
        "neither ceil_mode=True",
    ),
    (
        lambda: nn.Sequential(nn.AvgPool2d(2, divisor_override=3), neurons.IFNode()),
        (1, 4, 4),
        "divisor_override=3 does neither",
    ),
    (
        lambda: nn.Sequential(nn.Flatten(0), nn.Linear(4, 4)),
        (4,),
        "flattens the batch axis|cannot take a sample",
    ),
    (
        lambda: nn.Sequential(nn.Linear(4, 4), neurons.IFNode()),
        (3, 4),
        "NIR's Linear takes vectors",
    ),
    (
        lambda: nn.Sequential(nn.Linear(4, 4), neurons.SynapticNode(beta=1.0)),
        (4,),
        "beta = 1 is a membrane without leak",
    ),
    (
        lambda: nn.Sequential(nn.Linear(4, 4).bfloat16(), neurons.IFNode()),
        (4,),
        r"no bfloat16; convert the network with net.float\(\)",
    ),
    (
        fired(surrogate=from_derivative(slope)),
        (4,),
        "its surrogate .* is of your own, and no file holds code",
    ),
    (
        fired(state_quant=quant.uniform(4).with_rounding("stochastic", torch.Generator())),
        (4,),
        "draws from a generator",
    ),
    (slashed, (4,), "a name with '/' is a path in HDF5"),
    (Twice, (4,), "'layer' .Linear. cannot be exported: it is used twice"),
    (Doubled, (4,), r"'fire' reads a sum with \['layer'\] in it twice"),
]


@pytest.mark.parametrize(
    ("make", "shape", "message"), CASES, ids=[message[:30] for _, _, message in CASES]
)
def test_what_nir_cannot_say_is_refused(make, shape, message):
    with pytest.raises((InvalidValueError, ShapeError), match=message):
        to_nir(make(), input_shape=shape)


def test_a_codebook_of_ones_own_is_refused():
    class Mine(quant.Codebook):
        pass

    with pytest.raises(
        InvalidValueError,
        match=r"its codebook is a Mine of your own; use a plain Codebook of its levels",
    ):
        to_nir(fired(state_quant=Mine([-1.0, 0.0, 1.0]))())


def test_wrong_calls(tmp_path):
    net = fired()()
    with pytest.raises(InvalidTypeError, match=r"net must be an nn.Module"):
        to_nir(3)
    with pytest.raises(
        ShapeError,
        match=(
            r"'0' cannot take a sample of shape \(5,\): .*give the shape of one sample at one time"
            r" step"
        ),
    ):
        to_nir(net, input_shape=(5,))
    with pytest.raises(
        InvalidValueError, match=r"input_shape: the shape of one sample cannot be told"
    ):
        to_nir(nn.Sequential(nn.Conv2d(1, 1, 1), neurons.IFNode()))
    with pytest.raises(InvalidValueError, match=r"dt must be > 0"):
        to_nir(net, dt=-1.0)
    with pytest.raises(InvalidValueError, match=r"size must be >= 1"):
        to_nir(net, input_shape=(0,))
    path = tmp_path / "a.nir"
    to_nir(net, path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"it exists already and is left alone; name a new file"):
        to_nir(net, path)
    assert path.read_bytes() == before
    with pytest.raises(OutputError, match=r"cannot be written"):
        to_nir(net, path / "b.nir")


def test_a_sum_of_different_shapes_is_refused():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.fire = nn.Linear(4, 4), nn.Linear(4, 1), neurons.IFNode()

        def forward(self, x):
            return self.fire(self.a(x) + self.b(x))

    with pytest.raises(
        ShapeError, match=r"'add' cannot take a sample of shape .*a sum does not broadcast"
    ):
        to_nir(Sum(), input_shape=(4,))


def test_dropout_and_identity_leave_no_node():
    graph = to_nir(
        nn.Sequential(
            nn.Dropout(), nn.Linear(4, 4), layers.Dropout(0.5), neurons.IFNode(), nn.Identity()
        ),
        input_shape=(4,),
    )
    assert list(graph.nodes) == ["input", "1", "3", "output"]
    assert graph.edges == [("input", "1"), ("1", "3"), ("3", "output")]


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_layer_with_a_forward_of_its_own_is_refused():
    with pytest.raises(InvalidValueError, match=r"cannot be lowered"):
        to_nir(nn.Sequential(Scaled(3, 2), neurons.IFNode()))
    layer = nn.Linear(3, 2)
    layer.forward = lambda x: 2 * nn.Linear.forward(layer, x)
    with pytest.raises(
        InvalidValueError,
        match=r"'0' \(Linear\) .*it has a forward of its own, which would not be followed",
    ):
        to_nir(nn.Sequential(layer, neurons.IFNode()))


class Quick(neurons.LIFNode):
    def leak(self, v):
        return v * 0.25


def test_a_grid_class_of_ones_own_is_not_ours_by_name():
    mine = type("GridLIFNode", (OnGrid, Quick), {})(3.0, state_quant=quant.uniform(4))
    with pytest.raises(
        InvalidValueError, match=r"'1' \(GridLIFNode\) cannot be exported: a neuron of your own"
    ):
        to_nir(nn.Sequential(nn.Linear(4, 4), mine))


@pytest.mark.parametrize("name", ["leak", "drive", "fire", "discharge", "_decayed", "forward"])
@pytest.mark.parametrize("driven", [False, True])
def test_methods_put_on_a_neuron_are_refused(name, driven):
    node = neurons.LIFNode(3.0, state_quant=quant.uniform(4))
    setattr(node, name, lambda *x: x[0])
    net = nn.Sequential(nn.Linear(4, 4), layers.Driven(node, 2.0, 0.0) if driven else node)
    with pytest.raises(InvalidValueError, match=f"'1' .*it has a {name} of its own"):
        to_nir(net)


def test_a_forward_put_on_a_codebook_is_refused():
    node = neurons.LIFNode(3.0, state_quant=quant.uniform(4))
    node.state_quant.forward = torch.round
    with pytest.raises(InvalidValueError, match=r"'1' \(LIFNode\).*it has a forward of its own"):
        to_nir(nn.Sequential(nn.Linear(4, 4), node))
