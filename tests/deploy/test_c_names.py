import shutil
import subprocess

import pytest
from deploy.networks import example

from snnsim.deploy.c import MACROS, WORDS, check_name, generate
from snnsim.errors import InvalidValueError


@pytest.mark.parametrize("name", ["", "Net", "1st", "a-b", "main", "net\n"])
def test_names_that_are_no_identifiers(name):
    _, integer, _ = example("dense")
    with pytest.raises(InvalidValueError, match="must be a C identifier of lower-case letters"):
        generate(integer, name)


@pytest.mark.parametrize(
    "name",
    ["int", "float", "class", "while", "inline", "typeof", "constexpr", "uint8_t", "wchar_t"],
)
def test_words_of_the_language(name):
    with pytest.raises(InvalidValueError, match="is a word of C or C"):
        check_name(name)


@pytest.mark.parametrize("name", ["linux", "unix", "i386", "errno", "stdin", "complex"])
def test_macros(name):
    with pytest.raises(
        InvalidValueError, match=f"name='{name}'.*: is a macro of some compilers; take another"
    ):
        check_name(name)


@pytest.mark.parametrize("name", ["aux", "con", "com1"])
def test_files_that_windows_cannot_hold(name):
    with pytest.raises(InvalidValueError, match="is no name for a file on Windows"):
        check_name(name)


@pytest.mark.parametrize("name", ["net_", "my__net"])
def test_names_that_are_reserved(name):
    with pytest.raises(InvalidValueError, match="two _ in a row, which C"):
        check_name(name)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize("language", ["c", "c++"])
def test_what_this_compiler_predefines_is_refused(language):
    """Also without -std=c99."""
    done = subprocess.run(
        ["gcc", "-x", language, "-dM", "-E", "-"],
        input="",
        capture_output=True,
        text=True,
        check=True,
    )
    predefined = {line.split()[1] for line in done.stdout.splitlines()}
    lower_case = {name for name in predefined if name[0].isalpha() and name == name.lower()}
    assert lower_case <= {*MACROS.split(), *WORDS.split()}
