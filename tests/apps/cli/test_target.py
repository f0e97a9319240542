"""Where an export goes: nothing of others is touched, and a run that is killed is in nobody's
way."""

import json
import os
from pathlib import Path

import pytest

from snnsim.apps.cli.target import Target
from snnsim.errors import OutputError


def export(out, files, *, single=False, overwrite=False):
    """Put files, by their content, where an export goes."""
    target = Target(Path(out), single=single, overwrite=overwrite)
    with target.stage() as stage:
        (stage / "made").mkdir()
        for name, content in files.items():
            (stage / "made" / name).write_text(content)
        return target.replace(stage / "made", {"to": "test"})


def content(folder):
    return {
        path.name: path.read_text() for path in Path(folder).iterdir() if path.name != "export.json"
    }


def test_a_new_folder_with_a_report_of_its_files(tmp_path):
    assert export(tmp_path / "a" / "b", {"one": "1", "two": "2"}) == [tmp_path / "a" / "b"]
    assert content(tmp_path / "a" / "b") == {"one": "1", "two": "2"}
    report = json.loads((tmp_path / "a" / "b" / "export.json").read_text())
    assert report["to"] == "test"
    assert report["files"].keys() == {"one", "two"}
    assert os.listdir(tmp_path / "a") == ["b"]


@pytest.mark.parametrize("single", [False, True])
def test_what_exists_is_replaced_only_when_asked(single, tmp_path):
    out = tmp_path / "out"
    first = {"out": "1", "out.more": "2"} if single else {"one": "1", "two": "2"}
    export(out, first, single=single)
    with pytest.raises(
        OutputError, match=r"out exists; replace it with --overwrite, or name another OUT"
    ):
        export(out, first, single=single)
    name = next(iter(first))
    export(out, {name: "3"}, single=single, overwrite=True)
    # what the earlier one wrote besides is gone
    folder = tmp_path if single else out
    assert {key: text for key, text in content(folder).items() if not key.endswith(".json")} == {
        name: "3"
    }


@pytest.mark.parametrize("single", [False, True])
def test_files_of_others_stay(single, tmp_path):
    out, folder = tmp_path / "out", tmp_path if single else tmp_path / "out"
    export(out, {"out": "1", "out.c": "2"}, single=single)
    (folder / "thesis.tex").write_text("years of work")
    (folder / "deep").mkdir()
    export(out, {"out": "3"}, single=single, overwrite=True)
    assert (folder / "thesis.tex").read_text() == "years of work"
    assert (folder / "deep").is_dir()
    assert not (folder / "out.c").exists()


@pytest.mark.parametrize("how", ["changed", "new", "link", "folder"])
def test_a_file_of_others_under_the_name_of_a_new_one(how, tmp_path):
    out = tmp_path / "out"
    export(out, {"one": "1"})
    taken = out / ("one" if how == "changed" else "two")
    if how in ("changed", "new"):
        taken.write_text("work")
    elif how == "link":
        taken.symlink_to(out / "one")
    else:
        taken.mkdir()
    before = (out / "export.json").read_text()
    with pytest.raises(
        OutputError,
        match=(
            rf"{taken.name} was not written by an export, or was changed since, and is left alone"
        ),
    ):
        export(out, {"one": "3", "two": "4"}, overwrite=True)
    assert (out / "export.json").read_text() == before
    assert how != "changed" or taken.read_text() == "work"
    # what is not needed is not looked at
    if how == "changed":
        export(out, {"two": "4"}, overwrite=True)
        assert content(out) == {"one": "work", "two": "4"}


def test_a_single_file_takes_no_report_of_others(tmp_path):
    (tmp_path / "net.export.json").write_text("{}")
    with pytest.raises(OutputError, match=r"net\.export\.json was not written by an export"):
        export(tmp_path / "net", {"net": "1"}, single=True)
    assert os.listdir(tmp_path) == ["net.export.json"]


@pytest.mark.parametrize(
    "report",
    [None, "{", "[]", '{"to": "c"}', '{"files": {"../secret": ""}}', '{"files": {"a": 3}}'],
)
def test_a_folder_that_is_no_export(report, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "secret").write_text("")
    (tmp_path / "out" / "one").write_text("work")
    if report is not None:
        (tmp_path / "out" / "export.json").write_text(report)
    with pytest.raises(
        OutputError,
        match=(
            r"is no earlier export of this kind, as there is no .*export\.json that lists its files"
        ),
    ):
        export(tmp_path / "out", {"two": "2"}, overwrite=True)
    assert (tmp_path / "secret").exists()


def test_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export(".", {"one": "1"})
    export(".", {"one": "2"}, overwrite=True)
    assert content(tmp_path / "here") == content(".") == {"one": "2"}


def test_links_are_followed_and_stay(tmp_path):
    (tmp_path / "link").symlink_to("there")
    export(tmp_path / "link", {"one": "1"})
    export(tmp_path / "link", {"one": "2"}, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "there") == {"one": "2"}
    (tmp_path / "net").symlink_to("there.nir")
    export(tmp_path / "net", {"there.nir": "1"}, single=True)
    assert (tmp_path / "net").is_symlink()
    assert (tmp_path / "there.nir").read_text() == "1"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="loop exists; replace it with --overwrite"):
        export(tmp_path / "loop", {"one": "1"})


@pytest.mark.parametrize("out", ["file/out", "/proc/out"])
def test_a_place_that_cannot_be_written(out, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        OutputError, match=r"out cannot be written \(.*\); pick a folder that you may write to"
    ):
        export(tmp_path / out, {"one": "1"})


def leftovers(folder):
    """What killed runs leave, from before and now."""
    for name in (f".out.{os.getpid()}.partial", ".0123456789abcdef.partial"):
        (folder / name).mkdir()
        (folder / name / "one").write_text("half")


def test_leftovers_of_killed_runs_are_in_nobodys_way(tmp_path):
    leftovers(tmp_path)
    export(tmp_path / "out", {"one": "1"})
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".0123456789abcdef.partial").mkdir()
    export(tmp_path / "empty", {"one": "1"})
    assert (tmp_path / "empty" / "one").read_text() == "1"


@pytest.mark.parametrize("single", [False, True])
def test_an_overwrite_that_is_killed_anywhere_can_be_made_again(single, tmp_path, monkeypatch):
    move, left = Path.replace, [0]

    def counted(self, target):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return move(self, target)

    monkeypatch.setattr(Path, "replace", counted)
    killed = 0
    for moves in range(1, 8):
        out = tmp_path / str(moves) / "out"
        folder = out.parent if single else out
        export(out, {"out": "1", "out.a": "1"}, single=single)
        (folder / "thesis.tex").write_text("work")
        left[0] = moves
        try:
            export(out, {"out": "2", "out.b": "2"}, single=single, overwrite=True)
        except KeyboardInterrupt:
            killed += 1
        left[0] = 0
        export(out, {"out": "3", "out.b": "3"}, single=single, overwrite=True)
        found = {name: text for name, text in content(folder).items() if not name.endswith(".json")}
        assert found == {"out": "3", "out.b": "3", "thesis.tex": "work"}
    assert killed == 4
