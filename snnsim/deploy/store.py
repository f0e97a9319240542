"""Integer networks in files: a folder with `network.json` (what the network is) and
`tensors.safetensors` (its integers).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from snnsim._core.files import write_folder
from snnsim._version import __version__
from snnsim.deploy.integers import NetworkData
from snnsim.deploy.ops import OPERATIONS, Integers, Signal, Window
from snnsim.errors import DataError, InvalidValueError, MissingDataError, SnnsimError

FORMAT = "snnsim integer network"
FORMAT_VERSION = 1
MANIFEST, TENSORS = "network.json", "tensors.safetensors"
KINDS = {kind.__name__: kind for kind in OPERATIONS}
# a network of thousands of operations is described in less; weights are loaded whole
LARGEST = {MANIFEST: 2**26, TENSORS: 2**33}


def describe(network: NetworkData) -> tuple[dict[str, Any], dict[str, Integers]]:
    """A network as JSON, and its arrays by name."""
    tensors: dict[str, Integers] = {}
    operations = []
    for i, operation in enumerate(network.operations):
        entry: dict[str, Any] = {"kind": type(operation).__name__}
        for field in fields(operation):
            value = getattr(operation, field.name)
            if isinstance(value, np.ndarray):
                tensors[f"{i}.{field.name}"] = np.ascontiguousarray(value)
                value = f"{i}.{field.name}"
            elif is_dataclass(value) and not isinstance(value, type):
                # of the neurons of chips, which one it is
                kind = (
                    {} if isinstance(value, Signal | Window) else {"preset": type(value).__name__}
                )
                value = asdict(value) | kind
            entry[field.name] = value
        operations.append(entry)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "input": asdict(network.input),
        "input_scale": network.input_scale,
        "time_steps": network.time_steps,
        "output": network.output,
        "operations": operations,
        # a file of a network without a rule is what it was before there were rules
        **({} if network.decision is None else {"decision": network.decision}),
    }
    # as JSON gives it back: lists for tuples
    return json.loads(json.dumps(manifest)), tensors


def save_network(network: NetworkData, folder: str | os.PathLike[str]) -> None:
    """Write a network into a new folder.

    Raises:
        OutputError: the folder exists already, or cannot be written.
        InvalidValueError: an operation of the user's own.
    """
    from safetensors.numpy import save

    for operation in network.operations:
        if type(operation) not in OPERATIONS:
            raise InvalidValueError(
                f"IntegerNetwork.save: {operation.name!r} is an operation"
                f" {type(operation).__name__} of your own, and nothing that files name is executed;"
                " save the trained network, and lower it where it is needed"
            )
    manifest, tensors = describe(network)
    content = save(tensors)
    manifest |= {
        "snnsim_version": __version__,
        "sha256": {TENSORS: hashlib.sha256(content).hexdigest(), "network": _hash(manifest)},
    }
    text = json.dumps(manifest, indent=2) + "\n"
    write_folder(folder, {TENSORS: content, MANIFEST: text.encode()}, "IntegerNetwork.save")


def load_network(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_network` wrote: the arguments of an IntegerNetwork. Nothing in the files is
    executed.

    Raises:
        MissingDataError: no such files.
        DataError: files that were changed, damaged, of another format, or that describe no sound
            network.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    text, content = (_content(Path(folder), name) for name in (MANIFEST, TENSORS))
    try:
        manifest = json.loads(text)
        _check_manifest(manifest, content)
        tensors = load(content)
        operations = [
            _made(KINDS[entry["kind"]], entry, tensors) for entry in manifest["operations"]
        ]
        return {
            "input": _made(Signal, manifest["input"], tensors),
            "operations": operations,
            "output": _plain(manifest["output"], int),
            "time_steps": _plain(manifest["time_steps"], int, type(None)),
            "input_scale": _plain(manifest["input_scale"], float, type(None)),
            "decision": _plain(manifest.get("decision"), str, type(None)),
        }
    except SnnsimError:
        raise
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
        SafetensorError,
    ) as problem:
        raise DataError(
            f"IntegerNetwork.load({str(folder)!r}): damaged or not an integer network ({problem});"
            " save the network again"
        ) from problem


def _content(folder: Path, name: str) -> bytes:
    """The bytes of one file: a regular one, of a size that can be."""
    who, path = f"IntegerNetwork.load({str(folder)!r})", folder / name
    try:
        if not path.is_file():
            # a pipe or a device would never end
            if path.exists():
                raise DataError(
                    f"{who}: {name} is no regular file; name a folder that IntegerNetwork.save"
                    " wrote"
                )
            raise MissingDataError(
                f"{who}: {name} is not there; name a folder that IntegerNetwork.save wrote"
            )
        if path.stat().st_size > LARGEST[name]:
            raise DataError(
                f"{who}: {name} has {path.stat().st_size} bytes, more than any network; save the"
                " network again"
            )
        return path.read_bytes()
    except OSError as problem:
        if isinstance(problem, SnnsimError):
            raise
        raise DataError(
            f"{who}: {name} cannot be read ({problem.strerror or problem}); make it readable"
        ) from problem


def _check_manifest(manifest: dict[str, Any], content: bytes) -> None:
    if manifest["format"] != FORMAT:
        raise ValueError(f"its format is {manifest['format']!r}")
    if manifest["format_version"] != FORMAT_VERSION:
        raise DataError(
            f"IntegerNetwork.load: the file has format version {manifest['format_version']}, this"
            f" snnsim reads {FORMAT_VERSION}; use the snnsim that wrote it,"
            f" {manifest.get('snnsim_version')}"
        )
    stated = manifest.pop("sha256")
    manifest.pop("snnsim_version", None)
    if stated != {TENSORS: hashlib.sha256(content).hexdigest(), "network": _hash(manifest)}:
        raise ValueError(
            "its content does not match its SHA-256, so it was changed after it was saved"
        )


def _hash(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _made(kind: type, values: dict[str, Any], tensors: dict[str, Integers]) -> Any:
    """A dataclass from the JSON of its fields, each as it is annotated."""
    names = [field.name for field in fields(kind)]
    if set(values) - {"kind", "preset"} != set(names):
        raise ValueError(f"a {kind.__name__} with the fields {sorted(values)}")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], values[name], tensors) for name in names})


def _value(hint: Any, value: Any, tensors: dict[str, Integers]) -> Any:
    options = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    if NoneType in options:
        if value is None:
            return None
        options = tuple(option for option in options if option is not NoneType)
    hint = options[0]
    if get_origin(hint) is np.ndarray:
        return tensors[value]
    if is_dataclass(hint):
        named = {option.__name__: option for option in options}
        return _made(named[value.get("preset", options[0].__name__)], value, tensors)
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        kinds = kinds[:1] * len(value) if Ellipsis in kinds else kinds
        return tuple(_plain(part, kind) for part, kind in zip(value, kinds, strict=True))
    return _plain(value, hint)


def _plain(value: Any, *kinds: type) -> Any:
    # a bool is an int in Python, and not here
    if type(value) not in kinds:
        raise ValueError(f"{value!r} instead of {kinds[0].__name__}")
    return value
