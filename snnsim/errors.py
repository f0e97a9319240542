"""Errors that snnsim raises on purpose; each is also the built-in error that a user expects.

Every message names the argument, shows its value, states the rule and says what to do instead.
"""

from __future__ import annotations

from typing import NoReturn


class SnnsimError(Exception):
    """Base of every error that snnsim raises on purpose."""


class InvalidValueError(SnnsimError, ValueError):
    """An argument has the right type and a value outside its range."""


class InvalidTypeError(SnnsimError, TypeError):
    """An argument has the wrong type or dtype."""


class NoCodesError(InvalidValueError, AttributeError):
    """Codes were asked of a state that is not quantized."""


class ShapeError(SnnsimError, ValueError):
    """A tensor's shape does not fit the others it is used with."""


class StateError(SnnsimError, RuntimeError):
    """A held state does not fit the input: another shape, dtype or device, or a step out of
    turn."""


class RunError(SnnsimError, RuntimeError):
    """A network cannot be run the way it was asked to."""


class EngineError(SnnsimError, RuntimeError):
    """An engine was asked for by name and cannot run here."""


class MissingPackageError(SnnsimError, ModuleNotFoundError):
    """A package that only some parts need is not installed."""


class CheckpointError(SnnsimError, RuntimeError):
    """A checkpoint is damaged or belongs to something else."""


class DataError(SnnsimError, ValueError):
    """A data file is corrupt, truncated or of another format."""


class MissingDataError(DataError, FileNotFoundError):
    """A data file or folder is not where it was looked for."""


class OutputError(SnnsimError, OSError):
    """A result cannot be written where it was asked for."""


class ContractError(SnnsimError, AssertionError):
    """A part of the user's own breaks a rule that the rest of the library relies on."""


def refuse(
    who: str,
    argument: str,
    value: object,
    rule: str,
    remedy: str = "",
    *,
    kind: type[SnnsimError] = InvalidValueError,
) -> NoReturn:
    """Raise an error in the form of all: `who(argument=value): rule; remedy`.

    Args:
        who: class or function that was called.
        argument: its name as the caller wrote it.
        value: that was given; long ones are cut.
        rule: that it breaks, as in "must be at least 1".
        remedy: what to do instead.
        kind: of error.
    """
    shown = repr(value)
    shown = shown if len(shown) <= 100 else f"{shown[:97]}..."
    raise kind(f"{who}({argument}={shown}): {rule}" + (f"; {remedy}" if remedy else ""))
