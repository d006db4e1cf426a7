"""clonedb, through its fixtures, on a server given by URL."""

from __future__ import annotations

from benchmarks.apparatus.peers.peer import Peer

__all__ = ["AUTO", "CLONE", "SESSION"]

_CONFIGURED = """
import pytest
from benchmarks.apparatus.peers.given import Given

given = Given.here()

@pytest.fixture(scope="session")
def clonedb_config(clonedb_config):
    return clonedb_config.replace(
        "conftest.py",
        url=given.dsn("postgres"),
        alembic_ini=given.ini,
        state_dir=str(given.directory.parent / "state"),
        isolation="{isolation}",
    )

@pytest.fixture
def database({fixture}):
    return {fixture}
"""

AUTO = Peer(
    name="clonedb auto",
    series="clonedb",
    conftest=_CONFIGURED.format(isolation="auto", fixture="clonedb_connection"),
    speaks="psycopg",
    plugins=("clonedb",),
    distributions=("clonedb",),
)
SESSION = Peer(
    name="clonedb auto, SQLAlchemy",
    series="clonedb",
    conftest=_CONFIGURED.format(isolation="auto", fixture="clonedb_session"),
    speaks="sqlalchemy",
    plugins=("clonedb",),
    distributions=("clonedb",),
)
CLONE = Peer(
    name="clonedb clone",
    series="clonedb",
    conftest=_CONFIGURED.format(isolation="clone", fixture="clonedb_connection"),
    speaks="psycopg",
    plugins=("clonedb",),
    distributions=("clonedb",),
)
