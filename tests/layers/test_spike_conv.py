import copy
import importlib.util
import pickle

import pytest
import torch
from torch import nn

from snnsim import MultiStep, layers, metrics, neurons, quant
from snnsim.deploy import lower
from snnsim.errors import InvalidTypeError, InvalidValueError, RunError
from snnsim.kernels.cpu import host
from snnsim.layers import SpikeConv2d, SpikeLinear
from snnsim.layers.spikes import CONV_CROSSOVERS

needs_numba = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="numba is not installed"
)
FORMATS = [torch.contiguous_format, torch.channels_last]
# channels in and out, window, stride, padding, dilation, height and width: odd sizes, windows
# larger than what is left of the input
SHAPES = [
    (2, 32, 3, 1, 1, 1, 9, 7),
    (2, 8, 5, 2, 2, 1, 17, 16),
    (1, 3, (2, 5), (3, 1), (2, 0), (1, 1), 12, 9),
    (3, 17, 3, 1, 0, 2, 9, 8),
    (2, 1, 1, 1, 0, 1, 5, 5),
    (1, 4, 1, 2, 1, 1, 1, 1),
    (4, 5, 3, (1, 2), (3, 4), (2, 1), 6, 7),
    (2, 6, 7, 1, 3, 1, 4, 3),
    (20, 64, 3, 1, "same", 1, 8, 8),
    (2, 4, (3, 5), 1, "same", (2, 1), 8, 8),
    (2, 4, 3, 2, "valid", 1, 8, 8),
]


def spikes(*shape, density=0.2, dtype=torch.float32):
    return (torch.rand(shape) < density).to(dtype)


def pair(*sizes, bias=True, integer=True, dtype=torch.float32):
    """A dense layer and the sparse one with parameters of its own."""
    dense = nn.Conv2d(*sizes, bias=bias, dtype=dtype)
    if integer:
        with torch.no_grad():
            for parameter in dense.parameters():
                parameter.copy_(torch.randint(-8, 8, parameter.shape))
    return dense, copy.deepcopy(SpikeConv2d.from_conv(dense, crossover=1.0))


def gradients(layer, x, grad):
    """Output and the gradients of input and parameters."""
    x = x.detach().clone().requires_grad_()
    y = layer(x)
    y.backward(grad)
    return [y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


def is_sparse(y):
    return type(y.grad_fn).__name__ == "_ConvolutionBackward"


@pytest.fixture
def poisoned(monkeypatch):
    """Fresh memory holds NaN, so that an element that is not written shows."""

    def empty(shape, dtype):
        return torch.full(shape, float("nan"), dtype=dtype)

    monkeypatch.setattr(host, "empty", empty)


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_integer_weights_give_the_bits_of_the_dense_layer(sizes, memory_format, dtype, poisoned):
    *conv, height, width = sizes
    for samples, bias in ((1, True), (19, False)):
        dense, sparse = pair(*conv, bias=bias, dtype=dtype)
        x = spikes(samples, conv[0], height, width, dtype=dtype).contiguous(
            memory_format=memory_format
        )
        expected = dense(x)
        assert is_sparse(sparse(x))
        with torch.no_grad():
            assert torch.equal(sparse(x), expected)
        grad = torch.randint(-4, 4, expected.shape).to(dtype)
        for found, wanted in zip(
            gradients(sparse, x, grad), gradients(dense, x, grad), strict=True
        ):
            assert torch.equal(found, wanted)


@needs_numba
@pytest.mark.parametrize("density", [0.0, 0.01, 1.0])
def test_no_spike_and_only_spikes(density):
    dense, sparse = pair(2, 8, 3, 1, 1)
    x = spikes(5, 2, 10, 10, density=density)
    grad = torch.randint(-4, 4, (5, 8, 10, 10)).float()
    assert is_sparse(sparse(x))
    for found, wanted in zip(gradients(sparse, x, grad), gradients(dense, x, grad), strict=True):
        assert torch.equal(found, wanted)


@needs_numba
@pytest.mark.parametrize("memory_format", FORMATS)
def test_float_weights_differ_by_rounding_alone(memory_format):
    dense, sparse = pair(2, 32, 5, 1, 2, integer=False)
    x = spikes(64, 2, 34, 34, density=0.1).contiguous(memory_format=memory_format)
    grad = torch.randn(64, 32, 34, 34).contiguous(memory_format=memory_format)
    exact = gradients(copy.deepcopy(dense).double(), x.double(), grad.double())
    for found, wanted, limit in zip(
        gradients(sparse, x, grad), exact, (1e-5, 1e-5, 1e-4, 1e-4), strict=True
    ):
        assert (found - wanted).abs().max() <= limit * wanted.abs().max()


@needs_numba
@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_number_of_threads_changes_no_bit(memory_format, monkeypatch):
    _, layer = pair(2, 16, 3, 1, 1, integer=False)
    x = spikes(37, 2, 20, 20).contiguous(memory_format=memory_format)
    grad = torch.randn(37, 16, 20, 20)
    monkeypatch.setattr(host, "SERIAL_ELEMENTS", 0)
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            layer.zero_grad()
            y = layer(x)
            y.backward(grad)
            results.append([y.detach(), layer.weight.grad.clone()])
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *results))


@needs_numba
def test_a_sum_has_only_the_weights_of_its_window():
    # each output is a power of two for each tap, so that it names the taps that were added
    layer = SpikeConv2d(1, 1, 3, bias=False, crossover=1.0)
    with torch.no_grad():
        layer.weight.copy_(2.0 ** torch.arange(9).view(1, 1, 3, 3))
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 1, 2] = 1
    assert layer(x).tolist() == [[[[2.0**5, 2.0**4], [2.0**2, 2.0**1]]]]


@needs_numba
def test_channels_lie_as_in_the_dense_layer():
    for channels in (1, 2):
        dense, sparse = pair(channels, 8, 3)
        x = spikes(4, channels, 9, 9)
        for memory_format in FORMATS:
            value = x.to(memory_format=memory_format)
            assert sparse(value).stride() == dense(value).stride()
    # where the weight says so, too
    dense, sparse = (layer.to(memory_format=torch.channels_last) for layer in (dense, sparse))
    assert sparse(x).stride() == dense(x).stride()
    assert torch.equal(sparse(x), dense(x))


@needs_numba
def test_takes_any_layout():
    dense, sparse = pair(2, 8, 3, 1, 1)
    whole = spikes(6, 4, 20, 20)
    for x in (
        whole[:, ::2, :11, ::2],
        whole[:, :2].transpose(2, 3),
        whole[::2, 1:3],
        whole[:1, :2].expand(5, -1, -1, -1),
        whole[0, :2],
    ):
        grad = torch.randint(-4, 4, dense(x).shape).float()
        layers_ = [copy.deepcopy(layer) for layer in (sparse, dense)]
        assert is_sparse(sparse(x)) or x.dim() == 3
        assert sparse.explain(x).startswith("sparse")
        for found, wanted in zip(*(gradients(layer, x, grad) for layer in layers_), strict=True):
            assert torch.equal(found, wanted)


@needs_numba
def test_takes_a_gradient_of_any_layout():
    dense, sparse = pair(2, 8, 3)
    x = spikes(4, 2, 9, 9)
    for layer in (dense, sparse):
        layer(x).sum().backward()
        layer(x).transpose(1, 3).contiguous().pow(2).sum().backward()
        layer(x).contiguous(memory_format=torch.channels_last).pow(2).sum().backward()
    assert torch.equal(dense.weight.grad, sparse.weight.grad)


@needs_numba
def test_sees_weights_that_changed_in_any_way():
    dense, sparse = pair(2, 8, 3)
    x = spikes(4, 2, 9, 9)
    sparse(x)
    for layer in (dense, sparse):
        layer.weight.data.mul_(2)
    assert torch.equal(sparse(x), dense(x))


@needs_numba
def test_keeps_the_spikes_and_not_the_input():
    _, layer = pair(2, 8, 3)
    x = spikes(30, 2, 20, 20, density=0.05)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x)
    assert sum(t.numel() * t.element_size() for t in saved) == 4 * int(x.sum()) + 8 * 31
    saved.clear()
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),
        torch.no_grad(),
    ):
        layer(x)
    assert saved == []


@needs_numba
@pytest.mark.parametrize("parts", [(), ("weight",), ("bias",), ("weight", "bias")])
@pytest.mark.parametrize("of_input", [True, False])
def test_gives_the_gradients_that_are_asked_for(parts, of_input):
    dense, sparse = pair(2, 8, 3)
    x = spikes(4, 2, 9, 9)
    results = []
    for layer in (dense, sparse):
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(name in parts)
        leaf = x.clone().requires_grad_(of_input)
        y = layer(leaf)
        if y.requires_grad:
            y.backward(torch.ones_like(y))
        results.append([y.requires_grad, leaf.grad, layer.weight.grad, layer.bias.grad])
    for found, expected in zip(*results, strict=True):
        assert (
            found == expected
            if expected is None or isinstance(expected, bool)
            else torch.equal(found, expected)
        )


@needs_numba
def test_gradients_are_those_of_finite_differences():
    _, layer = pair(2, 3, 3, 2, 1, integer=False, dtype=torch.float64)
    x = spikes(2, 2, 5, 4, density=0.5, dtype=torch.float64)

    def of_parameters(weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    assert is_sparse(of_parameters(layer.weight, layer.bias))
    assert torch.autograd.gradcheck(of_parameters, (layer.weight, layer.bias))


@needs_numba
def test_differentiates_once():
    _, layer = pair(2, 8, 3)
    y = layer(spikes(4, 2, 9, 9))
    (grad,) = torch.autograd.grad(y.pow(2).sum(), layer.weight, create_graph=True)
    with pytest.raises(RunError, match="the gradient of a SpikeConv2d can be taken once"):
        grad.sum().backward()
    # a penalty on the gradient of the input, which came from a constant
    x = spikes(4, 2, 9, 9).requires_grad_()
    (grad,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    with pytest.raises(RunError, match="can be taken once"):
        grad.square().sum().backward()


@needs_numba
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_autocast_sums_in_float32_and_rounds_the_result(kind):
    dense, layer = pair(2, 8, 3, integer=False)
    x = spikes(4, 2, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.to(kind).requires_grad_())
        assert is_sparse(y)
        assert dense(x.to(kind)).dtype == y.dtype == torch.bfloat16
    alone = copy.deepcopy(layer)
    assert torch.equal(y, alone(x).bfloat16())
    grad = torch.randn(y.shape).bfloat16()
    y.backward(grad)
    alone(x).backward(grad.float())
    assert torch.equal(layer.weight.grad, alone.weight.grad)


@needs_numba
def test_chooses_by_density_geometry_and_layout():
    events = spikes(256, 2, 34, 34, density=0.02)
    layer = SpikeConv2d(2, 32, 3, padding=1)
    assert layer.explain(events).endswith("up to 3 % pay")
    assert layer.explain(events).startswith("sparse: ")
    assert layer.explain(events.to(memory_format=torch.channels_last)).endswith("up to 4.5 % pay")
    assert layer.explain(spikes(256, 2, 34, 34, density=0.1)).startswith("dense: ")
    assert (
        SpikeConv2d(2, 32, 5, stride=2)
        .explain(spikes(256, 2, 34, 34, density=0.005))
        .endswith("up to 0.75 % pay")
    )
    deep = spikes(256, 32, 17, 17, density=0.02)
    assert "only up to 1 % pay" in SpikeConv2d(32, 64, 3).explain(deep)
    assert (
        layer.explain(events[:2])
        == "dense: 1.3e+06 multiplications; finding the spikes pays from 3.4e+07 on"
    )
    assert SpikeConv2d(2, 32, 3, crossover=0).explain(events) == "dense: crossover=0"
    with torch.autocast("cpu", torch.bfloat16):
        assert "0.75 % pay" in layer.explain(events)
    assert all(0 < crossover.density < 1 for crossover in CONV_CROSSOVERS.values())


@pytest.mark.parametrize(
    ("layer", "x", "reason"),
    [
        (SpikeConv2d(2, 4, 3, groups=2), torch.zeros(1, 2, 5, 5), "groups=2"),
        (
            SpikeConv2d(2, 4, 3, padding=1, padding_mode="circular"),
            torch.zeros(1, 2, 5, 5),
            "padding_mode='circular'",
        ),
        (
            SpikeConv2d(2, 4, 2, padding="same"),
            torch.zeros(1, 2, 5, 5),
            "padding='same' with a window of (2, 2), which has no middle",
        ),
        (SpikeConv2d(2, 4, 3), torch.zeros(1, 3, 5, 5), "an input of shape (1, 3, 5, 5)"),
        (SpikeConv2d(2, 4, 3), torch.zeros(1, 2, 2, 5), "an input of shape (1, 2, 2, 5)"),
        (SpikeConv2d(2, 4, 3), torch.zeros(5, 5), "an input of shape (5, 5)"),
        (
            SpikeConv2d(2, 4, 3),
            torch.zeros(1, 2, 5, 5, dtype=torch.float64),
            "an input of torch.float64 with weights of torch.float32",
        ),
        (
            SpikeConv2d(2, 4, 3, crossover=1.0),
            torch.full((1, 2, 5, 5), 0.5),
            "the input is not made of zeros and ones",
        ),
        (SpikeConv2d(2, 4, 3), torch.zeros(1, 2, 5, 5, device="meta"), "on meta"),
    ],
)
def test_leaves_to_the_dense_layer_what_the_kernels_cannot_take(layer, x, reason):
    assert layer.explain(x) == f"dense: {reason}"


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_what_is_dense_is_the_dense_layer():
    for options in (
        {"groups": 2},
        {"padding": 1, "padding_mode": "circular"},
        {"padding": "same", "kernel_size": 2},
    ):
        dense = nn.Conv2d(2, 4, **{"kernel_size": 3} | options)
        layer = SpikeConv2d.from_conv(dense, crossover=1.0)
        x = spikes(3, 2, 6, 6)
        assert torch.equal(layer(x), dense(x))


def test_mistakes_raise_what_a_convolution_raises():
    dense, layer = pair(2, 4, 3)
    for x in (
        torch.zeros(1, 3, 5, 5),
        torch.zeros(1, 2, 2, 2),
        torch.zeros(5, 5),
        torch.zeros(1, 2, 5, 5, dtype=torch.float64),
    ):
        with pytest.raises(RuntimeError) as expected:
            dense(x)
        with pytest.raises(RuntimeError) as found:
            layer(x)
        assert str(found.value) == str(expected.value)


def test_takes_an_empty_batch():
    _, layer = pair(2, 4, 3)
    y = layer(torch.zeros(0, 2, 5, 5))
    assert y.shape == (0, 4, 3, 3)
    y.sum().backward()
    assert not layer.weight.grad.any()


def test_without_numba_it_is_dense_and_says_why(monkeypatch):
    dense, layer = pair(2, 4, 3)
    x = spikes(1, 2, 5, 5)
    monkeypatch.setattr(host.importlib.util, "find_spec", lambda name: None)
    assert layer.explain(x) == "dense: numba is not installed; pip install numba"
    assert torch.equal(layer(x), dense(x))


def test_compiles_to_a_convolution():
    dense, layer = pair(2, 4, 3)
    x = spikes(1, 2, 5, 5)
    assert torch.equal(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), dense(x))


@needs_numba
def test_trains_like_a_convolution():
    def network(kind):
        torch.manual_seed(1)
        first = nn.Conv2d(2, 8, 3, padding=1)
        first = SpikeConv2d.from_conv(first, crossover=1.0) if kind is SpikeConv2d else first
        node = neurons.LIFNode(state_quant=quant.uniform(4))
        return MultiStep(nn.Sequential(first, node, nn.Flatten(), nn.Linear(8 * 36, 3))).double()

    x_seq = spikes(5, 4, 2, 6, 6, density=0.3, dtype=torch.float64)
    losses = {}
    for kind in (nn.Conv2d, SpikeConv2d):
        net = network(kind)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        losses[kind] = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = net(x_seq).square().mean()
            loss.backward()
            optimizer.step()
            losses[kind].append(loss.item())
    assert losses[SpikeConv2d] == pytest.approx(losses[nn.Conv2d], rel=1e-10)
    assert losses[SpikeConv2d][2] < losses[SpikeConv2d][0]


def test_is_a_convolution_to_files_and_copies():
    dense, layer = pair(2, 4, 3)
    assert isinstance(layer, nn.Conv2d)
    assert list(layer.state_dict()) == list(dense.state_dict()) == ["weight", "bias"]
    other = SpikeConv2d(2, 4, 3, crossover=0.5)
    other.load_state_dict(dense.state_dict())
    assert torch.equal(other.weight, dense.weight)
    again = pickle.loads(pickle.dumps(other))
    assert again.crossover == 0.5
    assert torch.equal(again.weight, dense.weight)


@pytest.mark.parametrize(
    "kind",
    [(nn.Conv2d, SpikeConv2d.from_conv), (nn.Linear, SpikeLinear.from_linear)],
    ids=["conv", "linear"],
)
def test_quantize_and_lower_make_of_it_what_they_make_of_the_plain_layer(kind):
    plain, convert = kind
    torch.manual_seed(2)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        neurons.IFNode(state_quant=quant.uniform(4)),
        nn.Flatten(),
        nn.Linear(4 * 25, 64),
        neurons.IFNode(state_quant=quant.uniform(3)),
    )
    with torch.no_grad():
        net[0].weight.mul_(4)
        net[3].weight.mul_(6)
    sparse = copy.deepcopy(net)
    for i, layer in enumerate(sparse):
        if type(layer) is plain:
            sparse[i] = convert(layer)
    x_seq = spikes(4, 3, 2, 5, 5)
    sizes, outputs = [], []
    for network in (net, sparse):
        sizes.append(metrics.footprint(MultiStep(network), x_seq))
        report = quant.quantize(network, weights=4, grid_bits=8)
        assert len(report.changed) == 2
        assert not report.left
        quant.freeze(network)
        outputs += [MultiStep(network).eval()(x_seq), lower(network, (2, 5, 5))(x_seq)]
    assert sizes[0] == sizes[1]
    assert outputs[0].any()
    assert all(torch.equal(output, outputs[0]) for output in outputs)


@needs_numba
def test_lowers_with_integer_weights():
    torch.manual_seed(2)
    first, second = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4 * 25, 64)
    for parameter in (*first.parameters(), *second.parameters()):
        parameter.data = torch.randint(-2, 3, parameter.shape) / 2.0
    net = nn.Sequential(
        SpikeConv2d.from_conv(first, crossover=1.0),
        neurons.IFNode(state_quant=quant.integer_grid(4, frac_bits=1)),
        nn.Flatten(),
        SpikeLinear.from_linear(second, crossover=1.0),
        neurons.IFNode(state_quant=quant.integer_grid(4, frac_bits=1)),
    ).eval()
    x_seq = spikes(4, 3, 2, 5, 5)
    expected = MultiStep(net)(x_seq)
    assert expected.any()
    assert torch.equal(lower(net, (2, 5, 5))(x_seq), expected)


def test_a_subclass_of_it_is_not_taken_for_the_plain_layer():
    class Doubled(SpikeConv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    report = quant.quantize(nn.Sequential(Doubled(2, 4, 3), nn.Linear(3, 3)), weights=4)
    assert [note.note for note in report.left] == [
        "a subclass, whose forward a quantized layer would not keep"
    ]


def test_batch_norm_folds_into_it():
    torch.manual_seed(0)
    net = nn.Sequential(SpikeConv2d(2, 4, 3), nn.BatchNorm2d(4)).eval()
    net[1].running_mean.uniform_()
    x = spikes(2, 2, 6, 6)
    expected = net(x)
    quant.fold_batch_norm(net)
    assert torch.allclose(net(x), expected, atol=1e-6)
    assert isinstance(net[0], SpikeConv2d)


def test_from_conv_shares_the_parameters():
    dense = nn.Conv2d(2, 4, 3, 2, 1, 2, bias=False).eval()
    layer = SpikeConv2d.from_conv(dense)
    assert layer.weight is dense.weight
    assert layer.bias is None
    assert not layer.training
    assert layer.crossover is None
    assert (layer.stride, layer.padding, layer.dilation) == ((2, 2), (1, 1), (2, 2))


def test_from_conv_refuses_a_subclass():
    with pytest.raises(
        InvalidTypeError, match=r"conv of type SpikeConv2d\): must be a plain nn.Conv2d"
    ):
        SpikeConv2d.from_conv(SpikeConv2d(2, 4, 3))


def test_checks_the_crossover():
    with pytest.raises(
        InvalidValueError,
        match=r"SpikeConv2d\(crossover=1.5\): is a share of ones, at most 1; pass 0.1 for 10 %",
    ):
        SpikeConv2d(2, 4, 3, crossover=1.5)
    with pytest.raises(InvalidTypeError, match="crossover must be a number"):
        SpikeConv2d(2, 4, 3).crossover = "auto"


def test_repr():
    assert repr(SpikeConv2d(2, 4, 3)) == "SpikeConv2d(2, 4, kernel_size=(3, 3), stride=(1, 1))"
    assert repr(SpikeConv2d(2, 4, 3, crossover=0.2)).endswith("stride=(1, 1), crossover=0.2)")
    assert "SpikeConv2d" in layers.__all__
