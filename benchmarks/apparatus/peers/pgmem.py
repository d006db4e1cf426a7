"""pgmem: a fork of its own in-memory server for each test, by the fixtures of its plugin."""

from __future__ import annotations

from benchmarks.apparatus.peers.peer import Peer

__all__ = ["PGMEM"]

_CONFTEST = """
import psycopg
import pytest
from benchmarks.apparatus.peers.given import Given

given = Given.here()

@pytest.fixture(scope="session")
def pgmem_snapshot(pgmem_server):
    given.migrate(pgmem_server.dsn)
    return pgmem_server.snapshot()

@pytest.fixture
def database(pgmem_dsn):
    with psycopg.connect(pgmem_dsn) as connection:
        yield connection
"""

PGMEM = Peer(
    name="pgmem",
    series="peers",
    conftest=_CONFTEST,
    speaks="psycopg",
    plugins=("pgmem",),
    distributions=("pgmem",),
    own_server=True,
)
