"""Ways to give a test its database that people write themselves, each as quick as it can be written."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.apparatus.handing import connected_session
from clonedb.api import Template
from clonedb.archive.dump import pg_dump
from clonedb.clones.clone import Clone, create_empty

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.engine import Engine
    from sqlalchemy.orm import Session

__all__ = ["ByDump", "ByMetadata", "ByStatements", "dump", "reflected"]


class ByStatements:
    """One database and one connection that stays open; after each test it sends statements, in one message."""

    def __init__(
        self, template: Template, stack: contextlib.ExitStack, statements: str
    ) -> None:
        clone = stack.enter_context(template.clone())
        self._engine = _connected(clone)
        self._committing = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._statements = statements

    def before(self) -> Session:
        """A session."""
        return connected_session(self._engine)

    def after(self, session: Session) -> None:
        """Send the statements, which as one message are one transaction."""
        session.close()
        with self._committing.connect() as connection:
            connection.exec_driver_sql(self._statements)


class ByMetadata:
    """One database and one connection; the models' tables are created and filled before a test, and dropped after."""

    def __init__(
        self, template: Template, stack: contextlib.ExitStack, metadata: MetaData, rows: str
    ) -> None:
        clone = stack.enter_context(create_empty(template.server, template.server.config))
        self._engine = _connected(clone)
        self._metadata = metadata
        self._rows = rows

    def before(self) -> Session:
        """Create the tables, insert the rows; a session."""
        with self._engine.begin() as connection:
            self._metadata.create_all(connection)
            if self._rows:
                connection.exec_driver_sql(self._rows)
        return connected_session(self._engine)

    def after(self, session: Session) -> None:
        """Drop the tables."""
        session.close()
        with self._engine.begin() as connection:
            self._metadata.drop_all(connection)


class ByDump:
    """A new database for each test, into which psql restores a dump in one transaction."""

    def __init__(self, template: Template, path: Path) -> None:
        self._server = template.server
        self._path = path
        self._psql = pg_dump(template.server).with_name("psql")
        self._name = f"restored_{os.getpid()}"

    def before(self) -> Session:
        """Create the database, restore; a session."""
        from sqlalchemy import create_engine

        self._server.run(
            lambda connection: connection.execute(
                f"create database {self._name} template template0"
            )
        )
        options = [
            "--quiet",
            "--no-psqlrc",
            "--single-transaction",
            "--set=ON_ERROR_STOP=1",
            f"--file={self._path}",
        ]
        _run([self._psql, *options], self._server.url(self._name).conninfo())
        self._engine = create_engine(self._server.public_url(self._name).render())
        return connected_session(self._engine)

    def after(self, session: Session) -> None:
        """Drop it."""
        session.close()
        self._engine.dispose()
        self._server.run(lambda connection: connection.execute(f"drop database {self._name}"))


def dump(clone: Clone, path: Path) -> None:
    """Write a clone as a script for psql."""
    options = ["--format=plain", f"--file={path}"]
    _run([pg_dump(clone.server), *options], clone.server.url(clone.name).conninfo())


def reflected(clone: Clone) -> MetaData:
    """A clone's tables as SQLAlchemy's models know them: without triggers, functions and checks."""
    from sqlalchemy import MetaData

    metadata = MetaData()
    metadata.reflect(clone.engine(), only=lambda name, _: name != "alembic_version")
    return metadata


def _run(command: Sequence[str | Path], keywords: dict[str, str]) -> None:
    names = {
        "host": "PGHOST",
        "port": "PGPORT",
        "user": "PGUSER",
        "password": "PGPASSWORD",
        "dbname": "PGDATABASE",
    }
    variables = {names[name]: value for name, value in keywords.items() if name in names}
    done = subprocess.run(
        command,
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"{command[0]} ended with {done.returncode}: {done.stderr.decode(errors='replace')}"
        )


def _connected(clone: Clone) -> Engine:
    """An engine whose pool holds a connection."""
    engine = clone.engine()
    engine.connect().close()
    return engine
