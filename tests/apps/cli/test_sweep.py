"""`snnsim sweep`, as a user types it."""

import json
import re

import pytest

from snnsim import sweep
from snnsim.__main__ import main
from snnsim.apps import runs

pytestmark = pytest.mark.usefixtures("without_data")

COMMON = ["--hidden", "8", "--time-steps", "3", "--epochs", "2", "--seeds", "1"]
GRID = [
    "--state-bits",
    "2",
    "float",
    "--weight-bits",
    "4",
    "float",
    "--codebook",
    "uniform",
    "learned",
]
FILES = {"sweep.json", "runs", "results.csv", "summary.md", "bits_accuracy.png"}


def command(out, *arguments):
    return main(["sweep", "--out", str(out), *COMMON, *map(str, arguments)])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "out"
    assert command(out, *GRID) == 0
    return out


def test_writes_a_line_for_each_run_a_table_and_a_picture(tmp_path, capsys):
    assert command(tmp_path / "out", *GRID, "--within", "100") == 0
    text = capsys.readouterr().out
    assert text.startswith("6 runs, 0 of them finished before\n")
    assert (
        len(
            re.findall(
                r"^\d/6  .* (?:states), .* weights, seed 0: \d+\.\d+%  \(\d+ s\)$",
                text,
                re.MULTILINE,
            )
        )
        == 6
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert (tmp_path / "out" / "bits_accuracy.png").read_bytes().startswith(b"\x89PNG")
    runs = sweep.read_csv(tmp_path / "out" / "results.csv")
    assert len(runs) == 6
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert summary in text
    answer = re.search(
        r"^Smallest within 100 points of float: 2-bit (?:uniform|learned) states, 4-bit weights:"
        r" \d+\.\d+% \([+-]\d+\.\d\d\), "
        r"5 bytes of state and ([\d,]+) of weights\.$",
        summary,
        re.MULTILINE,
    )
    assert answer is not None
    # 592 weights of 4 bits, 18 biases and a scale for each of 2 layers or 18 channels
    assert 592 // 2 + 18 * 4 <= int(answer[1].replace(",", "")) <= 592 // 2 + 18 * 8 + 64
    for name in ("results.csv", "summary.md", "bits_accuracy.png"):
        assert str(tmp_path / "out" / name) in text


def test_the_same_command_goes_on_and_more_seeds_extend_it(done, capsys):
    lost = next((done / "runs").iterdir())
    content = json.loads(lost.read_text())
    lost.unlink()
    assert command(done, *GRID) == 0
    assert "6 runs, 5 of them finished before\n1/1  " in capsys.readouterr().out
    assert json.loads(lost.read_text())["accuracy"] == content["accuracy"]
    assert command(done, *GRID) == 0
    assert "6 runs, 6 of them finished before\n\nwrote" in capsys.readouterr().out
    assert command(done, "--state-bits", "float", "--seeds", "2") == 0
    assert "2 runs, 1 of them finished before" in capsys.readouterr().out
    assert len(sweep.read_csv(done / "results.csv")) == 7


def test_rerun_makes_a_run_again_from_its_line(done, capsys):
    line = sweep.read_csv(done / "results.csv").iloc[2]
    # other options do not matter: the line has them all
    assert main(["sweep", "--out", str(done), "--rerun", line.config_hash, "--hidden", "99"]) == 0
    assert (
        capsys.readouterr().out == f"{line.config_hash}: the same, accuracy {line.accuracy:.2%}\n"
    )


def test_rerun_shows_what_differs(done, capsys):
    path = next((done / "runs").iterdir())
    content = path.read_text()
    row = json.loads(content)
    path.write_text(json.dumps({**row, "accuracy": 0.123, "torch": "0.4.1"}))
    try:
        assert main(["sweep", "--out", str(done), "--rerun", path.stem]) == 1
    finally:
        path.write_text(content)
    text = capsys.readouterr().out
    assert f"{path.stem}: accuracy 0.123, now {row['accuracy']!r}" in text
    assert f"made with another torch: 0.4.1, here {row['torch']}" in text


def test_report_of_a_csv_is_that_of_its_sweep(done, tmp_path, capsys):
    assert command(done, *GRID) == 0
    capsys.readouterr()
    out = tmp_path / "report"
    assert (
        main(["sweep", "--report", str(done / "results.csv"), "--out", str(out), "--lowest", "5"])
        == 0
    )
    assert (out / "summary.md").read_text() == (done / "summary.md").read_text()
    assert {path.name for path in out.iterdir()} == {"summary.md", "bits_accuracy.png"}
    assert f"wrote {out / 'summary.md'}" in capsys.readouterr().out
    # beside the file unless told otherwise
    (done / "results.csv").rename(out / "mine.csv")
    assert main(["sweep", "--report", str(out / "mine.csv")]) == 0
    assert {path.name for path in out.iterdir()} == {"mine.csv", "summary.md", "bits_accuracy.png"}


def test_without_float_runs_it_asks_for_them(tmp_path, capsys):
    assert command(tmp_path / "out", "--state-bits", "2") == 0
    assert (
        "No float run to compare with; add float to --state-bits and --weight-bits."
        in capsys.readouterr().out
    )


def test_failed_runs_are_listed_at_the_end(tmp_path, capsys, monkeypatch):
    from snnsim.errors import EngineError

    def failing(*arguments):
        raise EngineError("no engine today")

    monkeypatch.setattr(runs, "train_row", failing)
    assert command(tmp_path / "out", "--state-bits", "2") == 1
    text = capsys.readouterr().out
    assert text.endswith(
        "1 runs failed; the same command makes them again:\nuniform 2-bit states, float weights,"
        " seed 0: no engine today\n"
    )
    assert not (tmp_path / "out" / "results.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "mnist"], "--data DIR"),
        (["--dataset", "mnist", "--data", "/no/such/folder"], "/no/such/folder"),
        (["--codebook", "calibrated"], "set float_epochs to 1 or more"),
        (["--float-epochs", "2"], "must be fewer than the epochs"),
        (["--backend", "dask"], "backend 'dask' needs the address of its scheduler"),
        (["--address", "tcp://127.0.0.1:8786"], "no other back-end takes one"),
        (["--rerun", "0123456789ab"], "no sweep at"),
        (["--report", "/no/such/results.csv"], "no file /no/such/results.csv"),
        (["--tau", "0.5"], "tau is in time steps and must be > 1"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_written(tmp_path, capsys, arguments, message):
    assert command(tmp_path / "out", *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_there_and_a_sweep_of_another_configuration(done, capsys):
    assert main(["sweep", "--out", str(done), "--rerun", "0123456789ab"]) == 2
    assert "--rerun 0123456789ab: no such run in" in capsys.readouterr().err
    assert command(done, "--tau", "5") == 2
    assert (
        "is the sweep of another configuration: tau is 3.0 there and 5.0 here"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "0"], "'0' is not a whole number in 1..1024"),
        (
            ["--jobs", "99999999999999999999"],
            "'99999999999999999999' is not a whole number in 1..1024",
        ),
        (["--threads", "1025"], "argument --threads: '1025' is not a whole number in 1..1024"),
        (["--out", ""], "argument --out: '' names no folder; for the one you are in give ."),
        (["--data", ""], "argument --data: '' names no folder"),
        (["--out", "~nobody-of-this-name/x"], "argument --out: '~nobody-of-this-name/x': "),
        (["--within", "-1"], "'-1' is not a number of points of at least 0"),
        (["--within", "much"], "'much' is not a number of points of at least 0"),
        (["--lowest", "100"], "'100' is not a number of percent of at least 0 and below 100"),
        (["--state-bits", "17"], "'17' is neither a whole number in 1..16 nor 'float'"),
        (
            ["--weight-bits", "9"],
            "'9' is neither a whole number in 1..8 nor 'float' or 'float32' or 'binary' (1) or"
            " 'ternary' (2)",
        ),
        (["--float-epochs", "-1"], "'-1' is not a whole number in 0..2147483647"),
        (["--codebook", "best"], "invalid choice: 'best'"),
        (["--backend", "ray"], "invalid choice: 'ray'"),
    ],
)
def test_typing_errors_are_explained(capsys, arguments, message):
    with pytest.raises(SystemExit) as exit:
        main(["sweep", *arguments])
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_help_shows_defaults_as_they_are_typed(capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "bits of a neuron state, 1..16, or float (default: 1 2 3 4 8 float)" in text
    assert "(default: None)" not in text
