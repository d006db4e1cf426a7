"""Room for one more database in memory: a stated share is never exceeded, whoever makes how many at once."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import clonedb
from clonedb.clones.clone import Clone
from clonedb.clones.pool import Pool
from clonedb.embedded import leases
from clonedb.embedded.memory import memory_at
from clonedb.errors import ServerError
from clonedb.settings.config import Config
from tests.campaigns import VARIANT
from tests.clones.conftest import eventually
from tests.mounts import tmpfs
from tests.projects import PYTEST, Project, one

MB = 1024**2
Open = Callable[..., clonedb.Template]


@pytest.fixture(scope="module")
def prefix(run_id: str) -> str:
    """One for all tests here, and with it one template."""
    return f"m{run_id[:5]}_{os.getpid():x}"


@pytest.fixture(scope="module")
def small(config: Config) -> Iterator[Path]:
    """A state directory in memory, in which there is room for a server, a template and a few clones."""
    with tmpfs("150m") as directory:
        state = directory / "state"
        yield state
        leases.stop(config.replace("the test", state_dir=str(state)))


@pytest.fixture
def opened(items: Project, small: Path, variables: None) -> Iterator[Open]:
    """A function that opens the template of the project on the server there, as another process would."""
    del variables
    templates = []

    def open_one(**settings: Any) -> clonedb.Template:
        templates.append(clonedb.template(items.directory, state_dir=str(small), **settings))
        return templates[-1]

    yield open_one
    for template in templates:
        template.close()


def fill(template: clonedb.Template) -> list[Clone]:
    """As many clones as there is room for; the share is not exceeded by any of them."""
    clones: list[Clone] = []
    with contextlib.suppress(ServerError):
        while len(clones) < 30:
            clones.append(template.clone())
            assert used(template) < 150 * MB * 7 // 8
    return clones


def used(template: clonedb.Template) -> int:
    """The bytes that files take on the file system of a template's server."""
    assert template.server.lease is not None
    found = memory_at(template.server.lease.data_dir.parent)
    assert found is not None
    return found.used


@pytest.mark.campaign("long")
def test_the_share_is_never_exceeded(opened: Open) -> None:
    """The clone too many is an error that says what it would take, what they may take, and what to set."""
    template = opened()
    clones = fill(template)
    assert 2 < len(clones) < 20
    start = time.monotonic()
    message = (
        r"no room in memory for clone '\w+' \([\d.]+ MB\): files in memory take"
        r" [\d.]+ MB of the 150\.0 MB they may, .* 50% of the memory .* set state_dir \(.*\) to a directory on a disk"
    )
    with pytest.raises(ServerError, match=message):
        template.clone()
    assert time.monotonic() - start < 4  # nobody else has clones that could go
    clones.pop().drop()
    with template.clone() as clone:
        assert one(clone, "select count(*) from item") == (1,)
    for clone in clones:
        clone.drop()


@pytest.mark.campaign("long")
def test_room_is_waited_for(opened: Open) -> None:
    """While another process has clones and goes on, its next one to go makes room; meanwhile it says what it waits for."""
    holder, waiter = opened(lock_timeout=0.1), opened()
    heard: list[str] = []
    waiter.server.say = heard.append
    clones = fill(holder)
    timer = threading.Timer(3.5, clones.pop().drop)
    start = time.monotonic()
    timer.start()
    with waiter.clone():
        assert 3 < time.monotonic() - start < 8
    assert heard[0].startswith("waiting for room for clone")
    timer.join()
    for clone in clones:
        clone.drop()


@pytest.mark.campaign("long")
def test_who_waits_for_a_slot_keeps_nobody_from_memory(opened: Open) -> None:
    """The process that has the slot makes another database at once, where memory is scarce, too."""
    holder, waiter = opened(max_clones=1), opened(max_clones=1)
    slot = holder.server.admission.try_slot()
    assert slot is not None
    clones = fill(holder)
    clones.pop().drop()
    served: list[int] = []
    thread = threading.Thread(target=lambda: served.append(waiter.server.admission.slot()))
    thread.start()
    eventually(holder.server.admission.others_wait)
    start = time.monotonic()
    clones.append(holder.clone())
    assert time.monotonic() - start < 1
    assert served == []
    holder.server.admission.give(slot)
    thread.join(10)
    assert served == [slot]
    for clone in clones:
        clone.drop()


@pytest.mark.campaign("long")
def test_a_thread_that_waits_for_memory_lets_another_release(opened: Open) -> None:
    """It waits as long as that works, which is no reason to say that nobody makes room, and gets its database then."""
    template = opened()
    clones = fill(template)
    clones.pop().drop()
    entered, errors = threading.Event(), list[clonedb.CloneDBError]()

    def work(seconds: float) -> None:
        try:
            with template.database("clone"):
                entered.set()
                time.sleep(seconds)
        except clonedb.CloneDBError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[seconds]) for seconds in (2.5, 0.0)]
    for thread in threads:
        thread.start()
        assert entered.wait(30)
    for thread in threads:
        thread.join(60)
    assert errors == []
    for clone in clones:
        clone.drop()


def test_a_template_needs_room_too(opened: Open) -> None:
    """One that is built, from the first revision or upon a layer, does not exceed the share either."""
    holder = opened(lock_timeout=0.1)
    clones = fill(holder)
    with pytest.raises(ServerError, match=r"no room in memory for template"):
        opened(lock_timeout=0.1, salt="another")
    for clone in clones:
        clone.drop()


@pytest.mark.campaign("long")
def test_who_all_wait_for_each_other_are_told(opened: Open) -> None:
    """Of two processes that have all the room and want more one is told, and what it gives up is the other's."""
    templates = [opened(), opened()]
    clones = {0: fill(templates[0]), 1: []}
    clones[0].pop().drop()
    clones[1].append(templates[1].clone())
    ends: list[str] = []

    def want(number: int) -> None:
        try:
            clones[number].append(templates[number].clone())
            ends.append("made")
        except ServerError as error:
            ends.append(str(error))
            for clone in clones[number]:
                clone.drop()

    threads = [threading.Thread(target=want, args=[number]) for number in (0, 1)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start < 10
    made, told = sorted(ends, key=lambda end: end != "made")
    assert made == "made"
    assert told.startswith("no room in memory for clone")
    for clone in (*clones[0], *clones[1]):
        clone.drop()


def test_two_at_the_same_moment_do_not_take_the_same_room(opened: Open) -> None:
    """Four processes, room for one more clone: one gets it, the others wait for its end."""
    templates = [opened(lock_timeout=0.1), *(opened() for _ in range(3))]
    clones = fill(templates[0])
    clones.pop().drop()
    most, numbers = [used(templates[0])], []

    def take(template: clonedb.Template) -> None:
        with template.clone():
            most.append(used(template))
            numbers.append(1)
            time.sleep(0.1)

    threads = [threading.Thread(target=take, args=[template]) for template in templates[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(numbers) == 3
    assert max(most) <= 150 * MB * 7 // 8
    for clone in clones:
        clone.drop()


def test_a_pool_makes_no_more_ahead_than_there_is_room_for(opened: Open) -> None:
    """Its thread does not wait, and a test that finds no room gets what is dropped behind."""
    template = opened(isolation="clone")
    clones = fill(template)
    for clone in (clones.pop(), clones.pop()):
        clone.drop()
    pool = Pool(template.server, template.record)
    try:
        for _ in range(12):
            clone = pool.take(ahead=4)
            assert used(template) <= 150 * MB * 7 // 8
            pool.drop(clone)
    finally:
        pool.close()
        for clone in clones:
            clone.drop()


def test_an_empty_database_needs_room_too(opened: Open) -> None:
    """As a clone does."""
    from clonedb.clones.clone import create_empty

    template = opened(lock_timeout=0.1)
    clones = fill(template)
    with pytest.raises(ServerError, match="no room in memory for clone"):
        create_empty(template.server, template.server.config)
    for clone in clones:
        clone.drop()
    create_empty(template.server, template.server.config).drop()


TESTS = """
import pytest

@pytest.mark.parametrize("number", range(8))
def test_rows_and_tables_of_ones_own(clonedb_connection, number):
    if number % 3 == 0:
        clonedb_connection.execute("create table another (id int)")
    clonedb_connection.execute("insert into item (name) values ('mine')")
    assert clonedb_connection.execute("select count(*) from item").fetchone() == (2,)
"""


@pytest.mark.campaign("long")
@pytest.mark.parametrize("isolation", ["auto", pytest.param("clone", marks=VARIANT)])
def test_more_workers_than_there_is_room_for(
    items: Project, config: Config, isolation: str
) -> None:
    """They wait for each other's clones, and all pass; at no moment do files take more than their share."""
    items.write("test_it.py", TESTS)
    with tmpfs("90m") as directory:
        state = directory / "state"
        run = items.popen(
            *PYTEST, "-n", "4", "--clonedb-isolation", isolation, CLONEDB_STATE_DIR=str(state)
        )
        most = 0
        while run.poll() is None:
            there = os.statvfs(directory)
            most = max(most, (there.f_blocks - there.f_bfree) * there.f_frsize)
            time.sleep(0.005)
        out, err = run.communicate()
        leases.stop(config.replace("the test", state_dir=str(state)))
        assert "8 passed" in out, f"{out}\n{err}"
        assert most <= 90 * MB * 7 // 8
