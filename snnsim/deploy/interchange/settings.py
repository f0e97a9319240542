"""What NIR has no field for: the settings of a layer or a neuron as plain JSON, and its tensors by
name.

They travel in a node's `metadata`, as the text "snnsim" and the group "snnsim_tensors". What is
read back is looked up in lists of names and handed to constructors, which check it; nothing in a
file names code to run.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from snnsim import calibrate, neurons
from snnsim.errors import DataError, InvalidValueError, SnnsimError
from snnsim.layers import Delay, Driven, SpikeConv2d, SpikeLinear, Threshold
from snnsim.layers.sparse_layer import SpikeLayer
from snnsim.neurons import Membrane
from snnsim.quant.codebook import Codebook
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.layers import QuantConv1d, QuantConv2d, QuantLinear
from snnsim.quant.learned import LearnedUniform
from snnsim.quant.quantizer import TensorQuantizer
from snnsim.quant.stochastic import StochasticCodebook
from snnsim.quant.weight import QuantizedWeight
from snnsim.surrogate import Surrogate, library

__all__ = [
    "LAYERS",
    "NEURONS",
    "Settings",
    "layer_from",
    "neuron_from",
    "settings_of",
    "threshold_from",
]

VERSION = 1
TEXT, TENSORS = "snnsim", "snnsim_tensors"
LAYERS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        nn.Linear,
        nn.Conv1d,
        nn.Conv2d,
        QuantLinear,
        QuantConv1d,
        QuantConv2d,
        SpikeLinear,
        SpikeConv2d,
        Delay,
    )
}
NEURONS: dict[str, type[Membrane]] = {
    name: kind
    for module in (neurons, calibrate)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and "_nir" in vars(kind)
}
# tensors of a Driven neuron, beside those of the neuron itself
DRIVE = {"gain": "drive.gain", "bias": "drive.bias"}
# arguments of neurons as they stand in a file; others follow
ORDER: tuple[str, ...] = (
    "beta",
    "decay_input",
    "v_reset",
    "detach_reset",
    "min_decay",
    "grid_bits",
    "state_quant",
)
ORDER += ("surrogate", "learn_threshold", "v_threshold", "alpha", "current_quant", "tau")
CODEBOOKS = {kind.__name__: kind for kind in (Codebook, LearnedUniform, StochasticCodebook)}
SURROGATES: dict[str, type[Surrogate]] = {name: getattr(library, name) for name in library.__all__}


@dataclass(frozen=True, eq=False)
class Settings:
    """The settings of one node.

    Attributes:
        values: plain JSON.
        tensors: by their names in the module's `state_dict`.
    """

    values: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def metadata(self) -> dict[str, Any]:
        """As NIR's metadata."""
        if not self.values and not self.tensors:
            return {}
        shapes = {name: list(tensor.shape) for name, tensor in self.tensors.items()}
        text = json.dumps({"version": VERSION, **self.values, "shapes": shapes})
        # HDF5 compresses no arrays without axes
        arrays = {
            name: tensor.detach().reshape(tensor.shape or (1,)).numpy()
            for name, tensor in self.tensors.items()
        }
        return {TEXT: text, **({TENSORS: arrays} if arrays else {})}

    @classmethod
    def read(cls, metadata: Any) -> Settings | None:
        """From NIR's metadata; None where there are no settings of ours.

        Raises:
            DataError: written by a newer version, or not what `metadata` returns.
        """
        if not isinstance(metadata, Mapping) or TEXT not in metadata:
            return None
        try:
            values = json.loads(metadata[TEXT])
            version, shapes = values.pop("version"), values.pop("shapes")
            arrays = metadata.get(TENSORS, {})
            if version == VERSION and set(shapes) != set(arrays):
                raise ValueError(
                    f"it has the tensors {sorted(arrays)} and speaks of {sorted(shapes)}"
                )
            tensors = (
                {name: _tensor(arrays[name], shape) for name, shape in shapes.items()}
                if version == VERSION
                else {}
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
            raise DataError(
                f"its metadata {TEXT!r} is damaged ({problem}); delete it to read the node without"
            ) from problem
        if version != VERSION:
            raise DataError(
                f"its metadata {TEXT!r} has version {version}, this snnsim reads {VERSION}; use the"
                " snnsim that wrote it, or delete the metadata to read the node without"
            )
        return cls(values, tensors)


def settings_of(module: nn.Module) -> Settings:
    """The settings of a layer or neuron.

    Raises:
        InvalidValueError: something of the user's own, which no list of names has.
    """
    tensors = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    if isinstance(module, Delay):
        return Settings({"kind": "Delay", "delay_steps": module.delay_steps})
    if isinstance(module, nn.AdaptiveAvgPool2d):
        # NIR's pool sums in another order
        return Settings({"kind": "AdaptiveAvgPool2d", "output_size": module.output_size})
    if isinstance(module, Threshold):
        return Settings(
            {"kind": "Threshold", "surrogate": _of_surrogate(module.surrogate)}, tensors
        )
    if isinstance(module, Driven):
        inner = settings_of(module.node)
        return Settings(
            inner.values,
            {**inner.tensors, **{name: getattr(module, own) for own, name in DRIVE.items()}},
        )
    if isinstance(module, Membrane):
        return _of_neuron(module, tensors)
    values: dict[str, Any] = {"kind": type(module).__name__, "bias": module.bias is not None}
    if isinstance(module, SpikeLayer):
        values["crossover"] = module.crossover
    if not isinstance(module, QuantizedWeight):
        # the node's fields hold weight and bias themselves
        return Settings(values)
    values |= {
        "weight_quant": _of_quantizer(module.weight_quantizer),
        "input_quant": (
            None if module.input_quantizer is None else _of_quantizer(module.input_quantizer)
        ),
        "grid_bits": module.grid_bits,
    }
    return Settings(values, tensors)


def layer_from(settings: Settings, arguments: dict[str, Any]) -> nn.Module:
    """The layer that `settings_of` was given; arguments are those of torch's layer, which the
    node's fields hold.
    """
    values = dict(settings.values)
    kind = LAYERS[values.pop("kind")]
    arguments = {**arguments, "bias": _plain(values.pop("bias"), bool)}
    if issubclass(kind, SpikeLayer):
        return kind(**arguments, crossover=values.pop("crossover"))
    if not issubclass(kind, QuantizedWeight):
        return kind(**arguments)
    weight, inputs = values["weight_quant"], values["input_quant"]
    layer = kind(
        **arguments,
        weight_quant=_quantizer(weight),
        input_quant=None if inputs is None else _quantizer(inputs),
        grid_bits=values["grid_bits"],
    )
    _load(layer, settings.tensors)
    if layer.weight_int is not None:
        for parameter in layer.parameters():
            parameter.requires_grad_(False)
    return layer


def threshold_from(settings: Settings) -> Threshold:
    """The threshold that `settings_of` was given."""
    return Threshold(settings.tensors["threshold"], _surrogate(settings.values["surrogate"]))


def neuron_from(settings: Settings) -> Membrane | Driven:
    """The neuron that `settings_of` was given."""
    values, tensors = dict(settings.values), dict(settings.tensors)
    drive = {own: tensors.pop(name) for own, name in DRIVE.items() if name in tensors}
    node = _neuron(values, tensors)
    return Driven(node, **drive) if drive else node


def _neuron(values: dict[str, Any], tensors: dict[str, Tensor]) -> Membrane:
    plain = NEURONS[values["kind"]]
    arguments: dict[str, Any] = {}
    for name in inspect.signature(plain).parameters:
        if name in values:
            value = values[name]
            if name.endswith("_quant"):
                value = _codebook(value)
            elif name == "surrogate":
                value = _surrogate(value)
            elif name == "learn_threshold":
                value = _plain(value, bool)
            elif value is None and name in plain.constants and name in tensors:
                value = tensors[name]
            learns = _plain(values.get(f"learn_{name}", False), bool)
            arguments[name] = nn.Parameter(value) if learns else value
    node = plain(**arguments)
    if values["grid_bits"] is not None:
        for stage in node._stages():
            stage.grid_bits = _plain(values["grid_bits"], int)
    # the values of plain codebooks are in the settings
    here = {name: tensor for name, tensor in node.state_dict().items() if _in_codebook(node, name)}
    _load(node, {**here, **tensors})
    return node


def _of_neuron(node: Membrane, tensors: dict[str, Tensor]) -> Settings:
    kind = type(node)
    if kind not in NEURONS.values():
        raise InvalidValueError(
            "a neuron of your own has equations that no other tool can know; export one of"
            " snnsim.neurons"
        )
    arguments = {**node._arguments(), "grid_bits": node.grid_bits}
    values: dict[str, Any] = {"kind": kind.__name__}
    for name in sorted(arguments, key=lambda name: (*ORDER, name).index(name)):
        value = arguments[name]
        values[name] = _encoded(value)
        # a learned threshold has an argument of its own
        if isinstance(value, nn.Parameter) and name != "v_threshold":
            values[f"learn_{name}"] = True
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if not (_in_codebook(node, name) or _is_number(node, name))
    }
    return Settings(values, tensors)


def _encoded(value: Any) -> Any:
    """An argument of a neuron as plain JSON; None for a tensor that travels as such."""
    if isinstance(value, Tensor):
        return None if value.dim() or isinstance(value, nn.Parameter) else float(value)
    if isinstance(value, Codebook):
        return _of_codebook(value)
    return _of_surrogate(value) if isinstance(value, Surrogate) else value


def _in_codebook(node: Membrane, name: str) -> bool:
    """Whether a key of a neuron's `state_dict` is a level or an edge of a codebook that is
    fixed."""
    path, _, leaf = name.rpartition(".")
    return leaf in ("levels", "edges") and isinstance(node.get_submodule(path), Codebook)


def _is_number(node: Membrane, name: str) -> bool:
    """Whether a key of a neuron's `state_dict` is a constant that is one number, which the settings
    hold as such.
    """
    path, _, leaf = name.rpartition(".")
    owner = node.get_submodule(path)
    if isinstance(owner, Membrane) and leaf == "grid_bits":
        return True
    if not isinstance(owner, Membrane) or leaf not in owner.constants:
        return False
    value = getattr(owner, leaf)
    return not isinstance(value, Tensor) or (
        value.dim() == 0 and not isinstance(value, nn.Parameter)
    )


def _of_codebook(codebook: Codebook | None) -> dict[str, Any] | None:
    if codebook is None:
        return None
    if type(codebook) not in CODEBOOKS.values():
        raise InvalidValueError(
            f"its codebook is a {type(codebook).__name__} of your own; use a plain Codebook of its"
            " levels"
        )
    if isinstance(codebook, StochasticCodebook) and codebook.generator is not None:
        raise InvalidValueError(
            "its codebook draws from a generator, which does not travel; leave the generator out"
        )
    levels = codebook.levels.detach()
    return {
        "kind": type(codebook).__name__,
        "levels": levels.tolist(),
        "edges": codebook.edges.detach().tolist(),
        "ste": codebook.ste,
        "dtype": str(levels.dtype).removeprefix("torch."),
    }


def _codebook(values: dict[str, Any] | None) -> Codebook | None:
    if values is None:
        return None
    kind, dtype = (
        CODEBOOKS[values["kind"]],
        {"float32": torch.float32, "float64": torch.float64}[values["dtype"]],
    )
    plain = Codebook(values["levels"], values["edges"], values["ste"], dtype)
    if kind is LearnedUniform:
        return LearnedUniform.from_codebook(plain)
    return StochasticCodebook(plain.levels, values["ste"]) if kind is StochasticCodebook else plain


def _of_surrogate(surrogate: Surrogate) -> dict[str, Any]:
    if type(surrogate) not in SURROGATES.values():
        raise InvalidValueError(
            f"its surrogate {surrogate!r} is of your own, and no file holds code; give the neuron"
            " one of snnsim.surrogate"
        )
    return {
        "kind": type(surrogate).__name__,
        **{item.name: getattr(surrogate, item.name) for item in fields(surrogate)},
    }


def _surrogate(values: dict[str, Any]) -> Surrogate:
    arguments = dict(values)
    return SURROGATES[arguments.pop("kind")](**arguments)


def _of_quantizer(quantizer: TensorQuantizer) -> dict[str, Any]:
    return {"enabled": quantizer.enabled, **quantizer.descriptor.to_dict()}


def _quantizer(values: dict[str, Any]) -> TensorQuantizer:
    descriptor = dict(values)
    enabled = _plain(descriptor.pop("enabled"), bool)
    quantizer = TensorQuantizer(QuantDescriptor.from_dict(descriptor))
    quantizer.enabled = enabled
    return quantizer


def _load(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as problem:
        if isinstance(problem, SnnsimError):
            raise
        # torch's own text has lines of its own
        raise ValueError(" ".join(str(problem).split())) from problem


def _tensor(array: npt.ArrayLike, shape: list[int]) -> Tensor:
    values = np.ascontiguousarray(array)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"a tensor of {values.dtype}")
    return torch.from_numpy(values.copy()).reshape(shape)


def _plain(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{value!r} instead of {kind.__name__}")
    return value
