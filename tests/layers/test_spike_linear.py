import copy
import importlib.util
import pickle
import threading
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnsim import MultiStep, neurons, quant
from snnsim.errors import InvalidTypeError, InvalidValueError, RunError
from snnsim.kernels import sparse as sparse_product
from snnsim.kernels.cpu import host
from snnsim.layers import SpikeLinear
from snnsim.layers.spikes import CROSSOVERS

needs_numba = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="numba is not installed"
)
# rows, inputs, outputs: odd sizes, one chunk of rows and more, outputs that fill their tiles and
# that do not
SHAPES = [(1, 1, 64), (63, 65, 65), (17, 200, 129), (1025, 130, 64), (2049, 70, 100)]


def spikes(*shape, density=0.1, dtype=torch.float32):
    return (torch.rand(shape) < density).to(dtype)


def pair(inputs, outputs, *, bias=True, integer=True, dtype=torch.float32):
    """A dense layer and the sparse one with parameters of its own."""
    dense = nn.Linear(inputs, outputs, bias, dtype=dtype)
    if integer:
        with torch.no_grad():
            for parameter in dense.parameters():
                parameter.copy_(torch.randint(-8, 8, parameter.shape))
    return dense, copy.deepcopy(SpikeLinear.from_linear(dense, crossover=1.0))


def gradients(layer, x, grad):
    """Output and the gradients of input and parameters."""
    x = x.detach().clone().requires_grad_()
    y = layer(x)
    y.backward(grad)
    return [y.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


def is_sparse(y):
    return type(y.grad_fn).__name__ == "_ProductBackward"


@pytest.fixture
def poisoned(monkeypatch):
    """Fresh memory holds NaN, so that an element that is not written shows."""

    def empty(shape, dtype):
        return torch.full(shape, float("nan"), dtype=dtype)

    monkeypatch.setattr(host, "empty", empty)


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_integer_weights_give_the_dense_result_and_gradients_bit_for_bit(
    shape, bias, dtype, poisoned
):
    rows, inputs, outputs = shape
    dense, sparse = pair(inputs, outputs, bias=bias, dtype=dtype)
    x, grad = spikes(rows, inputs, dtype=dtype), torch.randint(-4, 4, (rows, outputs)).to(dtype)
    assert is_sparse(sparse(x))
    for found, expected in zip(gradients(sparse, x, grad), gradients(dense, x, grad), strict=True):
        assert torch.equal(found, expected)
    with torch.no_grad():
        assert torch.equal(sparse(x), dense(x))


@needs_numba
def test_float_weights_differ_by_rounding_only():
    rows, inputs, outputs = 1100, 300, 100
    dense, sparse = pair(inputs, outputs, integer=False)
    x, grad = spikes(rows, inputs, density=0.2), torch.randn(rows, outputs)
    exact = gradients(copy.deepcopy(dense).double(), x.double(), grad.double())
    for name, found, expected in zip(
        ("y", "x", "weight", "bias"), gradients(sparse, x, grad), exact, strict=True
    ):
        scale = float(expected.abs().max())
        assert float((found - expected).abs().max()) < 1e-6 * scale, name


@needs_numba
def test_rounds_about_as_a_dense_product():
    dense, sparse = pair(784, 128, integer=False)
    x = spikes(256, 784, density=0.2)
    exact = F.linear(x.double(), dense.weight.double(), dense.bias.double())
    errors = [
        float((layer(x) - exact).detach().square().mean().sqrt()) for layer in (sparse, dense)
    ]
    assert errors[0] < 2 * errors[1]


@needs_numba
@pytest.mark.parametrize("count", [2, 3])
def test_threads_share_the_work_without_a_trace(count):
    # 129 outputs: the last tile shares columns with the one before
    dense, sparse = pair(256, 129)
    x, grad = spikes(2500, 256), torch.randint(-4, 4, (2500, 129)).float()
    expected = gradients(dense, x, grad)
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        for _ in range(10):
            sparse.zero_grad(set_to_none=True)
            for found, wanted in zip(gradients(sparse, x, grad), expected, strict=True):
                assert torch.equal(found, wanted)
    finally:
        torch.set_num_threads(before)


@needs_numba
def test_more_threads_than_were_expected_find_no_memory_and_leave(monkeypatch):
    dense, sparse = pair(256, 129)
    x, grad = spikes(2500, 256), torch.randint(-4, 4, (2500, 129)).float()
    expected = gradients(dense, x, grad)
    before = torch.get_num_threads()
    # as if another Python thread had changed the number in between
    monkeypatch.setattr(
        sparse_product,
        "host",
        SimpleNamespace(**{**vars(host), "thread_count": lambda elements: 1}),
    )
    torch.set_num_threads(4)
    try:
        found = gradients(sparse, x, grad)
    finally:
        torch.set_num_threads(before)
    for value, wanted in zip(found, expected, strict=True):
        assert torch.equal(value, wanted)


@needs_numba
def test_python_threads_may_call_one_layer_at_once():
    dense, sparse = pair(200, 128)
    inputs = [spikes(300, 200) for _ in range(4)]
    with torch.no_grad():
        expected = [dense(x) for x in inputs]
    wrong = []

    def work(i):
        for _ in range(20):
            with torch.no_grad():
                if not torch.equal(sparse(inputs[i]), expected[i]):
                    wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@needs_numba
@pytest.mark.parametrize("value", [2.0, 0.5, -1.0, float("nan"), float("inf"), 1.0000001])
@pytest.mark.parametrize("place", [(0, 0), (9, 69), (5, 64)])
def test_one_value_that_is_no_spike_makes_the_product_dense(value, place):
    dense, sparse = pair(70, 64)
    x = spikes(10, 70)
    x[place] = value
    assert sparse.explain(x) == "dense: the input is not made of zeros and ones"
    torch.testing.assert_close(sparse(x), dense(x), rtol=0, atol=0, equal_nan=True)


@needs_numba
def test_a_negative_zero_is_no_spike():
    dense, sparse = pair(70, 64)
    x = -torch.zeros(10, 70)
    assert is_sparse(sparse(x))
    assert torch.equal(sparse(x), dense(x))


@needs_numba
def test_decides_by_the_density():
    dense, layer = pair(70, 64)
    layer.crossover = 0.1
    x = torch.zeros(100, 70)
    x.view(-1)[:700] = 1
    assert layer.explain(x) == "sparse: 10 % of the inputs spike, up to 10 % pay"
    assert is_sparse(layer(x))
    x.view(-1)[700] = 1
    assert not is_sparse(layer(x))
    x.view(-1)[:770] = 1
    assert layer.explain(x) == "dense: 11 % of the inputs spike, and only up to 10 % pay"
    assert torch.equal(layer(x), dense(x))
    layer.crossover = 0
    assert layer.explain(x) == "dense: crossover=0"


@needs_numba
def test_the_measured_crossover_asks_for_enough_work():
    layer = SpikeLinear(784, 1000)
    assert (
        layer.explain(spikes(63, 784)) == "dense: 63 rows; turning the weight over pays from 64 on"
    )
    assert (
        layer.explain(spikes(64, 784))
        == "dense: 5.0e+07 multiplications; finding the spikes pays from 6.7e+07 on"
    )
    x = spikes(128, 784)
    assert layer.explain(x).endswith("up to 30 % pay")
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.explain(spikes(256, 784, density=0.02)).endswith("up to 8 % pay")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert layer.explain(spikes(256, 784)).endswith("up to 20 % pay")
    finally:
        torch.set_float32_matmul_precision(before)
    assert all(0 < crossover.density < 1 for crossover in CROSSOVERS.values())


@needs_numba
def test_takes_any_layout():
    dense, sparse = pair(70, 64)
    rows = spikes(3, 140, 5)
    for x in (
        rows.transpose(1, 2)[..., :70],  # columns apart
        spikes(6, 140)[:, 3:73],  # rows apart
        spikes(70).expand(4, 70),  # one row, many times
        spikes(70),
        spikes(2, 3, 4, 70),
    ):
        grad = torch.randint(-4, 4, (*x.shape[:-1], 64)).float()
        assert is_sparse(sparse(x))
        dense.zero_grad()
        sparse.zero_grad()
        for found, expected in zip(
            gradients(sparse, x, grad), gradients(dense, x, grad), strict=True
        ):
            assert torch.equal(found, expected)


@needs_numba
def test_takes_a_gradient_of_any_layout():
    dense, sparse = pair(70, 64)
    x = spikes(10, 70)
    for layer in (dense, sparse):
        layer(x).sum().backward()
        layer(x).t().contiguous().pow(2).sum().backward()
    assert torch.equal(dense.weight.grad, sparse.weight.grad)


@needs_numba
def test_takes_weights_of_any_layout():
    dense, sparse = pair(70, 64)
    sparse.weight = nn.Parameter(sparse.weight.detach().t().contiguous().t())
    x = spikes(10, 70)
    assert is_sparse(sparse(x))
    assert torch.equal(sparse(x), dense(x))


@pytest.mark.parametrize("shape", [(0, 70), (3, 0, 70)])
def test_takes_an_empty_batch(shape):
    _, sparse = pair(70, 64)
    y = sparse(torch.zeros(shape))
    assert y.shape == (*shape[:-1], 64)
    y.sum().backward()
    assert not sparse.weight.grad.any()


@needs_numba
def test_sees_weights_that_changed_in_any_way():
    dense, sparse = pair(70, 64)
    x = spikes(10, 70)
    sparse(x)
    for layer in (dense, sparse):
        # behind the version counter's back
        layer.weight.data.mul_(2)
    assert torch.equal(sparse(x), dense(x))


@needs_numba
def test_keeps_the_spikes_and_not_the_input():
    _, layer = pair(256, 64)
    x = spikes(1000, 256, density=0.05)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x)
    # 2 bytes a spike, and 8 for each input
    assert sum(t.numel() * t.element_size() for t in saved) == 2 * int(x.sum()) + 8 * 257
    saved.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer.requires_grad_(False)(x)
        with torch.no_grad():
            layer.requires_grad_(True)(x)
    assert saved == []


@needs_numba
@pytest.mark.parametrize("parts", [(), ("weight",), ("bias",), ("weight", "bias")])
@pytest.mark.parametrize("of_input", [True, False])
def test_gives_the_gradients_that_are_asked_for(parts, of_input):
    dense, sparse = pair(70, 64)
    x = spikes(10, 70)
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
    _, layer = pair(5, 64, integer=False, dtype=torch.float64)
    x = spikes(3, 5, density=0.5, dtype=torch.float64)

    def of_parameters(weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    assert is_sparse(of_parameters(layer.weight, layer.bias))
    assert torch.autograd.gradcheck(of_parameters, (layer.weight, layer.bias))


@needs_numba
def test_differentiates_once():
    _, layer = pair(70, 64)
    y = layer(spikes(10, 70))
    (grad,) = torch.autograd.grad(y.pow(2).sum(), layer.weight, create_graph=True)
    with pytest.raises(RunError, match="the gradient of a SpikeLinear can be taken once"):
        grad.sum().backward()
    # a penalty on the gradient of the input, which came from a constant
    x = spikes(10, 70).requires_grad_()
    (grad,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    with pytest.raises(RunError, match="can be taken once"):
        grad.square().sum().backward()


@needs_numba
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_sums_in_float32_and_rounds_the_result(kind):
    dense, layer = pair(70, 64, integer=False)
    x = spikes(10, 70)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.to(kind).requires_grad_())
        assert is_sparse(y)
        assert dense(x.to(kind)).dtype == y.dtype == torch.bfloat16
    layer32 = copy.deepcopy(layer)
    assert torch.equal(y, layer32(x).bfloat16())
    grad = torch.randn(10, 64).bfloat16()
    y.backward(grad)
    layer32(x).backward(grad.float())
    assert torch.equal(layer.weight.grad, layer32.weight.grad)


@needs_numba
def test_autocast_leaves_float64_alone():
    dense, layer = pair(70, 64, dtype=torch.float64)
    x = spikes(10, 70, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert is_sparse(layer(x))
        assert torch.equal(layer(x), dense(x))
        assert layer(x).dtype == torch.float64


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (
            torch.zeros(10, 70, dtype=torch.float64),
            "an input of torch.float64 with weights of torch.float32",
        ),
        (
            torch.zeros(10, 70, dtype=torch.bool),
            "an input of torch.bool with weights of torch.float32",
        ),
        (torch.zeros(10, 71), "an input of shape (10, 71)"),
        (torch.tensor(1.0), "an input of shape ()"),
        (torch.zeros(10, 70, device="meta"), "on meta"),
        (nn.Buffer(torch.zeros(10, 70)).to_sparse(), "a tensor of another kind"),
    ],
)
def test_leaves_to_the_dense_product_what_the_kernels_cannot_take(x, reason):
    _, layer = pair(70, 64)
    assert layer.explain(x) == f"dense: {reason}"


def test_mistakes_raise_what_a_linear_layer_raises():
    dense, layer = pair(70, 64)
    for x in (torch.zeros(10, 71), torch.zeros(10, 70, dtype=torch.float64), torch.tensor(1.0)):
        with pytest.raises(RuntimeError) as expected:
            dense(x)
        with pytest.raises(RuntimeError) as found:
            layer(x)
        assert str(found.value) == str(expected.value)


def test_few_outputs_and_half_weights_are_dense():
    x = spikes(10, 70)
    assert (
        SpikeLinear(70, 63, crossover=1.0).explain(x)
        == "dense: 63 outputs; the sums are worked out 64 at a time"
    )
    assert (
        SpikeLinear(70, 31, crossover=1.0)
        .double()
        .explain(x.double())
        .startswith("dense: 31 outputs; the sums are worked out 32")
    )
    assert "weights of torch.bfloat16" in SpikeLinear(70, 64).bfloat16().explain(x.bfloat16())


def test_without_numba_it_is_dense_and_says_why(monkeypatch):
    dense, layer = pair(70, 64)
    x = spikes(10, 70)
    monkeypatch.setattr(host.importlib.util, "find_spec", lambda name: None)
    assert layer.explain(x) == "dense: numba is not installed; pip install numba"
    assert torch.equal(layer(x), dense(x))


def test_a_broken_numba_is_named(monkeypatch):
    _, layer = pair(70, 64)
    monkeypatch.setattr(host, "_import_problem", lambda: "numba cannot be imported: because")
    assert layer.explain(spikes(10, 70)) == "dense: numba cannot be imported: because"


def test_transforms_and_traces_see_a_linear_layer():
    _, layer = pair(6, 64)
    x = spikes(4, 6)
    parameters = dict(layer.named_parameters())
    per_sample = torch.func.vmap(
        torch.func.grad(lambda p, row: torch.func.functional_call(layer, p, (row,)).sum()),
        (None, 0),
    )
    assert torch.equal(per_sample(parameters, x)["weight"], x[:, None].expand(4, 64, 6))
    graph = torch.fx.experimental.proxy_tensor.make_fx(layer)(x)
    other = spikes(4, 6)
    assert torch.equal(graph(other), layer(other))


def test_compiles_to_a_linear_layer():
    dense, layer = pair(70, 64)
    x = spikes(10, 70)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), dense(x))


@needs_numba
def test_trains_like_a_linear_layer():
    def network(kind):
        torch.manual_seed(1)
        first, second = nn.Linear(40, 64), nn.Linear(64, 64)
        if kind is SpikeLinear:
            first, second = (
                SpikeLinear.from_linear(layer, crossover=1.0) for layer in (first, second)
            )
        return MultiStep(
            nn.Sequential(first, neurons.LIFNode(state_quant=quant.uniform(4)), second)
        ).double()

    x_seq = spikes(5, 8, 40, density=0.3, dtype=torch.float64)
    losses = {}
    for kind in (nn.Linear, SpikeLinear):
        net = network(kind)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        losses[kind] = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = net(x_seq).square().mean()
            loss.backward()
            optimizer.step()
            losses[kind].append(loss.item())
    assert losses[SpikeLinear] == pytest.approx(losses[nn.Linear], rel=1e-10)
    assert losses[SpikeLinear][2] < losses[SpikeLinear][0]


def test_is_a_linear_layer_to_files_and_copies():
    dense, layer = pair(70, 64)
    assert isinstance(layer, nn.Linear)
    assert list(layer.state_dict()) == list(dense.state_dict()) == ["weight", "bias"]
    other = SpikeLinear(70, 64, crossover=0.5)
    other.load_state_dict(dense.state_dict())
    assert torch.equal(other.weight, dense.weight)
    again = pickle.loads(pickle.dumps(other))
    assert again.crossover == 0.5
    assert torch.equal(again.weight, dense.weight)


def test_from_linear_shares_the_parameters():
    dense = nn.Linear(3, 64, bias=False).eval()
    layer = SpikeLinear.from_linear(dense)
    assert layer.weight is dense.weight
    assert layer.bias is None
    assert not layer.training
    assert layer.crossover is None


def test_from_linear_refuses_a_subclass():
    with pytest.raises(
        InvalidTypeError, match=r"linear of type SpikeLinear\): must be a plain nn.Linear"
    ):
        SpikeLinear.from_linear(SpikeLinear(3, 4))


def test_checks_the_crossover():
    with pytest.raises(
        InvalidValueError,
        match=r"crossover=1.5\): is a share of ones, at most 1; pass 0.1 for 10 %",
    ):
        SpikeLinear(3, 4, crossover=1.5)
    layer = SpikeLinear(3, 4)
    with pytest.raises(InvalidValueError, match="crossover must be >= 0"):
        layer.crossover = -0.1
    with pytest.raises(InvalidTypeError, match="crossover must be a number"):
        layer.crossover = "auto"


def test_repr():
    assert repr(SpikeLinear(3, 4)) == "SpikeLinear(in_features=3, out_features=4, bias=True)"
    assert (
        repr(SpikeLinear(3, 4, crossover=0.2))
        == "SpikeLinear(in_features=3, out_features=4, bias=True, crossover=0.2)"
    )
