"""Statements that do not depend on one another, run on several connections at once."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

__all__ = ["run_parallel"]

_JOBS = 4
_WORTH = 20  # statements from which another connection is worth what it costs


def run_parallel(
    connect: Callable[[], Connection[Any]], statements: Sequence[bytes | Composed], *, before: Sequence[bytes] = ()
) -> None:
    """Run statements, each in a transaction of its own, as so none waits for two others; `before` on each connection.

    Raises the first error there was; after it, and after Ctrl-C, no statement is begun.
    """
    left = iter(statements)
    errors: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        try:
            with contextlib.closing(connect()) as connection:
                connection.execute("set synchronous_commit = off")
                for setting in before:
                    connection.execute(setting)
                while not stop.is_set() and (statement := next(left, None)) is not None:
                    connection.execute(statement)
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody sees it
            errors.append(error)
            stop.set()

    jobs = min(_JOBS, os.cpu_count() or 1, 1 + len(statements) // _WORTH)
    threads = [threading.Thread(target=work, name="clonedb-restore", daemon=True) for _ in range(jobs)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
    if errors:
        raise errors[0]
