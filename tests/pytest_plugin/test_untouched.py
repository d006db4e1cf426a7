"""A run in which no test asks for a database: no server is contacted, nothing is written, nothing heavy is imported."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.projects import Project, lean_pytest

TESTS = """
def test_plain():
    pass

def test_database(clonedb_connection):
    assert clonedb_connection.execute("select 1").fetchone() == (1,)
"""
HEAVY = ("sqlalchemy", "alembic", "psycopg", "filelock", "click", "rich", "platformdirs")


@pytest.fixture
def items(items: Project) -> Project:
    """The project, whose programs do their imports themselves: when and what is imported matters here."""
    items.starts_anew = True
    return items


@pytest.fixture
def port() -> Iterator[socket.socket]:
    """A socket on which somebody would be seen who connects."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("-k", "plain", "-n", "2"), 0),
        (("-k", "plain", "-p", "no:xdist"), 0),
        (("-k", "plain", "-p", "no:clonedb"), 0),
        (("-k", "nothing", "-n", "0"), 5),
        (("--collect-only",), 0),
        (("--fixtures",), 0),
        (("--setup-plan",), 0),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else None,
)
def test_no_server_is_contacted(
    items: Project, port: socket.socket, tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    """A run without a database test leaves the server that a URL names alone, and makes no state directory."""
    url = f"postgresql://me:secret@127.0.0.1:{port.getsockname()[1]}/"
    _touches_nothing(
        items, arguments, code, CLONEDB_STATE_DIR=str(tmp_path / "state"), CLONEDB_URL=url
    )
    with pytest.raises(BlockingIOError):
        port.accept()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("-k", "plain"), 0),
        (("-k", "nothing", "-n", "2"), 5),
        (("--collect-only",), 0),
        (("--help",), 0),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else None,
)
def test_no_server_is_started(
    items: Project, tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    """A run without a database test starts no embedded server either."""
    _touches_nothing(items, arguments, code, CLONEDB_STATE_DIR=str(tmp_path / "state"))


def _touches_nothing(
    project: Project, arguments: tuple[str, ...], code: int, **variables: str
) -> None:
    project.write("test_it.py", TESTS)
    outcome = project.pytest(*arguments, **variables).demand(code)
    assert "clonedb: template" not in outcome.text
    assert "secret" not in outcome.text
    assert not Path(variables["CLONEDB_STATE_DIR"]).exists()
    assert sorted(path.name for path in project.directory.iterdir()) == [
        "alembic.ini",
        "migrations",
        "test_it.py",
    ]


def test_without_the_plugin_a_fixture_is_unknown(items: Project) -> None:
    """`-p no:clonedb` leaves nothing of it: no options, no fixtures, no header."""
    items.write("test_it.py", TESTS)
    outcome = items.pytest("-p", "no:clonedb").demand(1)
    assert "fixture 'clonedb_connection' not found" in outcome.out
    assert "clonedb:" not in outcome.out
    assert (
        "unrecognized arguments"
        in items.pytest("-p", "no:clonedb", "--clonedb-keep=none").demand(4).err
    )


def test_registering_the_plugin_imports_nothing_heavy(items: Project, tmp_path: Path) -> None:
    """pytest loads the plugin in every run there is: it brings none of the libraries it works with."""
    items.write(
        "test_it.py",
        f"""
        import json, sys

        def test_modules(pytestconfig):
            assert pytestconfig.pluginmanager.hasplugin("clonedb")
            with open({str(tmp_path / "modules")!r}, "w") as file:
                json.dump(sorted(sys.modules), file)
        """,
    )
    others = lean_pytest() + " -p no:platformdirs"
    items.pytest(
        "--no-header", PYTEST_ADDOPTS=others
    ).demand()  # the header says where the data are, and looks
    modules = json.loads((tmp_path / "modules").read_text())
    loaded = {name.partition(".")[0] for name in modules}
    assert "clonedb" in loaded
    assert loaded.isdisjoint(HEAVY)
    own = {name for name in modules if name.startswith("clonedb")}
    assert not [
        name
        for name in own
        if name.startswith(
            ("clonedb.postgres", "clonedb.embedded", "clonedb.api", "clonedb.clones.gc")
        )
    ]


def test_importing_the_package_imports_nothing_heavy(items: Project) -> None:
    """`import clonedb`, and `from clonedb import Clone` in annotations' way, cost next to nothing."""
    script = "import sys, clonedb; print(*sys.modules)"
    outcome = items.run(sys.executable, "-c", script).demand()
    assert {name.partition(".")[0] for name in outcome.out.split()}.isdisjoint(
        {*HEAVY, "pytest"}
    )


def test_a_project_without_databases_sees_no_header(tmp_path: Path) -> None:
    """Where nothing points to clonedb, its header line would be noise."""
    project = Project(
        tmp_path,
        {name: value for name, value in os.environ.items() if not name.startswith("CLONEDB_")},
    )
    (tmp_path / "alembic.ini").unlink()
    project.write("test_it.py", "def test_plain(): pass")
    assert "clonedb:" not in project.pytest().demand().out
