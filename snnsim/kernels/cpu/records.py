"""What a kernel is told: one record with named fields for every call."""

from __future__ import annotations

import ctypes
from typing import Any

from torch import Tensor

# what every record begins with: blocks taken, threads that hold a slot, and threads that have begun
# and not come to the end
HEADER = ("counter", "tickets", "unfinished")


def record_kind(integers: str, numbers: str = "") -> type[Any]:
    """A kind of record: HEADER, then fields for integers and addresses, then for numbers, eight
    bytes each. A field that it has not cannot be set.
    """
    fields: list[tuple[str, Any]] = [
        (name, ctypes.c_int64) for name in (*HEADER, *integers.split())
    ]
    fields += [(name, ctypes.c_double) for name in numbers.split()]
    return type("Record", (ctypes.Structure,), {"_fields_": fields, "__slots__": ()})


def fill(kind: type[Any], **fields: Any) -> Any:
    """A record of numbers and of the addresses of tensors, which the caller keeps; all else is
    0.
    """
    record = kind()
    for name, value in fields.items():
        setattr(record, name, value.data_ptr() if isinstance(value, Tensor) else value)
    return record


FORWARD = record_kind(
    "time_steps size block x x_stride start start_stride out last codes code_bytes"
    " edges emitted carry after levels channels inner divisor divisors mark nan"
    " bins num_bins low_bin shift",
    "low high origin inverse",
)
BACKWARD = record_kind(
    "time_steps size block grad_out grad_out_stride start start_stride codes code_bytes"
    " grad state d_out d_carry d_after levels channels inner divisor divisors mark"
)
HISTOGRAM = record_kind(
    "time_steps size block weights weights_stride codes code_bytes sums levels channels inner"
    " mark nan marked"
)
PRODUCT = record_kind(
    "time_steps size block grad grad_stride x x_stride start start_stride sums of_state hard",
    "threshold reset rest",
)
LINEAR = record_kind(
    "time_steps size block x x_stride start start_stride above above_stride slopes slopes_stride"
    " out out_stride state operations num_operations constants num_constants result leaks hard"
    " detach",
    "threshold reset tau rest divisor",
)
