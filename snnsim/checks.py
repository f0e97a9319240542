"""Checks of what a caller passes; each raises an error that names argument, value, rule and remedy."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError


def check_tensor(where: str, name: str, value: object) -> None:
    """Raise unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise InvalidTypeError(f"{where}({name}={value!r}): {name} must be a tensor; wrap it in torch.as_tensor")


def dense(where: str, name: str, x: Tensor) -> Tensor:
    """`x` with a place in memory for every value, where it has another layout, such as one of torch's sparse ones."""
    if x.is_nested:
        raise InvalidTypeError(
            f"{where}: {name} must be one tensor, got a nested one; pad its parts to one length, as with "
            "torch.nn.utils.rnn.pad_sequence"
        )
    return x if x.layout is torch.strided else x.to_dense()


def check_int(where: str, name: str, value: object, at_least: int) -> None:
    """Raise unless `value` is an int, not a bool, and not too small."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(f"{where}({name}={value!r}): {name} must be an int, not {type(value).__name__}; pass a whole number")
    if value < at_least:
        raise InvalidValueError(f"{where}({name}={value}): {name} must be >= {at_least}; pass a larger number")


def check_sequence(where: str, name: str, x_seq: Tensor) -> None:
    """Raise unless `x_seq` is `[T, B, *n]` with at least one time step."""
    check_tensor(where, name, x_seq)
    if x_seq.ndim < 2 or len(x_seq) == 0:
        raise ShapeError(
            f"{where}({name} of shape {tuple(x_seq.shape)}): {name} must be [T, B, *n] with T >= 1; "
            "put time first and the batch second"
        )


def check_class_sequence(where: str, name: str, x_seq: Tensor) -> None:
    """Raise unless `x_seq` is `[T, B, C]`."""
    check_sequence(where, name, x_seq)
    if x_seq.ndim != 3:
        raise ShapeError(
            f"{where}({name} of shape {tuple(x_seq.shape)}): {name} must be [T, B, C], one neuron per class; "
            "flatten or pool the neurons of a class first"
        )


def check_shape(where: str, name: str, x: Tensor, shape: torch.Size) -> None:
    """Raise unless `x` is a tensor of this shape; nothing is broadcast."""
    check_tensor(where, name, x)
    if x.shape != shape:
        raise ShapeError(
            f"{where}({name} of shape {tuple(x.shape)}): {name} must have shape {tuple(shape)}, and is not broadcast; "
            "expand or index it to that shape"
        )


def check_labels(where: str, labels: Tensor, num_classes: int) -> None:
    """Raise unless `labels` is `[B]` of an integer dtype and, where values can be looked at, in 0..num_classes-1."""
    check_tensor(where, "labels", labels)
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise InvalidTypeError(
            f"{where}(labels of dtype {labels.dtype}): labels must be integers, one class index per sample; "
            "pass labels.long(), or one_hot.argmax(1) for one-hot labels"
        )
    if labels.ndim != 1:
        raise ShapeError(f"{where}(labels of shape {tuple(labels.shape)}): labels must be [B], one per sample; flatten them")
    check_values(where, "labels", labels, (labels >= 0) & (labels < num_classes), f"within 0..{num_classes - 1}", "relabel them")


def check_one_hot(where: str, label_one_hot: Tensor) -> None:
    """Raise unless `label_one_hot` is `[B, C]` and, where values can be looked at, one-hot with as many neurons for every class."""
    check_tensor(where, "label_one_hot", label_one_hot)
    if label_one_hot.ndim != 2:
        raise ShapeError(
            f"{where}(label_one_hot of shape {tuple(label_one_hot.shape)}): label_one_hot must be [B, C]; "
            "pass torch.nn.functional.one_hot(labels, num_classes)"
        )
    if torch.compiler.is_compiling() or not len(label_one_hot):
        return
    right = label_one_hot == 1
    classes = right.unflatten(1, (-1, _neurons_per_class(right)))
    valid = ((label_one_hot == 0) | right).all(1) & (classes.any(2).sum(1) == 1) & (classes.all(2).sum(1) == 1)
    if not valid.all():
        row = int((~valid).nonzero()[0])
        raise InvalidValueError(
            f"{where}(label_one_hot with row {row} = {label_one_hot[row].tolist()}): every row must be one 1 and "
            "otherwise 0; pass torch.nn.functional.one_hot(labels, num_classes), or redundant_one_hot(labels, num_classes, n) "
            "for n neurons per class"
        )


def _neurons_per_class(right: Tensor) -> int:
    """Ones of the first row, where so many neurons per class make at least two classes; else 1."""
    ones, neurons = int(right[0].sum()), right.shape[1]
    return ones if ones > 1 and neurons % ones == 0 and neurons > ones else 1


def check_unit(where: str, name: str, x: Tensor) -> None:
    """Raise unless `x` is a floating tensor of values within 0..1."""
    check_tensor(where, name, x)
    if not x.is_floating_point():
        raise InvalidTypeError(
            f"{where}({name} of dtype {x.dtype}): {name} must be floating, within 0..1; for 8-bit images pass images / 255"
        )
    check_values(where, name, x, (x >= 0) & (x <= 1), "within 0..1", "scale them first")


def check_values(where: str, name: str, x: Tensor, valid: Tensor, rule: str, remedy: str) -> None:
    """Raise and show the first value that is not `valid`; values are not looked at while compiling."""
    if torch.compiler.is_compiling() or bool(valid.all()):
        return
    wrong = x[~valid][0].item()
    raise InvalidValueError(f"{where}({name} with the value {wrong}): values of {name} must be {rule}; {remedy}")


def as_floating(x: Tensor) -> Tensor:
    """`x` itself if floating, else in the default dtype."""
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def checked_bool(where: str, name: str, value: object) -> bool:
    """`value` as it is, or an error if it is not True or False."""
    if not isinstance(value, bool):
        raise InvalidTypeError(f"{where}({name}={value!r}): {name} must be True or False, not {type(value).__name__}")
    return value


def checked_number(where: str, name: str, value: object, above: float | None = None, at_least: float | None = None) -> float:
    """`value` as a float, or an error that names `where` it was passed, its `name` and the rule that it breaks."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidTypeError(f"{where}({name}={value!r}): {name} must be a number, not {type(value).__name__}; pass a float")
    number = float(value)
    if not math.isfinite(number):
        raise InvalidValueError(f"{where}({name}={value!r}): {name} must be finite; pass an ordinary number")
    if above is not None and not number > above:
        raise InvalidValueError(f"{where}({name}={value!r}): {name} must be > {above:g}; pass a larger number")
    if at_least is not None and not number >= at_least:
        raise InvalidValueError(f"{where}({name}={value!r}): {name} must be >= {at_least:g}; pass a larger number")
    return number
