import os
import shutil

import numpy as np
import pytest
from deploy.networks import example

from snnsim.deploy import board as boards
from snnsim.deploy import preset_network, verify
from snnsim.deploy.ops.chips import LoihiLIF
from snnsim.errors import RunError

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@needs_compiler
@pytest.mark.parametrize("name", ["dense", "static", "residual"])
def test_outputs_and_codes_are_those_of_the_definition(name):
    _, integer, x = example(name)
    with boards.host_program(integer) as program:
        outputs, codes = program.run(integer._sequence(x))
    expected, traces = integer.trace(x)
    assert np.array_equal(outputs, expected.numpy())
    assert codes.keys() == traces.keys()
    assert all(np.array_equal(codes[name], trace.codes) for name, trace in traces.items())


@needs_compiler
def test_what_was_written_is_what_is_compiled(tmp_path):
    _, integer, x = example("dense")
    integer.to_c(tmp_path / "c", "tiny")
    source = tmp_path / "c" / "tiny.c"
    source.write_text(source.read_text().replace("output[n] = ", "output[n] = 1u ^ "))
    with boards.host_program(integer, tmp_path / "c") as program:
        outputs, _ = program.run(integer._sequence(x))
    assert np.array_equal(outputs, 1 - integer(x).numpy())


def test_a_machine_without_a_compiler(tmp_path, monkeypatch):
    _, integer, _ = example("dense")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert boards.why_no_program(integer) == "there is no C compiler, cc, on the path"


def test_a_compiler_that_is_only_a_name(tmp_path, monkeypatch):
    (tmp_path / "cc").write_text("#!/bin/sh\necho 'no developer tools were found' >&2\nexit 1\n")
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = boards.why_no_program(example("dense")[1])
    assert "makes no program that runs" in reason
    assert "no developer tools were found" in reason


@needs_compiler
def test_a_compiler_that_tells_no_version(tmp_path, monkeypatch):
    real = shutil.which("cc")
    (tmp_path / "cc").write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit 1\nexec {real} "$@"\n')
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    net, integer, x = example("dense")
    certificate = verify(net, integer, [x])
    assert certificate.exact
    assert certificate.c == f"compared, compiled by {tmp_path / 'cc'}, which tells no version"


@needs_compiler
def test_a_folder_without_c(tmp_path):
    net, integer, x = example("dense")
    with pytest.raises(
        RunError, match=r"holds no C source; name the folder that IntegerNetwork\.to_c wrote"
    ):
        verify(net, integer, [x], tmp_path)


def test_a_network_without_c():
    network = preset_network([(np.ones((2, 3), np.int64) * 2, LoihiLIF(du=0, dv=0, vth=1))])
    assert (
        "'0' is a layer of LoihiLIF, and C is generated for lowered networks"
        in boards.why_no_program(network)
    )


@needs_compiler
def test_a_source_that_does_not_compile(tmp_path):
    _, integer, _ = example("dense")
    integer.to_c(tmp_path / "c")
    (tmp_path / "c" / "snn.c").write_text("#error of no use\n")
    with (
        pytest.raises(RunError, match=r"cc failed with status 1: .*of no use"),
        boards.host_program(integer, tmp_path / "c"),
    ):
        pass


@needs_compiler
def test_a_program_that_stops_early(tmp_path):
    _, integer, x = example("dense")
    integer.to_c(tmp_path / "c")
    main = tmp_path / "c" / "main.c"
    text = main.read_text()
    for instead, message in (
        ("return 3;", r"failed with status 3"),
        ("return 0;", r"wrote 0 bytes instead of 1323"),
    ):
        main.write_text(text.replace("for (sample = 0;", f"{instead} for (sample = 0;"))
        with (
            boards.host_program(integer, tmp_path / "c") as program,
            pytest.raises(RunError, match=message),
        ):
            program.run(integer._sequence(x))
