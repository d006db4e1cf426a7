"""`template.database()` in threads that have to wait for each other's clones."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

import clonedb
from clonedb.settings.typed import Isolation
from tests.projects import Project


@pytest.fixture
def narrow(project: Project, variables: None) -> Iterator[clonedb.Template]:
    """The project's template, on a server with room for one clone."""
    del variables
    project.revision(
        "one",
        'op.execute("create table item (id serial)")',
        'op.execute("drop table item")',
        down=None,
    )
    with clonedb.template(project.directory, max_clones=1) as opened:
        yield opened


@pytest.mark.campaign("long")
@pytest.mark.parametrize("isolation", ["auto", "clone", "rollback"])
def test_a_thread_that_waits_for_room_lets_another_release(
    narrow: clonedb.Template, isolation: Isolation
) -> None:
    """It waits as long as that works, which is no reason to say that all wait, and gets its database then."""
    entered, errors = threading.Event(), list[clonedb.CloneDBError]()

    def work(seconds: float) -> None:
        try:
            with narrow.database(isolation):
                entered.set()
                time.sleep(seconds)
        except clonedb.CloneDBError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[seconds]) for seconds in (2.5, 0.0, 0.0)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
        assert entered.wait(30)
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert time.monotonic() - start > 2.5


def test_threads_that_wait_for_each_other_are_told(narrow: clonedb.Template) -> None:
    """One that has a database and wants another is not at work."""
    entered, errors = threading.Event(), list[str]()

    def work(*, nested: bool) -> None:
        try:
            with narrow.database("clone"):
                entered.set()
                if nested:
                    with narrow.database("clone"):
                        pass
        except clonedb.ConfigError as error:
            errors.append(str(error))

    threads = [
        threading.Thread(target=work, kwargs={"nested": nested}) for nested in (True, False)
    ]
    for thread in threads:
        thread.start()
        assert entered.wait(30)
    for thread in threads:
        thread.join(60)
    assert errors
    assert all("all who have one wait for another" in error for error in errors)
