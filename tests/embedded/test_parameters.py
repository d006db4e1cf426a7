"""PostgreSQL's parameters that a project sets for the embedded server."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import psycopg
import pytest

from clonedb.embedded import leases
from clonedb.errors import ConfigError, ServerError
from tests.embedded.sandbox import Sandbox, by_socket
from tests.projects import Project


def _with(sandbox: Sandbox, **parameters: Any) -> Sandbox:
    return dataclasses.replace(
        sandbox, config=sandbox.config.replace("the test", server=parameters)
    )


def _shown(sandbox: Sandbox, *names: str) -> list[str]:
    with sandbox.lease() as lease, psycopg.connect(by_socket(lease)) as connection:
        return [connection.execute(f"show {name}".encode()).fetchone()[0] for name in names]  # type: ignore[index]


@pytest.mark.campaign("long")
def test_another_table_is_another_server(empty: Sandbox) -> None:
    """With what the table says, whatever clonedb's own choice is; and it is found again by the same table."""
    changed = _with(empty, fsync=True, work_mem="7MB", max_connections=42, **{"app.a": "1"})
    assert _shown(changed, "fsync", "work_mem", "max_connections", "app.a") == [
        "on",
        "7MB",
        "42",
        "1",
    ]
    assert _shown(empty, "fsync", "max_connections") == ["off", "300"]
    assert changed.place.name.startswith(f"{empty.place.name}-with-")
    assert {status.name for status in leases.servers(empty.config)} == {
        empty.place.name,
        changed.place.name,
    }

    again = _with(
        empty, **{"app.a": "1", "max_connections": "42", "work_mem": "7MB", "FSYNC": "on"}
    )
    assert again.place == changed.place


def test_the_version_of_a_stopped_server_is_told(empty: Sandbox) -> None:
    """It is in the name, before the digest of the parameters."""
    changed = _with(empty, jit=True)
    changed.place.prepare()
    (status,) = leases.servers(changed.config)
    assert status.version == str(empty.binaries.major)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (
            {"no_such_parameter": "1"},
            'unrecognized configuration parameter "no_such_parameter"',
        ),
        ({"work_mem": "much"}, 'invalid value for parameter "work_mem": "much"'),
        (
            {"shared_preload_libraries": ["no_such_library"]},
            'could not access file "no_such_library"',
        ),
        ({"max_connections": "2"}, 'must be less than "max_connections" (2)'),
    ],
)
def test_postgresql_says_what_it_refuses(
    empty: Sandbox, parameters: dict[str, Any], words: str
) -> None:
    """And the error where it was written."""
    refused = _with(empty, **parameters)
    for _ in range(2):
        with pytest.raises(ServerError) as caught:
            refused.lease()
        assert words in str(caught.value)
        assert "server in [tool.clonedb]" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["port", "Data_Directory", "listen_addresses", "hba_file", "unix_socket_directories"],
)
def test_what_clonedb_sets_is_refused(sandbox: Sandbox, name: str) -> None:
    """Where the server is and who may enter cannot be chosen."""
    with pytest.raises(ConfigError, match=rf"the test: server\.{name} is clonedb's own to set"):
        _with(sandbox, **{name: "1"})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"a b": 1}, r"server\.a b is not a name"),
        ({"work_mem": [1]}, r"server\.work_mem is \[1\]; a parameter takes a string"),
        ({"work_mem": None}, r"server\.work_mem is None; a parameter takes a string"),
    ],
)
def test_what_no_parameter_can_be(
    sandbox: Sandbox, parameters: dict[str, Any], message: str
) -> None:
    """A mistake is told before a server is started."""
    with pytest.raises(ConfigError, match=message):
        _with(sandbox, **parameters)


def test_what_was_prepared_survives_a_restart(empty: Sandbox) -> None:
    """A server does not start with room for fewer prepared transactions than it has."""
    with empty.lease() as lease, psycopg.connect(by_socket(lease)) as connection:
        connection.execute("create table t (a int)")
        connection.execute("prepare transaction 'left'")
    leases.stop(empty.config)
    with (
        empty.lease() as lease,
        contextlib.closing(psycopg.connect(by_socket(lease))) as connection,
    ):
        assert connection.execute("select gid from pg_prepared_xacts").fetchall() == [("left",)]


TESTS = """
import pytest, sqlalchemy as sa
from sqlalchemy.orm import Session

@pytest.mark.parametrize("number", range(3))
def test_two_phases(clonedb_engine, number):
    with Session(clonedb_engine, twophase=True) as session:
        session.execute(sa.text("insert into thing values (1)"))
        session.prepare()
        if number != 1:
            session.commit()

    with clonedb_engine.connect() as connection:
        assert connection.scalar(sa.text("select count(*) from thing")) == (number != 1)
        assert connection.scalar(sa.text("show work_mem")) == "6MB"
        assert connection.scalar(sa.text("show auto_explain.log_nested_statements")) == "on"
"""


def test_two_phases_and_a_table_in_pyproject(project: Project) -> None:
    """SQLAlchemy's twophase works as it is, and a transaction that is left prepared ends with its test."""
    project.revision("one", "op.execute('create table thing (a int)')")
    project.write("test_it.py", TESTS)
    file = project.directory / "pyproject.toml"
    lines = (
        '\n[tool.clonedb.server]\nwork_mem = "6MB"\nauto_explain.log_nested_statements = true\n'
    )
    file.write_text((file.read_text() if file.exists() else "[tool.clonedb]\n") + lines)
    outcome = project.pytest().demand()
    assert "3 passed" in outcome.out
