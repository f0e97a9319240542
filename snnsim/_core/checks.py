"""Checks of what a caller passes; each raises an error that names argument, value, rule and
remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from snnsim._core.scalars import check_int as check_int
from snnsim._core.scalars import checked_bool as checked_bool
from snnsim._core.scalars import checked_float as checked_float
from snnsim._core.scalars import checked_number as checked_number
from snnsim._core.scalars import short
from snnsim.errors import InvalidTypeError, InvalidValueError, ShapeError


def check_tensor(where: str, name: str, value: object) -> None:
    """Raise unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise InvalidTypeError(
            f"{where}({name}={value!r}): {name} must be a tensor; wrap it in torch.as_tensor"
        )


# what counts time steps, classes and the like: the largest size that int32 indexes reach
MOST = 2**31 - 1


def check_module(where: str, name: str, value: object) -> None:
    """Raise unless `value` is a module."""
    if not isinstance(value, nn.Module):
        raise InvalidTypeError(
            f"{where}({name}={short(value)}): {name} must be a torch.nn.Module; pass the network"
        )


def check_iterable(where: str, name: str, value: object) -> None:
    """Raise unless one can iterate over `value`."""
    if not isinstance(value, Iterable) or (isinstance(value, Tensor) and not value.ndim):
        raise InvalidTypeError(
            f"{where}({name}={short(value)}): {name} must be a list or another iterable; wrap it in"
            " a list"
        )


def check_mapping(where: str, name: str, value: object) -> None:
    """Raise unless `value` is a mapping."""
    if not isinstance(value, Mapping):
        raise InvalidTypeError(
            f"{where}({name}={short(value)}): {name} must be a mapping; pass a dict"
        )


def check_callable(where: str, name: str, value: object) -> None:
    """Raise unless `value` can be called."""
    if not callable(value):
        raise InvalidTypeError(
            f"{where}({name}={short(value)}): {name} must be callable; pass a function"
        )


def check_generator(where: str, name: str, value: object) -> None:
    """Raise unless `value` is a source of randomness, or None."""
    if value is not None and not isinstance(value, torch.Generator):
        raise InvalidTypeError(
            f"{where}({name}={short(value)}): {name} must be a torch.Generator or None; pass"
            " torch.Generator().manual_seed(...)"
        )


def is_one_of(value: object, choices: Sequence[str]) -> bool:
    """True for one of these words."""
    return isinstance(value, str) and value in choices


def dense(where: str, name: str, x: Tensor) -> Tensor:
    """`x` with a place in memory for every value, where it has another layout, such as one of
    torch's sparse ones.
    """
    if x.is_nested:
        raise InvalidTypeError(
            f"{where}: {name} must be one tensor, got a nested one; pad its parts to one length, as"
            " with torch.nn.utils.rnn.pad_sequence"
        )
    return x if x.layout is torch.strided else x.to_dense()


def check_plain(where: str, name: str, x: Tensor) -> None:
    """Raise where the values of `x` are packed: sparse, nested or quantized by torch, which few of
    its functions take.
    """
    if x.is_nested:
        remedy = "to_padded_tensor(0.0)"
    elif x.is_quantized:
        remedy = "dequantize()"
    elif x.layout is not torch.strided:
        remedy = "to_dense()"
    else:
        return
    raise InvalidTypeError(
        f"{where}({name}, {x.layout} of {x.dtype}): {name} must be a plain tensor; pass"
        f" {name}.{remedy}"
    )


def check_sequence(where: str, name: str, x_seq: Tensor) -> None:
    """Raise unless `x_seq` is `[T, B, *n]` with at least one time step."""
    check_tensor(where, name, x_seq)
    check_plain(where, name, x_seq)
    if x_seq.ndim < 2 or len(x_seq) == 0:
        raise ShapeError(
            f"{where}({name} of shape {tuple(x_seq.shape)}): {name} must be [T, B, *n] with T >= 1;"
            " put time first and the batch second"
        )


def check_class_sequence(where: str, name: str, x_seq: Tensor) -> None:
    """Raise unless `x_seq` is `[T, B, C]`."""
    check_sequence(where, name, x_seq)
    if x_seq.ndim != 3:
        raise ShapeError(
            f"{where}({name} of shape {tuple(x_seq.shape)}): {name} must be [T, B, C], one neuron"
            " per class; flatten or pool the neurons of a class first"
        )


def check_shape(where: str, name: str, x: Tensor, shape: torch.Size) -> None:
    """Raise unless `x` is a tensor of this shape; nothing is broadcast."""
    check_tensor(where, name, x)
    check_plain(where, name, x)
    if x.shape != shape:
        raise ShapeError(
            f"{where}({name} of shape {tuple(x.shape)}): {name} must have shape {tuple(shape)}, and"
            " is not broadcast; expand or index it to that shape"
        )


def check_labels(where: str, labels: Tensor, num_classes: int) -> None:
    """Raise unless `labels` is `[B]` of an integer dtype and, where values can be looked at, in
    0..num_classes-1.
    """
    check_tensor(where, "labels", labels)
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise InvalidTypeError(
            f"{where}(labels of dtype {labels.dtype}): labels must be integers, one class index per"
            " sample; pass labels.long(), or one_hot.argmax(1) for one-hot labels"
        )
    if labels.ndim != 1:
        raise ShapeError(
            f"{where}(labels of shape {tuple(labels.shape)}): labels must be [B], one per sample;"
            " flatten them"
        )
    check_values(
        where,
        "labels",
        labels,
        (labels >= 0) & (labels < num_classes),
        f"within 0..{num_classes - 1}",
        "relabel them",
    )


def check_one_hot(where: str, label_one_hot: Tensor) -> None:
    """Raise unless `label_one_hot` is `[B, C]` and, where values can be looked at, one-hot with as
    many neurons for every class.
    """
    check_tensor(where, "label_one_hot", label_one_hot)
    if label_one_hot.ndim != 2:
        raise ShapeError(
            f"{where}(label_one_hot of shape {tuple(label_one_hot.shape)}): label_one_hot must be"
            " [B, C]; pass torch.nn.functional.one_hot(labels, num_classes)"
        )
    if torch.compiler.is_compiling() or not len(label_one_hot):
        return
    right = label_one_hot == 1
    classes = right.unflatten(1, (-1, _neurons_per_class(right)))
    valid = (
        ((label_one_hot == 0) | right).all(1)
        & (classes.any(2).sum(1) == 1)
        & (classes.all(2).sum(1) == 1)
    )
    if not valid.all():
        row = int((~valid).nonzero()[0])
        raise InvalidValueError(
            f"{where}(label_one_hot with row {row} = {label_one_hot[row].tolist()}): every row must"
            " be one 1 and otherwise 0; pass torch.nn.functional.one_hot(labels, num_classes), or"
            " redundant_one_hot(labels, num_classes, n) for n neurons per class"
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
            f"{where}({name} of dtype {x.dtype}): {name} must be floating, within 0..1; for 8-bit"
            " images pass images / 255"
        )
    check_values(where, name, x, (x >= 0) & (x <= 1), "within 0..1", "scale them first")


def check_values(where: str, name: str, x: Tensor, valid: Tensor, rule: str, remedy: str) -> None:
    """Raise and show the first value that is not `valid`; values are not looked at while
    compiling."""
    if torch.compiler.is_compiling() or bool(valid.all()):
        return
    wrong = x[~valid][0].item()
    raise InvalidValueError(
        f"{where}({name} with the value {wrong}): values of {name} must be {rule}; {remedy}"
    )


def wide(x: Tensor) -> Tensor:
    """`x` in the dtype its arithmetic runs in: float32 for half precision, else its own."""
    return x.float() if x.is_floating_point() and x.element_size() < 4 else x


def summable(where: str, name: str, x: Tensor) -> Tensor:
    """`x` in the dtype that its sums and means are taken in: half precision cannot count to 257 or
    to 2049.

    Floating inputs keep theirs, but are float32 at least; others have the default dtype, or float32
    where that is half precision.
    """
    check_real(where, name, x)
    return (
        wide(x)
        if x.is_floating_point()
        else x.to(torch.promote_types(torch.get_default_dtype(), torch.float32))
    )


def check_real(where: str, name: str, x: object) -> None:
    """Raise unless `x` is a tensor, and not a complex one."""
    check_tensor(where, name, x)
    if isinstance(x, Tensor) and x.is_complex():
        raise InvalidTypeError(
            f"{where}({name} of dtype {x.dtype}): {name} must be real; pass {name}.real or"
            f" {name}.abs()"
        )


def check_floating(where: str, name: str, x: object) -> None:
    """Raise unless `x` is a floating-point tensor."""
    check_real(where, name, x)
    if isinstance(x, Tensor) and not x.is_floating_point():
        raise InvalidTypeError(
            f"{where}({name} of dtype {x.dtype}): {name} must be floating point; convert it with"
            f" {name}.float()"
        )


def checked_numbers(where: str, name: str, value: object) -> Tensor:
    """`value` as a float64 tensor without a gradient: a number, a tensor, an array, or sequences of
    one length of them.
    """
    if isinstance(value, Tensor):
        check_real(where, name, value)
        return value.detach().to(torch.float64)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        value = [item.detach().cpu() if isinstance(item, Tensor) else item for item in value]
    if isinstance(value, bytes):
        raise _no_numbers(where, name, value)
    try:
        array = np.asarray(value)
        # of objects: fractions and large ints are numbers too, None and text are not
        if array.dtype.kind == "O" and all(hasattr(item, "__float__") for item in array.flat):
            return torch.from_numpy(array.astype(np.float64))
    except OverflowError as error:
        raise InvalidValueError(
            f"{where}({name}={short(value)}): {name} holds a number beyond every float; scale them"
            " down"
        ) from error
    except (TypeError, ValueError) as error:
        raise _no_numbers(where, name, value) from error
    if array.dtype.kind not in "biuf":
        raise _no_numbers(where, name, value)
    return torch.from_numpy(array.astype(np.float64))


def _no_numbers(where: str, name: str, value: object) -> InvalidTypeError:
    return InvalidTypeError(
        f"{where}({name}={short(value)}): {name} must hold numbers, in rows of one length; pass a"
        " number, a tensor, an array or a sequence of numbers"
    )
