"""`snnsim bench`, as a user types it."""

import pytest

from bench import cli
from bench.plan import full_plan, quick_plan
from bench.results import Results, Saved, Timing
from bench.training import STEP
from snnsim.__main__ import main
from snnsim.apps.cli.options import build_parser


@pytest.mark.slow
def test_quick_run_measures_everything_and_writes_its_files(tmp_path, capsys):
    assert main(["bench", "--quick", "--rounds", "2", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "candidates agree with the reference bit for bit" in out
    for line in (
        "processor",
        "torch",
        "Targets",
        "8x2000, forward+backward, 1 thread",
        "Memory, bytes per neuron and step",
    ):
        assert line in out
    assert {path.name for path in tmp_path.iterdir()} == {
        "benchmarks.json",
        "benchmarks.md",
        "benchmarks.png",
    }
    results = Results.load(tmp_path / "benchmarks.json")
    assert {t.work for t in results.timings} == {
        "8x2000",
        "1x1000",
        "64-64-10, T=5, B=32, 10% input",
    }
    assert {len(t.samples) for t in results.timings} == {2}
    # the page can be made again from the numbers alone
    page = (tmp_path / "benchmarks.md").read_text()
    assert (
        main(
            [
                "bench",
                "--report",
                str(tmp_path / "benchmarks.json"),
                "--out",
                str(tmp_path / "again"),
            ]
        )
        == 0
    )
    assert (tmp_path / "again" / "benchmarks.md").read_text() == page
    assert (tmp_path / "again" / "benchmarks.png").is_file()
    assert not (tmp_path / "again" / "benchmarks.json").exists()


def plan_of(*arguments):
    return cli.plan_of(build_parser().parse_args(["bench", *arguments]))


def test_options_change_the_plan():
    assert plan_of() == full_plan()
    assert plan_of("--quick") == quick_plan()
    plan = plan_of(
        "--shapes",
        "3x5",
        "1x7",
        "--threads",
        "4",
        "--rounds",
        "9",
        "--only",
        "plain",
        "snnsim float",
        "--parts",
        "neurons",
    )
    assert plan.shapes == ((3, 5), (1, 7))
    assert plan.threads == (4,)
    assert plan.rounds == 9
    assert plan.names == ("snnsim float", "plain loop")
    assert plan.parts == ("neurons",)


def test_a_report_of_what_the_options_choose(tmp_path, capsys):
    timings = [
        Timing(work, what, name, threads, "returned", (1.0, 2.0), 1.0)
        for work, what in (("16x1000", "forward"), ("1x1000", "forward"), ("784-10", STEP))
        for name in ("snnsim float", "plain loop")
        for threads in (1, 2)
    ]
    path = Results(timings=timings, saved=[Saved("plain loop", 4.0)]).save(
        tmp_path / "benchmarks.json"
    )

    def titles(*options):
        assert main(["bench", "--report", str(path), "--out", str(tmp_path / "out"), *options]) == 0
        return [
            line
            for line in capsys.readouterr().out.splitlines()
            if line.endswith((" thread", " threads")) or "Memory" in line
        ]

    everything = titles()
    assert len(everything) == 7
    assert titles("--shapes", "16x1000", "--threads", "2") == ["16x1000, forward, 2 threads"]
    assert titles("--parts", "training", "--threads", "1") == [f"784-10, {STEP}, 1 thread"]
    assert titles("--parts", "memory") == [everything[-1]]
    assert (
        main(
            [
                "bench",
                "--report",
                str(path),
                "--out",
                str(tmp_path / "out"),
                "--only",
                "plain",
                "--parts",
                "neurons",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "plain loop" in out
    assert "snnsim float" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shapes", "16"], "'16' is not of the form TxN, such as 16x1000000"),
        (["--shapes", "0x5"], "at least 1 each"),
        (["--shapes", "1x2x3"], "not of the form TxN"),
        (["--threads", "0"], "'0' is not a whole number in 1..1024"),
        (["--rounds", "many"], "'many' is not a whole number in 1..2147483647"),
        (["--parts", "gpu"], "invalid choice: 'gpu'"),
    ],
)
def test_wrong_options_are_refused_by_the_parser(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nobody"], "only='nobody': no candidate begins with that"),
        (["--report", "/no/such/file.json"], "/no/such/file.json: no such file"),
    ],
)
def test_mistakes_end_with_a_message_and_status_2(tmp_path, capsys, arguments, message):
    assert main(["bench", "--out", str(tmp_path), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_an_unwritable_output_shows_before_the_work(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["bench", "--out", str(tmp_path / "file" / "run")]) == 2
    captured = capsys.readouterr()
    assert "cannot be written" in captured.err
    assert captured.out == ""


def test_a_run_that_fails_leaves_the_results_of_the_last(tmp_path, monkeypatch, capsys):
    path = Results(saved=[Saved("a", 1.0)]).save(tmp_path / "benchmarks.json")

    def interrupted(plan, say, keep):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_plan", interrupted)
    assert main(["bench", "--out", str(tmp_path)]) == 130
    assert Results.load(path).saved == [Saved("a", 1.0)]
