"""A distant server: what was probably written is undone while the WAL is read, and the WAL decides whether that was all."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from benchmarks.apparatus.delays import Distance, distant
from clonedb.clones.clone import Clone, create
from clonedb.embedded.leases import Lease
from clonedb.postgres import message, sql
from clonedb.postgres.server import Server
from clonedb.postgres.servers import open_server
from clonedb.rewind import witness
from clonedb.rewind.early import EarlyUndoing
from clonedb.rewind.rewinder import Outcome, Pristine, Rewinder, why_not
from clonedb.rewind.wal import Written
from clonedb.rewind.witness import Mark
from clonedb.sessions.reset import Renewal, SessionReset
from clonedb.settings.config import Config
from clonedb.templates.ensure import TemplateRecord
from tests.embedded.sandbox import wait_until
from tests.rewind.shapes import contents, make_template
from tests.rewind.test_shapes import write

_SCHEMA = """
create table one (id serial primary key, name text unique);
insert into one (name) select 'one ' || g from generate_series(1, 50) g;
create table two (id serial primary key, one int references one on delete cascade, note text);
insert into two (one, note) select g, 'note' from generate_series(1, 50) g;
create table large (id int primary key, filler text);
insert into large select g, repeat('x', 200) from generate_series(1, 5000) g;
create sequence counter cycle maxvalue 40;
"""
_INSERTS = "insert into one (name) values ('new'), ('newer'); insert into two (one) values (51)"
_SECONDS = 0.05  # one way; a machine is not so slow that what is sent at once takes longer


@pytest.fixture(scope="module")
def small(make: Callable[[str], TemplateRecord]) -> TemplateRecord:
    """A template without unlogged tables, which have to be looked at in any case."""
    return make(_SCHEMA)


@pytest.fixture
def far(
    shared: Server, small: TemplateRecord, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Clone, Rewinder]]:
    """A clone and its rewinder, to which the server is distant; tests before have inserted into `one` and `two`."""
    monkeypatch.setattr("clonedb.rewind.witness.FAR", -1.0)
    with (
        contextlib.closing(Pristine(shared, small)) as pristine,
        create(shared, small) as clone,
        contextlib.closing(Rewinder(clone, pristine)) as rewinder,
    ):
        for _ in range(2):
            write(clone, _INSERTS)
            assert rewinder.rewind() == Outcome("rewound")
        yield clone, rewinder


@pytest.fixture
def undone_early(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each rewind from now on found all undone when the WAL was read."""
    found: list[bool] = []
    really = EarlyUndoing.has_undone

    def has_undone(self: EarlyUndoing, written: Written, mark: Mark) -> bool:
        found.append(really(self, written, mark))
        return found[-1]

    monkeypatch.setattr(EarlyUndoing, "has_undone", has_undone)
    return found


def gone(clone: Clone, rewinder: Rewinder, *kept: int) -> None:
    """Wait until sessions that were closed are gone at the server, too: they would be waited for, which takes a look."""
    wait_until(
        lambda: set(clone.server.run(sql.backend_pids, clone.name)) <= {rewinder.pid, *kept}
    )


def test_a_test_like_those_before_is_undone_early(
    far: tuple[Clone, Rewinder], undone_early: list[bool]
) -> None:
    """Nothing is left for a second message, and nothing of the tests stays, however many follow each other."""
    clone, rewinder = far
    fresh = contents(clone)
    for _ in range(5):
        write(clone, _INSERTS)
        gone(clone, rewinder)
        assert rewinder.rewind() == Outcome("rewound")
        assert contents(clone) == fresh
        gone(clone, rewinder)
        assert rewinder.rewind() == Outcome("untouched")
    assert undone_early[::2] == [True] * 5


OTHERS = {
    "an update": "insert into one (name) values ('new'); update one set name = 'x' where id = 7",
    "an update of a row of the test's": f"{_INSERTS}; update one set name = 'x' where name = 'new'",
    "a delete": f"{_INSERTS}; delete from one where id in (3, 4)",
    "another table": "insert into large values (0, 'new')",
    "another block": "update large set filler = 'x' where id in (1, 4999); insert into one (name) values ('new')",
    "a sequence": "select nextval('counter'); insert into one (name) values ('new')",
    "TRUNCATE": "truncate one cascade; insert into one (name) values ('new')",
    "VACUUM FULL": "insert into one (name) values ('new')",
    "a table that is renamed for a while": "alter table one rename to three; insert into three (name) values ('new');"
    " alter table three rename to one",
    "rolled back": "begin; insert into one (name) values ('new'); update two set note = ''; rollback",
    "moved rows that move again": "update two set note = 'again' where id < 9; delete from one where id = 20",
}


@pytest.mark.parametrize("what", OTHERS)
def test_whatever_else_a_test_does_is_undone(what: str, far: tuple[Clone, Rewinder]) -> None:
    """A wrong prediction costs a round trip, and nothing else."""
    clone, rewinder = far
    fresh = contents(clone)
    for _ in range(3):
        write(clone, OTHERS[what])
        if what == "VACUUM FULL":
            with psycopg.connect(clone.dsn, autocommit=True) as connection:
                connection.execute("vacuum full one")
        assert rewinder.rewind() == Outcome("rewound")
        assert contents(clone) == fresh
        write(clone, _INSERTS)
        assert rewinder.rewind() == Outcome("rewound")
        assert contents(clone) == fresh


LEFT = {
    "a table is gone": "drop table two",
    "a trigger that always fires": "create function f() returns trigger language plpgsql as $$ begin"
    " insert into large values (-1, 'by the trigger'); return old; end $$;"
    " create trigger t before delete on one for each row execute function f(); alter table one enable always trigger t;"
    " insert into one (name) values ('new')",
}


@pytest.mark.parametrize("what", LEFT)
def test_a_changed_schema_is_refused(what: str, far: tuple[Clone, Rewinder]) -> None:
    """Also if the early undoing failed because of it, or has set something off."""
    clone, rewinder = far
    write(clone, LEFT[what])
    assert rewinder.rewind().kind == "refused"


def test_a_session_that_is_there_stops_it(
    far: tuple[Clone, Rewinder], undone_early: list[bool]
) -> None:
    """What it writes until it is ended is undone, too."""
    clone, rewinder = far
    fresh = contents(clone)
    with psycopg.connect(clone.dsn, autocommit=True) as left:
        pid = left.info.backend_pid
        left.execute("insert into one (name) values ('left')")
        outcome = rewinder.rewind()
    assert [one.pid for one in outcome.left_open] == [pid]
    assert outcome.kind == "rewound"
    assert not any(undone_early)
    assert contents(clone) == fresh
    write(clone, _INSERTS)
    assert rewinder.rewind() == Outcome("rewound")
    assert contents(clone) == fresh


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something done after the next early undoing, and before the witness is asked."""

    def arrange(act: Callable[[], object]) -> None:
        really, early_run, question = message.send, EarlyUndoing.run, list[tuple[Any, Any]]()

        def run(self: EarlyUndoing) -> int | None:
            found = early_run(self)
            act()
            really(*question.pop())
            monkeypatch.undo()
            return found

        monkeypatch.setattr(EarlyUndoing, "run", run)
        monkeypatch.setattr(witness, "send", lambda *given: question.append(given))

    return arrange


def test_a_session_that_came_and_went_meanwhile(
    far: tuple[Clone, Rewinder], between: Callable[[Callable[[], object]], None]
) -> None:
    """What it wrote after the early undoing, and before the WAL was read, is undone by the second message."""
    clone, rewinder = far
    fresh = contents(clone)

    def stranger() -> None:
        write(clone, "insert into one (name) values ('stranger')")
        gone(clone, rewinder)

    write(clone, _INSERTS)
    gone(clone, rewinder)
    between(stranger)
    assert rewinder.rewind() == Outcome("rewound")
    assert contents(clone) == fresh


@pytest.mark.parametrize(
    "late", ["insert into one (name) values ('late')", "select nextval('one_id_seq')"]
)
def test_what_a_kept_session_writes_meanwhile_is_undone(
    late: str, far: tuple[Clone, Rewinder], between: Callable[[Callable[[], object]], None]
) -> None:
    """A thread that should have ended uses it: it is idle before and after, and one of those counted."""
    clone, rewinder = far
    fresh = contents(clone)
    with psycopg.connect(clone.dsn, autocommit=True) as kept:
        keep = [kept.info.backend_pid]
        kept.execute(_INSERTS.encode())
        gone(clone, rewinder, *keep)
        between(lambda: kept.execute(late.encode()))
        assert rewinder.rewind(keep) == Outcome("rewound")
        assert contents(clone) == fresh


def test_a_session_that_is_being_reset_is_waited_for_once(
    far: tuple[Clone, Rewinder], undone_early: list[bool]
) -> None:
    """It stays, and its reset costs no second look."""
    clone, rewinder = far
    fresh = contents(clone)
    with psycopg.connect(clone.dsn, autocommit=True) as kept:
        rewinder.rewind([kept.info.backend_pid])
        for _ in range(5):
            kept.execute(_INSERTS.encode())
            gone(clone, rewinder, kept.info.backend_pid)
            renewal = Renewal(SessionReset())
            renewal.begin(kept.pgconn, settings=True, keep=lambda: None, lose=kept.close)
            assert rewinder.rewind(renewal.pids, renewal.end, renewal.busy) == Outcome(
                "rewound"
            )
            assert contents(clone) == fresh
    assert undone_early[-5:] == [True] * 5


def test_a_reset_that_fails_is_looked_at_again(
    far: tuple[Clone, Rewinder], undone_early: list[bool]
) -> None:
    """The session is not as new, as it has a prepared statement of the test's."""
    clone, rewinder = far
    fresh = contents(clone)
    with psycopg.connect(clone.dsn, autocommit=True) as kept:
        kept.execute(f"{_INSERTS}; prepare mine as select 1".encode())
        renewal = Renewal(SessionReset())
        renewal.begin(kept.pgconn, settings=True, keep=lambda: None, lose=kept.close)
        outcome = rewinder.rewind(renewal.pids, renewal.end, renewal.busy)
        assert kept.closed
    assert outcome.kind == "rewound"
    assert not any(undone_early)
    assert contents(clone) == fresh


@pytest.fixture(scope="module")
def distance(lease: Lease) -> Iterator[Distance]:
    """A way to the run's server that takes its time."""
    with distant(f"{lease.socket_dir}/.s.PGSQL.{lease.port}", _SECONDS) as found:
        yield found


@pytest.mark.campaign("long")
def test_round_trips(
    config: Config, lease: Lease, distance: Distance, make: Callable[[str], TemplateRecord]
) -> None:
    """One where nothing or only inserts were written, two otherwise."""
    url = f"postgresql://{lease.user}@127.0.0.1:{distance.port}/"
    own = config.replace("tests", url=url, prefix=f"r{secrets.token_hex(4)}")
    found: dict[str, list[int]] = {}
    with contextlib.closing(open_server(own)) as server:
        assert why_not(server) is None
        template = make_template(server, _SCHEMA, secrets.token_hex(32))
        with (
            contextlib.closing(Pristine(server, template)) as pristine,
            create(server, template) as clone,
            contextlib.closing(Rewinder(clone, pristine)) as rewinder,
            psycopg.connect(clone.dsn, autocommit=True) as kept,
        ):
            for statement in ("select", _INSERTS, "update one set name = 'x' where id = 7"):
                for _ in range(4):
                    kept.execute(statement.encode())
                    before = distance.trips
                    renewal = Renewal(SessionReset())
                    renewal.begin(
                        kept.pgconn, settings=True, keep=lambda: None, lose=kept.close
                    )
                    outcome = rewinder.rewind(renewal.pids, renewal.end, renewal.busy)
                    assert outcome.kind != "refused", outcome
                    found.setdefault(statement.split()[0], []).append(distance.trips - before)
        for database in server.run(sql.databases, own.prefix):
            server.run(sql.drop_whatever, database)
    # the first ones open the session that undoes, and read the template's rows
    assert {kind: min(trips) for kind, trips in found.items()} == {
        "select": 1,
        "insert": 1,
        "update": 2,
    }
