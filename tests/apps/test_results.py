import dataclasses
import math

import pytest

from snnsim.errors import DataError, InvalidValueError, MissingDataError
from snnsim.sweep import (
    Store,
    config_hash,
    config_of,
    draw,
    frame,
    grid,
    read_csv,
    smallest,
    summary,
    table,
)
from snnsim.training import Config


def row(bits, accuracy, seed=0, *, weight_bits=None, codebook="uniform", **options):
    config = Config(
        bits=bits,
        weight_bits=weight_bits,
        codebook="uniform" if bits is None else codebook,
        seed=seed,
        **options,
    )
    return {
        "config": dataclasses.asdict(config),
        "config_hash": config_hash(config),
        "accuracy": accuracy,
        "loss": 0.1,
        "firing_rate": 0.2,
        "state_bytes": 10 * (bits or 32),
        "weight_bytes": 1000 * (weight_bits or 32),
        "warning": "",
        "snnsim": "0.1.0",
        "threads": 1,
        "data": "0123456789ab",
    }


ROWS = [
    row(None, 0.980, 0),
    row(None, 0.984, 1),
    row(4, 0.980, 0),
    row(4, 0.982, 1),
    row(4, 0.979, weight_bits=4),
    row(2, 0.977, codebook="learned"),
    row(2, 0.970),
    row(1, 0.700),
]


def test_a_line_for_each_run_in_the_order_of_widths():
    runs = frame(ROWS)
    assert list(runs.columns[:8]) == [
        "codebook",
        "state_bits",
        "weight_bits",
        "seed",
        "accuracy",
        "firing_rate",
        "state_bytes",
        "weight_bytes",
    ]
    assert list(zip(runs.codebook, runs.state_bits, runs.weight_bits, runs.seed, strict=True)) == [
        ("uniform", "4", "4", 0),
        ("float", "float", "float", 0),
        ("float", "float", "float", 1),
        ("learned", "2", "float", 0),
        ("uniform", "1", "float", 0),
        ("uniform", "2", "float", 0),
        ("uniform", "4", "float", 0),
        ("uniform", "4", "float", 1),
    ]
    assert (runs.bytes == runs.state_bytes + runs.weight_bytes).all()
    with pytest.raises(InvalidValueError, match="no run is finished; let the sweep run first"):
        frame([])


def test_a_csv_comes_back_and_every_line_names_its_configuration(tmp_path):
    runs = frame([*ROWS, row(3, 0.5, hard_reset=True, tau=2.5, dataset="mnist", network="conv")])
    runs.to_csv(tmp_path / "results.csv", index=False)
    again = read_csv(tmp_path / "results.csv")
    assert again.to_dict("records") == runs.to_dict("records")
    for _, line in again.iterrows():
        config = config_of(line)
        assert config_hash(config) == line.config_hash
        assert [type(value) for value in dataclasses.astuple(config)] == [
            type(value) for value in dataclasses.astuple(Config(**dataclasses.asdict(config)))
        ]
    assert dataclasses.asdict(config_of(again.iloc[0])) == ROWS[4]["config"]


@pytest.mark.parametrize(
    "content", ["", "a,b\n1,2\n", b"\xff\xfe\x00\x00", "codebook,state_bits\nuniform,2\n"]
)
def test_what_is_no_table_of_runs(tmp_path, content):
    path = tmp_path / "results.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(
        DataError, match=r"is no table of runs.*; name the results.csv that a sweep wrote"
    ):
        read_csv(path)
    with pytest.raises(MissingDataError, match=r"no file .*; name the results.csv"):
        read_csv(tmp_path / "none.csv")


def test_summary_over_seeds():
    results = summary(frame(ROWS)).set_index(["codebook", "state_bits", "weight_bits"])
    four = results.loc["uniform", "4", "float"]
    assert four.accuracy == pytest.approx(0.981)
    assert four.deviation == pytest.approx(0.001 * math.sqrt(2))
    assert four.against_float == pytest.approx(-0.001)
    assert (four.seeds, four.bytes) == (2, 32040)
    assert math.isnan(results.loc["learned", "2", "float"].deviation)
    # by hand: 4040 bytes reach .979, 32040 reach .981, 32320 reach .982; the others reach less than
    # .979
    assert sorted(results.index[results.pareto]) == [
        ("float", "float", "float"),
        ("uniform", "4", "4"),
        ("uniform", "4", "float"),
    ]


def test_summary_compares_with_float_states_and_weights_alone():
    results = summary(frame([row(4, 0.9), row(None, 0.95, weight_bits=4)]))
    assert results.against_float.isna().all()
    assert smallest(results, 0.5) is None
    assert "| 90.00 % |  |" in table(results)


@pytest.mark.parametrize("options", [{"dataset": "mnist"}, {"network": "conv"}])
def test_networks_are_not_mixed(options):
    with pytest.raises(
        InvalidValueError, match=f"of more than one {next(iter(options))} .*; take them one by one"
    ):
        summary(frame([*ROWS, row(4, 0.5, **options)]))


@pytest.mark.parametrize(
    ("within", "expected"),
    [
        (0.0, ("float", "float", "float")),
        (0.05, ("float", "float", "float")),
        # 98.1 against 98.2: exactly
        (0.1, ("uniform", "4", "float")),
        (0.5, ("uniform", "4", "4")),
    ],
)
def test_the_smallest_within_a_loss(within, expected):
    best = smallest(summary(frame(ROWS)), within)
    assert (best.codebook, best.state_bits, best.weight_bits) == expected


def test_of_equally_small_ones_the_better():
    best = smallest(
        summary(frame([entry for entry in ROWS if entry["config"]["weight_bits"] is None])), 1.3
    )
    assert (best.codebook, best.state_bits) == ("learned", "2")


@pytest.mark.parametrize("within", [-0.1, math.nan, math.inf])
def test_within_is_checked(within):
    with pytest.raises(
        InvalidValueError, match=r"smallest\(within=.*\): must be a number of points, at least 0"
    ):
        smallest(summary(frame(ROWS)), within)


def test_the_table_is_markdown():
    lines = table(summary(frame(ROWS))).splitlines()
    assert lines[0].startswith("| codebook | state bits | weight bits | accuracy |")
    assert len({line.count("|") for line in lines}) == 1
    assert "| uniform | 4 | float | 98.10 ± 0.14 % * | -0.10 | 40 | 32,000 | 2 |" in lines


def test_the_grid_has_a_column_for_each_width():
    assert grid(summary(frame(ROWS))).splitlines() == [
        "| weights | states | 1 bit | 2 bits | 4 bits | float |",
        "|---|---|---|---|---|---|",
        "| float | learned |  | 97.70 |  | 98.20 ± 0.28 |",
        "| float | uniform | 70.00 | 97.00 | 98.10 ± 0.14 | 98.20 ± 0.28 |",
        "| 4 bits | uniform |  |  | 97.90 |  |",
    ]
    assert grid(summary(frame(ROWS[:1]))).splitlines()[2:] == ["| float | float | 98.00 |"]


def legend_of(ax):
    """Names, and the color of each."""
    handles, names = ax.get_legend_handles_labels()
    return names, [
        handle.lines[0].get_color() if hasattr(handle, "lines") else handle.get_color()
        for handle in handles
    ]


def test_the_picture_shows_every_point(tmp_path):
    figure = draw(frame(ROWS))
    size, width = figure.axes
    assert size.get_xlabel() == "bytes of state and weights"
    assert size.get_xscale() == "log"
    assert width.get_xlabel() == "bits of a neuron state, float weights"
    names = {text.get_text() for text in size.get_legend().get_texts()}
    assert {
        "uniform",
        "learned",
        "float states",
        "float states and weights",
        "Pareto front",
    } <= names
    # a codebook looks the same in both panels
    colors = [dict(zip(*legend_of(ax), strict=True)) for ax in figure.axes]
    assert (
        colors[0]["uniform"] == colors[1]["uniform"] != colors[0]["learned"] == colors[1]["learned"]
    )
    low, high = size.get_ylim()
    assert low < 0.70 < 0.984 < high
    figure.savefig(tmp_path / "bits.png")
    cut = draw(frame(ROWS), lowest=0.96)
    assert [ax.get_ylim()[0] for ax in cut.axes] == [pytest.approx(0.96)] * 2


def test_without_float_weights_there_is_no_picture_of_widths():
    figure = draw(frame([row(4, 0.9, weight_bits=2), row(2, 0.8, weight_bits=2)]))
    assert len(figure.axes) == 1


def test_the_folder_of_a_sweep_is_a_frame(tmp_path):
    store = Store(tmp_path / "sweep")
    store.begin(Config())
    for entry in ROWS:
        store.add(entry)
    assert frame(store.rows()).to_dict("records") == frame(ROWS).to_dict("records")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"config": None},
            (
                r"frame\(rows\): the one at 1 is not a run of a sweep, which has config, accuracy,"
                r" firing_rate"
            ),
        ),
        ({"config": {}, "accuracy": "high"}, "its accuracy is 'high'"),
        (
            {"config": {"spin": 1}},
            "has options that this version does not know, spin; use snnsim 0.1.0",
        ),
        ({"config": {"hidden": -1}}, "holds no sound configuration"),
        ({"accuracy": 1.5}, "its accuracy is 1.5"),
        ({"accuracy": math.nan}, "its accuracy is nan"),
        ({"firing_rate": True}, "its firing_rate is True"),
        ({"loss": -1.0}, "its loss is -1.0"),
        ({"state_bytes": 2.5}, "its state_bytes is 2.5"),
        ({"weight_bytes": None}, "its weight_bytes is None"),
    ],
)
def test_rows_that_no_run_leaves_are_refused_with_a_reason(changes, message):
    with pytest.raises(DataError, match=message):
        frame([ROWS[0], {**ROWS[1], **changes}])
    for wrong in ({"accuracy": 0.9, "loss": 0.1}, 3, None, "text", []):
        with pytest.raises(DataError, match="is not a run of a sweep"):
            frame([wrong])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("accuracy", "high", "its accuracy are not all numbers"),
        ("state_bits", "wide", "'wide' are no state_bits"),
        ("seed", "inf", "its seed"),
    ],
)
def test_a_table_with_a_wrong_value_is_refused(tmp_path, column, value, message):
    runs = frame(ROWS).astype({column: object})
    runs.loc[0, column] = value
    runs.to_csv(tmp_path / "results.csv", index=False)
    with pytest.raises(DataError, match=message):
        read_csv(tmp_path / "results.csv")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 2.5}, "must be an int"),
        ({"hard_reset": "False"}, "hard_reset"),
        ({"state_bits": "wide"}, "bits"),
        ({"dataset": "cifar"}, "dataset"),
    ],
)
def test_a_line_with_a_wrong_option_is_refused(changes, message):
    line = frame(ROWS).iloc[0].to_dict()
    with pytest.raises(DataError, match=message):
        config_of({**line, **changes})
    del line["tau"]
    with pytest.raises(DataError, match="it lacks tau"):
        config_of(line)
