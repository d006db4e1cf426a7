"""max_clones: how many clones live on a server at once, counted over all processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from clonedb.clones.clone import create_empty
from clonedb.errors import ConfigError, LockTimeoutError
from clonedb.postgres.cap import Cap
from clonedb.url import DatabaseURL
from tests.clones.conftest import Open, eventually, pool_of
from tests.projects import databases


def nothing() -> None:
    """There is no room to be made."""


def test_a_cap_of_nothing_is_refused(opened: Open) -> None:
    """0 would let no test run; the error says what the least is."""
    with pytest.raises(ConfigError, match="max_clones is 0; the least it takes is 1"):
        opened(max_clones=0)


def test_slots_are_the_servers(opened: Open) -> None:
    """Two processes' sessions share them; one that is given back is anybody's; prefixes have slots of their own."""
    one, two = Cap(opened(max_clones=3).server), Cap(opened(max_clones=3).server)
    taken = [one.try_take(), two.try_take(), one.try_take()]
    assert sorted(slot for slot in taken if slot is not None) == [0, 1, 2]
    assert (one.try_take(), two.try_take()) == (None, None)
    one.give(taken[0] or 0)
    assert two.try_take() == taken[0]


def test_slots_outlive_their_session(opened: Open, admin_dsn: str) -> None:
    """A session that the server ended gives its slots back; the next one of the same process takes them again."""
    template = opened(max_clones=2)
    cap, other = Cap(template.server), Cap(opened(max_clones=2).server)
    assert cap.try_take() == 0
    pid = template.server.run(lambda connection: connection.info.backend_pid)
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute("select pg_terminate_backend(%s)", [pid])
    assert cap.try_take() == 1
    assert other.try_take() is None


def test_who_waits_is_told_and_served(opened: Open) -> None:
    """A line a second says what is waited for; a clone that is dropped makes room."""
    lines: list[str] = []
    holder, waiter = (
        Cap(opened(max_clones=1).server),
        Cap(opened(max_clones=1).server, lines.append),
    )
    slot = holder.try_take()
    assert slot is not None
    threading.Timer(1.6, holder.give, [slot]).start()
    start = time.monotonic()
    assert waiter.take(nothing) == slot
    assert 1.5 < time.monotonic() - start < 10
    assert lines[0].startswith(
        "waiting for room for a clone: 1 is in use, which is max_clones ("
    )
    assert lines[0].endswith("(1 s; lock_timeout = 600 s)")
    assert len(lines) < 10


def test_waiting_ends(opened: Open) -> None:
    """After lock_timeout with an error that says what to do; who comes then finds the line empty."""
    holder = Cap(opened(max_clones=1).server)
    slot = holder.try_take()
    waiter = Cap(opened(max_clones=1, lock_timeout=0.3).server)
    with pytest.raises(
        LockTimeoutError,
        match=r"(?s)1 is in use, which is max_clones .*raise it, run fewer workers",
    ):
        waiter.take(nothing)
    holder.give(slot or 0)
    assert waiter.take(nothing) == slot


def test_those_who_wait_are_heard(opened: Open) -> None:
    """A process that has clones hears that somebody waits, and takes no more before that one has had its turn."""
    holder, waiter = Cap(opened(max_clones=1).server), Cap(opened(max_clones=1).server)
    slot = holder.try_take()
    assert slot is not None
    served: list[int] = []
    thread = threading.Thread(target=lambda: served.append(waiter.take(nothing)))
    thread.start()
    eventually(holder.listen)
    assert not waiter.called
    holder.give(slot)
    threading.Timer(0.5, lambda: waiter.give(served[0])).start()
    assert holder.take(nothing) == slot
    thread.join(5)
    assert served == [slot]


def wait_for_each_other(caps: Sequence[Cap]) -> list[str]:
    """Let each take a slot and want another one: what they are told to do."""
    slots = [cap.try_take() for cap in caps]
    errors: list[ConfigError] = []

    def want(cap: Cap, slot: int | None) -> None:
        try:
            cap.give(cap.take(nothing))
        except ConfigError as error:
            errors.append(error)
        cap.give(slot or 0)

    threads = [
        threading.Thread(target=want, args=pair) for pair in zip(caps, slots, strict=True)
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join(10)
    return [str(error).partition("; ")[2] for error in errors]


def test_all_who_have_one_wait_for_another(opened: Open) -> None:
    """Nobody would ever go on: one of them gets an error that says what to raise, and makes room for the other."""
    caps = [Cap(opened(max_clones=2).server) for _ in range(2)]
    assert wait_for_each_other(caps) == [
        "raise max_clones above what the workers' tests hold at once"
    ]


@pytest.fixture
def elsewhere(empty_database_url: str) -> str:
    """A maintenance database that is not the others'."""
    return DatabaseURL.parse(empty_database_url).database or ""


def test_slots_are_the_servers_in_every_maintenance_database(
    opened: Open, elsewhere: str
) -> None:
    """Processes that set different ones share the slots, although PostgreSQL has a lock of each database's own."""
    one = Cap(opened(max_clones=3).server)
    two = Cap(opened(max_clones=3, maintenance_database=elsewhere).server)
    taken = [one.try_take(), two.try_take(), one.try_take()]
    assert sorted(slot for slot in taken if slot is not None) == [0, 1, 2]
    assert (one.try_take(), two.try_take()) == (None, None)
    one.give(taken[0] or 0)
    assert two.try_take() == taken[0]
    assert one.try_take() is None


def test_two_who_take_at_once_in_different_databases(opened: Open, elsewhere: str) -> None:
    """Neither gets the slot of the other."""
    caps = [
        Cap(opened(max_clones=2, maintenance_database=name).server)
        for name in ("postgres", elsewhere)
    ]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(500):
            taken = list(threads.map(Cap.try_take, caps))
            assert None in taken or taken[0] != taken[1]
            for cap, slot in zip(caps, taken, strict=True):
                if slot is not None:
                    cap.give(slot)


def test_those_who_wait_elsewhere_are_heard(opened: Open, elsewhere: str) -> None:
    """A clone that was made ahead gives way to a process with another maintenance database, which no NOTIFY reaches."""
    holder = Cap(opened(max_clones=1).server)
    waiter = Cap(opened(max_clones=1, maintenance_database=elsewhere).server)
    slot = holder.try_take()
    assert slot is not None
    assert not holder.listen()
    served: list[int] = []
    thread = threading.Thread(target=lambda: served.append(waiter.take(nothing)))
    thread.start()
    eventually(holder.listen)
    holder.give(slot)
    thread.join(10)
    assert served == [slot]


def test_all_wait_for_another_in_different_databases(opened: Open, elsewhere: str) -> None:
    """One of them gets the error, and the other its clone."""
    caps = [
        Cap(opened(max_clones=2, maintenance_database=name).server)
        for name in ("postgres", elsewhere)
    ]
    assert wait_for_each_other(caps) == [
        "raise max_clones above what the workers' tests hold at once"
    ]


def test_what_was_made_ahead_gives_way(opened: Open, admin_dsn: str, prefix: str) -> None:
    """A clone that one process made ahead is no reason for another one to wait, even if the first is idle."""
    settings = {"max_clones": 3}
    ahead = pool_of(opened(**settings))
    used = [ahead.take(ahead=3) for _ in range(2)]
    eventually(lambda: len(databases(admin_dsn, f"{prefix}_c_")) == 3)
    start = time.monotonic()
    other = pool_of(opened(**settings))
    taken = other.take()
    assert time.monotonic() - start < 2
    assert len(databases(admin_dsn, f"{prefix}_c_")) == 3
    for clone in used:
        ahead.drop(clone)
    other.drop(taken)
    ahead.close()


def test_a_clone_gives_its_slot_back_once(opened: Open) -> None:
    """However it is dropped, and not again when it is dropped twice."""
    pool, other = pool_of(opened(max_clones=1)), Cap(opened(max_clones=1).server)
    first = pool.take()
    assert other.try_take() is None
    first.drop()
    second = pool.take()
    first.drop()
    assert other.try_take() is None
    second.drop()
    assert other.try_take() == 0


def test_a_clone_that_no_test_has(opened: Open) -> None:
    """It takes room that is left, nobody waits for it, and there is none while others wait."""
    pool, other = pool_of(opened(max_clones=2)), Cap(opened(max_clones=2).server)
    spare = pool.spare()
    assert spare is not None
    used = pool.take()
    assert pool.spare() is None
    spare.drop()
    again = pool.spare()
    assert again is not None
    assert other.try_take() is None
    for clone in (again, used):
        clone.drop()


def test_databases_of_another_kind(opened: Open) -> None:
    """They take as much room as a clone, until they are dropped; one that could not be made takes none."""
    template = opened(max_clones=1)
    cap, other = Cap(template.server), Cap(opened(max_clones=1).server)
    empty = cap.filled(
        cap.take(nothing), lambda: create_empty(template.server, template.server.config)
    )
    assert other.try_take() is None
    empty.drop()
    with pytest.raises(ZeroDivisionError):
        cap.filled(
            cap.take(nothing),
            lambda: create_empty(template.server, template.server.config) if 1 // 0 else empty,
        )
    assert other.try_take() == 0
