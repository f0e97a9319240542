"""The chips' own neurons as operations of an integer network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snnsim.deploy.operations import Integers, Operation
from snnsim.deploy.presets import Currents, LoihiLIF, SpeckIF, XyloLIF

__all__ = ["Preset", "PresetLayer", "PresetNeuron"]

Preset = LoihiLIF | XyloLIF | SpeckIF


@dataclass(frozen=True, eq=False)
class PresetNeuron(Operation):
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


@dataclass(frozen=True, eq=False)
class PresetLayer(Operation):
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
