"""Fewer bits from epoch to epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from snnsim._core.checks import check_callable, check_int, check_mapping, check_module
from snnsim.calibrate.state_codebooks import apply, codebooks
from snnsim.errors import InvalidValueError
from snnsim.quant.codebook import Codebook

__all__ = ["BitSchedule"]


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
