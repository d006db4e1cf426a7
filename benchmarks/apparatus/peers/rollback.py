"""A session in an outer transaction, as SQLAlchemy's documentation joins one to a test suite's."""

from __future__ import annotations

from benchmarks.apparatus.peers.peer import Peer

__all__ = ["READY", "ROLLBACK"]

_IMPORTS = """
import psycopg
import pytest
from benchmarks.apparatus.peers.given import Given
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

given = Given.here()
"""
_MIGRATED = """
@pytest.fixture(scope="session")
def engine():
    name = f"rollback_{given.worker}"
    with psycopg.connect(given.dsn("postgres"), autocommit=True) as maintenance:
        maintenance.execute(f"create database {name}")
        given.migrate(given.dsn(name))
        engine = create_engine(given.url(name))
        yield engine
        engine.dispose()
        maintenance.execute(f"drop database {name}")
"""
_READY = """
@pytest.fixture(scope="session")
def engine():
    name = f"ready_{given.worker}"
    with psycopg.connect(given.dsn("postgres"), autocommit=True) as maintenance:
        if maintenance.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
            maintenance.execute(f"create database {name}")
            given.migrate(given.dsn(name))
    engine = create_engine(given.url(name))
    yield engine
    engine.dispose()
"""
_DATABASE = """
@pytest.fixture
def database(engine):
    connection = engine.connect()
    transaction = connection.begin()
    session = Session(bind=connection, join_transaction_mode="create_savepoint")
    yield session
    session.close()
    transaction.rollback()
    connection.close()
"""

ROLLBACK = Peer(
    name="session fixture, rollback",
    series="rollback",
    conftest=_IMPORTS + _MIGRATED + _DATABASE,
    speaks="sqlalchemy",
    distributions=("sqlalchemy",),
)
READY = Peer(
    name="session fixture, rollback, migrated by a run before",
    series="rollback",
    conftest=_IMPORTS + _READY + _DATABASE,
    speaks="sqlalchemy",
    distributions=("sqlalchemy",),
)
