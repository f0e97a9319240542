"""What a recorder saw, for TensorBoard."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from snnsim._core.checks import check_int
from snnsim.errors import InvalidTypeError, InvalidValueError
from snnsim.metrics import firing_rate
from snnsim.neurons import BaseNode
from snnsim.temporal.record import Recorder

__all__ = ["Writer", "log"]


class Writer(Protocol):
    """What `log` needs of a writer; torch.utils.tensorboard.SummaryWriter has it, and so have its
    imitations.
    """

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Keep one number."""

    def add_histogram(self, tag: str, values: Tensor, global_step: int) -> object:
        """Keep the distribution of a tensor."""


def log(writer: Writer, recorder: Recorder, step: int) -> None:
    """Write what every recorded neuron did, under the name of its module.

        firing_rate/<name>   spikes per neuron and time step (neurons that fire)
        levels_used/<name>   share of the codebook's levels that were visited (quantized states)
        membrane/<name>      histogram of the membrane before the reset, in the unit of the
        threshold

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter` (pip install "snnsim[tensorboard]"), or
            anything with its `add_scalar` and `add_histogram`.
        recorder: after the runs to be logged; the next `with recorder:` starts anew.
        step: of training, at least 0; the horizontal axis.

    Raises:
        InvalidTypeError: no such writer, no recorder, or a step that is not an int.
        InvalidValueError: nothing was recorded, or a negative step.

    Example:
        with Recorder(net) as recorder:
            net(x_seq)
        viz.log(writer, recorder, step=epoch)
    """
    _check(writer, recorder, step)
    for name, trace in recorder.traces().items():
        node: Any = trace.node
        name = name or type(node).__name__
        if isinstance(node, BaseNode):
            writer.add_scalar(f"firing_rate/{name}", firing_rate(trace.spikes), step)
        if node.state_quant is not None:
            share = trace.charged.unique().numel() / node.state_quant.num_levels
            writer.add_scalar(f"levels_used/{name}", share, step)
        finite = trace.charged[trace.charged.isfinite()]
        if finite.numel():
            writer.add_histogram(f"membrane/{name}", finite, step)


def _check(writer: Any, recorder: Any, step: int) -> None:
    if not all(
        callable(getattr(writer, method, None)) for method in ("add_scalar", "add_histogram")
    ):
        raise InvalidTypeError(
            f"log(writer={writer!r}): pass a torch.utils.tensorboard.SummaryWriter, or anything"
            " that has its add_scalar and add_histogram"
        )
    if not isinstance(recorder, Recorder):
        raise InvalidTypeError(
            f"log(recorder={recorder!r}): expected a snnsim.Recorder, after a run within it"
        )
    check_int("log", "step", step, at_least=0)
    if not recorder.traces():
        raise InvalidValueError(
            "log(recorder): nothing was recorded; call the network within `with recorder:` first"
        )
