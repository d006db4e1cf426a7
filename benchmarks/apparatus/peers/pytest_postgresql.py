"""pytest-postgresql: its noproc fixture with the migrations as `load`, and its client fixture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.apparatus.peers.given import Given
from benchmarks.apparatus.peers.peer import Peer
from benchmarks.apparatus.peers.suite import Suite

__all__ = ["PYTEST_POSTGRESQL", "pytest_postgresql"]

_CONFTEST = """
from benchmarks.apparatus.peers.given import Given
from pytest_postgresql import factories

given = Given.here()

def load(*, host, port, user, dbname, **_):
    given.migrate(f"host={host} port={port} user={user} dbname={dbname}")

postgresql_noproc = factories.postgresql_noproc(host=given.host, port=5432, user="postgres", load=[load])
database = factories.postgresql("postgresql_noproc")
"""

PYTEST_POSTGRESQL = Peer(
    name="pytest-postgresql",
    series="peers",
    conftest=_CONFTEST,
    speaks="psycopg",
    plugins=("pytest_postgresql",),
    distributions=("pytest-postgresql",),
)


def pytest_postgresql(
    host: str, project: Path, directory: Path, *, tests: int
) -> Sequence[float] | str:
    """The milliseconds that so many tests that write pay for it, before and after them; or why there are none."""
    if why := PYTEST_POSTGRESQL.absent():
        return f"{PYTEST_POSTGRESQL.name} is {why} here"
    given = Given(host=host, ini=str(project / "alembic.ini"), spent="")
    return (
        Suite(PYTEST_POSTGRESQL, given, directory, writing=tests + 2).run(1).writing
    )  # the first and last left out
