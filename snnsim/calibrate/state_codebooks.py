"""Codebooks for the nodes of a network: chosen from data or by a recipe, and put in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from snnsim._core.checks import (
    check_callable,
    check_int,
    check_iterable,
    check_mapping,
    check_module,
    checked_bool,
    is_one_of,
)
from snnsim._core.scalars import MAX_STATE_BITS
from snnsim._core.warn import warn_user
from snnsim.calibrate.findings import data_findings
from snnsim.calibrate.observe import (
    Replay,
    Tally,
    entropy,
    float_states,
    occupied,
    replays,
    runner_axis,
    tallies,
)
from snnsim.errors import CheckpointError, InvalidTypeError, InvalidValueError, StateError, refuse
from snnsim.neurons.arguments import check_firing_levels
from snnsim.neurons.base import BaseNode
from snnsim.neurons.membrane import Membrane
from snnsim.quant.codebook import Codebook
from snnsim.quant.functional import check_bits
from snnsim.quant.ranges import check_percentile
from snnsim.quant.recipes import from_levels, uniform

METHODS = ("max", "percentile", "mse", "entropy", "spikes")
# share of the seen range at which candidates for low and high lie: closer together near rest and
# threshold
SHARES = [(i / 16) ** 2 for i in range(17)]


class Recipe(Protocol):
    """Maker of codebooks for spiking nodes: `quant.uniform`, `quant.exponential`,
    `quant.LearnedUniform`.
    """

    def __call__(
        self,
        bits: int,
        threshold: float = ...,
        rest: float = ...,
        low: float | None = ...,
        high: float | None = ...,
    ) -> Codebook: ...


def states(
    net: nn.Module,
    batches: Iterable[Any],
    bits: int = 4,
    method: str = "mse",
    *,
    percentile: float = 99.9,
    recipe: Recipe = uniform,
) -> dict[str, Codebook]:
    """Choose a codebook for every node from the membranes that data drives through the network.

    The network runs with float states, whatever its codebooks, in eval mode, and is left as it was.
    Rest stays a level and the threshold an edge, so quantizing moves no firing decision by itself.
    The same samples in any batch size give the same answer.

    A layer has one codebook. To give its channels ranges of their own, scale the weights of the
    layer before it, guided by `ranges(..., per_channel=True)`.

    Args:
        net: a runner around the network, in floating point or not.
        batches: inputs for it, or (input, ...) as a DataLoader gives them.
        bits: bits of a state, 1..16.
        method: how far the levels reach below rest and above the threshold:
            "max", as far as the charged membrane went;
            "percentile", as `percentile` % of it went on each side;
            "mse", where the membranes from which the neuron fires in the next step have the least
            mean squared error. (Over all membranes, strongly inhibited ones outvote the rest: on
            the digits, 3 bits, 81 instead of 91 % right before any fine-tuning.) Where none leads
            to a spike, as in single time steps, all count; "entropy", where the code of a membrane
            says most about whether the neuron fires in the next step: least entropy of the firing
                given the code;
            "spikes", where each neuron, run again on the same input with the levels, fires most
            nearly as often as with a float state: least squared difference of spike counts. Slower,
                and keeps the inputs of all nodes meanwhile.
        percentile: in (0, 100], for that method.
        recipe: makes the codebooks of spiking nodes from bits, threshold, rest, low and high.
            Readouts and synaptic currents, which have no threshold, get evenly spaced levels;
            "entropy" and "spikes" are "mse" there.

    Returns:
        A codebook for every node that ran, by module name; `apply` puts them in place.

    Raises:
        InvalidTypeError, InvalidValueError: an argument that is not as above, a membrane that is
            not finite, or "entropy" on sequences of one time step.
        StateError: no data.

    Warns:
        UserWarning: what `inspect` finds about the data: a node that never or always fires, weights
            all zero.
    """
    runner_axis("calibrate.states", net)
    check_bits("calibrate.states", "bits", bits, 1, MAX_STATE_BITS)
    if not is_one_of(method, METHODS):
        refuse("calibrate.states", "method", method, f"choose one of {', '.join(METHODS)}")
    check_percentile("calibrate.states", percentile)
    check_callable("calibrate.states", "recipe", recipe)
    check_iterable("calibrate.states", "batches", batches)
    # they are run twice then
    batches = list(batches) if method == "spikes" else batches
    with float_states(net):
        seen = tallies("calibrate.states", net, batches)
        again = replays("calibrate.states", net, batches) if method == "spikes" else {}
        for finding in data_findings(net, seen):
            warn_user(f"calibrate.states: {finding}")
    nodes = dict(_nodes(net))
    with torch.no_grad():
        return {
            name: _choose(nodes[name], tally, bits, method, percentile, recipe, again.get(name))
            for name, tally in seen.items()
        }


def ranges(
    net: nn.Module, batches: Iterable[Any], percentile: float = 100.0, *, per_channel: bool = False
) -> dict[str, tuple[Tensor, Tensor]]:
    """Lowest and highest charged membrane of every node, with float states.

    Args:
        net, batches: as for `states`.
        percentile: leave out the `100 - percentile` % that lie furthest, on each side.
        per_channel: a value for each channel, the axis behind the batch.

    Returns:
        By module name: low and high, each `[C]`, or `[1]` for the layer.
    """
    runner_axis("calibrate.ranges", net)
    check_percentile("calibrate.ranges", percentile)
    checked_bool("calibrate.ranges", "per_channel", per_channel)
    with float_states(net):
        seen = tallies("calibrate.ranges", net, batches, per_channel)
    return {name: tally.range(percentile) for name, tally in seen.items()}


def codebooks(net: nn.Module, bits: int, recipe: Recipe = uniform) -> dict[str, Codebook]:
    """A codebook for every spiking node by recipe alone, without data: its threshold and rest, and
    the recipe's own range.

    Args:
        net: network, or runner around one.
        bits: bits of a state, 1..16.
        recipe: as for `states`.
    """
    check_module("calibrate.codebooks", "net", net)
    check_bits("calibrate.codebooks", "bits", bits, 1, MAX_STATE_BITS)
    check_callable("calibrate.codebooks", "recipe", recipe)
    return {
        name: _made(recipe, bits, threshold=_threshold(node), rest=node.v_rest)
        for name, node in _nodes(net)
        if isinstance(node, BaseNode)
    }


def _made(recipe: Recipe, bits: int, **arguments: float) -> Codebook:
    codebook = recipe(bits, **arguments)
    if not isinstance(codebook, Codebook):
        raise InvalidTypeError(
            f"calibrate: recipe={recipe!r} gave {codebook!r}, which is no Codebook; see"
            " calibrate.Recipe"
        )
    return codebook


def apply(net: nn.Module, codebooks: Mapping[str, Codebook | None]) -> None:
    """Put codebooks into the nodes they are named for, under the checks of a node's construction;
    the others keep theirs.

    Nothing is changed if any of them is refused. Parameters of a learned codebook are new: make the
    optimizer after.

    Args:
        net: the network, or the runner around it, that the names belong to.
        codebooks: by module name; None makes a state floating point.

    Raises:
        InvalidValueError: a name that is no node of `net`, or a codebook that the node of that name
            refuses.
        StateError: a node holds a state, which lies on its old codebook.
    """
    check_module("calibrate.apply", "net", net)
    check_mapping("calibrate.apply", "codebooks", codebooks)
    nodes = dict(_nodes(net))
    unknown = [name for name in codebooks if name not in nodes]
    if unknown:
        raise InvalidValueError(
            f"calibrate.apply(codebooks): no node is named {', '.join(map(repr, unknown))}; the"
            f" nodes of this network are {', '.join(map(repr, nodes)) or 'none'}"
        )
    before = {name: nodes[name].state_quant for name in codebooks}
    device = next((tensor.device for tensor in [*net.parameters(), *net.buffers()]), None)
    try:
        for name, codebook in codebooks.items():
            try:
                nodes[name].set_state_quant(codebook)
            except (InvalidTypeError, InvalidValueError, StateError) as problem:
                raise type(problem)(f"calibrate.apply, node {name!r}: {problem}") from problem
            if codebook is not None and device is not None:
                codebook.to(device)
    except BaseException:
        for name, codebook in before.items():
            nodes[name].state_quant = codebook
        raise


def _nodes(net: nn.Module) -> Iterator[tuple[str, Membrane]]:
    return ((name, module) for name, module in net.named_modules() if isinstance(module, Membrane))


def _threshold(node: BaseNode) -> float:
    """The threshold that a codebook puts an edge at: the mean where neurons differ."""
    return float(torch.as_tensor(node.v_threshold, dtype=torch.float64).detach().mean())


def _choose(
    node: Membrane,
    tally: Tally,
    bits: int,
    method: str,
    percentile: float,
    recipe: Recipe,
    again: Replay | None,
) -> Codebook:
    """The best of the codebooks with ends within the range of the data; of equal ones the
    widest."""
    loss: Callable[[Codebook, Tally], float] | None = {
        "mse": _squared_error,
        "entropy": _firing_entropy if tally.spiking else _squared_error,
        "spikes": (
            _squared_error if again is None else lambda codebook, _: again.difference(codebook)
        ),
    }.get(method)
    seen = tally.range(percentile if method == "percentile" else 100.0)
    candidates = _candidates(node, bits, seen, recipe)
    best = next(candidates)
    if loss is None:
        return best
    least = loss(best, tally)
    for candidate in candidates:
        error = loss(candidate, tally)
        if error < least:
            best, least = candidate, error
    return best


def _candidates(
    node: Membrane, bits: int, seen: tuple[Tensor, Tensor], recipe: Recipe
) -> Iterator[Codebook]:
    """Distinct codebooks that the node can work on, the widest first; if there is none, the
    widest."""
    rest = node.v_rest
    threshold = _threshold(node) if isinstance(node, BaseNode) else rest
    # something on each side of what the levels have to enclose
    low = min(float(seen[0][0]), rest)
    high = max(float(seen[1][0]), threshold + 1e-6 * max(threshold - rest, abs(rest), 1e-6))
    tried: set[bytes] = set()
    refused: list[Codebook] = []
    for share_high, share_low in product(SHARES[:0:-1], SHARES[::-1]):
        ends = {
            "low": rest - share_low * (rest - low),
            "high": threshold + share_high * (high - threshold),
        }
        if isinstance(node, BaseNode):
            codebook = _made(recipe, bits, threshold=threshold, rest=rest, **ends)
        else:
            codebook = _plain(bits, rest, **ends)
        levels = codebook.levels.cpu().numpy().tobytes()
        if levels in tried:
            continue
        tried.add(levels)
        if isinstance(node, BaseNode) and _is_refused(codebook, threshold, node):
            refused.append(codebook)
        else:
            yield codebook
    if len(refused) == len(tried):
        yield refused[0]


def _is_refused(codebook: Codebook, threshold: float, node: BaseNode) -> bool:
    # a soft reset, say, could leave the node above its threshold for ever
    hard = node.v_reset is not None
    try:
        check_firing_levels(type(node).__name__, codebook, threshold, node.v_rest, hard=hard)
    except InvalidValueError:
        return True
    return False


def _plain(bits: int, rest: float, low: float, high: float) -> Codebook:
    """Evenly spaced levels from about low to about high, one of them rest."""
    intervals = 2**bits - 1
    step = (high - low) / intervals
    below = min(max(round((rest - low) / step), 0), intervals)
    return from_levels(rest + step * (torch.arange(2**bits, dtype=torch.float64) - below).float())


def _squared_error(codebook: Codebook, tally: Tally) -> float:
    """Mean squared error of the membranes that lead to a spike; of all, where there are none."""
    v, counts = occupied(tally.charged if tally.firing.empty else tally.firing)
    return float(((codebook(v) - v).square() * counts).sum() / counts.sum())


def _firing_entropy(codebook: Codebook, tally: Tally) -> float:
    """Entropy in bits of whether a neuron fires in the next step, given the code of its
    membrane."""
    if tally.steps < 2:
        raise InvalidValueError(
            f"calibrate.states(method='entropy'): {tally.name!r} ran single time steps, and this"
            " method asks what follows a state; give sequences of at least two, or use"
            " method='mse'"
        )
    per_code = [torch.zeros(codebook.num_levels, dtype=torch.float64) for _ in range(2)]
    for total, histogram in zip(per_code, (tally.firing, tally.silent), strict=True):
        v, counts = occupied(histogram)
        total.index_add_(0, codebook.encode(v).long(), counts.double())
    firing, both = per_code[0], per_code[0] + per_code[1]
    return float((both * entropy(firing / both.clamp(min=1))).sum() / both.sum())


class BitSchedule:
    """Gives the nodes of a network new codebooks as training goes on: many bits at first, then
    fewer.

    Args:
        net: network, or runner around one.
        bits: by the epoch from which they are used, beginning at 0.
        make: codebooks by module name for a number of bits; `calibrate.codebooks` by default. With
            `lambda bits: calibrate.states(runner, batches, bits)` the ranges follow the weights.

    Example:
        >>> from snnsim import MultiStep, neurons
        >>> from snnsim.calibrate import BitSchedule
        >>> net = MultiStep(neurons.LIFNode())
        >>> schedule = BitSchedule(net, {0: 8, 2: 6, 4: 4})
        >>> for epoch in range(5):
        ...     changed = schedule.step(epoch)
        >>> net.net.state_quant.bits
        4
    """

    def __init__(
        self,
        net: nn.Module,
        bits: Mapping[int, int],
        make: Callable[[int], Mapping[str, Codebook | None]] | None = None,
    ) -> None:
        check_module("BitSchedule", "net", net)
        check_mapping("BitSchedule", "bits", bits)
        if make is not None:
            check_callable("BitSchedule", "make", make)
        if 0 not in bits:
            raise InvalidValueError(
                f"BitSchedule(bits={dict(bits)}): must say the bits of epoch 0, as in {{0: 8,"
                " 5: 4}"
            )
        for epoch, width in bits.items():
            check_int("BitSchedule", "epoch of bits", epoch, at_least=0)
            check_int("BitSchedule", "bits", width, at_least=1)
        self.net = net
        self.bits = dict(sorted(bits.items()))
        self.make = make
        self._current: int | None = None

    def bits_at(self, epoch: int) -> int:
        """The bits of an epoch, counted from 0."""
        check_int("BitSchedule.bits_at", "epoch", epoch, at_least=0)
        return [width for start, width in self.bits.items() if start <= epoch][-1]

    def step(self, epoch: int) -> bool:
        """Call before each epoch, counted from 0; before loading a checkpoint too, so that the
        codebooks have its size.

        Returns:
            Whether codebooks were put in; parameters of learned ones are new then, and the
            optimizer does not know them.
        """
        width = self.bits_at(epoch)
        if width == self._current:
            return False
        apply(self.net, codebooks(self.net, width) if self.make is None else self.make(width))
        self._current = width
        return True

    def __repr__(self) -> str:
        return f"BitSchedule({self.bits})"


def warm_start(net: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load the weights of a network trained with other codebooks, or with none: this network keeps
    its own.

    `load_state_dict` asks for every codebook, and for the size it has here. A float network of the
    same form has none to give.

    Args:
        net: network with codebooks.
        state_dict: of a network that is the same but for its codebooks.

    Raises:
        CheckpointError: anything else is missing, left over or of another shape; nothing is loaded
            then.
    """
    check_module("warm_start", "net", net)
    check_mapping("warm_start", "state_dict", state_dict)
    own = net.state_dict()
    kept = {key: value for key, value in own.items() if _is_codebook(key)}
    given = {key: value for key, value in state_dict.items() if not _is_codebook(key)}
    missing = sorted(set(own) - set(kept) - set(given))
    unknown = sorted(set(given) - set(own))
    differ = sorted(
        key for key in set(given) & set(own) if getattr(given[key], "shape", None) != own[key].shape
    )
    if missing or unknown or differ:
        raise CheckpointError(
            f"warm_start(state_dict): it is of another network: missing {missing}, unknown"
            f" {unknown}, of another shape {differ}; build the same layers, and give a runner the"
            " state_dict of a runner"
        )
    net.load_state_dict({**given, **kept})


def _is_codebook(key: str) -> bool:
    return "state_quant" in key.split(".")[:-1]
