"""What drivers' connection objects hold on the client's side, where no reset of a session on the server reaches."""

from __future__ import annotations

import gc
import select
from collections import deque
from collections.abc import Iterator
from threading import Lock
from typing import Any

from clonedb.embedded.machine import is_stopped_server
from clonedb.postgres.raw_cursors import driver_of, hear, package_of

__all__ = [
    "DRIVERS",
    "descriptor_of",
    "driver_of",
    "has_ended",
    "hear",
    "is_held",
    "is_idle",
    "is_in_state",
    "let_go",
    "package_of",
    "pid_of",
    "reported",
    "state_of",
]

DRIVERS = ("psycopg", "psycopg2", "asyncpg")
"""The packages whose connections are known well enough to be used by one test after another."""

# psycopg's objects are Python's, so that all their attributes are known; these change by
# ordinary use
_PSYCOPGS_OWN = ("pgconn", "wait", "_adapters", "_prepared", "_begin_statement")
_PSYCOPG = ("prepare_threshold", "prepared_max")
# psycopg2's objects are of C and asyncpg's class has slots: what can be set is listed
_PSYCOPG2 = (
    *("autocommit", "isolation_level", "readonly", "deferrable", "encoding", "cursor_factory"),
    *("string_types", "binary_types"),
)
_ASYNCPG = (
    "_listeners",
    "_log_listeners",
    "_termination_listeners",
    "_query_loggers",
    "_reset_query",
    "_config",
)
_ADAPTED = (
    "autocommit",
    "isolation_level",
    "readonly",
    "read_only",
    "deferrable",
)  # SQLAlchemy's, of an async driver
# settings that the server reports of itself, and that a driver may have set when it connected
# (psycopg2: DateStyle)
_REPORTED = (
    *(
        "client_encoding",
        "DateStyle",
        "IntervalStyle",
        "TimeZone",
        "standard_conforming_strings",
    ),
    *(
        "application_name",
        "session_authorization",
        "default_transaction_read_only",
        "search_path",
    ),
)


def pid_of(connection: Any) -> int:
    """The pid of the server's process."""
    driver = driver_of(connection)
    return int(
        driver.get_server_pid()
        if hasattr(driver, "get_server_pid")
        else driver.info.backend_pid
    )


def has_ended(descriptor: int) -> bool:
    """Whether the server has ended the session of an idle connection, as it does when it is restarted: 2 us.

    So it is for -1, the descriptor of a connection that is closed. What the server sent before,
    a notification or its last words, is left to be read by the driver.
    """
    if descriptor < 0:
        return True
    hang_up = (
        select.POLLHUP | select.POLLERR | select.POLLNVAL | getattr(select, "POLLRDHUP", 0)
    )  # the last is Linux's
    waiting = select.poll()
    waiting.register(descriptor, hang_up)
    return any(events & hang_up for _, events in waiting.poll(0))


def descriptor_of(connection: Any) -> int:
    """The descriptor of a connection's socket; -1 if it is closed."""
    driver = driver_of(connection)
    if package_of(connection) == "asyncpg":
        return (
            -1
            if driver.is_closed()
            else int(driver._transport.get_extra_info("socket").fileno())  # noqa: SLF001
        )
    return -1 if driver.closed else int(driver.fileno())


def is_held(connection: Any) -> bool:
    """Whether COPY, `stream()`, `notifies()` or a pipeline holds a connection of psycopg's: one that was left open."""
    lock = getattr(driver_of(connection), "lock", None)
    return lock is not None and (
        lock.locked() or bool(driver_of(connection).pgconn.pipeline_status)
    )


def let_go(connection: Any) -> bool:
    """Close a connection of psycopg's that something holds, underneath it: whether there was anything that held it.

    psycopg's own rollback waits for the lock of a generator that will never be finished; it
    gets another lock, by which it finds the connection closed. One in a transaction whose
    process of the server is stopped is closed, too: the rollback would not be answered.
    """
    if connection is None:
        return False
    driver = driver_of(connection)
    if not is_held(connection):
        if _is_stuck(connection):
            driver.close()
        return False
    driver.pgconn.finish()
    driver.lock = (
        Lock() if isinstance(driver.lock, type(Lock())) else type(driver.lock)()
    )  # asyncio's has a class
    return True


def _is_stuck(connection: Any) -> bool:
    info = getattr(driver_of(connection), "info", None)
    # libpq's PQTRANS_ACTIVE, INTRANS and INERROR; a closed connection is in none of these
    in_transaction = info is not None and int(info.transaction_status) in (1, 2, 3)
    return in_transaction and is_stopped_server(pid_of(connection))


def is_idle(connection: Any) -> bool:
    """Whether a connection is in no transaction, and nothing holds it."""
    driver = driver_of(connection)
    if package_of(connection) == "asyncpg":
        return not driver.is_in_transaction()
    return (
        not is_held(connection) and int(driver.info.transaction_status) == 0
    )  # libpq's PQTRANS_IDLE


def state_of(connection: Any) -> list[object]:
    """Everything that a caller may change in the driver's objects; a copy, which later states are compared with."""
    state: list[object] = _copied(_state_of(connection))
    return state


def is_in_state(connection: Any, state: list[object]) -> bool:
    """Whether the driver's objects are as they were when their state was copied."""
    return _state_of(connection) == state


def _state_of(connection: Any) -> list[object]:
    driver = driver_of(connection)
    package = package_of(connection)
    state: list[object] = [
        {
            name: value
            for name, value in getattr(driver, "__dict__", {}).items()
            if name not in _PSYCOPGS_OWN
        }
    ]
    if package == "psycopg":
        state += [getattr(driver, name) for name in _PSYCOPG]
        state += [
            driver.pgconn.notice_handler,
            driver.pgconn.notify_handler,
            *_adapters(driver.adapters),
        ]
    elif package == "psycopg2":
        state += [getattr(driver, name) for name in _PSYCOPG2]
    else:
        state += [*(getattr(driver, name) for name in _ASYNCPG), _codecs(driver)]

    if driver is not connection:
        state += [getattr(connection, name, None) for name in _ADAPTED]
    return state


def reported(connection: Any) -> tuple[object, ...]:
    """What the server has told the driver of the session's settings, without asking it."""
    driver = driver_of(connection)
    package = package_of(connection)
    if package == "asyncpg":
        settings = driver.get_settings()
        return tuple(getattr(settings, name, None) for name in _REPORTED)
    if package == "psycopg":
        return tuple(driver.pgconn.parameter_status(name.encode()) for name in _REPORTED)
    return tuple(driver.info.parameter_status(name) for name in _REPORTED)


def _adapters(adapters: Any) -> Iterator[object]:
    """Tables of psycopg's adapters, which connections share until something is registered, and that are copied then."""
    own, by_oid, loaders = (
        adapters._own_dumpers,  # noqa: SLF001
        adapters._own_dumpers_by_oid,  # noqa: SLF001
        adapters._own_loaders,  # noqa: SLF001
    )
    yield from (_Table(table, owned=own[key]) for key, table in adapters._dumpers.items())  # noqa: SLF001
    yield from (
        _Table(table, owned=owned)
        for table, owned in zip(adapters._dumpers_by_oid, by_oid, strict=True)  # noqa: SLF001
    )
    yield from (
        _Table(table, owned=owned)
        for table, owned in zip(adapters._loaders, loaders, strict=True)  # noqa: SLF001
    )
    yield _Table(adapters.types._registry, owned=adapters.types._own_state)  # noqa: SLF001


class _Table:
    """A table of adapters as it is now; comparing it costs next to nothing while it is the shared one."""

    __slots__ = ("_content",)

    def __init__(self, content: dict[Any, Any], *, owned: bool) -> None:
        self._content = dict(content) if owned else content

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Table):
            return False
        return self._content is other._content or self._named() == other._named()

    __hash__ = None  # type: ignore[assignment]  # its content changes

    def _named(self) -> dict[Any, Any]:
        """By the names of classes, for which psycopg puts the class when it is first met."""
        return {
            f"{key.__module__}.{key.__qualname__}" if isinstance(key, type) else key: value
            for key, value in self._content.items()
        }


def _codecs(driver: Any) -> object:
    """The codecs that asyncpg was given for a connection, which only the garbage collector can find."""
    settings = driver._protocol.get_settings()  # noqa: SLF001
    (holder,) = (
        one for one in gc.get_referents(settings) if type(one).__name__ == "DataCodecConfig"
    )
    _derived, custom = (one for one in gc.get_referents(holder) if isinstance(one, dict))
    return custom


def _copied(value: Any) -> Any:
    """A collection as it is now, which is equal to the same one as long as nothing in it changes."""
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, (list, deque, set)):
        return type(value)(map(_copied, value))
    return value
