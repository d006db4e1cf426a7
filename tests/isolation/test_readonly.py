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
        "test_it.py::test_writes wrote to a readonly database; a test that writes needs isolation='auto'"
        in outcome.out
    )
    assert "test_it.py::test_writes_by_an_orm wrote to a readonly database" in outcome.out
    assert (
        "a database under isolation 'readonly' cannot be seeded for each test, as seed() would"
        in outcome.out
    )


BY_ITSELF = """
import pytest, sqlalchemy as sa

def test_reads_only(clonedb_connection):
    clonedb_connection.execute("set transaction read only")
    clonedb_connection.execute("insert into item (name) values ('x')")

@pytest.mark.clonedb(isolation="readonly")
def test_has_one_too(clonedb_connection):
    clonedb_connection.execute("insert into item (name) values ('x')")
"""


def test_a_test_that_reads_only_by_itself_has_no_readonly_database(shop: Project) -> None:
    """The same error of PostgreSQL's is explained where the isolation is its reason."""
    shop.write("test_it.py", BY_ITSELF)
    outcome = shop.pytest().demand(1)
    assert "test_it.py::test_has_one_too wrote to a readonly database" in outcome.out
    assert "test_it.py::test_reads_only wrote" not in outcome.out


SWITCHED_OFF = """
import pytest

names = []

@pytest.mark.parametrize("part", ["writes", "looks"])
@pytest.mark.parametrize("statement", [
    "insert into item (name) values ('x')", "create function f() returns int language sql as 'select 1'",
    "select nextval('own_numbers')", "select lo_create(5)",
])
def test_off(clonedb, statement, part):
    names.append(clonedb.name)
    with clonedb.connect(autocommit=True) as connection:
        assert connection.execute("show default_transaction_read_only").fetchone() == ("on",)
        assert connection.execute("select count(*) from item").fetchone() == (2,)
        if part == "writes":
            connection.execute("set default_transaction_read_only = off")
            connection.execute(statement)
        else:
            assert names[-1] != names[-2]

@pytest.mark.parametrize("number", range(2))
def test_reads(clonedb, number):
    names.append(clonedb.name)
    with clonedb.connect() as connection:
        connection.execute("select * from item")
        connection.execute("notify something")
    assert names[-1] == names[-1 - number]
"""


def test_what_is_written_nevertheless_costs_a_new_clone_and_a_warning(shop: Project) -> None:
    """A session may switch it off; the warning is the test's, and says what was written."""
    shop.write("test_it.py", SWITCHED_OFF)
    outcome = shop.pytest("--clonedb-isolation=readonly").demand()
    assert "10 passed, 4 warnings" in outcome.out
    assert (
        "ReadonlyWarning: rows of public.item, public.log were written although isolation is 'readonly'"
        in outcome.out
    )
    assert "ReadonlyWarning: a large object was written although" in outcome.out
    assert "test_it.py::test_off[insert into item (name) values ('x')-writes]" in outcome.out
    outcome = shop.pytest(
        "--clonedb-isolation=readonly", "-W", "error::clonedb.ReadonlyWarning"
    ).demand(1)
    assert "10 passed, 4 errors" in outcome.out
