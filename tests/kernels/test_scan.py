"""The chain of equality: every engine gives what the reference gives, and the reference what the
formula says.
"""

import copy
import dataclasses
import itertools
import pickle

import pytest
import torch

from snnsim.errors import InvalidTypeError, RunError, ShapeError
from snnsim.kernels.scan import scan

ENGINES = ("reference", "cpu")
LEVELS = (2, 4, 8, 16, 32, 128, 256, 300)
SHAPES = ((1, 1), (2, 63), (17, 1026), (3, 0))


def difficult_input(time_steps, size, table, seed=1):
    """Input with values on edges, infinities and NaN among the rest."""
    x = (
        torch.randn(
            time_steps, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        ).to(table.dtype)
        * 1.5
    )
    if size > 32:
        ties = torch.cat(
            [table.edges, torch.nextafter(table.edges, torch.full_like(table.edges, -torch.inf))]
        )
        # the first carry is zero and every division below is exact or absent for these
        x[0, -min(size - 32, len(ties)) :] = ties[: size - 32]
        x[0, 3], x[-1, 5], x[time_steps // 2, 7] = torch.inf, -torch.inf, torch.nan
    return x


def run(table, x, engine, carry0=None, out_gradient=True, v_gradient=True):
    """Outputs and every gradient, from the same incoming gradients for every engine."""
    inputs = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_()]
    inputs.append(
        (torch.zeros(1, dtype=table.dtype) if carry0 is None else carry0)
        .detach()
        .clone()
        .requires_grad_()
    )
    names = ["out", "carry", "after"] + ["divisor"] * (table.divisor is not None)
    learned = {name: getattr(table, name).detach().clone().requires_grad_() for name in names}
    inputs += learned.values()
    out, v = scan(inputs[0], inputs[1], dataclasses.replace(table, **learned), engine)
    generator = torch.Generator().manual_seed(2)
    incoming = [
        torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
        for value in (out, v)
    ]
    outputs = [(out, incoming[0])] * out_gradient + [(v, incoming[1])] * v_gradient
    gradients = torch.autograd.grad([o for o, _ in outputs], inputs, [g for _, g in outputs])
    return (out.detach(), v.detach(), *gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", LEVELS)
def test_engines_agree_bit_for_bit_on_outputs_states_and_all_gradients(
    levels, dtype, random_table, same, poisoned
):
    cases = itertools.product(
        (False, True), (False, True), (1, 3), (True, False), (None, 2.0, 3.0, "channel")
    )
    for number, (uniform, clip, channels, spiking, divisor) in enumerate(cases):
        table = random_table(
            levels,
            channels=channels,
            dtype=dtype,
            clip=clip,
            uniform=uniform,
            spiking=spiking,
            divisor=divisor,
            seed=number,
        )
        time_steps, size = SHAPES[number % len(SHAPES)]
        x = difficult_input(time_steps, size // channels * channels, table)
        for reference, fused in zip(run(table, x, "reference"), run(table, x, "cpu"), strict=True):
            assert same(reference, fused), (uniform, clip, channels, spiking, divisor)


@pytest.mark.parametrize("levels", [4, 9, 16, 17, 64, 65, 128, 129, 256])
@pytest.mark.parametrize("kind", ["even", "dense about zero", "irregular"])
def test_every_way_to_find_a_cell_and_every_length_of_table_gives_the_same(
    kind, levels, random_table, same, poisoned
):
    half = torch.logspace(-4, 0.1, levels - levels // 2)
    values = {
        "even": torch.linspace(-1.1, 1.2, levels),
        "dense about zero": torch.cat([-half.flip(0)[: levels // 2], half]),
        "irregular": torch.randn(levels, generator=torch.Generator().manual_seed(0)).sort().values,
    }[kind]
    for size, clip, divisor in itertools.product(
        (63, 64, 100, 1100), (False, True), (None, 2.0, 3.0)
    ):
        table = random_table(levels, clip=clip, divisor=divisor)
        table = dataclasses.replace(
            table,
            edges=(values[1:] + values[:-1]) / 2,
            low=float(values[0]),
            high=float(values[-1]),
        )
        x = difficult_input(3, size, table)
        for reference, fused in zip(run(table, x, "reference"), run(table, x, "cpu"), strict=True):
            assert same(reference, fused), (size, clip, divisor)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("levels", LEVELS)
def test_a_value_on_an_edge_belongs_to_the_upper_cell(levels, engine, random_table):
    for uniform in (False, True):
        table = random_table(levels, uniform=uniform)
        table = dataclasses.replace(table, out=torch.arange(levels, dtype=torch.float32)[None])
        below = torch.nextafter(table.edges, torch.full_like(table.edges, -torch.inf))
        at_edges, _ = scan(table.edges[None], torch.zeros(1), table, engine)
        just_below, _ = scan(below[None], torch.zeros(1), table, engine)
        cells = torch.arange(levels - 1, dtype=torch.float32)[None]
        assert torch.equal(at_edges, cells + 1)
        assert torch.equal(just_below, cells)


@pytest.mark.parametrize("engine", ENGINES)
def test_nan_stays_until_the_end_and_infinity_saturates(engine, random_table):
    table = random_table(16, clip=True)
    x = torch.zeros(3, 3)
    x[1] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    x.requires_grad_()
    out, v = scan(x, torch.zeros(1), table, engine)
    assert torch.equal(
        out.isnan(), torch.tensor([[False] * 3, [True, False, False], [True, False, False]])
    )
    assert torch.equal(v.isnan(), torch.tensor([True, False, False]))
    assert out[1, 1] == 1
    assert out[1, 2] == 0
    out.nan_to_num().sum().backward()
    assert torch.equal(x.grad[1:, 0], torch.zeros(2))
    assert torch.equal(x.grad[1, 1:], torch.zeros(2))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("levels", [16, 256])
def test_nan_adds_nothing_to_the_gradient_of_a_table(levels, engine, random_table):
    table = random_table(levels)
    x = torch.full((2, 5), torch.nan)
    out_entries = table.out.clone().requires_grad_()
    out, v = scan(x, torch.zeros(1), dataclasses.replace(table, out=out_entries), engine)
    torch.autograd.backward([out, v], [torch.ones_like(out), torch.ones_like(v)])
    assert torch.equal(out_entries.grad, torch.zeros_like(out_entries))


def plain_loop(x, carry, table, levels_of_input):
    """The formula on a straight line, with the straight-through gradient written as autograd would
    see it.
    """
    out, offset = [], torch.arange(x.shape[1]) // table.inner % table.channels
    for t in range(len(x)):
        h = carry + (
            x[t] if table.divisor is None else x[t] / table.divisor[offset % table.divisor.numel()]
        )
        code = (h.detach()[:, None] >= table.edges).sum(1)
        inside = (h.detach() >= table.low) & (h.detach() <= table.high)
        ste = torch.where(inside, h - h.detach(), 0.0) if table.clip else h - h.detach()
        out.append(table.out[offset, code] + table.d_out[offset, code] * ste)
        last = t == len(x) - 1
        entries, slopes = (table.after, table.d_after) if last else (table.carry, table.d_carry)
        carry = entries[offset, code] + slopes[offset, code] * ste
    return torch.stack(out), carry


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("levels", [4, 32, 256, 300])
def test_gradients_are_those_of_a_plain_loop(levels, clip, channels, engine, random_table):
    table = random_table(
        levels, channels=channels, dtype=torch.float64, clip=clip, divisor="channel"
    )
    x = torch.randn(6, 12, dtype=torch.float64) * 2
    carry0 = torch.zeros(12, dtype=torch.float64)
    out, v, *gradients = run(table, x, engine, carry0)
    names = ("out", "carry", "after", "divisor")
    learned = {name: getattr(table, name).clone().requires_grad_() for name in names}
    inputs = [x.clone().requires_grad_(), carry0.clone().requires_grad_(), *learned.values()]
    looped = dataclasses.replace(table, **learned)
    expected = plain_loop(inputs[0], inputs[1], looped, levels)
    generator = torch.Generator().manual_seed(2)
    incoming = [
        torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in expected
    ]
    torch.testing.assert_close(
        (out, v), tuple(value.detach() for value in expected), rtol=0, atol=1e-12
    )
    for gradient, wanted in zip(
        gradients, torch.autograd.grad(expected, inputs, incoming), strict=True
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
def test_only_the_last_state_may_be_used(engine, random_table, same):
    table, x = random_table(16), torch.randn(4, 9)
    assert any(value.any() for value in run(table, x, engine, out_gradient=False)[2:])
    both = run(table, x, engine)
    separate = [
        a + b
        for a, b in zip(
            run(table, x, engine, v_gradient=False),
            run(table, x, engine, out_gradient=False),
            strict=True,
        )
    ]
    torch.testing.assert_close(separate[2:], list(both[2:]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("levels", [8, 256])
def test_a_sequence_in_chunks_gives_the_whole(levels, engine, random_table):
    table = random_table(levels)
    x = torch.randn(9, 70)
    whole, last = scan(x, torch.zeros(1), table, engine)
    carry, parts = torch.zeros(70), []
    for chunk in (x[:1], x[1:6], x[6:]):
        out, v = scan(chunk, carry, table, engine)
        parts.append(out)
        # what is left of a state is a function of its code
        carry = table.carry[0][(v[:, None] == table.after[0]).int().argmax(1)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(v, last)


LAYOUTS = {
    "transposed time": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "channels last": lambda x: x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3),
    "every second step": lambda x: x.repeat_interleave(2, 0)[::2],
    "a slice of the neurons": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "expanded over the batch": lambda x: x[:, :1].expand_as(x),
    "the same at every step": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_layout_of_the_input_changes_no_result(channels, layout, engine, random_table, same):
    table = random_table(16, channels=channels, divisor="channel", inner=20)
    x = LAYOUTS[layout](torch.randn(3, 2, 3, 4, 5))
    strided, dense = run(table, x, engine), run(table, x.contiguous(), engine)
    for a, b in zip(strided[:3], dense[:3], strict=True):
        assert same(a, b)
    # sums over neurons go through them in the order of memory
    torch.testing.assert_close(strided[3:], dense[3:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_channels_last_input_gives_a_channels_last_output(engine, random_table):
    x = LAYOUTS["channels last"](torch.randn(3, 2, 3, 4, 5))
    out, v = scan(x, torch.zeros(1), random_table(16, channels=3, inner=20), engine)
    assert out.stride() == x.stride()
    assert v.stride() == x[0].stride()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_first_and_spikes_keep_its_dtype(half, engine, random_table):
    table, x = random_table(16, divisor=3.0), torch.randn(4, 65).to(half)
    narrow = run(table, x, engine)
    wide = run(table, x.float(), engine)
    assert narrow[0].dtype == narrow[2].dtype == half
    assert narrow[1].dtype == torch.float32
    assert torch.equal(narrow[0].float(), wide[0])
    assert torch.equal(narrow[1], wide[1])


@pytest.mark.parametrize("engine", ENGINES)
def test_start_may_be_one_number_per_channel(engine, random_table):
    table = random_table(16, channels=3, inner=2)
    x = torch.randn(4, 5, 3, 2)
    per_channel = torch.tensor([0.1, -0.2, 0.4])
    full = per_channel[:, None].expand(5, 3, 2).contiguous()
    one = run(table, x, engine, per_channel)
    other = run(table, x, engine, full)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    torch.testing.assert_close(one[3], other[3].sum((0, 2)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("levels", "clip", "size"),
    [(16, True, 1), (128, True, 1), (256, False, 1), (256, True, 2), (300, True, 2)],
)
def test_backward_saves_codes_only(levels, clip, size, engine, random_table):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda value: saved.append(value) or value, lambda value: value
    ):
        scan(
            torch.randn(5, 64, requires_grad=True),
            torch.zeros(1),
            random_table(levels, clip=clip),
            engine,
        )
    assert sum(value.numel() * value.element_size() for value in saved) == 5 * 64 * size


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_saved_where_nothing_learns(engine, random_table, monkeypatch):
    from snnsim.kernels.launch import choose

    kind = choose(torch.zeros(1, 1), random_table(16), engine).automaton
    saves, forward = [], kind.forward
    monkeypatch.setattr(kind, "forward", lambda *args: saves.append(args[3]) or forward(*args))
    x = torch.randn(2, 3)
    scan(x, torch.zeros(1), random_table(16), engine)
    with torch.no_grad():
        scan(x.requires_grad_(), torch.zeros(1), random_table(16), engine)
    scan(x, torch.zeros(1), random_table(16), engine)
    assert saves == [False, False, True]


def test_gradient_checkpointing_gives_the_same_gradients(random_table):
    from torch.utils.checkpoint import checkpoint

    table, x = random_table(16), torch.randn(3, 40)
    for reentrant in (False, True):
        gradients = []
        for wrap in (False, True):
            leaf = x.clone().requires_grad_()
            call = (leaf, torch.zeros(1), table)
            out, v = checkpoint(scan, *call, use_reentrant=reentrant) if wrap else scan(*call)
            (out.sum() + v.sum()).backward()
            gradients.append(leaf.grad)
        assert torch.equal(*gradients)


def test_differentiating_twice_is_refused(random_table, linear):
    x = torch.randn(3, 4, requires_grad=True)
    out, _ = scan(x, torch.zeros(1), random_table(16))
    (gradient,) = torch.autograd.grad((out * x).sum(), x, create_graph=True)
    with pytest.raises(RunError, match="the gradient of a fused neuron can be taken once"):
        gradient.sum().backward()
    # also where what came in was a constant, and the gradient would pass for one too
    w = torch.ones(4, requires_grad=True)
    for run in (
        lambda z: scan(z, torch.zeros(1), random_table(16))[0],
        lambda z: scan(z, torch.zeros(1), linear())[0],
    ):
        z = x * w
        (gradient,) = torch.autograd.grad(run(z).sum(), z, create_graph=True)
        (once,) = torch.autograd.grad(run(z).sum(), z)
        assert torch.equal(gradient, once)
        with pytest.raises(RunError, match="can be taken once"):
            gradient.square().sum().backward()


def test_arguments_that_do_not_fit_are_refused(random_table):
    table = random_table(16, channels=3)
    x, start = torch.zeros(2, 4, 3), torch.zeros(1)
    with pytest.raises(
        InvalidTypeError, match=r"x_seq: is torch.int64 and the neuron computes in torch.float32"
    ):
        scan(x.long(), start, table)
    with pytest.raises(InvalidTypeError, match="no wider, or a neuron in float64"):
        scan(x.double(), start, table)
    with pytest.raises(InvalidTypeError, match="x_seq: is on meta and the neuron on cpu"):
        scan(x.to("meta"), start, table)
    with pytest.raises(
        ShapeError,
        match=r"x_seq: needs shape \[T, \*n\] with T >= 1, got \(0, 3\); the first axis is time",
    ):
        scan(x[0, :0], start, table)
    with pytest.raises(
        ShapeError,
        match=(
            r"one step has shape \(4, 2\), and a table of 3 channels of 1 neurons each needs a"
            r" multiple"
        ),
    ):
        scan(x[..., :2], start, table)
    with pytest.raises(
        InvalidTypeError, match=r"start: is torch.float64 on cpu and must be torch.float32"
    ):
        scan(x, start.double(), table)
    with pytest.raises(
        ShapeError,
        match=(
            r"start: has shape \(5,\) and must be \(4, 3\), one step of x_seq, or one number per"
        ),
    ):
        scan(x, torch.zeros(5), table)


LINEAR_CASES = [
    {"reset": reset, "tau": tau, "divisor": divisor, "rest": rest, "detach_reset": detach}
    for reset, tau, divisor, rest, detach in itertools.product(
        (None, 0.0, -0.3), (None, 2.0, 3.0), (None, 3.0), (0.0, 0.1), (False, True)
    )
]


def run_linear(membrane, x, engine, v0=None):
    inputs = [
        x.detach().clone().requires_grad_(),
        (torch.zeros(1, dtype=x.dtype) if v0 is None else v0).clone().requires_grad_(),
    ]
    names = [
        name for name in ("threshold", "tau", "divisor") if getattr(membrane, name) is not None
    ]
    learned = {name: getattr(membrane, name).clone().requires_grad_() for name in names}
    inputs += learned.values()
    spikes, v = scan(inputs[0], inputs[1], dataclasses.replace(membrane, **learned), engine)
    generator = torch.Generator().manual_seed(2)
    incoming = [
        torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
        for value in (spikes, v)
    ]
    return (spikes.detach(), v.detach(), *torch.autograd.grad((spikes, v), inputs, incoming))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_engines_agree_bit_for_bit_on_neurons_that_are_not_quantized(dtype, linear, same, poisoned):
    for number, case in enumerate(LINEAR_CASES):
        membrane = linear(dtype=dtype, **case)
        time_steps, size = SHAPES[number % len(SHAPES)]
        x = torch.randn(time_steps, size, dtype=dtype) + 0.5
        if size > 3:
            x[0, 1], x[-1, 2], x[time_steps // 2, 3] = torch.inf, -torch.inf, torch.nan
        for reference, fused in zip(
            run_linear(membrane, x, "reference"), run_linear(membrane, x, "cpu"), strict=True
        ):
            assert same(reference, fused), case


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, derivative):
        ctx.save_for_backward(derivative(x))
        return (x >= 0).to(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_of_a_neuron_that_is_not_quantized_are_those_of_a_plain_loop(engine, linear):
    for case in LINEAR_CASES:
        membrane = linear(dtype=torch.float64, **case)
        x, v0 = torch.randn(6, 12, dtype=torch.float64) + 0.5, torch.zeros(12, dtype=torch.float64)
        gradients = run_linear(membrane, x, engine, v0)
        names = [
            name for name in ("threshold", "tau", "divisor") if getattr(membrane, name) is not None
        ]
        learned = {name: getattr(membrane, name).clone().requires_grad_() for name in names}
        inputs = [x.clone().requires_grad_(), v0.clone().requires_grad_(), *learned.values()]
        spikes, v = [], inputs[1]
        for x_t in inputs[0]:
            u = x_t / learned["divisor"] if "divisor" in learned else x_t
            h = (v - (v - membrane.rest) / learned["tau"] if "tau" in learned else v) + u
            s = _Spike.apply(h - learned["threshold"], membrane.derivative)
            r = s.detach() if membrane.detach_reset else s
            v = (
                h - r * learned["threshold"]
                if membrane.reset is None
                else r * membrane.reset + (1 - r) * h
            )
            spikes.append(s)
        expected = (torch.stack(spikes), v)
        generator = torch.Generator().manual_seed(2)
        incoming = [
            torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in expected
        ]
        wanted = (
            *(value.detach() for value in expected),
            *torch.autograd.grad(expected, inputs, incoming),
        )
        torch.testing.assert_close(
            gradients, wanted, rtol=1e-10, atol=1e-10, msg=lambda text, case=case: f"{case}: {text}"
        )


def test_constants_per_channel_of_a_linear_membrane_match_one_channel_at_a_time(linear):
    membrane = linear(channels=3, tau=2.0, divisor=2.0, reset=0.0)
    x = torch.randn(5, 4, 3) + 1
    together = run_linear(membrane, x, None)
    for c in range(3):
        alone = dataclasses.replace(
            membrane,
            threshold=membrane.threshold[c, None],
            tau=membrane.tau[c, None],
            divisor=membrane.divisor[c, None],
        )
        spikes, v = scan(x[..., c], torch.zeros(1), alone, "reference")
        assert torch.equal(together[0][..., c], spikes)
        assert torch.equal(together[1][..., c], v)


def test_an_integrator_under_constant_current_fires_every_ceil_of_threshold_over_current(linear):
    for engine in ENGINES:
        spikes, _ = scan(torch.full((12, 1), 0.3), torch.zeros(1), linear(reset=0.0), engine)
        assert torch.nonzero(spikes[:, 0]).flatten().tolist() == [3, 7, 11]


def test_tables_survive_copies_of_what_holds_them(random_table):
    table = random_table(16)
    x = torch.randn(3, 4)
    for twin in (copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
        assert torch.equal(scan(x, torch.zeros(1), twin)[0], scan(x, torch.zeros(1), table)[0])


def negated(values):
    """The same values behind torch's negation bit."""
    marked = torch.complex(torch.zeros_like(values), -values).conj().imag
    assert marked.is_neg()
    assert torch.equal(marked, values)
    return marked


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("quantized", [True, False])
def test_inputs_and_gradients_behind_a_negation_bit_count_with_their_sign(
    quantized, engine, random_table, linear, same
):
    neuron = random_table(16) if quantized else linear()
    x, grad_out, grad_v = torch.randn(5, 70), torch.randn(5, 70), torch.randn(70)
    found = []
    for write in (lambda values: values, negated):
        leaf, start = (
            x.clone().requires_grad_(),
            torch.randn(70, generator=torch.Generator().manual_seed(0)).requires_grad_(),
        )
        out, v = scan(
            write(leaf) if write is negated else leaf,
            write(start) if write is negated else start,
            neuron,
            engine,
        )
        found.append(
            [
                out.detach(),
                v.detach(),
                *torch.autograd.grad((out, v), (leaf, start), (write(grad_out), write(grad_v))),
            ]
        )
    assert all(map(same, *found))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("divisor", [0.0, -0.0, 1e-45, float("inf"), float("nan")])
def test_a_divisor_of_any_value_gives_what_torch_gives(
    divisor, engine, random_table, linear, same, poisoned
):
    x = difficult_input(5, 1026, random_table(16))
    for channels in (1, 2):
        table = dataclasses.replace(
            random_table(16, channels=channels), divisor=torch.full((channels,), divisor)
        )
        values = [part for part in run(table, x, engine) if part is not None]
        assert all(
            map(same, values, [part for part in run(table, x, "reference") if part is not None])
        )
    for constants in ({"divisor": divisor}, {"tau": divisor}, {"tau": 3.0, "divisor": divisor}):
        found = []
        for name in (engine, "reference"):
            leaf = x.clone().requires_grad_()
            spikes, v = scan(leaf, torch.zeros(1), linear(**constants), name)
            (spikes.nan_to_num().sum() + v.nan_to_num().sum()).backward()
            found.append([spikes.detach(), v.detach(), leaf.grad])
        assert all(map(same, *found)), constants
