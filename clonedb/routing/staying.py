"""Idle connections of an engine's pool that may stay open for the next test, and what forbids it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clonedb.connections import OWN_SETTING, connect_listeners

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine
    from sqlalchemy.pool import Pool

    from clonedb.routing.loops import OpenEntry

__all__ = ["hand_out", "is_bound", "is_outdated", "listen", "see", "stay"]

_PAST = "clonedb_past"  # the key of a connection's `info`
# a setting that no reset takes away, and prepared statements that the driver knows nothing of, or that it looks for
_SPOILS = re.compile(
    OWN_SETTING.replace(r"\y", r"\b") + r"|^\s*(prepare|deallocate|discard)\b", re.IGNORECASE | re.MULTILINE
)
_DRIVERS = ("psycopg", "psycopg2", "asyncpg")
# what a caller may change in a driver's own objects, where no reset of the session reaches
_STATE = (
    *("autocommit", "isolation_level", "readonly", "read_only", "deferrable", "encoding"),
    *("prepare_threshold", "prepared_max", "row_factory", "cursor_factory", "server_cursor_factory"),
    *("_notice_handlers", "_notify_handlers", "_listeners", "_log_listeners", "_query_loggers"),
)
_SQLALCHEMYS = ("sqlalchemy.engine.create", "sqlalchemy.engine.default")
_ONCE = "only_once.<locals>.go"  # around SQLAlchemy's own `first_connect`


@dataclass(slots=True)
class _Past:
    """What is known of a connection since it was opened."""

    state: tuple[object, ...]
    engine: Engine | None = None
    pool: Pool | None = None
    listeners: tuple[object, ...] = ()
    used: bool = True
    spoilt: bool = False


def _past_of(entry: OpenEntry) -> _Past | None:
    past: _Past | None = entry.info.get(_PAST)
    return past


def hand_out(entry: OpenEntry) -> None:
    """A connection is about to be used; the first time it is as whoever connects has made it."""
    if (past := _past_of(entry)) is None:
        entry.info[_PAST] = _Past(_state(entry))
    else:
        past.used = True


def see(entry: OpenEntry, engine: Engine) -> None:
    """An engine was given a connection of its pool."""
    past = _past_of(entry)
    if past is not None and past.engine is None:
        past.engine, past.pool, past.listeners = engine, engine.pool, connect_listeners(engine.pool)


def listen(entry: OpenEntry, statement: str) -> None:
    """A statement is about to be sent."""
    past = _past_of(entry)
    if past is not None and not past.spoilt and _SPOILS.search(statement):
        past.spoilt = True


def is_outdated(entry: OpenEntry) -> bool:
    """Whether a connection that has stayed is not the one that a test would get by connecting: there is a listener."""
    past = _past_of(entry)
    return (
        past is not None and not past.used and past.pool is not None and connect_listeners(past.pool) != past.listeners
    )


def is_bound(pool: Any) -> bool:
    """Whether an asynchronous pool has waited for a connection: its asyncio.Queue belongs to that loop for good."""
    from sqlalchemy.pool import AsyncAdaptedQueuePool

    # nothing public tells
    return isinstance(pool, AsyncAdaptedQueuePool) and getattr(pool._pool._queue, "_loop", pool) is not None  # type: ignore[attr-defined]  # noqa: SLF001


def stay(entry: OpenEntry, reset: Callable[[Any], None]) -> int | None:
    """Reset an idle connection for the next test: its backend's pid, or None for one that has to be closed instead.

    In doubt it is. One that the last test has not used is closed, too, or the engines that a project makes for each
    test would fill the server. An asynchronous one is reset on its loop, in a greenlet.
    """
    try:
        return _reset(entry, reset) if _may_stay(entry) else None
    except Exception:  # noqa: BLE001 - of whatever driver
        return None


def _may_stay(entry: OpenEntry) -> bool:
    from sqlalchemy.pool import QueuePool

    past, connection = _past_of(entry), getattr(entry, "dbapi_connection", None)
    if past is None or past.engine is None or past.spoilt or not past.used or connection is None:
        return False
    past.used = False
    pool, dialect = past.engine.pool, past.engine.dialect
    return (
        pool is past.pool
        and isinstance(pool, QueuePool)
        and not is_bound(pool)
        and connect_listeners(pool) == past.listeners
        and all(map(_is_known, past.listeners))
        and getattr(dialect, "client_encoding", None) is None
        and _package(connection) in _DRIVERS
        and not _in_transaction(connection)
        and _state(entry) == past.state
    )


def _is_known(listener: object) -> bool:
    """Whether a listener to `connect` is SQLAlchemy's or clonedb's, and none that may SET what a reset takes away."""
    module = getattr(listener, "__module__", "") or ""
    own = module in _SQLALCHEMYS or module.startswith("clonedb.")
    return own or (module == "sqlalchemy.util.langhelpers" and getattr(listener, "__qualname__", "") == _ONCE)


def _reset(entry: Any, reset: Callable[[Any], None]) -> int | None:
    connection = entry.dbapi_connection
    driver = _driver(connection)
    if _package(connection) == "asyncpg":
        reset(_Message(driver))
        return None if _in_transaction(connection) else int(driver.get_server_pid())
    was = connection.autocommit
    connection.autocommit = True
    reset(connection.cursor() if driver is connection else _Message(driver, prepare=False))
    connection.autocommit = was
    return None if _in_transaction(connection) else int(driver.info.backend_pid)


class _Message:
    """What resets a session takes it for a cursor; SQLAlchemy's own would prepare, and that is one statement only."""

    def __init__(self, driver: Any, **options: bool) -> None:
        self._driver = driver
        self._options = options

    def execute(self, statements: str) -> None:
        """Send statements in one message."""
        from sqlalchemy.util import await_only

        await_only(self._driver.execute(statements, **self._options))


def _driver(connection: Any) -> Any:
    return getattr(connection, "driver_connection", connection)


def _package(connection: Any) -> str:
    return type(_driver(connection)).__module__.partition(".")[0]


def _in_transaction(connection: Any) -> bool:
    driver = _driver(connection)
    if hasattr(driver, "is_in_transaction"):  # asyncpg
        return bool(driver.is_in_transaction())
    return int(driver.info.transaction_status) != 0  # libpq's PQTRANS_IDLE


def _state(entry: Any) -> tuple[object, ...]:
    connection = entry.dbapi_connection
    return tuple(
        tuple(value) if isinstance(value, Collection) and not isinstance(value, str) else value
        for value in (getattr(one, name, None) for one in (_driver(connection), connection) for name in _STATE)
    )
