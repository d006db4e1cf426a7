"""Clones made ahead and dropped behind: when the thread works, how many it makes, and what it leaves."""

from __future__ import annotations

import os
import threading
import time

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

import clonedb
from clonedb.clones.pool import Pool
from clonedb.errors import ServerError
from tests.clones.conftest import Open, eventually, pool_of
from tests.projects import databases, one

INSERT = "insert into item (name) values ('mine') returning (select count(*) from item)"


def clones(dsn: str, prefix: str) -> set[str]:
    """The clones on the server."""
    return set(databases(dsn, f"{prefix}_c_"))


def workers() -> list[threading.Thread]:
    """The threads that make clones."""
    return [thread for thread in threading.enumerate() if thread.name == "clonedb-pool"]


def test_one_taker_pays_for_one(pool: Pool, admin_dsn: str, prefix: str) -> None:
    """The first clone is made on the spot: no thread is started, nothing is made ahead, and it is dropped at once."""
    clone = pool.take(ahead=3)
    assert workers() == []
    assert clones(admin_dsn, prefix) == {clone.name}
    pool.drop(clone)
    assert clones(admin_dsn, prefix) == set()


def test_takers_who_do_not_come_again(pool: Pool) -> None:
    """Modes that need one clone for a whole run take as many as they are without starting a thread."""
    for taken in [pool.take() for _ in range(3)]:
        pool.drop(taken)
    assert workers() == []


def test_the_second_taker_starts_it(pool: Pool, admin_dsn: str, prefix: str) -> None:
    """From then on a clone is there before somebody asks for it, and every one is the template's."""
    used = [pool.take(ahead=1), pool.take(ahead=1)]
    for _ in range(5):
        eventually(lambda: len(clones(admin_dsn, prefix)) == len(used) + 1)
        before = clones(admin_dsn, prefix)
        clone = pool.take(ahead=1)
        assert clone.name in before
        assert one(clone, INSERT) == (1,)
        used.append(clone)
    assert len({clone.name for clone in used}) == 7
    assert len(workers()) == 1


@pytest.mark.campaign("long")
def test_it_makes_no_more_than_it_pays(pool: Pool, admin_dsn: str, prefix: str) -> None:
    """One at first; more where tests come in bursts, up to what the takers say."""
    used = [pool.take(ahead=2) for _ in range(2)]
    eventually(lambda: len(clones(admin_dsn, prefix)) == len(used) + 1)
    time.sleep(0.2)
    assert len(clones(admin_dsn, prefix)) == len(used) + 1
    for _ in range(4):
        used += [pool.take(ahead=2) for _ in range(3)]
        time.sleep(0.3)
    eventually(lambda: len(clones(admin_dsn, prefix)) == len(used) + 2)
    time.sleep(0.2)
    assert len(clones(admin_dsn, prefix)) == len(used) + 2


def test_it_makes_no_more_than_will_be_needed(
    template: clonedb.Template, admin_dsn: str, prefix: str
) -> None:
    """Where it is known how many tests there are, nothing is made ahead for those that never come."""
    pool = pool_of(template, total=lambda: 4)
    used = [pool.take(ahead=3) for _ in range(3)]
    eventually(lambda: len(clones(admin_dsn, prefix)) == 4)
    used.append(pool.take(ahead=3))
    time.sleep(0.2)
    assert clones(admin_dsn, prefix) == {clone.name for clone in used}
    pool.close()


def test_used_ones_go_behind(pool: Pool, admin_dsn: str, prefix: str) -> None:
    """The test goes on while the server keeps its clone from being dropped; it is dropped soon, with a client, too."""
    first, *used = [pool.take(ahead=1) for _ in range(5)]
    names = {clone.name for clone in (first, *used)}
    with used[0].connect() as connection, psycopg.connect(admin_dsn) as holder:
        # the lock of a COMMENT is one that DROP DATABASE waits for
        holder.execute(SQL("comment on database {} is 'held'").format(Identifier(first.name)))
        for clone in (first, *used):
            pool.drop(clone)
        assert names & clones(admin_dsn, prefix)
        holder.rollback()
        eventually(lambda: not names & clones(admin_dsn, prefix))
        connection.close()


def test_closing_leaves_nothing(pool: Pool, admin_dsn: str, prefix: str) -> None:
    """What was made ahead and what was not dropped yet go; the thread has ended; it may be closed again."""
    used = [pool.take(ahead=3) for _ in range(6)]
    for clone in used:
        pool.drop(clone)
    pool.close()
    pool.close()
    assert clones(admin_dsn, prefix) == set()
    assert workers() == []
    late = pool.take(ahead=3)  # a finalizer that asks for one gets one
    pool.drop(late)
    assert clones(admin_dsn, prefix) == set()


def test_the_first_error_of_dropping_is_told(opened: Open, admin_dsn: str) -> None:
    """A clone that cannot be dropped keeps no other from being dropped, and closing says what was in the way."""
    template = opened()
    pool = pool_of(template)
    used = [pool.take(ahead=1) for _ in range(3)]
    server = template.server
    server.run(
        lambda connection: connection.execute(
            f'alter database "{used[1].name}" is_template true'
        )
    )
    for clone in used:
        pool.drop(clone)
    with pytest.raises(
        ServerError,
        match=r"could not drop a used clone .*cannot drop a template database.*clonedb gc",
    ):
        pool.close()
    assert databases(admin_dsn, f"{server.config.prefix}_c_") == [used[1].name]
    server.run(
        lambda connection: connection.execute(
            f'alter database "{used[1].name}" is_template false'
        )
    )
    used[1].drop()


def test_a_forked_child_leaves_it_alone(pool: Pool, admin_dsn: str, prefix: str) -> None:
    """A child has clones of its own, made on the spot; closing the pool there takes nothing from the parent."""
    used = [pool.take(ahead=1) for _ in range(2)]
    eventually(lambda: len(clones(admin_dsn, prefix)) == 3)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            made = pool.take(ahead=1)
            pool.drop(made)
            pool.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    ahead = clones(admin_dsn, prefix) - {clone.name for clone in used}
    assert {pool.take(ahead=1).name} == ahead
