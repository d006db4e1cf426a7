"""The errors, and what `import clonedb` gives and costs."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from importlib import metadata

import pytest

import clonedb
from clonedb import errors

HEAVY = (
    "alembic",
    "click",
    "filelock",
    "platformdirs",
    "psycopg",
    "psycopg2",
    "pytest",
    "rich",
    "sqlalchemy",
)


def in_a_fresh_interpreter(program: str) -> object:
    """What a program prints as JSON."""
    command = [sys.executable, "-W", "error", "-c", f"import json, sys\n{program}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _drawn() -> dict[str, str]:
    """Each class of the tree in the docstring with its parent, by how far it is indented."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"([ |]*(?:\+-- )?)([A-Z]\w+Error)\b", line):
            indent, name = len(match[1]), match[2]
            above = [(far, parent) for far, parent in above if far < indent]
            parents[name] = above[-1][1] if above else "Exception"
            above.append((indent, name))
    return parents


def test_drawn_tree_is_the_real_one() -> None:
    """The docstring's picture is what `except` does."""
    classes = [
        value
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if value.__module__ == errors.__name__
    ]
    assert _drawn() == {kind.__name__: kind.__bases__[0].__name__ for kind in classes}
    assert sorted(errors.__all__) == sorted(kind.__name__ for kind in classes)
    assert all(len(kind.__bases__) == 1 and kind.__doc__ for kind in classes)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_can_be_caught_by_its_public_name(name: str) -> None:
    """`clonedb.BuildError` is the class that is raised, and all of them are CloneDBErrors."""
    assert name in clonedb.__all__
    assert getattr(clonedb, name) is getattr(errors, name)
    assert issubclass(getattr(clonedb, name), clonedb.CloneDBError)


def test_every_public_name_is_there() -> None:
    """What __all__ promises can be had, dir() shows it, and it is sorted for people."""
    assert list(clonedb.__all__) == sorted(clonedb.__all__)
    assert set(clonedb.__all__) <= set(dir(clonedb))
    assert "__version__" in dir(clonedb)
    for name in clonedb.__all__:
        value = getattr(clonedb, name)
        assert value.__name__ == name
        assert value.__module__.startswith("clonedb.")
        assert value.__doc__


def test_version_is_that_of_the_installed_package() -> None:
    """Read from the metadata when asked for, so that it is written in one place."""
    assert clonedb.__version__ == metadata.version("clonedb")


def test_name_that_is_not_there_is_an_attribute_error() -> None:
    """As with any module; hasattr() and pickle rely on it."""
    with pytest.raises(AttributeError, match="module 'clonedb' has no attribute 'nothing'"):
        clonedb.nothing  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(clonedb, "TEMPLATE")


def test_import_costs_nothing() -> None:
    """pytest imports the package in every run of its environment, whether a test uses a database or not."""
    loaded = in_a_fresh_interpreter("import clonedb\nprint(json.dumps(sorted(sys.modules)))")
    assert isinstance(loaded, list)
    assert [name for name in loaded if name.startswith("clonedb")] == ["clonedb"]
    assert [
        name
        for name in loaded
        if name.partition(".")[0] in HEAVY or name == "importlib.metadata"
    ] == []


@pytest.mark.parametrize(
    "statement",
    [
        "clonedb.ConfigError",
        "from clonedb import Config",
        "clonedb.url.DatabaseURL",
        "dir(clonedb)",
    ],
)
def test_errors_and_configuration_cost_little(statement: str) -> None:
    """What stands at the bottom does not draw in what stands above."""
    program = (
        f"import clonedb, clonedb.url\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    )
    loaded = in_a_fresh_interpreter(program)
    assert isinstance(loaded, list)
    assert [name for name in loaded if name.partition(".")[0] in HEAVY] == []


def test_plugin_draws_in_nothing_heavy() -> None:
    """Registering the plugin loads, besides pytest, nothing that costs more than the plugin."""
    program = (
        "import pytest, _pytest.config\nbefore = set(sys.modules)\nimport clonedb.pytest_plugin\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    loaded = in_a_fresh_interpreter(program)
    assert isinstance(loaded, list)
    assert [name for name in loaded if name.partition(".")[0] in HEAVY] == []
