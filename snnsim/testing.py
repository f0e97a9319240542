"""Contract tests for the user's own surrogates, codebooks and neurons.

Each returns nothing when all is well and raises ContractError, which is an AssertionError, with
what was seen and what is expected.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import snnsim.neurons  # noqa: F401  whole, before any part
from snnsim.errors import ContractError, InvalidTypeError
from snnsim.neurons.arguments import checked_surrogate
from snnsim.neurons.base import BaseNode
from snnsim.neurons.membrane import Membrane
from snnsim.quant.codebook import Codebook
from snnsim.surrogate import Surrogate, check_gradient, heaviside
from snnsim.temporal.runner import MultiStep, SingleStep

__all__ = ["check_codebook", "check_node", "check_surrogate"]


def check_surrogate(surrogate: Surrogate) -> None:
    """Check that a surrogate keeps its contract.

    The forward is the step, the backward `derivative`, elementwise, finite, in the input's shape
    and dtype; where there is a primitive, `derivative` is its derivative; copies compare equal.

    Raises:
        ContractError: the first rule that is broken.
    """
    surrogate = checked_surrogate("check_surrogate", surrogate)
    for dtype in (torch.float32, torch.float64):
        x = (
            torch.cat([torch.linspace(-3, 3, 601), torch.tensor([0.0, -1e4, 1e4])])
            .to(dtype)
            .requires_grad_()
        )
        slope = surrogate.derivative(x.detach())
        given, found = tuple(x.shape), tuple(slope.shape)
        _require(
            surrogate,
            (given == found, f"derivative turned shape {given} into {found}"),
            (slope.dtype == dtype, f"derivative turned {dtype} into {slope.dtype}"),
            (torch.isfinite(slope).all(), "derivative is not finite everywhere on [-1e4, 1e4]"),
        )
        alone = torch.stack([surrogate.derivative(value) for value in x.detach()[::50]])
        spikes = surrogate(x, training=False)
        (gradient,) = torch.autograd.grad(spikes.sum(), x)
        _require(
            surrogate,
            (_close(alone, slope[::50]), "derivative is not elementwise"),
            (torch.equal(spikes, heaviside(x)), "the forward is not the step"),
            (torch.equal(gradient, slope), "the gradient of a spike is not derivative(x)"),
        )
    if surrogate.has_primitive:
        report = check_gradient(surrogate)
        _require(surrogate, (report, f"derivative is not that of its primitive: {report}"))
    _require(surrogate, (copy.deepcopy(surrogate) == surrogate, "a copy does not compare equal"))


def check_codebook(codebook: Codebook) -> None:
    """Check that a codebook keeps its contract.

    Levels strictly increasing, edges in order, a value on an edge goes up, rounding idempotent,
    monotone and independent of the rest of the batch, encode and decode inverse to each other.

    Raises:
        ContractError: the first rule that is broken.
    """
    if not isinstance(codebook, Codebook):
        raise InvalidTypeError(f"check_codebook({codebook!r}): must be a Codebook")
    levels, edges = codebook.levels.detach(), codebook.edges.detach()
    order = (levels[:-1] < edges) & (edges <= levels[1:])
    _require(
        codebook,
        ((levels.diff() > 0).all(), "levels are not strictly increasing"),
        (order.all(), "levels[i] < edges[i] <= levels[i+1] is broken"),
    )
    codes = torch.arange(codebook.num_levels, device=levels.device)
    up, down = codebook.encode(edges).long(), codebook.encode(torch.nextafter(edges, edges - 1))
    missing = codebook(torch.full_like(levels, torch.nan))
    spread = float(levels[-1] - levels[0])
    ends = float(levels[0]) - spread, float(levels[-1]) + spread
    h = torch.linspace(*ends, 4097, dtype=levels.dtype, device=levels.device)
    q = codebook(h)
    _require(
        codebook,
        (torch.equal(codebook.encode(levels).long(), codes), "encode(levels) is not 0 .. L-1"),
        (torch.equal(codebook.decode(codes), levels), "decode(0 .. L-1) is not the levels"),
        (torch.equal(up, codes[1:]), "a value on an edge must belong to the upper cell"),
        (
            torch.equal(down.long(), codes[:-1]),
            "a value just below an edge must belong to the lower cell",
        ),
        (torch.isin(q, levels).all(), "forward leaves the levels"),
        (torch.equal(codebook(levels), levels), "rounding a level moves it"),
        (torch.isnan(missing).all(), "NaN must stay NaN in forward"),
    )
    # a stochastic rounding is neither monotone nor the same twice
    if torch.equal(codebook(h), q):
        alone = torch.cat([codebook(h[i : i + 1]) for i in range(0, len(h), 64)])
        _require(
            codebook,
            ((q.diff() >= 0).all(), "rounding is not monotone"),
            (torch.equal(alone, q[::64]), "rounding a value depends on the rest of the batch"),
        )


def check_node(
    make_node: Callable[[], Membrane], shape: tuple[int, ...] = (6, 3, 5), scale: float = 1.0
) -> None:
    """Check that a neuron keeps its contract.

    `leak` and `drive` are elementwise; spikes are 0 or 1; a quantized membrane is on its codebook
    after every step; single steps, SingleStep and MultiStep agree; a run leaves no state behind;
    copies and checkpoints behave the same; gradients are finite.

    Args:
        make_node: returns a new node, such as the class itself or a lambda.
        shape: of the random input, `[T, B, *n]`.
        scale: standard deviation of the random input, in the unit of the threshold.

    Raises:
        ContractError: the first rule that is broken.
    """
    if isinstance(make_node, nn.Module):
        raise InvalidTypeError(
            f"check_node({type(make_node).__name__}(...)): needs what makes a node, the class or a"
            " lambda; not a node"
        )
    node = make_node()
    if not isinstance(node, Membrane):
        raise InvalidTypeError(
            f"check_node(make_node): must return a neuron, got {type(node).__name__}"
        )
    name = type(node).__name__
    x_seq = scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    node.eval()
    _check_elementwise(name, node, x_seq[0])
    output = _drawn(SingleStep(node), x_seq).detach()
    kept = "left state behind; keep state only with self.hold(...)"
    _require(name, (node.state() == {}, f"SingleStep {kept}"))
    at_once = _drawn(MultiStep(node), x_seq)
    fires = not isinstance(node, BaseNode) or ((output == 0) | (output == 1)).all()
    _require(
        name,
        (torch.equal(at_once, output), "MultiStep and SingleStep differ"),
        (node.state() == {}, f"MultiStep {kept}"),
        (fires, "spikes are not 0 or 1 in eval mode"),
    )
    with _draws():
        for t, x in enumerate(x_seq):
            same = torch.equal(node(x), output[t])
            _require(name, (same, f"single step {t} differs from the run as a whole"))
            v, codebook = node.v, node.state_quant
            on = codebook is None or v is None or torch.isin(v.detach(), codebook.levels).all()
            _require(name, (on, f"after step {t} the membrane is off its codebook"))
    again = _drawn(copy.deepcopy(node), x_seq[0])
    _require(name, (torch.equal(again, _drawn(node, x_seq[0])), "a deepcopy behaves differently"))
    node.reset()
    _check_checkpoint(name, node, make_node(), x_seq, output)
    x_seq.requires_grad_()
    node.train()
    loss = MultiStep(node)(x_seq).sum()
    missing = "the gradient of x is missing: leak and drive must be differentiable"
    _require(name, (loss.requires_grad, missing))
    loss.backward()
    for leaf, tensor in {"x": x_seq, **dict(node.named_parameters())}.items():
        finite = tensor.grad is not None and torch.isfinite(tensor.grad).all()
        _require(name, (finite, f"the gradient of {leaf} is missing or not finite"))


def _check_elementwise(name: str, node: Membrane, x: Tensor) -> None:
    flat = x.detach().flatten()
    for function in (node.leak, node.drive):
        with torch.no_grad():
            # every other value, backwards: neither the order nor the rest of the batch may matter
            whole, alone = function(flat), function(flat[::2].flip(0)).flip(0)
        if whole.shape != flat.shape or not _close(whole[::2], alone):
            raise ContractError(
                f"{name}.{function.__name__} must be elementwise: each value may depend on its own"
                " element alone"
            )


def _check_checkpoint(
    name: str, node: Membrane, other: Membrane, x_seq: Tensor, output: Tensor
) -> None:
    stream = io.BytesIO()
    torch.save(node.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream, weights_only=True))
    same = torch.equal(_drawn(MultiStep(other.eval()), x_seq), output)
    otherwise = (
        "a new node with this one's state_dict behaves differently; make what differs a parameter"
        " or a buffer"
    )
    _require(name, (same, otherwise))


@contextmanager
def _draws() -> Iterator[None]:
    """The same random numbers every time, for neurons that draw some; the user's own go on as they
    were.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _drawn(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with _draws():
        return run(x)


def _close(a: Tensor, b: Tensor) -> bool:
    # torch's own sigmoid differs by an ulp between one element and many
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-12)


def _require(who: object, *rules: tuple[object, str]) -> None:
    """Raise for the first rule that does not hold."""
    for holds, otherwise in rules:
        if not holds:
            raise ContractError(f"{who}: {otherwise}")
