"""A command as a process: pipes, terminals, disks and keys end it in one line, with the right exit
status.
"""

import os
import re
import signal
import subprocess
import sys

import pytest

from snnsim.__main__ import is_out_of_memory, main
from snnsim.apps.cli.options import COMMANDS
from snnsim.training import Config, Training, load_datasets

SMALL = ["--hidden", "8", "--time-steps", "2", "--epochs", "1", "--batch-size", "512"]
TRAIN = ["train", *SMALL, "--out", "o"]
NO_TORCH = {"torch", "sklearn", "matplotlib", "numba", "pandas", "joblib"}
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX")


def environment(**extra):
    return {**os.environ, "OMP_NUM_THREADS": "1", **extra}


def command(*arguments, cwd, python=(), env=(), **options):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(
        [sys.executable, *python, "-m", "snnsim", *map(str, arguments)],
        cwd=cwd,
        env=environment(**dict(env)),
        text=True,
        encoding="utf-8",
        errors="replace",
        **streams,
    )


def one_line(done):
    """The only line of standard error."""
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The checkpoint of a `snnsim train` with the options SMALL."""
    config = Config(hidden=8, time_steps=2, epochs=1, batch_size=512)
    training = Training(config, *load_datasets(config, None), progress=False)
    training.run_epoch()
    path = tmp_path_factory.mktemp("digits") / "checkpoint.pt"
    training.save(path)
    return path


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)],
    ids=" ".join,
)
def test_help_needs_no_torch(arguments, tmp_path):
    done = command(*arguments, cwd=tmp_path, python=("-X", "importtime"))
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert not NO_TORCH & imported


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"{name} {help}" in text for name, (help, *_) in COMMANDS.items())


@posix
@pytest.mark.parametrize("arguments", [["doctor"], ["--help"], ["--version"]], ids=" ".join)
def test_a_pipe_that_closes_early_ends_a_command_quietly(arguments, tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = command(*arguments, cwd=tmp_path, stdout=write)
    os.close(write)
    assert done.stderr == ""
    # argparse looks away where its own text is refused at once, which an unbuffered stream does
    assert done.returncode in ((141,) if arguments == ["doctor"] else (0, 141))


@posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_output_that_a_full_disk_refuses(tmp_path):
    with open("/dev/full", "w") as full:
        done = command("doctor", cwd=tmp_path, stdout=full)
    assert done.returncode == 2
    assert one_line(done).startswith("snnsim doctor: ")


@posix
@pytest.mark.parametrize("closed", ["1", "2"], ids=["output", "errors"])
def test_a_stream_that_was_never_open(closed, tmp_path):
    line = f"exec {sys.executable} -m snnsim train {' '.join(SMALL)} --out o {closed}>&-"
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@posix
def test_a_name_that_standard_output_cannot_encode_is_escaped(tmp_path):
    env = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = command("train", *SMALL, "--out", "o-é", cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^wrote o-(\\\w+)+/checkpoint\.pt", done.stdout, re.MULTILINE)


@posix
@pytest.mark.parametrize("size", [1024, 8192, 65536])
def test_a_file_that_may_not_grow_is_an_output_error(size, tmp_path):
    import resource

    limit = (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    arguments = ["train", *SMALL, "--hidden", "800", "--out", "o"]
    done = command(
        *arguments,
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert done.returncode == 2
    assert re.match(
        r"snnsim train: .* cannot be written \(File too large\); pick a folder", one_line(done)
    )
    assert not any(tmp_path.glob("o/*"))


def test_pictures_need_no_back_end_of_the_user(tmp_path):
    done = command(*TRAIN, cwd=tmp_path, env={"MPLBACKEND": "nonsense"})
    assert (done.returncode, done.stderr) == (0, "")


@posix
@pytest.mark.parametrize("name", ["train", "sweep", "demo", "bench"])
def test_an_out_that_cannot_be_written_is_named_as_the_option_before_any_work(name, tmp_path):
    (tmp_path / "file").touch()
    done = command(name, "--out", "file/out", cwd=tmp_path)
    assert done.returncode == 2
    assert (
        one_line(done)
        == f"snnsim {name}: --out file/out: cannot be written (Not a directory); pick a folder that"
        " you may write to"
    )
    assert done.stdout == ""


def test_progress_bars_stay_out_of_a_log_file(tmp_path):
    done = command(*TRAIN, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@posix
def test_an_interrupt_while_torch_is_imported_ends_at_once(tmp_path):
    arguments = [sys.executable, "-X", "importtime", "-m", "snnsim", *TRAIN]
    with subprocess.Popen(
        arguments,
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        for line in process.stderr:
            if line.rpartition("|")[2].strip().startswith("torch."):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert rest.endswith("snnsim: interrupted\n")


@posix
def test_an_interrupt_while_training_ends_in_one_line(tmp_path):
    arguments = [sys.executable, "-m", "snnsim", "train", *SMALL, "--epochs", "10000", "--out", "o"]
    with subprocess.Popen(
        arguments,
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        error = process.communicate()[1]
    assert (process.returncode, error) == (130, "snnsim train: interrupted\n")
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["checkpoint.pt"]


@posix
def test_a_folder_that_another_run_writes_to_is_refused_until_that_is_killed(tmp_path):
    arguments = [sys.executable, "-m", "snnsim", "train", *SMALL, "--epochs", "10000", "--out", "o"]
    with subprocess.Popen(
        arguments, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        for name in ("train", "sweep", "demo"):
            done = command(name, "--out", "o", cwd=tmp_path)
            assert done.returncode == 2
            assert (
                "--out o: another run is writing there; wait for its end, or give another --out"
                in one_line(done)
            )
        process.kill()
    (tmp_path / "o" / ".0123456789abcdef.partial").touch()
    done = command("train", *SMALL, "--overwrite", "--out", "o", cwd=tmp_path)
    assert done.returncode == 0
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        *("checkpoint.pt", "learning_curve.png", "membranes.png", "summary.json")
    }


def test_sizes_that_no_memory_holds_end_in_one_line(tmp_path, capsys):
    arguments = ["train", *SMALL, "--hidden", str(2**31 - 1), "--out", str(tmp_path / "o")]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("snnsim train: there is not enough memory (")
    assert not (tmp_path / "o").exists()


def test_other_errors_of_the_library_are_no_want_of_memory():
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("expected a tensor"))


def test_a_machine_that_refuses_is_told_in_one_line(tmp_path, capsys, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied", "images")

    monkeypatch.setattr("snnsim.apps.cli.train.load_datasets", refuse)
    assert main(["train", "--out", str(tmp_path / "o")]) == 2
    assert capsys.readouterr().err == "snnsim train: [Errno 13] Permission denied: 'images'\n"
