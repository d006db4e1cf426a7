"""pgtestdbpy: its two context managers, in the fixtures that its documentation shows."""

from __future__ import annotations

from benchmarks.apparatus.peers.peer import Peer

__all__ = ["PGTESTDBPY"]

# Its template and its role have fixed names unless they are given: each worker needs its own.
_CONFTEST = """
from urllib.parse import quote

import pgtestdbpy
import psycopg
import pytest
from benchmarks.apparatus.peers.given import Given

given = Given.here()
host = quote(given.host, safe="")
config = pgtestdbpy.Config(host=host)
migrator = pgtestdbpy.Migrator(
    given.migrate, db_name=f"migrator_{given.worker}", user=f"test_{given.worker}", host=host
)

@pytest.fixture(scope="session")
def db():
    with pgtestdbpy.templates(config, migrator):
        yield

@pytest.fixture
def database(db):
    with pgtestdbpy.clone(config, migrator) as url:
        with psycopg.connect(url) as connection:
            yield connection
"""

PGTESTDBPY = Peer(
    name="pgtestdbpy",
    series="peers",
    conftest=_CONFTEST,
    speaks="psycopg",
    distributions=("pgtestdbpy",),
)
