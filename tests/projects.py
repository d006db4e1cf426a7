"""Alembic projects for tests: written into a directory of their own, run as their users would run them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier

from clonedb.clones.clone import Clone
from clonedb.clones.database import Database
from tests.prefork import Prefork

TIMEOUT = 120.0  # seconds that any program of a test may take

PYTEST = (sys.executable, "-m", "pytest")
CLONEDB = (sys.executable, "-m", "clonedb")

# plugins without which pytest starts in a third of the time; pytest_alembic (0.13) fails under pytest 9.2
_LEFT_OUT = (
    "cacheprovider",
    "hypothesispytest",
    "pytest_alembic",
    "asyncio",
    "anyio",
    "django",
    "fakefs",
    "socket",
    "time_machine",
)

ENV_PY = """
from alembic import context
from sqlalchemy import engine_from_config, pool

config = context.config
target_metadata = None

def run_migrations_online():
    connectable = engine_from_config(config.get_section(config.config_ini_section, {}), prefix="sqlalchemy.", poolclass=pool.NullPool)
    with connectable.connect() as connection:
        context.configure(connection=connection, target_metadata=target_metadata)
        with context.begin_transaction():
            context.run_migrations()

run_migrations_online()
"""

ALEMBIC_INI = """
[alembic]
script_location = %(here)s/migrations
sqlalchemy.url = postgresql+psycopg://nobody@localhost:1/never
path_separator = os
"""


class Project:
    """A project in a directory: files are written, pytest and clonedb are run in it as programs."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.environment = dict(environment)
        self.starts_anew = False  # whether each program is an interpreter of its own, for tests of what it imports
        self._last: str | None = None
        self.write("alembic.ini", ALEMBIC_INI)
        self.write("migrations/env.py", ENV_PY)
        (directory / "migrations/versions").mkdir()

    def write(self, name: str, text: str) -> Path:
        """Write a file below the project's directory, dedented."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        return path

    def revision(
        self,
        name: str,
        upgrade: str,
        downgrade: str = "pass",
        *,
        down: str | tuple[str, ...] | None = "",
    ) -> Path:
        """Add a revision after the last one (or after `down`); the bodies are Python statements with `op` at hand."""
        parent = self._last if down == "" else down
        self._last = name
        return self.write(
            f"migrations/versions/{name}.py",
            f"import os, time\nimport sqlalchemy as sa\nfrom alembic import op\n\nrevision = {name!r}\ndown_revision = {parent!r}\n\n\n"
            f"def upgrade():\n{textwrap.indent(textwrap.dedent(upgrade), '    ')}\n\n\n"
            f"def downgrade():\n{textwrap.indent(textwrap.dedent(downgrade), '    ')}\n",
        )

    def items(self) -> None:
        """The ordinary history: a table, and rows in it."""
        self.revision(
            "one", 'op.execute("create table item (id serial primary key, name text not null)")'
        )
        self.revision("two", "op.execute(\"insert into item (name) values ('seeded')\")")

    def settings(self, **values: object) -> None:
        """Write pyproject.toml with a [tool.clonedb] table."""
        lines = "\n".join(f"{name} = {_toml(value)}" for name, value in values.items())
        self.write(
            "pyproject.toml",
            f'[project]\nname = "items"\nversion = "1"\n\n[tool.clonedb]\n{lines}\n',
        )

    def popen(self, *command: str, **more: str) -> subprocess.Popen[str]:
        """Start a program in the project's directory."""
        return subprocess.Popen(
            command,
            cwd=self.directory,
            env={**self.environment, **more},
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *command: str, **more: str) -> Outcome:
        """Run a program in the project's directory to its end."""
        if (
            not self.starts_anew
            and command[:2] == (sys.executable, "-m")
            and command[2] in ("pytest", "clonedb")
        ):
            environment = {**self.environment, **more}
            try:
                found = prefork().client.run(
                    command[1:],
                    cwd=str(self.directory),
                    environment=environment,
                    timeout=TIMEOUT,
                )
            except TimeoutError as error:
                raise AssertionError(
                    f"{command} took longer than {TIMEOUT} s\n{error}"
                ) from None
            if found is not None:
                return Outcome(*found)
        process = self.popen(*command, **more)
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # PYTHONFAULTHANDLER says where it hangs
            out, err = process.communicate()
            raise AssertionError(
                f"{command} took longer than {TIMEOUT} s\n{out}\n{err}"
            ) from None
        return Outcome(process.returncode, out, err)

    def clonedb(self, *arguments: str, **more: str) -> Outcome:
        """Run `clonedb ARGUMENTS`."""
        return self.run(*CLONEDB, *arguments, **more)

    def pytest(self, *arguments: str, **more: str) -> Outcome:
        """Run `pytest ARGUMENTS`."""
        return self.run(*PYTEST, *arguments, **more)


_preforked: list[Prefork] = []


def prefork() -> Prefork:
    """The processes that fork this worker's programs; they end with the worker."""
    if not _preforked:
        _preforked.append(Prefork(_BEGINNING))
    return _preforked[0]


class Outcome:
    """How a program ended: its exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def text(self) -> str:
        """Both streams."""
        return f"{self.out}\n{self.err}"

    def demand(self, code: int = 0) -> Outcome:
        """Fail with all that was printed unless the program ended with this exit code."""
        if self.code != code:
            raise AssertionError(f"exit code {self.code}, not {code}\n{self.out}\n{self.err}")
        return self


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f'"{name}" = {_toml(item)}' for name, item in value.items()) + "}"
        )
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


def databases(dsn: str, prefix: str = "clonedb") -> list[str]:
    """The databases on a server whose names begin with a prefix."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = connection.execute(
            "select datname from pg_database where starts_with(datname::text, %s) order by 1",
            [prefix],
        )
        return [row[0] for row in rows]


@contextlib.contextmanager
def shared_prefix(prefix: str, dsn: str) -> Iterator[str]:
    """A prefix that a worker's tests share, and with it the template; each of them begins without a clone."""
    yield prefix
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name in databases(dsn, f"{prefix}_c_"):
            connection.execute(
                SQL("drop database if exists {} with (force)").format(Identifier(name))
            )


def one(clone: Clone | Database, query: str) -> tuple[object, ...]:
    """The first row of a query on a clone."""
    with clone.connect() as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return tuple(row)


def ran(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    timeout: float = TIMEOUT,
) -> Outcome:
    """A program, run to its end."""
    found = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    return Outcome(found.returncode, found.stdout, found.stderr)


def lean_pytest(*wanted: str) -> str:
    """PYTEST_ADDOPTS for a project that has no use for any plugin but clonedb, xdist, and those `wanted`."""
    return " ".join(f"-p no:{name}" for name in _LEFT_OUT if name not in wanted)


def clean_environment() -> Iterator[tuple[str, str]]:
    """This process's environment without what would reach into a project under test."""
    for name, value in os.environ.items():
        # CI makes pytest print every error a second time, in its summary
        # coverage sees the tests' own processes: in each of the programs it would cost 0.1 s
        if not name.startswith(("CLONEDB_", "COVERAGE_", "PYTEST_", "PG")) and name not in (
            "DATABASE_URL",
            "TEST_DATABASE_URL",
            "CI",
            "PYTHONUNBUFFERED",
        ):
            yield name, value


_BEGINNING = {
    **dict(clean_environment()),
    "PYTEST_ADDOPTS": lean_pytest(),
}  # before a test changed it
