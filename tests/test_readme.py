"""The README stays true: its code blocks run, the files it names exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_code_blocks():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_code_block_runs(code, tmp_path):
    # from a file: a dataclass needs its module, a class its source
    path = tmp_path / "block.py"
    path.write_text(code)
    exec(compile(code, str(path), "exec"), {"__name__": "readme_block"})


def test_first_network_takes_at_most_15_lines():
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 15


@pytest.mark.parametrize("target", re.findall(r"\]\(([\w/.-]+\.\w+)\)", README))
def test_linked_file_exists(target):
    assert (ROOT / target).is_file()


def test_command_line_options_exist():
    from snnsim.__main__ import build_parser

    for line in re.findall(r"^    (snnsim [^#\n]+)", README, re.MULTILINE):
        build_parser().parse_args(line.split()[1:])
