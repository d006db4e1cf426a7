"""Pools of the drivers' own: psycopg_pool's, psycopg2's, aiopg's and asyncpg's, which applications make at import.

One that is sent to clones opens connections when they are asked for, and none ahead: there may
be no clone yet. What is idle in it when a clone is left is closed, so that no test gets a
connection of the test before.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import weakref
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from clonedb.postgres.drivers import PatchedDrivers

__all__ = ["Aim", "DriverPools"]

Aim = Callable[[list[Any], Mapping[str, Any]], Callable[[], object] | None]
"""Given the parameters of a connection: None if it is not the application's, else what raises if there is no clone."""

_PATIENCE = 5.0  # seconds for a loop that runs in another thread to close what is open on it


class DriverPools(PatchedDrivers):
    """The application's pools of this process that were used since `install`."""

    def __init__(self, aim: Aim) -> None:
        super().__init__()
        self._aim: Aim = aim
        # pools, and connections of asyncpg's pools, each with what closes it where it is idle
        self._open: weakref.WeakKeyDictionary[Any, Callable[[Any, str], None]] = (
            weakref.WeakKeyDictionary()
        )

    def _patches(self) -> Mapping[str, Callable[[ModuleType], None]]:
        return {
            "psycopg_pool": self._psycopg_pool,
            "psycopg2.pool": self._psycopg2_pool,
            "asyncpg.pool": self._asyncpg_pool,
            "aiopg.pool": self._aiopg_pool,
        }

    def uninstall(self) -> None:
        """No pool is changed any more, neither where a wrapper could not be taken away."""
        super().uninstall()
        self._aim = lambda *_: None

    def close_idle(self, database: str) -> None:
        """Close what is idle and leads to a database; what is in use is what a test left open."""
        for one, close in list(self._open.items()):
            with contextlib.suppress(AttributeError):  # of a version that is not known
                close(one, database)

    def _psycopg_pool(self, module: ModuleType) -> None:
        """Have a pool begin empty, and refuse to take from it while there is no clone.

        It would try to connect after a second, then two, then four, and code that asks it for a
        connection would wait for that.
        """

        def wrap_start(was: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(was)
            def start_initial_tasks(pool: Any) -> Any:
                if self._aim_of_psycopg_pool(pool) is not None:
                    pool._min_size = pool._nconns = 0  # noqa: SLF001
                return was(pool)

            return start_initial_tasks

        def wrap_check(was: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(was)
            def check_open_getconn(pool: Any) -> Any:
                __tracebackhide__ = True
                require = self._aim_of_psycopg_pool(pool)
                if require is not None or _is_computed(pool):
                    self._open[pool] = _close_idle_of_psycopg_pool
                if require is not None:
                    require()
                return was(pool)

            return check_open_getconn

        for name in ("ConnectionPool", "AsyncConnectionPool"):
            self._replace(getattr(module, name, None), "_start_initial_tasks", wrap_start)
        base = getattr(getattr(module, "base", None), "BasePool", None)
        self._replace(base, "_check_open_getconn", wrap_check)

    def _aim_of_psycopg_pool(self, pool: Any) -> Callable[[], object] | None:
        return None if _is_computed(pool) else self._aim([pool.conninfo], pool.kwargs or {})

    def _psycopg2_pool(self, module: ModuleType) -> None:
        """Have a pool that is made while there is no clone begin empty, instead of failing."""

        def wrap(was: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(was)
            def connect(pool: Any, key: Any = None) -> Any:
                __tracebackhide__ = True
                if (require := self._aim(list(pool._args), pool._kwargs)) is not None:  # noqa: SLF001
                    self._open[pool] = _close_idle_of_psycopg2_pool
                    try:
                        require()
                    except Exception:
                        # without a key the pool fills itself as it is made; getconn() has one
                        if key is None:
                            return None
                        raise

                return was(pool, key)

            return connect

        self._replace(getattr(module, "AbstractConnectionPool", None), "_connect", wrap)

    def _asyncpg_pool(self, module: ModuleType) -> None:
        """Take note of what a pool connects; it connects anew where a connection was closed."""

        def wrap(was: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(was)
            async def get_new_connection(pool: Any) -> Any:
                __tracebackhide__ = True
                parameters, keywords = pool._connect_args, pool._connect_kwargs  # noqa: SLF001
                is_applications = self._aim(list(parameters), keywords) is not None
                connection = await was(pool)
                if is_applications:  # its pool cannot be referred to weakly
                    self._open[connection] = _close_idle_of_asyncpg
                return connection

            return get_new_connection

        self._replace(getattr(module, "Pool", None), "_get_new_connection", wrap)

    def _aiopg_pool(self, module: ModuleType) -> None:
        """Take note of a pool that looks what is free in it: it connects anew where a connection was closed."""

        def wrap(was: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(was)
            def fill_free_pool(pool: Any, *arguments: Any) -> Any:
                if self._aim([pool._dsn], pool._conn_kwargs) is not None:  # noqa: SLF001
                    self._open[pool] = _close_idle_of_aiopg_pool
                return was(pool, *arguments)

            return fill_free_pool

        self._replace(getattr(module, "Pool", None), "_fill_free_pool", wrap)


def _is_computed(pool: Any) -> bool:
    """Whether functions say anew for each connection where a pool of psycopg_pool connects to."""
    return callable(pool.conninfo) or callable(pool.kwargs)


def _leads_to(connection: Any, database: str) -> bool:
    """Whether a libpq's connection leads to a database, or is closed."""
    try:
        return bool(connection.info.dbname == database)
    except Exception:  # noqa: BLE001 - of either driver
        return True


def _close_idle_of_psycopg_pool(pool: Any, database: str) -> None:
    """Shrink a pool: it grows when it is asked for a connection."""
    lock: Any = getattr(pool, "_lock", None)
    with (
        lock if hasattr(lock, "__enter__") else contextlib.nullcontext()
    ):  # an asynchronous pool's is asyncio's
        idle = [one for one in pool._pool if _leads_to(one, database)]  # noqa: SLF001
        for connection in idle:
            pool._pool.remove(connection)  # noqa: SLF001
        pool._nconns -= len(idle)  # noqa: SLF001

    for connection in idle:
        # libpq's own call, as an asynchronous connection's close() would have to be awaited
        connection.pgconn.finish()


def _close_idle_of_psycopg2_pool(pool: Any, database: str) -> None:
    for connection in [one for one in pool._pool if _leads_to(one, database)]:  # noqa: SLF001
        pool._pool.remove(connection)  # noqa: SLF001
        connection.close()


def _close_idle_of_aiopg_pool(pool: Any, database: str) -> None:
    """What its loop would do besides is left to it: psycopg2's connections are closed without one."""
    for connection in list(pool._free):  # noqa: SLF001
        if _leads_to(connection.raw, database):
            with contextlib.suppress(RuntimeError):  # the loop is closed
                connection.close()
            connection.raw.close()


def _close_idle_of_asyncpg(connection: Any, database: str) -> None:
    """On its loop, where that was not closed: then only the server can close it."""
    is_idle = connection._proxy is None and not connection.is_closed()  # noqa: SLF001
    loop = connection._loop  # noqa: SLF001
    if not is_idle or connection._params.database != database or loop.is_closed():  # noqa: SLF001
        return
    if loop.is_running():
        asyncio.run_coroutine_threadsafe(_terminate(connection), loop).result(_PATIENCE)
    else:
        loop.run_until_complete(_terminate(connection))


async def _terminate(connection: Any) -> None:
    connection.terminate()
    await asyncio.sleep(0)  # the loop closes a socket in its next round
