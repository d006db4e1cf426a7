"""`schema`: SQL files make the schema of a project that has no migrations."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from clonedb.embedded import leases
from tests.differential import template
from tests.projects import Project

TESTS = """
def test_rows(clonedb_connection):
    rows = clonedb_connection.execute("select name from item order by id").fetchall()
    assert [name for (name,) in rows] == ["two", "three"]
    clonedb_connection.execute("delete from item")

def test_rows_again(clonedb_session):
    from sqlalchemy import text
    assert clonedb_session.scalar(text("select count(*) from item")) == 2
"""


@pytest.fixture
def files(project: Project) -> Project:
    """A project with two SQL files, a seed, and nothing of Alembic's."""
    (project.directory / "alembic.ini").unlink()
    shutil.rmtree(project.directory / "migrations")
    project.write("db/1.sql", "create table item (id serial primary key, name text not null);")
    project.write("db/2.sql", "insert into item (name) values ('two');")
    project.write("more.sql", "insert into item (name) values ('three');")
    project.settings(schema=["db/*.sql"], seed=["more.sql"])
    project.write("test_it.py", TESTS)
    return project


def test_files_in_place_of_migrations(files: Project) -> None:
    """Built once, with a layer for the seeds; found again; built anew when a file is another."""
    first = files.pytest().demand()
    assert "2 passed" in first.out
    assert "building template" in first.text
    assert "building template" not in files.pytest().demand().text

    files.write("more.sql", "insert into item (name) values ('four');")
    changed = files.clonedb("fingerprint", "--explain").demand().text
    assert "more.sql" in changed
    assert "item order by id" not in changed
    assert "'two', 'four'" in files.pytest().demand(1).out.replace('"', "'")

    files.write("db/2.sql", "insert into item (name) values ('one');")
    assert "'one', 'four'" in files.pytest().demand(1).out.replace('"', "'")


def test_workers(files: Project) -> None:
    """Two of them build it once, and each test sees what the files made."""
    outcome = files.pytest("-n", "2").demand()
    assert "2 passed" in outcome.out
    assert outcome.text.count("building template") <= 2  # the schema, and the seeds upon it


def test_what_fails_says_where(files: Project) -> None:
    """The file, the line and the statement; nothing is left."""
    files.write("db/2.sql", "select 1;\n\ninsert into itme (name) values ('two');")
    outcome = files.clonedb("build").demand(1)
    assert "file 'db/2.sql' (db/2.sql:3) failed: UndefinedTable" in outcome.text
    assert "statement: insert into itme" in outcome.text
    assert "Traceback" not in outcome.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schema": ["nothing.sql"]}, "schema names 'nothing.sql', which is no file"),
        ({"schema": ["other/*.sql"]}, "schema names 'other/*.sql', which is no file"),
        (
            {"schema": ["db/1.sql"], "alembic_ini": "alembic.ini"},
            "are set together, and one of them makes the schema",
        ),
        ({}, "write schema = ['schema.sql'] under [tool.clonedb] if SQL files make the schema"),
    ],
)
def test_mistakes(files: Project, settings: dict[str, object], message: str) -> None:
    """Each is told with what to do."""
    files.settings(**settings)
    outcome = files.clonedb("build")
    assert outcome.code != 0
    assert message in outcome.text
    assert "Traceback" not in outcome.text


def test_files_upon_a_named_template(files: Project) -> None:
    """Its own are run there; those of the base are not run again."""
    files.write("db/more/1.sql", "insert into item (name) values ('more')")
    files.settings(
        schema=["db/*.sql"],
        templates={
            "more": {"base": "default", "schema": ["db/more/1.sql"]},
            "same": {"base": "default", "seed": ["more.sql"]},
        },
    )
    files.write(
        "test_it.py",
        """
        import pytest
        NAMES = "select name from item order by id"

        @pytest.mark.clonedb(template="more")
        def test_more(clonedb_connection):
            rows = clonedb_connection.execute(NAMES).fetchall()
            assert [name for (name,) in rows] == ["two", "more"]

        @pytest.mark.clonedb(template="same")
        def test_same(clonedb_connection):
            rows = clonedb_connection.execute(NAMES).fetchall()
            assert [name for (name,) in rows] == ["two", "three"]
        """,
    )
    assert "2 passed" in files.pytest().demand().out


def test_what_needs_revisions_says_so(files: Project) -> None:
    """There are none to stop at, to go down from, or to check."""
    words = "needs Alembic's revisions, and the template is made by SQL files, which has none"
    assert f"clonedb check {words}" in files.clonedb("check").text
    assert f"isolation 'migrate' {words}" in files.pytest("--clonedb-isolation=migrate").text
    files.write("test_it.py", "def test_at(clonedb_at):\n    clonedb_at('base')\n")
    assert f"clonedb_at() {words}" in files.pytest().demand(1).text


@pytest.fixture
def pg_dump(lease: leases.Lease) -> Path:
    """A pg_dump that can read the server."""
    found = template.pg_dump(lease.binaries)
    if found is None:
        pytest.skip("no pg_dump here can read this server")
    return found


def test_the_dump_of_a_migrated_database(items: Project, pg_dump: Path) -> None:
    """What pg_dump writes of an Alembic project's template makes the same schema without Alembic."""
    items.write(
        "test_dump.py",
        f"""
        import subprocess
        def test_dump(clonedb_dsn):
            subprocess.run([{str(pg_dump)!r}, "--file=schema.sql", clonedb_dsn], check=True)
    """,
    )
    items.pytest("test_dump.py").demand()
    before = (items.directory / "schema.sql").read_text()
    items.settings(schema=["schema.sql"])
    (items.directory / "schema.sql").rename(items.directory / "first.sql")
    items.settings(schema=["first.sql"])
    items.pytest("test_dump.py").demand()
    after = (items.directory / "schema.sql").read_text()
    assert _without_fences(after) == _without_fences(before)


def _without_fences(dump: str) -> list[str]:
    return [
        line
        for line in dump.splitlines()
        if not line.startswith(("\\restrict", "\\unrestrict"))
    ]
