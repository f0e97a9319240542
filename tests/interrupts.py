"""Ctrl-C at every line of the package that a call comes by."""

import sys
from pathlib import Path

import snnsim

PACKAGE = str(Path(snnsim.__file__).parent)


def interrupted(call, line, beneath=PACKAGE):
    """Whether `call` was ended by an interrupt at that line of the package, the first one being
    1."""
    count = 0

    def tracer(frame, event, argument):
        nonlocal count
        # what a destructor raises is ignored
        destroys = "__del__" in (frame.f_code.co_name, frame.f_back and frame.f_back.f_code.co_name)
        if destroys or not frame.f_code.co_filename.startswith(beneath):
            return None
        if event == "line":
            count += 1
            if count == line:
                raise KeyboardInterrupt
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def lines_that_break(call, is_intact, beneath=PACKAGE):
    """The lines at which an interrupt of `call` leaves behind what `is_intact` does not accept;
    `call` comes by at least one.
    """
    line, broken = 1, []
    while interrupted(call, line, beneath):
        if not is_intact():
            broken.append(line)
        line += 1
    assert line > 1
    return broken
