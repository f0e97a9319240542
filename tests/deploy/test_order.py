"""Files of deploy import one another in one direction."""

import ast
from pathlib import Path

import snnsim.deploy

FOLDER = Path(snnsim.deploy.__file__).parent
# what runs or writes a network knows operations through their class alone
RUNS = ("lower", "c", "compiled", "store", "cost", "integers")


def imported(path, files):
    """Those of `files` that a file imports, at its top, inside functions or for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # a folder itself only for what is no file of it
            found |= names & set(files) if names <= set(files) else {node.module, *names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(files)


def modules():
    names = {}
    for path in FOLDER.rglob("*.py"):
        parts = ("snnsim", "deploy", *path.relative_to(FOLDER).with_suffix("").parts)
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def test_no_file_reaches_itself():
    files = modules()
    reads = {name: imported(path, files) for name, path in files.items()}
    done, circles = set(), []

    def follow(name, way):
        if name in way:
            circles.append(" < ".join([*way[way.index(name) :], name]))
        elif name not in done:
            for other in sorted(reads[name]):
                follow(other, [*way, name])
            done.add(name)

    for name in files:
        follow(name, [])
    assert not circles


def test_engines_and_writers_know_no_kind_of_operation():
    kinds = {kind.__name__ for kind in snnsim.deploy.ops.OPERATIONS}
    for name in RUNS:
        tree = ast.parse((FOLDER / f"{name}.py").read_text())
        asked = [
            ast.unparse(node.args[1])
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance"
        ]
        assert not [kind for kind in asked if kinds & set(kind.split())], name
