"""The inner loop: one test as a whole process, beside the same test on a bare connection; registration, fingerprint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import fingerprint, registration
from benchmarks.apparatus.places import configuration, state_dir
from benchmarks.apparatus.processes import pytest_process
from benchmarks.apparatus.schemas import write_medium_schema
from benchmarks.apparatus.tables import Chart, Measurement, Table, ratio
from clonedb.api import open_template

__all__ = ["measure"]

TARGET = 1.15  # times the test on a bare connection
_PLUGIN = "clonedb.pytest_plugin"

# the same test by clonedb's fixtures, and by a fixture of two lines on a database that is there
_TESTS: Mapping[str, Mapping[str, str]] = {
    "psycopg": {
        "clonedb_connection": """
def test_one(clonedb_connection):
    clonedb_connection.execute("insert into table_000 (title) values ('one')")
    clonedb_connection.commit()
""",
        "bare connection": """
import os

import psycopg
import pytest

@pytest.fixture
def connection():
    with psycopg.connect(os.environ["BARE"]) as connection:
        yield connection

def test_one(connection):
    connection.execute("insert into table_000 (title) values ('one')")
    connection.commit()
""",
    },
    "SQLAlchemy": {
        "clonedb_session": """
from sqlalchemy import text

def test_one(clonedb_session):
    clonedb_session.execute(text("insert into table_000 (title) values ('one')"))
    clonedb_session.commit()
""",
        "bare Session": """
import os

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

@pytest.fixture
def session():
    with Session(create_engine(os.environ["BARE_SQLALCHEMY"])) as session:
        yield session

def test_one(session):
    session.execute(text("insert into table_000 (title) values ('one')"))
    session.commit()
""",
    },
}


def measure(*, quick: bool) -> Iterator[Table]:
    """One test by psycopg and by SQLAlchemy; then what the plugin adds to every run, and what a fingerprint takes."""
    with state_dir() as state:
        project = state / "project"
        write_medium_schema(project)
        with (
            open_template(configuration(state, rootdir=project)) as template,
            template.clone() as clone,
        ):
            if not quick:
                time.sleep(fingerprint.SETTLED)
            variables = {
                "CLONEDB_STATE_DIR": str(state),
                "BARE": clone.dsn,
                "BARE_SQLALCHEMY": clone.url,
            }
            yield _one_test(project, variables, pairs=1 if quick else 15)
    yield from registration.measure(quick=quick)
    yield from fingerprint.measure(quick=quick)


def _one_test(project: Path, variables: Mapping[str, str], *, pairs: int) -> Table:
    rows: list[Measurement] = []
    ratios: list[Measurement] = []
    for library, tests in _TESTS.items():
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in tests}
        for number, text in enumerate(tests.values()):
            (project / f"test_{library.lower()}_{number}.py").write_text(text)
        for pair in range(pairs + 1):
            for number, name in enumerate(tests):
                place = f"test_{library.lower()}_{number}.py::test_one"
                plugins = [] if name.startswith("bare") else [_PLUGIN]
                spent = pytest_process(project, place, plugins=plugins, **variables)
                if pair:  # the first one warms up
                    found[name].append((spent[0] * 1e3, spent[1] * 1e3))
        for name, samples in found.items():
            rows.append(
                Measurement(
                    f"{library}: {name}", [clock for clock, _ in samples], "ms", series=library
                )
            )
            rows.append(
                Measurement(
                    "  ... its processor time", [processor for _, processor in samples], "ms"
                )
            )
        ours, bare = found.values()
        for what, index in (("", 0), (", processor time", 1)):
            these, those = ([one[index] for one in each] for each in (ours, bare))
            ratios.append(ratio(f"{library}: ours / bare{what}", these, those, TARGET))
    about = (
        "`pytest path::test_one` as a whole process: the test inserts a row and commits. Ours: a clone of the template,"
        " which is there, as is the embedded server; of 40 tables. Bare: the same connection or Session to a database"
        " that is there and is left dirty, opened and closed by a fixture of two lines. In turns, no other plugin;"
        " processor time is the process's own, without the server's."
    )
    return Table(
        "One test, a whole process", about, [*rows, *ratios], Chart("bars", y="ms a process")
    )
