"""A number that stands for everything a value is made of, the same in every process that makes it alike."""

from __future__ import annotations

import copyreg
import hashlib
import os
import sys
from contextlib import suppress
from functools import cached_property
from inspect import signature
from pathlib import PurePath
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnsim.data.events.dataset import EventDataset
from snnsim.errors import InvalidTypeError

__all__ = ["identity"]

# what the text of a value tells all of
_PLAIN = {type(None), bool, int, float, complex, str, bytes}

# what a class holds besides what its objects do
_OF_NO_EFFECT = {
    "__annotations__", "__annotate_func__", "__annotations_cache__", "__abstractmethods__", "_abc_impl", "__dataclass_fields__",
    "__dataclass_params__", "__dict__", "__doc__", "__firstlineno__", "__hash__", "__match_args__", "__module__",
    "__orig_bases__", "__parameters__", "__qualname__", "__slots__", "__static_attributes__", "__weakref__",
}  # fmt: skip


def identity(value: Any) -> str:
    """SHA-256 of the content of a value, in hexadecimal.

    Arrays and tensors count with dtype and shape, files that a Path leads to with size and time of change, functions and
    classes with their code, what they close over and the globals that they name; those of installed packages by name.

    Raises:
        InvalidTypeError: a part whose content cannot be known, such as an open file.
    """
    return _Identities().of(value)


class _Identities:
    """Digests of values; each is made once, from those of its parts."""

    def __init__(self) -> None:
        # the value is held with its digest, so that no other gets its id
        self.known: dict[int, tuple[str, Any]] = {}
        # ids of what is being digested, from the outside in: classes and functions may name each other in a circle
        self.path: list[int] = []

    def of(self, value: Any) -> str:
        """Digest of a value."""
        if id(value) in self.path:
            return f"again {self.path.index(id(value))}"
        if id(value) not in self.known:
            self.path.append(id(value))
            digest = hashlib.sha256()
            for part in self._parts(value):
                content = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
                # with its length, so that no two rows of parts look alike
                digest.update(b"%d:" % len(content) + content)
            self.path.pop()
            self.known[id(value)] = digest.hexdigest(), value
        return self.known[id(value)][0]

    def _all(self, kind: str, *values: Any) -> list[str | bytes]:
        return [kind, *map(self.of, values)]

    def _parts(self, value: Any) -> list[str | bytes]:
        """What a value is made of: its kind, and text, bytes or digests."""
        kind = type(value)
        if kind in _PLAIN or (kind in (list, tuple) and _PLAIN.issuperset(map(type, value))):
            return [kind.__name__, repr(value)]
        if isinstance(value, Tensor):
            dense = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
            return ["tensor", str(value.dtype), str(list(value.shape)), dense.flatten().view(torch.uint8).numpy().tobytes()]
        if kind is np.ndarray and not value.dtype.hasobject:
            return ["array", repr(value.dtype), repr(value.shape), value.tobytes()]
        if isinstance(value, PurePath):
            return _of_path(value)
        if kind in (list, tuple):
            return self._all(kind.__name__, *value)
        if kind is dict:
            return self._all("dict", *value, *value.values())
        if kind in (set, frozenset):
            return [kind.__name__, *sorted(map(self.of, value))]
        if isinstance(value, ModuleType):
            return ["module", value.__name__]
        if isinstance(value, type):
            return self._of_class(value)
        if isinstance(value, FunctionType):
            return self._of_function(value)
        if isinstance(value, CodeType):
            return self._all("code", value.co_code, value.co_names, value.co_freevars, value.co_argcount, *value.co_consts)
        if isinstance(value, property):
            return self._all("property", value.fget, value.fset)
        if isinstance(value, classmethod | staticmethod):
            return self._all(kind.__name__, value.__func__)
        if isinstance(value, cached_property):
            return self._all("cached_property", value.func)
        if isinstance(value, EventDataset):
            return self._of_dataset(value)
        return self._of_object(value)

    def _of_function(self, function: FunctionType) -> list[str | bytes]:
        name: list[str | bytes] = ["function", str(function.__module__), function.__qualname__]
        if _is_installed(function.__module__):
            return name
        named = {key: function.__globals__[key] for key in sorted(_names(function.__code__)) if key in function.__globals__}
        parts = function.__code__, function.__defaults__, function.__kwdefaults__, _contents(function), named, vars(function)
        return [*name, *self._all("parts", *parts)]

    def _of_class(self, kind: type) -> list[str | bytes]:
        name: list[str | bytes] = ["class", kind.__module__, kind.__qualname__]
        if _is_installed(kind.__module__):
            return name
        # what slots hold is in the state of an object
        members = {
            name: part
            for name, part in vars(kind).items()
            if name not in _OF_NO_EFFECT and not isinstance(part, MemberDescriptorType | GetSetDescriptorType)
        }
        return [*name, *self._all("parts", members, *kind.__bases__)]

    def _of_dataset(self, dataset: EventDataset) -> list[str | bytes]:
        settings = dataset.settings()
        arguments = _arguments(type(dataset))
        # other attributes count as they were at first: recording() may change them, to count or to remember
        if dataset._at_first is None:
            dataset._at_first = self.of({name: part for name, part in settings.items() if name.lstrip("_") not in arguments})
        given = {name: part for name, part in settings.items() if name.lstrip("_") in arguments}
        return ["dataset", dataset._at_first, *self._all("parts", type(dataset), given)]

    def _of_object(self, value: Any) -> list[str | bytes]:
        try:
            # as pickle does
            reduce = copyreg.dispatch_table.get(type(value))
            reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
        except (TypeError, AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
            raise InvalidTypeError(f"a {type(value).__qualname__} does not show what it holds ({error})") from error
        if isinstance(reduced, str):
            return ["name", str(getattr(value, "__module__", None)), reduced]
        make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        return self._all("object", type(value), make, arguments, state, list(items or ()), list(pairs or ()))


def _arguments(kind: type) -> set[str]:
    """Names that the constructor of a dataset takes, those that it hands on to its bases included."""
    names: set[str] = set()
    for base in kind.__mro__:
        # one in C may not tell
        with suppress(KeyError, TypeError, ValueError):
            names.update(signature(vars(base)["__init__"]).parameters)
    return names


def _of_path(path: PurePath) -> list[str | bytes]:
    absolute = os.path.abspath(path)
    if not os.path.isfile(absolute):
        return ["path", absolute]
    status = os.stat(absolute)
    return ["file", absolute, str(status.st_size), str(status.st_mtime_ns)]


def _contents(function: FunctionType) -> list[Any]:
    """What a function closes over; a name that is not bound yet counts for nothing."""
    contents = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):
            contents.append(cell.cell_contents)
    return contents


def _names(code: CodeType) -> set[str]:
    """Names of globals, and of attributes, that the code and the functions inside it use."""
    inside = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_names, inside))


def _is_installed(module: str | None) -> bool:
    """Whether a module is of the standard library, of an installed package or of this one."""
    root = str(module).partition(".")[0]
    if root in sys.stdlib_module_names or root == __name__.partition(".")[0]:
        return True
    file = getattr(sys.modules.get(str(module), sys.modules.get(root)), "__file__", None)
    return file is not None and not {"site-packages", "dist-packages"}.isdisjoint(PurePath(file).parts)
