"""Idle connections of a SQLAlchemy engine's pool that may stay open for the next test, and what forbids it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from clonedb.postgres.statements import Traces
from clonedb.sessions import driver_state

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine
    from sqlalchemy.pool import Pool

    from clonedb.sessions.loops import OpenEntry
    from clonedb.sessions.reset import Renewal, SessionReset

__all__ = [
    "OWN",
    "begin",
    "connect_listeners",
    "hand_out",
    "is_bound",
    "is_gone",
    "is_outdated",
    "listen",
    "see",
    "stay",
]

OWN = "clonedb_own"
"""The key of a connection's `info` that tells an engine of clonedb's own from the application's."""

_PAST = "clonedb_past"  # the key of a connection's `info`
# where the listeners are from that SQLAlchemy itself gives to a pool
_SQLALCHEMYS = ("sqlalchemy.engine.create", "sqlalchemy.engine.default")
_ONCE = "only_once.<locals>.go"  # around SQLAlchemy's own `first_connect`
# a listener to each use of a connection may send statements unheard
_USES = ("checkout", "checkin", "reset")


@dataclass(slots=True)
class _Past:
    """What is known of a connection since it was opened.

    `state`, `reported` and `info` are what the driver, the server and SQLAlchemy said of it
    before its first use. `raw` is true from when the pool hands it out until an engine's
    `connect` shows it.
    """

    state: list[object]
    reported: tuple[object, ...]
    info: dict[Any, Any]
    engine: Engine | None = None
    pool: Pool | None = None
    listeners: tuple[object, ...] = ()
    used: bool = True
    traces: Traces = field(default_factory=Traces)
    heard: bool = False
    raw: bool = True


def _past_of(entry: OpenEntry) -> _Past | None:
    past: _Past | None = entry.info.get(_PAST)
    return past


def connect_listeners(pool: Pool) -> tuple[object, ...]:
    """Everybody who is told of a pool's new connections, in order."""
    dispatch: Any = pool.dispatch
    return (*dispatch.first_connect, *dispatch.connect)


def hand_out(entry: Any) -> None:
    """A connection is about to be used; the first time it is as the connect function has made it."""
    past = _past_of(entry)
    if past is None:
        connection = entry.dbapi_connection
        if driver_state.package_of(connection) not in driver_state.DRIVERS:
            return
        # a version of a driver whose objects are made of something else: its connections are
        # closed after each test
        with contextlib.suppress(AttributeError, TypeError, ValueError):
            past = _Past(
                driver_state.state_of(connection),
                driver_state.reported(connection),
                dict(entry.info),
            )
            past.heard = driver_state.hear(connection, past.traces.hear)
            entry.info[_PAST] = past

        return

    past.used = True
    # raw still: it was last used without an engine, and what was sent then is not known
    past.traces.spoilt = past.traces.spoilt or (past.raw and not past.heard)
    past.raw = True


def see(entry: OpenEntry, engine: Engine) -> None:
    """An engine was given a connection of its pool."""
    past = _past_of(entry)
    if past is None:
        return
    past.raw = False
    past.traces.spoilt = past.traces.spoilt or not (past.heard or _is_unwatched(engine.pool))
    # the first engine that it is seen with; what `_may_stay` compares with
    if past.engine is None:
        past.engine, past.pool, past.listeners = (
            engine,
            engine.pool,
            connect_listeners(engine.pool),
        )


def listen(entry: OpenEntry, statement: str) -> None:
    """An engine is about to send a statement."""
    past = _past_of(entry)
    # a driver that can be heard tells itself of what is sent, by whatever cursor
    if past is not None and not past.heard:
        past.traces.hear(statement)


def is_outdated(entry: OpenEntry) -> bool:
    """Whether a connection that has stayed is not the one that a test would get by connecting.

    There is a listener to new ones, or the server has ended it.
    """
    past = _past_of(entry)
    # only the first use after a reset is asked of: the later ones are the same test's
    if past is None or past.used:
        return False
    return is_gone(entry) or (
        past.pool is not None and connect_listeners(past.pool) != past.listeners
    )


def is_gone(entry: Any) -> bool:
    """Whether the server has ended an idle connection."""
    connection = entry.dbapi_connection
    try:
        return connection is None or driver_state.has_ended(
            driver_state.descriptor_of(connection)
        )
    except (
        AttributeError,
        TypeError,
        ValueError,
        OSError,
    ):  # of a driver that is not known: let it find out
        return False


def is_bound(pool: Any) -> bool:
    """Whether an asynchronous pool has waited for a connection: its asyncio.Queue belongs to that loop for good."""
    from sqlalchemy.pool import AsyncAdaptedQueuePool

    # nothing public tells
    return (
        isinstance(pool, AsyncAdaptedQueuePool)
        and getattr(pool._pool._queue, "_loop", pool) is not None  # type: ignore[attr-defined]  # noqa: SLF001
    )


def begin(entry: OpenEntry, renewal: Renewal) -> None:
    """Begin to reset an idle connection of a synchronous driver for the next test; in doubt it is closed instead."""
    try:
        if not _may_stay(entry):
            entry.invalidate()
            return

        connection: Any = entry.dbapi_connection  # type: ignore[attr-defined]
        if driver_state.package_of(connection) == "psycopg":
            renewal.begin(
                connection.pgconn,
                settings=_settings(entry),
                keep=partial(_keep, entry),
                lose=entry.invalidate,
            )
            return

        # psycopg2, which would send a BEGIN of its own before the reset
        autocommit = connection.autocommit
        connection.autocommit = True
        renewal.reset(connection.cursor(), settings=_settings(entry))
        connection.autocommit = autocommit
        # psycopg2 collects them on the connection, where the next test would find them
        del connection.notices[:], connection.notifies[:]
        renewal.pids.append(driver_state.pid_of(connection))
        _keep(entry)
    except Exception:  # noqa: BLE001 - of whatever driver: a connection that does not work is closed
        entry.invalidate()


def stay(entry: OpenEntry, reset: SessionReset) -> int | None:
    """Reset an idle connection of an asynchronous driver, on its loop and in a greenlet.

    Returns its backend's pid, or None for one that has to be closed instead.
    """
    from sqlalchemy.util import await_only

    try:
        if not _may_stay(entry):
            return None
        driver = driver_state.driver_of(entry.dbapi_connection)  # type: ignore[attr-defined]
        message = reset.message(settings=_settings(entry))
        if driver_state.package_of(driver) == "asyncpg":
            # without arguments asyncpg sends a simple query, which may be several statements
            await_only(driver.execute(message))
        else:
            autocommit = driver.autocommit
            await_only(driver.set_autocommit(True))

            # psycopg prepares what it has sent five times, and a prepared statement is one
            # statement only
            await_only(driver.execute(message, prepare=False))
            await_only(driver.set_autocommit(autocommit))

        return driver_state.pid_of(driver) if _is_as_new(entry) else None
    except Exception:  # noqa: BLE001 - of whatever driver
        return None


def _may_stay(entry: Any) -> bool:
    """Whether all that was done to a connection since the last test's beginning is what a reset takes away.

    One of an application's that the test has not used is closed, too, or the engines that a
    project makes for each test would fill the server.
    """
    from sqlalchemy.pool import QueuePool

    past, connection = _past_of(entry), getattr(entry, "dbapi_connection", None)
    if past is None or past.engine is None or past.traces.spoilt or connection is None:
        return False
    # `used` is still that of the test that has just ended
    if not past.used and OWN not in entry.info:
        return False
    past.used = False
    pool, dialect = past.engine.pool, past.engine.dialect
    return (
        # engine.dispose() makes another pool; a queue that is bound belongs to one loop
        pool is past.pool
        and isinstance(pool, QueuePool)
        and not is_bound(pool)
        # a listener that has come since would have made something else of a new connection
        and connect_listeners(pool) == past.listeners
        and all(map(_is_known, past.listeners))
        and (past.heard or not past.raw)
        # psycopg2's is set once, when SQLAlchemy connects, and RESET ALL would take it back
        and getattr(dialect, "client_encoding", None) is None
        and driver_state.is_idle(connection)
        and driver_state.is_in_state(connection, past.state)
    )


def _settings(entry: OpenEntry) -> bool:
    """Whether a setting may have been changed in the session since its last reset, which comes now."""
    past = _past_of(entry)
    if past is None:
        return True
    found, past.traces.settings = past.traces.settings, False
    return found


def _is_unwatched(pool: Pool) -> bool:
    """Whether only SQLAlchemy and clonedb are told of each use of a connection."""
    return all(
        _is_known(listener) for name in _USES for listener in getattr(pool.dispatch, name)
    )


def _is_known(listener: object) -> bool:
    """Whether a listener is SQLAlchemy's or clonedb's, and none that may SET what a reset takes away."""
    module = getattr(listener, "__module__", "") or ""
    own = module in _SQLALCHEMYS or module.startswith("clonedb.")
    return own or (
        module == "sqlalchemy.util.langhelpers"
        and getattr(listener, "__qualname__", "") == _ONCE
    )


def _keep(entry: OpenEntry) -> None:
    if not _is_as_new(entry):
        entry.invalidate()


def _is_as_new(entry: Any) -> bool:
    """The session was reset: whether the server says of it what it said before; what tests noted of it is forgotten."""
    past, connection = _past_of(entry), entry.dbapi_connection
    if (
        past is None
        or not driver_state.is_idle(connection)
        or driver_state.reported(connection) != past.reported
    ):
        return False
    entry.info.clear()
    entry.info.update(past.info)
    entry.info[_PAST] = past
    return True
