"""Roles and databases that migrations create: they belong to the server, where other templates were built before."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from clonedb.errors import MigrationError
from clonedb.migrate.inside.server_objects import shared
from clonedb.url import DatabaseURL
from tests.migrate.test_env_py import ASYNC_ENV_PY
from tests.migrators import Migrators
from tests.projects import ALEMBIC_INI, ENV_PY, Project


@pytest.fixture
def role(prefix: str, admin_dsn: str) -> Iterator[str]:
    """The name of a role that is gone afterwards."""
    name = f"{prefix}_reader"
    yield name
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f'drop role if exists "{name}"'.encode())


@pytest.fixture
def elsewhere(role: str, admin_dsn: str) -> Iterator[str]:
    """Another database in which the role has a privilege, as in a template that was built before."""
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(
            f'create role "{role}"; grant usage on schema public to "{role}"'.encode()
        )
        yield role
        connection.execute(f'revoke usage on schema public from "{role}"'.encode())


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
def test_a_role_that_another_build_made(
    project: Project, migrator: Migrators, elsewhere: str, url: DatabaseURL, driver: str
) -> None:
    """It is used, and stays when the downgrade drops it, because the other database needs it; up, down and up again."""
    role = elsewhere
    if driver == "asyncpg":
        project.write("migrations/env.py", ASYNC_ENV_PY)
    project.write("alembic.ini", ALEMBIC_INI.replace("+psycopg:", f"+{driver}:"))
    project.revision(
        "one",
        f"op.execute('create role \"{role}\" nologin')\nop.execute('grant create on schema public to \"{role}\"')",
        f"op.execute('revoke create on schema public from \"{role}\"')\nop.execute('drop role \"{role}\"')",
    )
    with migrator().session(url) as session:
        (stair,) = session.stairway()
    assert stair.failed is None, stair.error
    with psycopg.connect(url.replace(driver=None).render()) as connection:
        assert connection.execute(
            "select count(*) from pg_roles where rolname = %s", [role]
        ).fetchone() == (1,)


def test_what_a_history_gets_wrong_about_its_role(
    project: Project, migrator: Migrators, role: str, url: DatabaseURL
) -> None:
    """A privilege that the downgrade forgets, and a role that is made twice: those are errors, as under Alembic."""
    make = f"op.execute('create role \"{role}\"')"
    project.revision(
        "one",
        f"{make}\nop.execute('grant create on schema public to \"{role}\"')",
        f"op.execute('drop role \"{role}\"')",
    )
    project.revision("two", make)
    with migrator().session(url) as session:
        with pytest.raises(MigrationError, match=f'role "{role}" already exists'):
            session.upgrade()
        session.upgrade("one")
        with pytest.raises(MigrationError, match="some objects depend on it"):
            session.downgrade()


def test_the_database_that_env_py_makes(
    project: Project, migrator: Migrators, url: DatabaseURL, prefix: str
) -> None:
    """The one being built stands in for it, so that none is left on the server; and none is dropped."""
    project.revision("one", 'op.execute("create table item (id int)")')
    project.write(
        "migrations/env.py",
        "from sqlalchemy import create_engine, text\n"
        "with create_engine('postgresql+psycopg://').connect().execution_options(isolation_level='AUTOCOMMIT') as c:\n"
        f"    c.execute(text('create database {prefix}_stray encoding \\'utf8\\' template template1'))\n"
        f"    c.execute(text('DROP DATABASE postgres with (force)'))\n" + ENV_PY,
    )
    with migrator().session(url) as session:
        assert session.upgrade().heads == ("one",)
    with psycopg.connect(url.replace(driver=None).render()) as connection:
        rows = connection.execute(
            "select datname from pg_database where datname in ('postgres', %s)",
            [f"{prefix}_stray"],
        )
        assert rows.fetchall() == [("postgres",)]


def test_only_statements_about_roles_are_changed() -> None:
    """One statement, with its comments and quotes; what is several is left alone."""
    changed = [
        "create role reader",
        "  CREATE USER reader WITH PASSWORD 'a;''b' ;\n",
        '-- the readers\n/* all */ create group "Read ers" nologin;',
    ]
    for statement in changed:
        assert shared(statement, set()).startswith("do $clonedb$ begin\n    "), statement
    left = [
        "create user mapping for public server s",
        "create role a; create role b",
        "create roles",
        "select 'create role a'",
    ]
    left.append("do $$ begin create role a; end $$")
    assert [shared(statement, set()) for statement in left] == left
    created = {"Read ers", "a", "b"}
    assert "rolname in ('if', 'exists', 'a', 'Read ers')" in shared(
        'drop role if exists A, "Read ers"', created
    )
    assert created == {"b"}
