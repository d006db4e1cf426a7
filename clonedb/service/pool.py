"""The databases of one template: ready, lent, being made and being brought back; and the callers that wait."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import re
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from clonedb.service.contract import Address, DiscardedError, Disconnected, UnavailableError
from clonedb.service.dropping import Dropper
from clonedb.service.events import Events, in_a_line
from clonedb.service.waiting import ending_with
from clonedb.service.worker import Entry, GoneError, NoRoomError, Worker

if TYPE_CHECKING:
    from clonedb.rewind.rewinder import Outcome

__all__ = ["Pool", "Sizes"]

_THREADS = 2  # of one template: one brings databases back while the other makes some
_TOLD = 3  # failures to make a database in a row, after which those that wait are told
_LONGEST = 5.0  # seconds between two attempts, in the end
_ROOM = 0.1  # seconds after which room for a database is looked for again
_IDLE = 1.0  # the same while nobody waits for one
_SOON = (
    0.5  # seconds for which a return waits until the database is ready, which mostly takes 2 ms
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many databases of a template are ready before anybody asks, and how many there are at most."""

    initial: int
    maximum: int

    @classmethod
    def default(cls, maximum: int) -> Sizes:
        """As many ready ones as processors."""
        return cls(min(os.cpu_count() or 1, maximum), maximum)


class Pool:
    """One template's databases, for the event loop; threads do what waits for the server.

    The one that was returned last is lent first. Those that wait get one in the order in which
    they came. `state` is the template's.
    """

    def __init__(
        self,
        name: str,
        sizes: Sizes,
        new_id: Callable[[], int],
        events: Events,
        *,
        lost: Callable[[str], None],
        crowded: Callable[[Pool], None],
    ) -> None:
        """`lost` is called when the template is gone from the server, with the reason.

        `crowded` is called when a caller waits, and `max_clones` are in use.
        """
        self.name = name
        self._crowded = crowded
        self._lost = lost
        self.state: Literal["building", "preparing", "ready", "discarded"] = "building"
        self.sizes = sizes
        self.leased: int = 0
        self.used: dt.datetime = dt.datetime.now(dt.UTC)
        self.worker: Worker | None = None
        self.address: Address | None = None
        self.yields: bool = False  # another process waits for room: nothing is made ahead
        self._new_id = new_id
        self._events = events
        self._ready: list[Entry] = []
        self._ids: list[int] = []  # of returned databases that were dropped
        self._waiters: deque[asyncio.Future[Entry]] = deque()
        self._making = 0
        self._returning = 0
        self._failures = 0
        self._error = ""
        self._pause: asyncio.TimerHandle | None = None
        self._threads = ThreadPoolExecutor(_THREADS, f"clonedb-{name[:40]!r}")
        self._dropper = Dropper(name, events)
        self._tasks: set[asyncio.Task[Any]] = set()

        self._closed = False

    @property
    def ready(self) -> int:
        """How many databases can be lent at once."""
        return len(self._ready)

    @property
    def waiting(self) -> int:
        """How many callers wait for one."""
        return sum(not waiter.done() for waiter in self._waiters)

    @property
    def is_closed(self) -> bool:
        """Whether nothing is done with its databases any more."""
        return self._closed

    @property
    def is_idle(self) -> bool:
        """Whether none of its databases is lent, awaited or made."""
        return not (self.leased or self._tasks or self.waiting)

    def open(self, worker: Worker, address: Address) -> None:
        """The template is there: its databases are made by `worker` from now on; those of an earlier one are dropped.

        `address` is the server's.
        """
        if self._closed:  # the service has stopped while the template was prepared
            asyncio.get_running_loop().run_in_executor(None, worker.close)
            return

        earlier, self.worker = self.worker, worker
        self.address = address
        ready, self._ready = self._ready, []
        for entry in ready:
            self._begin_drop(entry)
        if earlier is not None:
            self._begin(self._in_thread(earlier.close))
        self._failures = 0
        self._refill()

    async def take(self, deadline: float, disconnected: Disconnected | None = None) -> Entry:
        """A database that is as new, at once or when there is one; `deadline` is the loop's time.

        `disconnected` returns when the caller has disconnected, which ends its wait. Raises
        UnavailableError, DisconnectedError, and DiscardedError when the template is discarded meanwhile.
        """
        while self._ready:
            entry = self._ready.pop()
            if entry.is_intact:
                self.leased += 1
                self._refill()
                return entry
            self._begin_drop(entry)
        if self.state == "discarded":
            raise DiscardedError(f"template {self.name!r} was just discarded")

        if self._closed:
            raise UnavailableError("the service is stopping")
        return await self._wait(deadline, disconnected)

    async def _wait(self, deadline: float, disconnected: Disconnected | None) -> Entry:
        waiter: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._events.changed()
        self._refill()

        try:
            with ending_with(waiter, disconnected):
                async with asyncio.timeout_at(deadline):
                    return await waiter
        except BaseException as error:
            # it may have got one in the same moment
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.hand_back(waiter.result())
            if isinstance(error, TimeoutError):
                raise UnavailableError(self._why_none()) from None
            raise
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)

    def hand_back(self, entry: Entry) -> None:
        """A database that `take` gave, and that no caller has seen."""
        self.leased -= 1
        self._offer(entry)

    async def give_back(self, entry: Entry) -> None:
        """Bring a lent database back for the next caller, or drop it.

        Returns after half a second at the latest, while that goes on.
        """
        self.leased -= 1
        self._returning += 1
        await asyncio.wait([self._begin(self._reset(entry))], timeout=_SOON)

    async def drop(self, entry: Entry) -> None:
        """Drop a lent database."""
        self.leased -= 1
        await self._drop(entry)
        self._refill()

    def adopt(self) -> None:
        """A database that an earlier process has lent counts from now on."""
        self.leased += 1

    def lose(self) -> None:
        """The server has gone, and with it what was ready: nothing is made until `open`."""
        earlier, self.worker = self.worker, None
        self._ready = []
        self.address = None
        if earlier is not None:
            self._begin(self._in_thread(earlier.close))

    def forget(self) -> None:
        """A lent database is given up, and left as it is."""
        self.leased -= 1
        self._refill()

    def tell(self, error: Exception) -> None:
        """Those that wait get an error."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(error)

    def discard(self) -> None:
        """The template goes: waiting callers are told, and databases are dropped, lent ones when they come back."""
        self.state = "discarded"
        self.tell(DiscardedError(f"template {self.name!r} was just discarded"))
        self.release_spares()

    def release_spares(self) -> None:
        """Drop the spare databases."""
        ready, self._ready = self._ready, []
        for entry in ready:
            self._begin_drop(entry)
        if self.worker is not None and ready:
            self._begin(self._in_thread(self.worker.release_spares))

    def drop_stuck(self) -> None:
        """Try again to drop what could not be dropped."""
        for entry in self._dropper.take_stuck():
            self._begin_drop(entry)

    async def settle(self) -> None:
        """Wait until nothing is being made, brought back or dropped any more."""
        while self._tasks:
            await asyncio.wait([*self._tasks])

    async def close(self) -> None:
        """Drop the spare databases, and end the threads; what is lent stays. Nothing happens the second time."""
        if self._closed:
            return

        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        self.tell(UnavailableError("the service is stopping"))
        self.release_spares()
        await self.settle()
        if self.worker is not None:
            await self._in_thread(self.worker.close)
        self._threads.shutdown(wait=False)
        self._dropper.close()

    def _why_none(self) -> str:
        if self.state == "building":
            return f"template {self.name!r} is still being filled by the caller that began it"
        count = self.leased + len(self._ready) + self._making + self._returning
        if self._error:
            return f"no database of template {self.name!r} could be made: {self._error}"
        if count >= self.sizes.maximum:
            return f"all {count} databases of template {self.name!r} are lent, which is the most it may have"
        return f"no database of template {self.name!r} was ready in time"

    def _offer(self, entry: Entry, *, new: bool = False) -> None:
        """To the one that has waited longest; else it is the next one to be lent, or the last one if it is new."""
        if self._closed or self.state == "discarded" or entry.worker is not self.worker:
            self._begin_drop(entry)
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self.leased += 1
                waiter.set_result(entry)
                return
        self._ready.insert(0 if new else len(self._ready), entry)
        self._events.changed()

    def _pass_on(self, id_: int) -> None:
        """The next database to be lent has the number of one that was returned and is dropped, as if it were that."""
        if self._ready:
            self._ready[-1].id = id_
        else:
            self._ids.append(id_)

    def _refill(self) -> None:
        """Begin to make as many databases as are wanted and allowed."""
        if self.worker is None or self._closed or self._pause is not None:
            return

        if self.state not in ("preparing", "ready"):
            return
        coming = len(self._ready) + self._making + self._returning
        # what is made of a template that is still being prepared is good for one caller only
        ahead = 0 if self.yields or self.state == "preparing" else self.sizes.initial
        room = self.sizes.maximum - coming - self.leased
        wanted = min(max(self.waiting, ahead) - coming, room, _THREADS - self._making)
        for _ in range(wanted):
            self._making += 1
            self._begin(self._make(self.worker))

    async def _make(self, worker: Worker) -> None:
        try:
            entry = await self._in_thread(worker.make, self._new_id())
        except NoRoomError as error:
            self._making -= 1
            self._error = in_a_line(error)
            if self.waiting:
                self._crowded(self)
            self._rest(_ROOM if self.waiting else _IDLE)
        except GoneError as error:
            self._making -= 1
            self._lost(in_a_line(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may work
            self._making -= 1
            self._failed(error)
        else:
            self._making -= 1
            self._failures, self._error = 0, ""
            if self._ids:
                entry.id = self._ids.pop()
            self._offer(entry, new=True)
            self._refill()

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self._error = in_a_line(error)
        if self._failures >= _TOLD and self.waiting:
            self._events.add("refused", self.name, self._why_none())
            self.tell(UnavailableError(self._why_none()))
        self._rest(min(_LONGEST, 0.05 * 2**self._failures))

    def _rest(self, seconds: float) -> None:
        if self._pause is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._pause = loop.call_later(seconds, self._wake)

    def _wake(self) -> None:
        self._pause = None
        self._refill()

    async def _reset(self, entry: Entry) -> None:
        worker, why, outcome = entry.worker, entry.why, "refused"
        try:
            if worker is not None and worker is self.worker and self.state != "discarded":
                found: Outcome = await self._in_thread(worker.reset, entry)
                outcome, why = found.kind, found.why if found.kind == "refused" else ""
        except Exception as error:  # noqa: BLE001 - a new one takes its place
            why = in_a_line(error)
        finally:
            self._returning -= 1

        # without the names in it there are only so many reasons
        self._events.count("resets", outcome, re.split("['(:]", why)[0].strip())
        if not why and worker is self.worker:
            self._offer(entry)
        else:
            if worker is not None and self.state != "discarded":
                self._events.add("refused", self.name, f"{entry.name} is made new: {why}")
            self._pass_on(entry.id)
            self._begin_drop(entry)
        self._refill()

    def _begin_drop(self, entry: Entry) -> None:
        self._begin(self._drop(entry))

    async def _drop(self, entry: Entry) -> None:
        await self._dropper.drop(entry, entry.worker or self.worker)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _in_thread(self, function: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, function, *arguments
        )
