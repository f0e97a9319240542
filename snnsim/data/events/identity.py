"""Hash of everything a value is made of, the same in every process that makes it alike."""

from __future__ import annotations

import copyreg
import dis
import hashlib
import importlib
import importlib.util
import os
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from inspect import getattr_static, signature
from pathlib import PurePath
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnsim.data.events.dataset import EventDataset
from snnsim.errors import InvalidTypeError

# what the text of a value tells all of
_PLAIN = {type(None), bool, int, float, complex, str, bytes}

# instructions that look for a name among the globals
_READS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}

# what a class holds besides what its objects do
_NAMES = """
    __annotations__ __annotate_func__ __annotations_cache__ __abstractmethods__ _abc_impl
    __dataclass_fields__ __dataclass_params__ __dict__ __doc__ __firstlineno__ __hash__
    __match_args__ __module__ __orig_bases__ __parameters__ __qualname__ __slots__
    __static_attributes__ __weakref__
"""
_OF_NO_EFFECT = frozenset(_NAMES.split())

Parts = list[str | bytes]


def identity(value: Any) -> str:
    """SHA-256 of the content of a value, in hexadecimal.

    Arrays and tensors count with dtype and shape, files that a Path leads to with size and time of
    change, functions and classes with their code, what they close over and what they name of
    globals and of other modules; those of installed packages by name.

    Raises:
        InvalidTypeError: a part whose content cannot be known, such as an open file.
    """
    try:
        return _Identities().of(value)
    except RecursionError as error:
        raise InvalidTypeError(
            f"a {type(value).__qualname__} is nested too deeply to be looked through"
        ) from error


class _Identities:
    """Digests of values; each is made once, from those of its parts."""

    def __init__(self) -> None:
        # the value is held with its digest, so that no other gets its id
        self.known: dict[int, tuple[str, Any]] = {}
        # ids of what is being digested, from the outside in: classes and functions may name each
        # other in a circle
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

    def _all(self, kind: str, *values: Any) -> Parts:
        return [kind, *map(self.of, values)]

    def _parts(self, value: Any) -> Parts:
        """What a value is made of: its kind, and text, bytes or digests."""
        kind = type(value)
        if kind in _PLAIN or (kind in (list, tuple) and _PLAIN.issuperset(map(type, value))):
            return [kind.__name__, repr(value)]
        if kind is np.ndarray and not value.dtype.hasobject:
            return ["array", repr(value.dtype), repr(value.shape), value.tobytes()]
        if kind in (list, tuple):
            return self._all(kind.__name__, *value)
        if kind is dict:
            return self._all("dict", *value, *value.values())
        if kind in (set, frozenset):
            return [kind.__name__, *sorted(map(self.of, value))]
        parts = next((parts for base, parts in _KINDS if isinstance(value, base)), None)
        return self._of_object(value) if parts is None else parts(self, value)

    def _of_tensor(self, value: Tensor) -> Parts:
        if value.layout is not torch.strided or value.is_meta or value.is_nested:
            return self._of_object(value)
        dense = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        content = dense.flatten().view(torch.uint8).numpy().tobytes()
        return ["tensor", str(value.dtype), str(list(value.shape)), content]

    def _of_path(self, path: PurePath) -> Parts:
        absolute = os.path.abspath(path)
        if not os.path.isfile(absolute):
            return ["path", absolute]
        status = os.stat(absolute)
        return ["file", absolute, str(status.st_size), str(status.st_mtime_ns)]

    def _of_function(self, function: FunctionType) -> Parts:
        name: Parts = ["function", str(function.__module__), function.__qualname__]
        if _is_installed(function.__module__):
            return name
        defaults = function.__defaults__, function.__kwdefaults__
        names = _contents(function), _named(function), vars(function)
        return [*name, *self._all("parts", function.__code__, *defaults, *names)]

    def _of_code(self, code: CodeType) -> Parts:
        # what an error is caught by stands beside the instructions since Python 3.11
        steps = code.co_code, getattr(code, "co_exceptiontable", b"")
        counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
        # a caller may give arguments by name
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
        return self._all("code", *steps, counts, *names, *code.co_consts)

    def _of_module(self, module: ModuleType) -> Parts:
        name: Parts = ["module", module.__name__]
        if _is_installed(module.__name__):
            return name
        members = {name: part for name, part in vars(module).items() if not name.startswith("__")}
        return [*name, self.of(members)]

    def _of_class(self, kind: type) -> Parts:
        name: Parts = ["class", kind.__module__, kind.__qualname__]
        if _is_installed(kind.__module__):
            return name
        # what slots hold is in the state of an object
        slots = MemberDescriptorType, GetSetDescriptorType
        members = {
            name: part
            for name, part in vars(kind).items()
            if name not in _OF_NO_EFFECT and not isinstance(part, slots)
        }
        return [*name, *self._all("parts", members, *kind.__bases__)]

    def _of_dataset(self, dataset: EventDataset) -> Parts:
        arguments = _arguments(type(dataset))
        given: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for name, part in dataset.settings().items():
            (given if name.lstrip("_") in arguments else others)[name] = part
        # other attributes count as they were at first: recording() may change them, to count or to
        # remember
        if dataset._at_first is None:
            dataset._at_first = self.of(others)
        return ["dataset", dataset._at_first, *self._all("parts", type(dataset), given)]

    def _of_object(self, value: Any) -> Parts:
        try:
            # as pickle does
            reduce = copyreg.dispatch_table.get(type(value))
            reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
        except (TypeError, AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
            kind = type(value).__qualname__
            raise InvalidTypeError(f"a {kind} does not show what it holds ({error})") from error
        if isinstance(reduced, str):
            return self._of_named(value, reduced)
        make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        if isinstance(state, dict):
            # what follows from the rest, once it has been asked for
            own = {name: getattr_static(type(value), name, None) for name in state}
            made = {name for name, part in own.items() if isinstance(part, cached_property)}
            state = {name: part for name, part in state.items() if name not in made} or None
        held = state, list(items or ()), list(pairs or ())
        return self._all("object", type(value), make, arguments, *held)

    def _of_named(self, value: Any, name: str) -> Parts:
        """Parts of what pickle knows by its name only, which says nothing about a user's own
        function inside.
        """
        module = pickle.whichmodule(value, name)  # type: ignore[attr-defined]
        wrapped = getattr(value, "__wrapped__", None)
        if callable(value) and wrapped is None and not _is_installed(module):
            raise InvalidTypeError(
                f"a {type(value).__qualname__} does not show the function that it calls"
            )
        return ["name", module, name, *self._all("parts", type(value), wrapped)]


def _arguments(kind: type) -> set[str]:
    """Names that the constructor of a dataset takes, those that it hands on to its bases
    included."""
    names: set[str] = set()
    for base in kind.__mro__:
        # one in C may not tell
        with suppress(KeyError, TypeError, ValueError):
            names.update(signature(vars(base)["__init__"]).parameters)
    return names


# how a value is taken apart, by the first base class that it has
_KINDS: list[tuple[Any, Callable[[_Identities, Any], Parts]]] = [
    (Tensor, _Identities._of_tensor),
    (PurePath, _Identities._of_path),
    (ModuleType, _Identities._of_module),
    (type, _Identities._of_class),
    (FunctionType, _Identities._of_function),
    (CodeType, _Identities._of_code),
    (property, lambda ids, value: ids._all("property", value.fget, value.fset)),
    (classmethod | staticmethod, lambda ids, value: ids._all(type(value).__name__, value.__func__)),
    (cached_property, lambda ids, value: ids._all("cached_property", value.func)),
    (EventDataset, _Identities._of_dataset),
]


def _contents(function: FunctionType) -> list[Any]:
    """What a function closes over; a name that is not bound yet counts for nothing."""
    contents = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):
            contents.append(cell.cell_contents)
    return contents


def _codes(code: CodeType) -> list[CodeType]:
    """The code and that of the functions inside it."""
    inside = [part for part in code.co_consts if isinstance(part, CodeType)]
    return [code, *(found for part in inside for found in _codes(part))]


def _named(function: FunctionType) -> dict[str, Any]:
    """The globals that a function names, and of a user's own modules among them and behind them the
    attributes that it names.
    """
    codes = _codes(function.__code__)
    steps = [step for code in codes for step in dis.get_instructions(code)]
    read = sorted({step.argval for step in steps if step.opname in _READS})
    # of a module any name may be one of an attribute; of the globals that would be chance
    names = sorted({name for code in codes for name in code.co_names})
    modules = {module.__name__: module for module in _imported(function)}
    spaces = {"": function.__globals__, **{name: vars(module) for name, module in modules.items()}}
    waiting, found = list(spaces), {}
    while waiting:
        space = waiting.pop()
        for name in names if space else read:
            if name not in spaces[space]:
                continue
            part = spaces[space][name]
            if isinstance(part, ModuleType):
                if part.__name__ not in spaces and not _is_installed(part.__name__):
                    spaces[part.__name__] = vars(part)
                    waiting.append(part.__name__)
                part = part.__name__
            found[f"{space}.{name}"] = part
    return dict(sorted(found.items()))


def _imported(function: FunctionType) -> list[ModuleType]:
    """A user's own modules that a function imports itself, loaded as its first call would."""
    modules = []
    for code in _codes(function.__code__):
        steps = list(dis.get_instructions(code))
        for index, step in enumerate(steps):
            if step.opname != "IMPORT_NAME":
                continue
            # the level of a relative import is put on the stack first, then the names that are
            # taken from it
            name = "." * steps[index - 2].argval + step.argval
            with suppress(ImportError):
                name = importlib.util.resolve_name(name, function.__globals__.get("__package__"))
            if _is_installed(name):
                continue
            for inside in ("", *(f".{part}" for part in steps[index - 1].argval or ())):
                # one that is not there is missed by the call, and most names are those of no module
                with suppress(ImportError):
                    modules.append(importlib.import_module(name + inside))
    return modules


def _is_installed(module: str | None) -> bool:
    """True for a module of the standard library, of an installed package or of this one."""
    root = str(module).partition(".")[0]
    if root == __name__.partition(".")[0]:
        return True
    if root == "__main__":
        return False
    file = _file(str(module), root)
    if root in sys.stdlib_module_names:
        # a user's own module may have the name of one there
        return file is None or PurePath(file).is_relative_to(PurePath(os.__file__).parent)
    parts = PurePath(file or "").parts
    return "site-packages" in parts or "dist-packages" in parts


def _file(module: str, root: str) -> str | None:
    """File of a module, or of its package, loaded or not."""
    loaded = sys.modules.get(module, sys.modules.get(root))
    if loaded is not None:
        return getattr(loaded, "__file__", None)
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(root)
        return spec.origin if spec is not None and spec.has_location else None
    return None
