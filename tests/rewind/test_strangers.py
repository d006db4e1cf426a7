"""Whoever comes while a clone is brought back: nobody's writes are handed on unseen, and none stay for good."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from clonedb.clones.clone import Clone, create
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from clonedb.rewind.rewinder import Outcome, Pristine, Rewinder
from clonedb.rewind.undo_session import UndoSession
from clonedb.templates.ensure import TemplateRecord
from tests.embedded.sandbox import wait_until
from tests.rewind.shapes import contents
from tests.rewind.test_shapes import write

TEST = "delete from plain where id < 5; update big set n = 0 where id % 1000 = 3; insert into keyless values (1, 'test')"
STRANGER = (
    "insert into keyless values (2, 'stranger'); update big set name = 'stranger' where id = 7777;"
    " delete from plain where id = 9; select nextval('used'); insert into secrets values (99, 'stranger')"
)
CAME = Outcome("refused", "a session came while it was undone")


@pytest.fixture(autouse=True)
def near(pristine: Pristine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may be so busy that the server seems distant, which gets all in one message."""
    monkeypatch.setattr(pristine.witness(), "far", False)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Has something done just before the undoing sends its so-manieth message: 1 deletes, 2 puts back and commits."""

    def arrange(number: int, act: Callable[[], object]) -> None:
        really, sent = UndoSession.send, iter(range(1, 1000))

        def send(self: UndoSession, parts: Any) -> Any:
            if next(sent) == number:
                act()
            return really(self, parts)

        monkeypatch.setattr(UndoSession, "send", send)

    return arrange


@pytest.fixture
def come_and_go(shared: Server, clone: Clone) -> Callable[[], None]:
    """A whole session in the clone: it connects, writes, commits and closes, and its server process is gone."""

    def present() -> set[int]:
        return shared.run(lambda connection: set(sql.backend_pids(connection, clone.name)))

    def come() -> None:
        before = present()
        write(clone, STRANGER)
        wait_until(lambda: present() == before)

    return come


@pytest.mark.parametrize(("undone_before", "number"), [(0, 1), (0, 2), (1, 1), (1, 2)])
def test_one_that_comes_and_goes_is_noticed(
    undone_before: int,
    number: int,
    clone: Clone,
    rewinder: Rewinder,
    request: pytest.FixtureRequest,
) -> None:
    """Before the undoing begins, and in the middle of it; the clone's first undoing, and a later one."""
    for _ in range(undone_before):
        write(clone, TEST)
        assert rewinder.rewind() == Outcome("rewound")
    write(clone, TEST)
    request.getfixturevalue("meanwhile")(number, request.getfixturevalue("come_and_go"))
    assert rewinder.rewind() == CAME


@pytest.mark.parametrize("number", [1, 2])
def test_what_a_kept_session_writes_meanwhile_is_undone_next_time(
    number: int,
    clone: Clone,
    rewinder: Rewinder,
    fresh: dict[str, list[str]],
    meanwhile: Callable[[int, Callable[[], object]], None],
) -> None:
    """A thread that should have ended uses it in between: it is idle before and after, and one of those counted."""
    with psycopg.connect(clone.dsn, autocommit=True) as kept:
        keep = [kept.info.backend_pid]
        write(clone, TEST)
        meanwhile(number, lambda: kept.execute(STRANGER.encode()))
        assert rewinder.rewind(keep) == Outcome("rewound")
        assert contents(clone) != fresh
        assert rewinder.rewind(keep) == Outcome("rewound")
        assert contents(clone) == fresh
        assert rewinder.rewind(keep) == Outcome("untouched")


def test_what_was_undone_is_no_change(
    clone: Clone, rewinder: Rewinder, fresh: dict[str, list[str]]
) -> None:
    """The undoing's own transaction lies in the next window, and is told from all others, also when that has writes."""
    for _ in range(3):
        write(clone, TEST)
        assert rewinder.rewind() == Outcome("rewound")
        write(
            clone,
            "update plain set name = 'again' where id = 2; update big set n = 5 where id = 3",
        )
        assert rewinder.rewind() == Outcome("rewound")
        assert contents(clone) == fresh
        write(clone, "select pg_logical_emit_message(true, 'a', 'b')")
        assert rewinder.rewind() == Outcome("untouched")


def test_a_thread_that_comes_again_and_again(
    shared: Server, template: TemplateRecord, pristine: Pristine, fresh: dict[str, list[str]]
) -> None:
    """Clones are refused; one that is not has the template's contents as soon as the thread is gone."""
    outcomes: Counter[str] = Counter()
    for _ in range(12):
        with (
            create(shared, template) as clone,
            contextlib.closing(Rewinder(clone, pristine)) as rewinder,
        ):
            stop = threading.Event()

            def write_on(dsn: str = clone.dsn, stop: threading.Event = stop) -> None:
                while not stop.is_set():
                    with (
                        contextlib.suppress(psycopg.Error),
                        psycopg.connect(dsn, autocommit=True) as connection,
                    ):
                        connection.execute(STRANGER.encode())

            threads = [threading.Thread(target=write_on) for _ in range(2)]
            write(clone, TEST)
            for thread in threads:
                thread.start()
            outcome = rewinder.rewind()
            stop.set()
            for thread in threads:
                thread.join()
            outcomes[outcome.kind] += 1
            if outcome.kind != "refused" and rewinder.rewind().kind != "refused":
                assert contents(clone) == fresh
    assert outcomes["refused"] > 0


def test_the_sessions_left_open_are_told(clone: Clone, rewinder: Rewinder) -> None:
    """Those that their clients did not close, whatever comes of the clone; not those closed a moment ago, nor kept."""
    for _ in range(5):
        psycopg.connect(clone.dsn).close()
    with psycopg.connect(clone.dsn, autocommit=True) as kept:
        keep = [kept.info.backend_pid]
        outcome = rewinder.rewind(keep)
        assert (outcome, outcome.left_open) == (Outcome("untouched"), ())
        for statement, kind in (
            ("select 1", "untouched"),
            ("delete from plain", "rewound"),
            ("create table new (id int)", "refused"),
        ):
            left = psycopg.connect(
                clone.dsn, application_name="left", autocommit=kind == "refused"
            )
            left.execute(statement.encode())
            if kind == "rewound":
                left.commit()
                left.execute(b"select 2")
            outcome = rewinder.rewind(keep)
            assert outcome.kind == kind
            ((session,),) = (outcome.left_open,)
            assert (session.pid, session.application) == (left.info.backend_pid, "left")
            assert session.state == ("idle" if kind == "refused" else "idle in transaction")
            assert session.statement == ("select 2" if kind == "rewound" else statement)
            left.close()
