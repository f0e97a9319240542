from matplotlib.collections import PathCollection

from bench.plot import draw
from bench.report import markdown, tables
from bench.results import Peak, Results, Saved, Timing


def results():
    def timing(name, samples, memory, share=1.0, work="16x1000000", what="forward+backward"):
        return Timing(work, what, name, 1, memory, samples, share)

    return Results(
        environment={"processor": "abacus", "torch": "9.9"},
        timings=[
            timing("memory floor", (10.0, 10.0, 10.0), "returned"),
            timing("snnsim uniform 4", (20.0, 25.0, 30.0), "returned"),
            timing("snntorch state_quant 8", (9e3, 9e3, 9e3), "returned", share=0.01),
            timing("memory floor", (10.0, 10.0, 10.0), "retained"),
            timing("snnsim uniform 4", (20.0, 20.0, 20.0), "retained"),
            timing("snntorch state_quant 8", (8e3, 8e3, 8e3), "retained", share=0.01),
        ],
        saved=[Saved("snnsim uniform 4", 1.0)],
        peaks=[Peak("16x1000000", "snnsim uniform 4", 1.5)],
        missing={"spikingjelly": "not installed; pip install --no-deps spikingjelly"},
    )


def test_tables_hold_what_was_measured():
    verdicts, times, memory = tables(results())
    assert verdicts.rows[0] == (
        "[16x1000000] uniform 4 against the memory floor",
        "<= 3",
        "<= 2",
        "2.5 (2.25 to 2.75)",
        "2",
        "met",
    )
    # the floor, bytes saved and the peak; what was not measured is only counted
    assert [row[-1] for row in verdicts.rows] == ["met", "met", "met"]
    assert "met: 3; missed: 0; not measured: 25" in verdicts.remarks[0]
    assert times.head == (
        "candidate",
        "ms, returned",
        "x memory floor",
        "ms, retained",
        "x memory floor",
    )
    assert times.rows[1] == ("snnsim uniform 4", "25", "2.5 (2.25 to 2.75)", "20", "2")
    assert times.rows[2][1] == "9000\\*"
    assert times.remarks == ["\\* measured on a part of the neurons and scaled up"]
    assert memory.rows == [("snnsim uniform 4", "1.00", "1.50")]


def test_page_names_the_machine_and_what_is_missing():
    page = markdown(results(), "benchmarks.png")
    assert "| processor | abacus |" in page
    assert "| spikingjelly | not installed; pip install --no-deps spikingjelly |" in page
    assert "![Times by candidate](benchmarks.png)" in page
    # every row of a table has as many cells as its head
    for block in page.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


def test_without_the_floor_ratios_are_to_the_first():
    found = results()
    found.timings = [t for t in found.timings if t.name != "memory floor"]
    assert tables(found)[1].head[2] == "x snnsim uniform 4"


def test_picture_has_a_panel_for_each_shape_and_tells_memory_apart_without_colour():
    figure = draw(results())
    (panel,) = figure.axes
    assert panel.get_title(loc="left") == "16x1000000"
    assert [label.get_text() for label in panel.get_yticklabels()] == [
        "memory floor",
        "snnsim uniform 4",
        "snntorch state_quant 8",
    ]
    filled, hollow = (c for c in panel.collections if isinstance(c, PathCollection))
    assert filled.get_label() == "freed memory returned"
    assert filled.get_offsets()[:, 0].tolist() == [10.0, 25.0, 9000.0]
    assert hollow.get_facecolor().tolist() == [[1.0, 1.0, 1.0, 1.0]]


def test_picture_of_nothing():
    figure = draw(Results())
    assert [text.get_text() for text in figure.texts] == ["nothing was timed"]
