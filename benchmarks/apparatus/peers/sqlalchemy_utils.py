"""sqlalchemy-utils: `create_database` from a template, and `drop_database`, around each test."""

from __future__ import annotations

from benchmarks.apparatus.peers.peer import Peer

__all__ = ["SQLALCHEMY_UTILS"]

_CONFTEST = """
from itertools import count

import pytest
from benchmarks.apparatus.peers.given import Given
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy_utils import create_database, drop_database

given = Given.here()
numbers = count(1)

@pytest.fixture(scope="session")
def template():
    name = f"template_{given.worker}"
    create_database(given.url(name))
    given.migrate(given.dsn(name))
    yield name
    drop_database(given.url(name))

@pytest.fixture
def database(template):
    url = given.url(f"test_{given.worker}_{next(numbers)}")
    create_database(url, template=template)
    engine = create_engine(url)
    with Session(engine) as session:
        yield session
    engine.dispose()
    drop_database(url)
"""

SQLALCHEMY_UTILS = Peer(
    name="sqlalchemy-utils",
    series="peers",
    conftest=_CONFTEST,
    speaks="sqlalchemy",
    distributions=("sqlalchemy-utils",),
)
