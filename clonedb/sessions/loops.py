"""The connections of asynchronous engines, each closed on the event loop that it was opened on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from clonedb.errors import CloneDBError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from sqlalchemy.pool import PoolProxiedConnection

__all__ = ["OpenEntry", "OpenOnLoops", "running_loop"]

_PATIENCE = 5.0  # seconds for a loop that runs in another thread to close what is open on it
_GRACE = 100  # milliseconds for a loop's other generators to close their own connections


def running_loop() -> AbstractEventLoop:
    """The asyncio loop that runs here; raises CloneDBError where none does."""
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise CloneDBError(
            "an asynchronous engine was told to connect where no asyncio loop runs; await it on asyncio (there is no"
            " driver of PostgreSQL for trio), and in synchronous code use clonedb_engine or clonedb_session"
        ) from None


class OpenEntry(Protocol):
    """What holds an open connection: an entry of a SQLAlchemy pool."""

    @property
    def info(self) -> Any:
        """What is noted of the connection."""

    def invalidate(self) -> None:
        """Close the connection, without a rollback."""


class OpenOnLoops:
    """What is open on each loop: an entry of a pool, and the connection it has handed out, or None if it is idle.

    A loop may end before the fixtures do (pytest-asyncio's of a function) or after them (one of
    a session). So each loop is given a guard, an asynchronous generator that waits for its end:
    code that closes a loop properly first closes its generators (`loop.shutdown_asyncgens`).
    For code that does not, `loop.close` is preceded by the same. Holding the connections also
    keeps the garbage collector from them, which could close none without a loop. `ended` is
    called when a loop was found to have ended.
    """

    def __init__(self, ended: Callable[[], None] = lambda: None) -> None:
        self._ended = ended
        self._open: dict[AbstractEventLoop, dict[OpenEntry, PoolProxiedConnection | None]] = {}
        self._guards: dict[AbstractEventLoop, AsyncGenerator[None]] = {}

    def put(self, entry: OpenEntry, proxy: PoolProxiedConnection | None = None) -> None:
        """An entry was opened on the running loop, or is handed out (`proxy`), or is idle again."""
        loop = self.loop_of(entry)
        if loop is None:
            # a connection of an asynchronous driver is opened on the loop that runs
            loop = running_loop()
            if loop not in self._guards:
                self._open[loop] = {}
                _Ending.of(loop).add(self)
                self._guards[loop] = self._close_at_end(loop)
                _step(
                    anext(self._guards[loop])
                )  # up to its yield: the loop knows it from here on
        self._open[loop][entry] = proxy

    def loop_of(self, entry: OpenEntry) -> AbstractEventLoop | None:
        """The loop that an entry was opened on; None if it is not open."""
        return next(
            (loop for loop, entries in list(self._open.items()) if entry in entries), None
        )

    def replace(self, entry: OpenEntry, other: OpenEntry) -> None:
        """Another holds the idle connection of an entry from now on."""
        for entries in list(self._open.values()):
            if entry in entries:
                del entries[entry]
                entries[other] = None

    def remove(self, entry: OpenEntry) -> None:
        """An entry was closed, or its connection was detached."""
        for entries in list(self._open.values()):
            entries.pop(entry, None)

    def close(
        self,
        which: Callable[[OpenEntry, bool], bool] = lambda _entry, _in_use: True,
        *,
        spare: Callable[[OpenEntry], bool] = lambda _entry: False,
    ) -> None:
        """Close what is open and chosen by `which(entry, in_use)`, on its loop, which does not run in this thread now.

        What is idle is asked about first, on its loop, where that runs nowhere: `spare` may do
        I/O, and says whether a connection is to stay open. Where a loop was closed that could
        not be watched, a new one has to do: psycopg can, asyncpg cannot.
        """
        import asyncio

        for loop, entries in list(self._open.items()):
            # nothing that was opened on a closed loop can be used again: all of it goes
            closed = loop.is_closed()
            chosen = {
                entry: proxy
                for entry, proxy in entries.items()
                if closed or which(entry, proxy is not None)
            }
            if chosen and loop.is_running():
                # in another thread: nothing is spared, as a reset may meet what runs there
                asyncio.run_coroutine_threadsafe(_close(chosen), loop).result(_PATIENCE)
            elif chosen and not closed:
                loop.run_until_complete(_close(chosen, spare))
            elif chosen:
                with contextlib.closing(asyncio.new_event_loop()) as another:
                    another.run_until_complete(_close(chosen))

            if closed:
                self._forget(loop)

    def end(self) -> None:
        """Close everything, and wait for no loop any more."""
        self.close()
        for loop in list(self._open):
            self._forget(loop)

    async def end_on(self, loop: AbstractEventLoop) -> None:
        """Close what is open on a loop, which runs this and is about to be closed."""
        if (guard := self._guards.get(loop)) is not None:
            await guard.aclose()

    def _forget(self, loop: AbstractEventLoop) -> None:
        self._open.pop(loop, None)
        if (guard := self._guards.pop(loop, None)) is not None:
            _step(guard.aclose())
        _Ending.of(loop).discard(self)
        self._ended()

    async def _close_at_end(self, loop: AbstractEventLoop) -> AsyncGenerator[None]:
        """Wait for the end of the loop, and close what is open then.

        The loop's other generators end at the same moment, each in a task, and may be about to
        close their sessions.
        """
        import asyncio

        try:
            yield
        finally:
            # nothing if `_forget` was here before
            if entries := self._open.get(loop):
                for _ in range(_GRACE):
                    # two tasks: this one, and the one that waits for it
                    if (
                        not any(proxy is not None for proxy in entries.values())
                        or len(asyncio.all_tasks()) <= 2
                    ):
                        break

                    await asyncio.sleep(0.001)

                await _close(entries)

            # the end is told by the one that takes the guard away: this, or `_forget`
            if self._guards.pop(loop, None) is not None:
                self._open.pop(loop, None)
                _Ending.of(loop).discard(self)
                self._ended()


class _Ending:
    """A loop's `close` while something is open on it: closes that first, where the loop's generators were left open."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._close = loop.close
        self._waiting: set[OpenOnLoops] = set()

    @classmethod
    def of(cls, loop: AbstractEventLoop) -> _Ending:
        """The one of a loop, put there by the first who asks."""
        if isinstance(loop.close, cls):
            return loop.close
        ending = cls(loop)
        with contextlib.suppress(AttributeError):  # a loop that has no room for it, in C
            loop.close = ending  # type: ignore[method-assign]
        return ending

    def add(self, waiting: OpenOnLoops) -> None:
        """Something is open."""
        self._waiting.add(waiting)

    def discard(self, waiting: OpenOnLoops) -> None:
        """Nothing is any more."""
        self._waiting.discard(waiting)
        if not self._waiting:
            with contextlib.suppress(AttributeError):
                # the attribute of the object; the class's method is there again
                del self._loop.close

    def __call__(self) -> None:
        try:
            for waiting in list(self._waiting):
                # asyncio refuses to close a loop that runs; a second close() does nothing
                if not (self._loop.is_running() or self._loop.is_closed()):
                    self._loop.run_until_complete(waiting.end_on(self._loop))
        finally:
            self._close()


def _step(awaitable: Awaitable[object]) -> None:
    """Run what ends without waiting for anything, for which it takes no loop."""
    with contextlib.suppress(StopIteration):
        awaitable.__await__().send(None)


async def _close(
    entries: Mapping[OpenEntry, PoolProxiedConnection | None],
    spare: Callable[[OpenEntry], bool] = lambda _entry: False,
) -> None:
    from sqlalchemy.util import greenlet_spawn

    for entry, proxy in list(entries.items()):
        # SQLAlchemy's adapters await the driver out of a greenlet, also to close it
        if proxy is None and await greenlet_spawn(spare, entry):
            continue
        # without a rollback, which would wait for a running query
        await greenlet_spawn(entry.invalidate if proxy is None else proxy.invalidate)
