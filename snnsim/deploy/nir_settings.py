"""What NIR has no field for: the settings of a layer or a neuron as plain JSON, and its tensors.

They travel in a node's `metadata`, as the text "snnsim" and the group "snnsim_tensors". What is
read back is looked up in lists of names and handed to constructors, which check it; nothing in a
file names code to run.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from snnsim import calibrate, neurons
from snnsim._core.checks import check_int, checked_bool
from snnsim.errors import DataError, InvalidValueError, SnnsimError
from snnsim.layers import Delay, Driven, SpikeConv2d, SpikeLinear, Threshold
from snnsim.neurons import Membrane
from snnsim.quant.codebook import Codebook
from snnsim.quant.descriptor import QuantDescriptor
from snnsim.quant.layers import QuantConv1d, QuantConv2d, QuantizedWeight, QuantLinear
from snnsim.quant.quantizer import TensorQuantizer
from snnsim.quant.recipes import from_description
from snnsim.surrogate import Surrogate, library

__all__ = ["NEURONS", "Settings", "restored", "settings_of"]

VERSION = 1
TEXT, TENSORS = "snnsim", "snnsim_tensors"
# of the library, each with the name of the primitive that it stands for
NEURONS: tuple[type[Membrane], ...] = tuple(
    kind
    for module in (neurons, calibrate)
    for kind in vars(module).values()
    if isinstance(kind, type) and "_nir" in vars(kind)
)
# arguments of neurons as they stand in a file
ORDER: tuple[str, ...]
ORDER = ("beta", "decay_input", "v_reset", "detach_reset", "min_decay", "grid_bits", "state_quant")
ORDER += ("surrogate", "learn_threshold", "v_threshold", "alpha", "current_quant", "tau")
ORDER += ("learn_tau",)
QUANTIZED = ("bias", "weight_quant", "input_quant", "grid_bits")
# arguments of constructors that no field of a node holds
ARGUMENTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("bias",),
    nn.Conv1d: ("bias",),
    nn.Conv2d: ("bias",),
    SpikeLinear: ("bias", "crossover"),
    SpikeConv2d: ("bias", "crossover"),
    QuantLinear: QUANTIZED,
    QuantConv1d: QUANTIZED,
    QuantConv2d: QUANTIZED,
    # NIR's pool sums in another order
    nn.AdaptiveAvgPool2d: ("output_size",),
    Delay: ("delay_steps",),
    Threshold: ("surrogate",),
}
# those that are no attributes of the same name
PLACES: dict[str, Callable[[Any], Any]] = {
    "bias": lambda layer: layer.bias is not None,
    "input_quant": attrgetter("input_quantizer"),
    "learn_tau": lambda node: isinstance(node.tau, nn.Parameter),
    "weight_quant": attrgetter("weight_quantizer"),
}
# tensors of a Driven neuron, beside those of the neuron itself
DRIVE = {"gain": "drive.gain", "bias": "drive.bias"}
SURROGATES: dict[str, type[Surrogate]] = {name: getattr(library, name) for name in library.__all__}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, eq=False)
class Settings:
    """The settings of one node.

    Attributes:
        values: plain JSON.
        tensors: by their names in the module's `state_dict`.
    """

    values: dict[str, Any] = field(default_factory=dict)
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
            tensors = {
                name: _tensor(arrays[name], shape)
                for name, shape in shapes.items()
                if version == VERSION
            }
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


def _names(kind: Any) -> tuple[str, ...]:
    """Arguments that settings hold; none for a module whose fields are all that it is."""
    if not issubclass(kind, Membrane):
        return ARGUMENTS.get(kind, ())

    known = {"grid_bits", *kind()._arguments()}
    known |= {"learn_tau"} if "tau" in known and "tau" in kind.constants else set()
    return tuple(sorted(known, key=lambda name: ((*ORDER, name).index(name), name)))


def settings_of(module: nn.Module) -> Settings:
    """The settings of a layer or neuron.

    Raises:
        InvalidValueError: something of the user's own, which no list of names has.
    """
    if isinstance(module, Driven):
        inner = settings_of(module.node)
        drive = {name: getattr(module, own) for own, name in DRIVE.items()}
        return Settings(inner.values, inner.tensors | drive)
    kind = type(module)
    if not _names(kind):
        return Settings()
    tensors = {}
    if _owns_tensors(module):
        state = module.state_dict()
        tensors = {name: state[name].detach() for name in state if _travels(module, name)}
    values: dict[str, Any] = {"kind": kind.__name__}
    held = module._arguments() if isinstance(module, Membrane) else {}
    for name in _names(kind):
        if name in PLACES:
            values[name] = _encoded(PLACES[name](module))
        else:
            value = held[name] if name in held else getattr(module, name)
            values[name] = None if name in tensors else _encoded(value)
    # said only where it is so
    if not values.get("learn_tau", True):
        del values["learn_tau"]
    return Settings(values, tensors)


def restored(kind: type[nn.Module], settings: Settings, arguments: Mapping[str, Any]) -> nn.Module:
    """The module that `settings_of` was given.

    Args:
        kind: its class.
        settings: of it.
        arguments: of its constructor that the fields of its node hold.
    """
    given = {"learn_tau": False} | settings.values
    values = {name: _decoded(given[name]) for name in _names(kind)}
    tensors = dict(settings.tensors)
    drive = {own: tensors.pop(name) for own, name in DRIVE.items() if name in tensors}
    learns_tau = values.pop("learn_tau", False)
    grid_bits = values.pop("grid_bits", None) if issubclass(kind, Membrane) else None
    if "bias" in values:
        checked_bool("its metadata", "bias", values["bias"])
    for name in inspect.signature(kind).parameters:
        if name in tensors and values.get(name) is None:
            values[name] = tensors[name]
    if learns_tau:
        values["tau"] = nn.Parameter(values["tau"])
    module = kind(**arguments, **values)
    if grid_bits is not None and isinstance(module, Membrane):
        check_int("its metadata", "grid_bits", grid_bits, at_least=0)
        for stage in module._stages():
            stage.grid_bits = grid_bits
    if _owns_tensors(module):
        state = module.state_dict()
        _load(module, {name: state[name] for name in state if not _travels(module, name)} | tensors)
    if getattr(module, "weight_int", None) is not None:
        module.requires_grad_(False)
    return Driven(module, **drive) if drive else module


def _owns_tensors(module: nn.Module) -> bool:
    """False for layers whose tensors the fields of a node hold."""
    return isinstance(module, QuantizedWeight) or not hasattr(module, "weight")


def _travels(module: nn.Module, name: str) -> bool:
    """True for a tensor of a `state_dict` that no value of the settings holds."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if isinstance(owner, Codebook):
        return leaf not in ("levels", "edges")
    if not isinstance(owner, Membrane) or leaf not in owner.constants:
        return not (isinstance(owner, Membrane) and leaf == "grid_bits")
    value = getattr(owner, leaf)
    is_number = owner.constants[leaf].is_tensor and not value.dim()
    return isinstance(value, nn.Parameter) or (isinstance(value, Tensor) and not is_number)


def _encoded(value: Any) -> Any:
    """A value of a constructor as plain JSON."""
    if isinstance(value, Tensor):
        return float(value)
    if isinstance(value, TensorQuantizer):
        return {"enabled": value.enabled, **value.descriptor.to_dict()}
    if isinstance(value, Surrogate):
        if type(value) not in SURROGATES.values():
            raise InvalidValueError(
                f"its surrogate {value!r} is of your own, and no file holds code; give the neuron"
                " one of snnsim.surrogate"
            )
        options = {item.name: getattr(value, item.name) for item in fields(value)}
        return {"kind": type(value).__name__, **options}
    return value.describe() if isinstance(value, Codebook) else value


def _decoded(value: Any) -> Any:
    """What `_encoded` was given."""
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    options = dict(value)
    if "enabled" in options:
        enabled = checked_bool("its metadata", "enabled", options.pop("enabled"))
        quantizer = TensorQuantizer(QuantDescriptor.from_dict(options))
        quantizer.enabled = enabled
        return quantizer
    kind = options.pop("kind")
    return SURROGATES[kind](**options) if kind in SURROGATES else from_description(value)


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
