"""What happens around programs that is no program's: strangers that come late, and a server that crashes."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from random import Random
from typing import Literal

import psycopg

from clonedb.errors import ServerError
from clonedb.postgres.server import Server

__all__ = ["CHAOS", "Chaos", "await_recovery", "crash", "late_stranger", "strangers"]

Chaos = Literal["none", "late", "crash"]
CHAOS: tuple[Chaos, ...] = ("none", "late", "crash")
"""`late`: a stranger connects around each undoing; `crash`: the server crashes now and then right after one."""

_WRITES = (
    "insert into watched (n) values (777)",
    "update invoice set total = 13 where id = 105",
    "select nextval('standalone')",
    "insert into keyless values (7, 'stranger', 7)",
    "delete from sharing_one where n = 3",
)
_SPAN = 0.015  # seconds, within which an undoing on a quick machine has begun and looked
_RECOVERY = 60.0  # seconds


@contextlib.contextmanager
def strangers(dsn: str, number: int) -> Iterator[None]:
    """Threads that connect, write, and leave, again and again."""
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            with (
                contextlib.suppress(psycopg.Error),
                psycopg.connect(dsn, autocommit=True) as connection,
            ):
                connection.execute("; ".join(_WRITES[:3]).encode())

    threads = [threading.Thread(target=write) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def late_stranger(dsn: str, random: Random) -> Iterator[None]:
    """One that connects once, a moment after this began, writes and leaves; it is gone at the end."""
    delay = random.random() * _SPAN
    statement = random.choice(_WRITES)

    def write() -> None:
        time.sleep(delay)
        with (
            contextlib.suppress(psycopg.Error),
            psycopg.connect(dsn, autocommit=True) as connection,
        ):
            connection.execute(statement.encode())

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def crash(server: Server) -> None:
    """End a backend as the kernel does when memory is short: PostgreSQL ends all others, and recovers."""
    database = server.config.maintenance_database
    with (
        contextlib.closing(server.connect(database)) as other,
        contextlib.closing(server.connect(database)) as victim,
    ):
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        deadline = time.monotonic() + _RECOVERY
        with contextlib.suppress(psycopg.Error):  # it is ended when the server has noticed
            while time.monotonic() < deadline:
                other.execute("select")
    await_recovery(server)


def await_recovery(server: Server) -> None:
    """Wait until the server lets sessions in; raises ServerError when it does not."""
    deadline = time.monotonic() + _RECOVERY
    while True:
        try:
            server.connect(server.config.maintenance_database).close()
        except ServerError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
