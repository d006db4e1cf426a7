"""The token of a loan: carried by every kind of URL, taken by every driver, found again."""

from __future__ import annotations

import asyncio
import mmap

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from clonedb.errors import EndedTestError
from clonedb.sessions.loans import Loan, Loans
from clonedb.url import DatabaseURL

DATABASE = sa.text("select current_database(), current_setting('application_name')")


@pytest.fixture
def loans() -> Loans:
    """A process's, of a first test's database."""
    made = Loans()
    made.begin("test 'test_it.py::test_zero'", "db", "test_zero")
    return made


@pytest.fixture
def loan(loans: Loans) -> Loan:
    """One whose test has a name that cannot stand in a URL."""
    return loans.begin("test 'test_it.py::test_one[a b]'", "db", "test_one[a b/ü?&]")


def marked(loan: Loan, text: str) -> str:
    """A URL with the loan's token."""
    return loan.mark(DatabaseURL.parse(text)).render()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_an_engine_takes_the_url(loan: Loan, server_url: str, driver: str) -> None:
    """And the server shows the token as application_name."""
    url = DatabaseURL.parse(server_url).replace(driver=driver, database="postgres")
    engine = sa.create_engine(loan.mark(url).render(), poolclass=sa.NullPool)
    with engine.connect() as connection:
        assert connection.execute(DATABASE).one() == ("postgres", loan.token)


def test_an_engine_on_asyncpg_takes_the_url(loan: Loan, server_url: str) -> None:
    """In `passfile`, because SQLAlchemy hands the URL's query on as asyncpg's keywords."""
    url = DatabaseURL.parse(server_url).replace(driver="asyncpg", database="postgres")
    marked = loan.mark(url).render()

    async def look() -> sa.Row[tuple[str, str]]:
        engine = create_async_engine(marked, poolclass=sa.NullPool)
        async with engine.connect() as connection:
            return (await connection.execute(DATABASE)).one()

    assert asyncio.run(look()) == ("postgres", "")
    assert f"passfile={loan.token}" in marked


def test_asyncpg_takes_the_dsn(loan: Loan, server_url: str) -> None:
    """As a setting of its session, which the server shows."""
    import asyncpg

    dsn = loan.mark(
        DatabaseURL.parse(server_url).replace(driver=None, database="postgres")
    ).render()

    async def look() -> str:
        connection = await asyncpg.connect(dsn)
        found: str = await connection.fetchval("select current_setting('application_name')")
        await connection.close()
        return found

    assert asyncio.run(look()) == loan.token


def test_a_name_that_was_set_stays(loan: Loan) -> None:
    """The token goes into `passfile`, if there is a password; else nowhere, for a password may stand in that file."""
    with_password = "postgresql+psycopg://me:secret@host/db?application_name=mine"
    assert marked(loan, with_password) == f"{with_password}&passfile={loan.token}"
    without = "postgresql+psycopg://me@host/db?application_name=mine"
    assert marked(loan, without) == without
    assert marked(loan, "postgresql+asyncpg://me@host/db") == "postgresql+asyncpg://me@host/db"


def test_pg8000_gets_a_name_only(loan: Loan) -> None:
    """It knows no `passfile`."""
    url = "postgresql+pg8000://me:secret@host/db"
    assert marked(loan, url) == f"{url}?application_name={loan.token}"
    assert marked(loan, f"{url}?application_name=mine") == f"{url}?application_name=mine"


def test_a_token_says_which_test_it_is_of(loan: Loan) -> None:
    """Within what PostgreSQL keeps of an application's name, in characters that no URL escapes."""
    assert loan.token.endswith("-1-test_one_a_b_____")
    assert len(Loans().begin("", "db", "test_" + "x" * 100).token) == 63


def test_a_loan_is_found_by_its_token(loans: Loans, loan: Loan) -> None:
    """Wherever that stands, and whatever comes after it."""
    for text in (
        loan.token,
        f"dbname=db application_name={loan.token} port=1",
        marked(loan, "postgresql://h/db") + "?a=b",
    ):
        assert loans.find(text) is loan
    assert loans.find("clonedb on host, pid 1") is None
    assert loans.find(None) is None


def test_the_token_of_another_run_means_nothing(loan: Loan) -> None:
    """Of a run within a run, which counts its loans from the beginning, too."""
    other = Loans()
    other.begin("test 'test_it.py::test_zero'", "db", "test_zero").end()
    other.begin("test 'test_it.py::test_one[a b]'", "db", "test_one[a b/ü?&]").end()
    other.require(loan.token)


def test_a_test_that_runs_again_has_a_loan_of_its_own(loans: Loans, loan: Loan) -> None:
    """What its first attempt left behind is refused."""
    loan.end()
    again = loans.begin(loan.holder, "db", "test_one[a b/ü?&]")
    loans.require(again.token, None)
    with pytest.raises(
        EndedTestError, match=r"test 'test_it.py::test_one\[a b\]' has ended: its database 'db'"
    ):
        loans.require(None, loan.token)


def test_each_of_very_many_loans_ends_by_itself(loans: Loans) -> None:
    """Whatever memory they are noted in."""
    many = [loans.begin("test", "db") for _ in range(mmap.PAGESIZE + 2)]
    many[-1].end()
    many[0].end()
    assert [loan for loan in many if loan.ended] == [many[0], many[-1]]


def test_a_connection_is_of_no_use_after_its_loan(loan: Loan, admin_dsn: str) -> None:
    """Neither are cursors that it has made; but closing it is no error."""
    with psycopg.connect(admin_dsn) as connection:
        cursor = connection.cursor()
        assert loan.take(connection) is connection
        loan.end()
        for use in (
            lambda: connection.execute("select 1"),
            lambda: cursor.execute("select 1"),
            connection.commit,
        ):
            with pytest.raises(EndedTestError):
                use()
        connection.close()


def test_a_connection_that_comes_too_late_is_closed(loan: Loan, admin_dsn: str) -> None:
    """A thread began to connect while the test still had its database."""
    connection = psycopg.connect(admin_dsn)
    loan.end()
    with pytest.raises(EndedTestError):
        loan.take(connection)
    assert connection.closed
