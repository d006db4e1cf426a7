"""A project that uses somebody's published history: its programs run in that history's environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psycopg

from benchmarks.published import Environment
from clonedb.templates.metadata import Metadata
from tests.projects import Outcome, ran

HEADS_AND_TABLES = """
import json, os, psycopg
libpq = "host={PGHOST} port={PGPORT} user={PGUSER} password={PGPASSWORD} dbname={PGDATABASE}"
with psycopg.connect(libpq.format(**os.environ)) as connection:
    heads = connection.execute("select version_num from alembic_version").fetchall()
    tables = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
print(json.dumps({"heads": sum(heads, ()), "tables": sum(tables, ())}))
"""


class Usage:
    """A directory with a project in it, and the variables its programs get."""

    def __init__(
        self, environment: Environment, directory: Path, variables: Mapping[str, str]
    ) -> None:
        self.environment = environment
        self.directory = directory
        self.variables = dict(environment.variables(variables, directory))

    @property
    def prefix(self) -> str:
        return self.variables["CLONEDB_PREFIX"]

    def run(self, *arguments: str, timeout: float = 240) -> Outcome:
        """Run Python with arguments in the history's environment."""
        command = [self.environment.python, *arguments]
        return ran(command, cwd=self.directory, environment=self.variables, timeout=timeout)

    def clonedb(self, *arguments: str) -> Outcome:
        """Run `clonedb ARGUMENTS`, which must succeed."""
        return self.run("-m", "clonedb", *arguments).demand()

    def on_a_clone(self, program: str) -> Outcome:
        """Run a Python program with a clone's place in libpq's variables."""
        return self.clonedb("run", "--", self.environment.python, "-c", program)


def metadata_of(dsn: str, prefix: str) -> list[Metadata]:
    """What the templates under a prefix say of themselves, the oldest first."""
    query = (
        "select shobj_description(oid, 'pg_database') from pg_database"
        " where datistemplate and starts_with(datname::text, %s)"
    )
    with psycopg.connect(dsn) as connection:
        found = [
            Metadata.from_json(row[0]) for row in connection.execute(query, [f"{prefix}_"])
        ]
    return sorted(
        (metadata for metadata in found if metadata), key=lambda metadata: metadata.made
    )
