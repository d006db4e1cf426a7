"""What the tests of templates share: templates opened in this process, and what is in them as text."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest

from clonedb.api import Template, open_template
from clonedb.progress import Silence
from clonedb.settings.config import Config
from tests.projects import Project


class Heard(Silence):
    """Remembers what a build says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)

    warn = say

    def built(self) -> str | None:
        """How the last template was begun: 'from zero', '1 of 4', or None if it was there."""
        found = [line for line in self.lines if line.startswith("building template")]
        if not found:
            return None
        return (
            found[-1].rpartition(": ")[2].removesuffix(" revisions")
            if " upon " in found[-1]
            else "from zero"
        )


Open = Callable[..., tuple[Template, Heard]]


@pytest.fixture
def configured(project: Project, config: Config, prefix: str) -> Callable[..., Config]:
    """A function that gives the project's configuration with some settings."""

    def make(**settings: object) -> Config:
        values = {"prefix": prefix, "keep_templates": 50, **settings}
        return Config(rootdir=project.directory).replace(
            "the test",
            **{
                name: getattr(config, name)
                for name in ("state_dir", "postgres_bin", "idle_timeout", "salt")
            }
            | values,
        )

    return make


def opened(config: Config, *, rebuild: bool = False) -> tuple[Template, Heard]:
    """Open a template; what was said on the way."""
    heard = Heard()
    return open_template(config, progress=heard, rebuild=rebuild), heard


def contents(template: Template) -> list[str]:
    """What pg_dump says of a clone, without what differs between any two dumps; rows have no order of their own."""
    with template.clone() as clone:
        assert template.server.binaries is not None
        program = template.server.binaries.program("pg_dump")
        assert program is not None
        dumped = subprocess.run(
            [str(program), clone.dsn], check=True, capture_output=True, text=True
        ).stdout
        with clone.connect() as connection:
            sequences = connection.execute(
                "select schemaname, sequencename, last_value from pg_sequences order by 1, 2"
            ).fetchall()
    lines = [
        line
        for line in dumped.splitlines()
        if line and not line.startswith(("--", "\\restrict", "\\unrestrict"))
    ]
    return [*_ordered(lines), *map(str, sequences)]


def _ordered(lines: list[str]) -> list[str]:
    """The lines of a dump; those of each COPY sorted."""
    found: list[str] = []
    rows: list[str] | None = None
    for line in lines:
        if line == "\\.":
            found += sorted(rows or ())
            rows = None
        (found if rows is None else rows).append(line)
        if line.startswith("COPY ") and line.endswith("FROM stdin;"):
            rows = []
    return found


TESTS = """
def test_rows(clonedb_connection):
    rows = clonedb_connection.execute("select name from item").fetchall()
    assert [name for (name,) in rows] == ["one"]
    clonedb_connection.execute("delete from item")

def test_rows_again(clonedb_session):
    from sqlalchemy import text
    assert clonedb_session.scalar(text("select count(*) from item")) == 1
"""

MAKE = """
import os, psycopg
from shop.sql import STATEMENTS
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    for statement in STATEMENTS:
        connection.execute(statement)
"""

STATEMENTS = """
STATEMENTS = ["create table item (name text)", "insert into item values ('one')"]
"""


@pytest.fixture
def maker(project: Project) -> Project:
    """A package with a program that makes the schema, and nothing of Alembic's."""
    (project.directory / "alembic.ini").unlink()
    shutil.rmtree(project.directory / "migrations")
    project.write("shop/__init__.py", "")
    project.write("shop/sql.py", STATEMENTS)
    project.write("make.py", MAKE)
    project.write("test_it.py", TESTS)
    project.settings(migrate="python make.py")
    return project
