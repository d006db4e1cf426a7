"""clonedb, through its fixtures, on a server given by URL."""

from __future__ import annotations

from benchmarks.apparatus.peers.peer import Peer, Speaks

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


def _peer(name: str, isolation: str, fixture: str, speaks: Speaks) -> Peer:
    return Peer(
        name=name,
        series="clonedb",
        conftest=_CONFIGURED.format(isolation=isolation, fixture=fixture),
        speaks=speaks,
        plugins=("clonedb",),
        distributions=("clonedb",),
    )


AUTO = _peer("clonedb auto", "auto", "clonedb_connection", "psycopg")
SESSION = _peer("clonedb auto, SQLAlchemy", "auto", "clonedb_session", "sqlalchemy")
CLONE = _peer("clonedb clone", "clone", "clonedb_connection", "psycopg")
