"""A session that stays open from one test to the next is as good as a new one."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from clonedb.clones.clone import Clone
from clonedb.rewind.rewinder import Outcome, Rewinder
from clonedb.sessions.reset import SessionReset

STATE = {
    "setting": ("set work_mem = '5MB'", "show work_mem"),
    "setting of one's own": (
        "set app.tenant = 'me'",
        "select coalesce(current_setting('app.tenant', true), '')",
    ),
    "role": ("set role pg_monitor", "select current_user"),
    "session authorization": ("set session authorization pg_monitor", "select session_user"),
    "role without rights": (
        "set role pg_monitor; set search_path = nowhere",
        "select current_user || current_schemas(false)::text",
    ),
    "search path": ("set search_path = nowhere", "show search_path"),
    "replica": ("set session_replication_role = replica", "show session_replication_role"),
    "isolation": (
        "set session characteristics as transaction read only",
        "show default_transaction_read_only",
    ),
    "advisory locks": (
        "select pg_advisory_lock(7), pg_advisory_lock(7)",
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
    ),
    "cursor": ("declare c cursor with hold for select 1", "select count(*) from pg_cursors"),
    "listening": ("listen a", "select count(*) from pg_listening_channels()"),
    "sequences": ("select nextval('cached')", "select nextval('cached') < 3"),
}


@pytest.fixture
def kept(clone: Clone) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A session with the clone."""
    with psycopg.connect(clone.dsn, autocommit=True, prepare_threshold=0) as connection:
        yield connection


@pytest.mark.parametrize("what", STATE)
def test_a_session_is_reset(
    what: str, kept: psycopg.Connection[tuple[object, ...]], clone: Clone, rewinder: Rewinder
) -> None:
    """It answers as a new one does."""
    statement, question = STATE[what]
    with psycopg.connect(clone.dsn, autocommit=True) as new:
        expected = new.execute(question.encode()).fetchone()
    assert rewinder.rewind([kept.info.backend_pid]).kind in {"untouched", "rewound"}
    with kept.cursor() as cursor:
        cursor.execute(statement.encode(), prepare=False)
        cursor.execute(SessionReset().message().encode(), prepare=False)
        assert rewinder.rewind([kept.info.backend_pid]).kind in {"untouched", "rewound"}
        assert cursor.execute(question.encode(), prepare=False).fetchone() == expected


def test_prepared_statements_stay(
    kept: psycopg.Connection[tuple[object, ...]], clone: Clone, rewinder: Rewinder
) -> None:
    """The driver goes on using those it prepared, over rewinds; the plans of rows that were moved are good, too."""
    for _ in range(5):
        with kept.cursor() as cursor:
            assert cursor.execute("select name from plain where id = %s", [3]).fetchone() == (
                "plain 3",
            )
            cursor.execute("update plain set name = 'x' where id = %s", [3])
            cursor.execute(SessionReset().message().encode(), prepare=False)
        assert rewinder.rewind([kept.info.backend_pid]) == Outcome("rewound")
        assert kept.execute(
            "select count(*) from pg_prepared_statements", prepare=False
        ).fetchone() == (2,)


def test_other_drivers(clone: Clone, rewinder: Rewinder) -> None:
    """psycopg2's cursors take the same message, in a transaction, too, which is then committed."""
    import psycopg2

    connection = psycopg2.connect(clone.dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute("set work_mem = '5MB'; set role pg_monitor")
            connection.commit()
            SessionReset()(cursor)
            connection.commit()
            cursor.execute("select current_setting('work_mem'), current_user = session_user")
            assert cursor.fetchone() == ("4MB", True)
            connection.commit()
        assert rewinder.rewind([connection.info.backend_pid]) == Outcome("untouched")
    finally:
        connection.close()


LEFT = {
    "a prepared statement": "prepare mine as select 1",
    "a setting whose name is known": "do $$ begin execute 'set app' || '.tenant = 1'; end $$",
    "a setting for one transaction": "begin; set local app.tenant = 1; commit",
}


@pytest.mark.parametrize("what", LEFT)
def test_what_no_reset_takes_away_is_noticed(
    what: str, kept: psycopg.Connection[tuple[object, ...]]
) -> None:
    """The reset fails, and what it could do is done."""
    reset = SessionReset(("current_setting('app.tenant', true) is not null",))
    kept.execute(reset.message().encode(), prepare=False)
    kept.execute("set work_mem = '5MB'", prepare=False)
    kept.execute(LEFT[what].encode(), prepare=False)
    with pytest.raises(psycopg.errors.DivisionByZero):
        kept.execute(reset.message().encode(), prepare=False)
    assert kept.execute("show work_mem", prepare=False).fetchone() == ("4MB",)


def test_random_numbers_are_nobodys(kept: psycopg.Connection[tuple[object, ...]]) -> None:
    """A seed that was set gives the next test other numbers each time."""
    found = set()
    for _ in range(2):
        kept.execute("select setseed(0.5)", prepare=False)
        kept.execute(SessionReset().message().encode(), prepare=False)
        found.add(kept.execute("select random()", prepare=False).fetchone())
    assert len(found) == 2
