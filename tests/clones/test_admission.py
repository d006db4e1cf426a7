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
from clonedb.postgres.admission import Admission
from clonedb.url import DatabaseURL
from tests.clones.conftest import Open, eventually, pool_of
from tests.projects import databases


def test_a_cap_of_nothing_is_refused(opened: Open) -> None:
    """0 would let no test run; the error says what the least is."""
    with pytest.raises(ConfigError, match="max_clones is 0; the least it takes is 1"):
        opened(max_clones=0)


def test_slots_are_the_servers(opened: Open) -> None:
    """Two processes' sessions share them; one that is given back is anybody's; prefixes have slots of their own."""
    one, two = opened(max_clones=3).server.admission, opened(max_clones=3).server.admission
    taken = [one.try_slot(), two.try_slot(), one.try_slot()]
    assert sorted(slot for slot in taken if slot is not None) == [0, 1, 2]
    assert (one.try_slot(), two.try_slot()) == (None, None)
    one.give(taken[0] or 0)
    assert two.try_slot() == taken[0]


def test_slots_outlive_their_session(opened: Open, admin_dsn: str) -> None:
    """A session that the server ended gives its slots back; the next one of the same process takes them again."""
    template = opened(max_clones=2)
    admission, other = template.server.admission, opened(max_clones=2).server.admission
    assert admission.try_slot() == 0
    pid = template.server.run(lambda connection: connection.info.backend_pid)
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute("select pg_terminate_backend(%s)", [pid])
    assert admission.try_slot() == 1
    assert other.try_slot() is None


def test_supplies_of_one_process_share_the_slots(opened: Open) -> None:
    """They have one session, which PostgreSQL lets lock the same slot again."""
    template = opened(max_clones=1)
    one, two = template.supply(), template.supply()
    clone = one.clone()
    assert two.spare() is None
    one.drop(clone)
    spare = two.spare()
    assert spare is not None
    spare.drop()
    for supply in (one, two):
        supply.close()


@pytest.mark.campaign("long")
def test_who_waits_is_told_and_served(opened: Open) -> None:
    """A line a second says what is waited for; a clone that is dropped makes room."""
    lines: list[str] = []
    holder, server = opened(max_clones=1).server.admission, opened(max_clones=1).server
    server.say, waiter = lines.append, server.admission
    slot = holder.try_slot()
    assert slot is not None
    threading.Timer(1.6, holder.give, [slot]).start()
    start = time.monotonic()
    assert waiter.slot() == slot
    assert 1.5 < time.monotonic() - start < 10
    assert lines[0].startswith(
        "waiting for room for a clone: 1 is in use, which is max_clones ("
    )
    assert lines[0].endswith("(1 s; lock_timeout = 600 s)")
    assert len(lines) < 10


def test_waiting_ends(opened: Open) -> None:
    """After lock_timeout with an error that says what to do; who comes then finds the line empty."""
    holder = opened(max_clones=1).server.admission
    slot = holder.try_slot()
    waiter = opened(max_clones=1, lock_timeout=0.3).server.admission
    with pytest.raises(
        LockTimeoutError,
        match=r"(?s)1 is in use, which is max_clones .*raise it, run fewer workers",
    ):
        waiter.slot()
    holder.give(slot or 0)
    assert waiter.slot() == slot


def test_those_who_wait_are_seen(opened: Open) -> None:
    """A process that has clones sees that somebody waits, and takes no more before that one has had its turn."""
    holder, waiter = (
        opened(max_clones=1).server.admission,
        opened(max_clones=1).server.admission,
    )
    slot = holder.try_slot()
    assert slot is not None
    served: list[int] = []
    thread = threading.Thread(target=lambda: served.append(waiter.slot()))
    thread.start()
    eventually(holder.others_wait)
    assert not waiter.others_wait()
    assert waiter.is_awaited, "its pool would take the next slot, to make a clone ahead"
    holder.give(slot)
    threading.Timer(0.5, lambda: waiter.give(served[0])).start()
    assert holder.slot() == slot
    thread.join(5)
    assert served == [slot]
    assert not waiter.is_awaited


def test_an_idle_session_is_sent_nothing(opened: Open) -> None:
    """It does not listen: notifications that it does not read would block every DROP DATABASE of the server."""
    server = opened(max_clones=1).server
    server.admission.give(server.admission.slot())
    assert not server.admission.others_wait()
    assert server.rows("select pg_listening_channels()") == []


def wait_for_each_other(admissions: Sequence[Admission]) -> list[str]:
    """Let each take a slot and want another one: what they are told to do."""
    slots = [admission.try_slot() for admission in admissions]
    errors: list[ConfigError] = []

    def want(admission: Admission, slot: int | None) -> None:
        try:
            admission.give(admission.slot())
        except ConfigError as error:
            errors.append(error)
        admission.give(slot or 0)

    threads = [
        threading.Thread(target=want, args=pair) for pair in zip(admissions, slots, strict=True)
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join(10)
    return [str(error).partition("; ")[2] for error in errors]


@pytest.mark.campaign("long")
def test_all_who_have_one_wait_for_another(opened: Open) -> None:
    """Nobody would ever go on: one of them gets an error that says what to raise, and makes room for the other."""
    admissions = [opened(max_clones=2).server.admission for _ in range(2)]
    assert wait_for_each_other(admissions) == [
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
    one = opened(max_clones=3).server.admission
    two = opened(max_clones=3, maintenance_database=elsewhere).server.admission
    taken = [one.try_slot(), two.try_slot(), one.try_slot()]
    assert sorted(slot for slot in taken if slot is not None) == [0, 1, 2]
    assert (one.try_slot(), two.try_slot()) == (None, None)
    one.give(taken[0] or 0)
    assert two.try_slot() == taken[0]
    assert one.try_slot() is None


def test_two_who_take_at_once_in_different_databases(opened: Open, elsewhere: str) -> None:
    """Neither gets the slot of the other."""
    admissions = [
        opened(max_clones=2, maintenance_database=name).server.admission
        for name in ("postgres", elsewhere)
    ]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(500):
            taken = list(threads.map(Admission.try_slot, admissions))
            assert None in taken or taken[0] != taken[1]
            for admission, slot in zip(admissions, taken, strict=True):
                if slot is not None:
                    admission.give(slot)


def test_those_who_wait_elsewhere_are_seen(opened: Open, elsewhere: str) -> None:
    """A clone that was made ahead gives way to a process with another maintenance database."""
    holder = opened(max_clones=1).server.admission
    waiter = opened(max_clones=1, maintenance_database=elsewhere).server.admission
    slot = holder.try_slot()
    assert slot is not None
    assert not holder.others_wait()
    served: list[int] = []
    thread = threading.Thread(target=lambda: served.append(waiter.slot()))
    thread.start()
    eventually(holder.others_wait)
    holder.give(slot)
    thread.join(10)
    assert served == [slot]


@pytest.mark.campaign("long")
def test_all_wait_for_another_in_different_databases(opened: Open, elsewhere: str) -> None:
    """One of them gets the error, and the other its clone."""
    admissions = [
        opened(max_clones=2, maintenance_database=name).server.admission
        for name in ("postgres", elsewhere)
    ]
    assert wait_for_each_other(admissions) == [
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
    pool, other = pool_of(opened(max_clones=1)), opened(max_clones=1).server.admission
    first = pool.take()
    assert other.try_slot() is None
    first.drop()
    second = pool.take()
    first.drop()
    assert other.try_slot() is None
    second.drop()
    assert other.try_slot() == 0


def test_a_clone_that_no_test_has(opened: Open) -> None:
    """It takes room that is left, nobody waits for it, and there is none while others wait."""
    pool, other = pool_of(opened(max_clones=2)), opened(max_clones=2).server.admission
    spare = pool.spare()
    assert spare is not None
    used = pool.take()
    assert pool.spare() is None
    spare.drop()
    again = pool.spare()
    assert again is not None
    assert other.try_slot() is None
    for clone in (again, used):
        clone.drop()


def test_databases_of_another_kind(opened: Open) -> None:
    """They take as much room as a clone, until they are dropped; one that could not be made takes none."""
    template = opened(max_clones=1)
    admission, other = template.server.admission, opened(max_clones=1).server.admission
    empty = admission.filled(
        admission.slot(), lambda: create_empty(template.server, template.server.config)
    )
    assert other.try_slot() is None
    empty.drop()
    with pytest.raises(ZeroDivisionError):
        admission.filled(
            admission.slot(),
            lambda: create_empty(template.server, template.server.config) if 1 // 0 else empty,
        )
    assert other.try_slot() == 0
