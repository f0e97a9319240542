"""Opt-in traces of what every neuron did: spikes, and the membrane before and after the reset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType

from torch import Tensor, nn

from snnsim.errors import RunError, ShapeError
from snnsim.temporal.module import Temporal, stack_steps, temporal_modules


class Trace:
    """Time steps of one node, of the runs that were recorded.

    Attributes:
        name: of the module in the network.
        node: the module.
        spikes: `[T, B, *n]`; the potentials themselves for a readout.
        charged: membrane before the reset, on its codebook, `[T, B, *n]`.
        membrane: membrane after the reset, `[T, B, *n]`.
    """

    def __init__(
        self, name: str, node: Temporal, steps: list[tuple[Tensor, Tensor, Tensor]]
    ) -> None:
        self.name = name
        self.node = node
        if len({step[0].shape for step in steps}) > 1:
            raise ShapeError(
                f"Recorder: {name!r} ran on batches of different shapes; record each with a"
                " Recorder of its own"
            )
        self.spikes, self.charged, self.membrane = (
            stack_steps(parts) for parts in zip(*steps, strict=True)
        )

    def __repr__(self) -> str:
        return f"Trace({self.name!r}, {tuple(self.spikes.shape)})"


class Recorder(Mapping[str, Trace]):
    """Records the neurons of a network while it is entered; a mapping from the names of those that
    ran to their traces.

    Recording keeps every time step of every neuron in memory and takes the neurons through the step
    loop; results are the same.

    Args:
        net: network, or runner around one.

    Example:
        >>> import torch
        >>> from snnsim import MultiStep, Recorder, neurons
        >>> net = MultiStep(neurons.IFNode())
        >>> with Recorder(net) as recorder:
        ...     spikes = net(torch.full((4, 1, 1), 0.5))
        >>> recorder["net"].spikes.flatten().tolist()
        [0.0, 1.0, 0.0, 1.0]
    """

    # two recorders are not the same for having seen the same
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(self, net: nn.Module) -> None:
        self._steps: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
        self._nodes = temporal_modules(net, "Recorder(net)")

    def __enter__(self) -> Recorder:
        if any(node._trace is not None for node in self._nodes.values()):
            raise RunError(
                "Recorder: this network is being recorded already; leave the other recorder first"
            )
        self._steps = {name: [] for name in self._nodes}
        try:
            for name, node in self._nodes.items():
                node._trace = self._steps[name]
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._stop()
        # once more after an interrupt
        finally:
            self._stop()

    def __del__(self) -> None:
        # where an interrupt came before the block was entered or left: nobody can read these traces
        # any more
        if "_nodes" in self.__dict__:
            self._stop()

    def _stop(self) -> None:
        for name, steps in self._steps.items():
            node = self._nodes[name]
            if node._trace is steps:
                node._trace = None

    def traces(self) -> dict[str, Trace]:
        """The trace of every node that ran, by module name in network order."""
        return dict(self)

    def __iter__(self) -> Iterator[str]:
        return (name for name, steps in self._steps.items() if steps)

    def __len__(self) -> int:
        return sum(map(bool, self._steps.values()))

    def __contains__(self, name: object) -> bool:
        return bool(isinstance(name, str) and self._steps.get(name))

    def __getitem__(self, name: str) -> Trace:
        if not self._steps.get(name):
            recorded = ", ".join(map(repr, self)) or "nothing yet"
            raise KeyError(f"Recorder[{name!r}]: no such node was recorded; recorded: {recorded}")
        return Trace(name, self._nodes[name], self._steps[name])
