"""`readonly`: the server refuses to write, and the report says which test wanted to."""

from __future__ import annotations

from tests.projects import Project

TESTS = """
import clonedb as package, pytest, sqlalchemy as sa

def test_reads(clonedb_connection, clonedb):
    assert clonedb_connection.execute("select count(*) from item").fetchone() == (2,)

def test_writes(clonedb_connection):
    clonedb_connection.execute("insert into item (name) values ('x')")

def test_writes_by_an_orm(clonedb_session):
    clonedb_session.execute(sa.text("insert into item (name) values ('x')"))

def seed(connection): pass

seeded = package.fixture(isolation="readonly", seed=seed)

def test_seeded(seeded): pass
"""


def test_writes_fail_with_the_servers_own_error_and_the_tests_id(shop: Project) -> None:
    """Reading works; a write is PostgreSQL's error 25006; a function that would fill it each time is refused."""
    shop.write("test_it.py", TESTS)
    outcome = shop.pytest("--clonedb-isolation=readonly").demand(1)
    assert "1 passed" in outcome.out
    assert "2 failed" in outcome.out
    assert "cannot execute INSERT in a read-only transaction" in outcome.out
    assert (
        "test_it.py::test_writes wrote to a readonly database; a test that writes needs isolation='auto'" in outcome.out
    )
    assert "test_it.py::test_writes_by_an_orm wrote to a readonly database" in outcome.out
    assert "a readonly database cannot be seeded for each test, as seed() would" in outcome.out
