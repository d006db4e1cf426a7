"""Whoever writes while a clone is being rewound, and is gone before anybody looks, leaves nothing behind."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psycopg

from tests.differential.grammar import Program, Step
from tests.differential.laboratory import Laboratory

_WRITES = (
    "insert into watched (n) values (777); update invoice set total = 13 where id = 105; select nextval('standalone')"
)
_LARGE = Program((Step(0, "delete from large where id % 5 = 1", None, "bulk"),), ("commit",) * 3)
_NOTHING = Program((), ("commit",) * 3)


@contextlib.contextmanager
def intruders(dsn: str, number: int) -> Iterator[None]:
    """Threads that connect, write, and leave, again and again."""
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            with contextlib.suppress(psycopg.Error), psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(_WRITES)

    threads = [threading.Thread(target=write) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_an_intruder_leaves_nothing_behind(laboratory: Laboratory) -> None:
    """The clone is refused, or the undoing after it, without intruders, finds what they wrote."""
    for _ in range(20):
        dsn = laboratory.dsn
        with intruders(dsn, 2):
            laboratory.run(_LARGE, compare=False)
        laboratory.run(_NOTHING)
