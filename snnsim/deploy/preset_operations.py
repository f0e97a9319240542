"""The chips' own neurons as operations of an integer network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from snnsim.deploy.ops.base import Integers, Operation, Signal
from snnsim.deploy.presets import Currents, LoihiLIF, SpeckIF, XyloLIF
from snnsim.errors import InvalidValueError

__all__ = ["Preset", "PresetLayer", "PresetNeuron"]

Preset = LoihiLIF | XyloLIF | SpeckIF


@dataclass(frozen=True, eq=False)
class _OfChip(Operation):
    """What the operations of all chips share."""

    def why_not_c(self) -> str:
        neuron: Any = self
        return (
            f"{self.name!r} is a layer of {type(neuron.neuron).__name__}, and C is generated for"
            " lowered networks; run this one as it is, its chip has tools of its own"
        )


@dataclass(frozen=True, eq=False)
class PresetNeuron(_OfChip):
    """A layer of Loihi or Speck neurons; its input is the sum of weights times inputs.

    Its state is the membrane `[1, *n]`, or current and membrane `[2, *n]`.
    """

    neuron: LoihiLIF | SpeckIF

    @property
    def state_shape(self) -> tuple[int, ...]:
        return (2 if isinstance(self.neuron, LoihiLIF) else 1, *self.output.shape)

    @property
    def state_bounds(self) -> tuple[int, int]:
        return self.neuron.state_bounds

    def step(self, inputs: list[Integers], state: Integers) -> tuple[Integers, Integers]:
        if isinstance(self.neuron, LoihiLIF):
            spikes, after = self.neuron.step(inputs[0], Currents(state[:, 0], state[:, 1]))
            return spikes, np.stack(after, 1)
        spikes, membrane = self.neuron.step(inputs[0], state[:, 0])
        return spikes, membrane[:, None]

    def check(self, inputs: list[Signal]) -> None:
        source = self.require_one(inputs)
        is_known = isinstance(self.neuron, LoihiLIF | SpeckIF)
        self.require(is_known, "its neuron is a LoihiLIF or a SpeckIF")
        self.require(self.output.shape == source.shape, "it keeps the shape of its input")
        self.require_bounds(0, 1)

    def instructions(self, program: Any) -> list[dict[str, Any]]:
        kind = "loihi" if isinstance(self.neuron, LoihiLIF) else "speck"
        constants = program.add_constants(np.array(self.neuron.constants))
        return [{"kind": kind, "constants": constants}]


@dataclass(frozen=True, eq=False)
class PresetLayer(_OfChip):
    """A layer of Xylo neurons with its weights, whose events saturate one by one and so are no sum.

    Its state is current and membrane, `[2, neurons]`.

    Attributes:
        weight: `[inputs, neurons]`, int8.
    """

    weight: Integers
    neuron: XyloLIF

    @property
    def state_shape(self) -> tuple[int, ...]:
        return 2, *self.output.shape

    @property
    def state_bounds(self) -> tuple[int, int]:
        return self.neuron.state_bounds

    def step(self, inputs: list[Integers], state: Integers) -> tuple[Integers, Integers]:
        spikes, after = self.neuron.step(inputs[0], self.weight, Currents(state[:, 0], state[:, 1]))
        return spikes, np.stack(after, 1)

    def check(self, inputs: list[Signal]) -> None:
        source, neuron, weight = self.require_one(inputs), self.neuron, self.weight
        self.require(isinstance(neuron, XyloLIF), "its neuron is a XyloLIF")
        fits = weight.dtype == np.int8 and weight.shape == (source.size, self.output.size)
        self.require(fits, "weights are int8 [inputs, neurons]")
        vectors = len(source.shape) == len(self.output.shape) == 1
        self.require(vectors, "input and output of one sample are vectors")
        if source.low < 0 or source.high > neuron.max_events:
            raise InvalidValueError(
                f"integer operation {self.name!r}: its inputs are {source.low} to {source.high}"
                f" events in a step, and its neurons take 0 to {neuron.max_events}; raise"
                " max_events of XyloLIF here, or lower max_spikes of the layer before"
            )
        self.require_bounds(0, neuron.max_spikes)

    def instructions(self, program: Any) -> list[dict[str, Any]]:
        constants = program.add_constants(np.array(self.neuron.constants))
        weights = program.add_weights(True, self.weight)
        return [{"kind": "xylo", "constants": constants, "weights": weights}]
