"""What the service does by itself: it looks who is connected, ends leases and templates, finds its server again."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Iterator, Mapping

from clonedb.clones.gc import collect
from clonedb.service import survey
from clonedb.service.backend import Backend
from clonedb.service.callers import CallerTemplates
from clonedb.service.contract import UnavailableError
from clonedb.service.events import in_a_line
from clonedb.service.leases import Held, Leases
from clonedb.service.pool import Pool
from clonedb.service.projects import Projects
from clonedb.service.survey import Presence

__all__ = ["Retention", "Upkeep"]

_OFTEN = 1.0  # seconds between two looks, at most
_SELDOM = 60.0  # seconds between two looks at what is kept too long
_RECENTLY = (
    600.0  # seconds for which a template stays after its last use, however large all are
)
_UNUSED = dt.timedelta(minutes=10)  # after which no database of a template is held ready
_COLLECTING = 10.0  # seconds that one round of it may take
_LONGEST = 5.0  # seconds between two attempts to find the server again


class Retention:
    """How long templates that callers filled are kept without use, and how many bytes they may take together."""

    def __init__(self, *, days: float = 30.0, gigabytes: float = 10.0) -> None:
        self.seconds: float = days * 86400
        self.bytes: float = gigabytes * 1024**3


class Upkeep:
    """One task that looks again and again."""

    def __init__(
        self,
        backend: Backend,
        *,
        leases: Leases,
        callers: CallerTemplates,
        projects: Projects,
        retention: Retention,
        found_again: Callable[[], Awaitable[None]],
    ) -> None:
        self._backend = backend
        self._leases = leases
        self._callers = callers
        self._projects = projects
        self._retention = retention
        self._found_again = found_again
        self._written: dict[str, float] = {}
        self._failure = ""
        self._seldom = float("-inf")

    async def run(self) -> None:
        """Until it is cancelled."""
        pause = min(_OFTEN, self._backend.lease_timeout / 5)
        while True:
            await asyncio.sleep(pause)
            try:
                await self._backend.ledger.ping()
            except UnavailableError as error:
                await self._recover(str(error))
                continue
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - leases have to end all the same, the next time
                self._tell(in_a_line(error))

    async def look(self) -> None:
        """Once. Raises UnavailableError when the server does not do what it is asked."""
        backend = self._backend
        await self._look_at_clients()
        await self._make_room()
        await self._callers.close_retired()
        await self._projects.close_retired()
        time = asyncio.get_running_loop().time()

        if time - self._seldom > _SELDOM:
            self._seldom = time
            await self._evict()
            for pool in self._pools():
                pool.drop_stuck()
            # what a killed service has begun to make, and has not marked as its own yet
            await backend.thread(collect, backend.server, seconds=_COLLECTING)

    def _tell(self, failure: str) -> None:
        """The same failure is told once, and not each second."""
        if failure != self._failure:
            self._failure = failure
            self._backend.events.add("refused", "", failure)

    async def _look_at_clients(self) -> None:
        building = [filled for filled in self._callers if filled.is_building]
        names = {filled.row.database for filled in building if filled.row.database}
        lent = [*self._leases]
        names |= {held.row.database for held in lent}
        found = await self._backend.work(survey.look, names)
        await self._renew(lent, found)
        time, timeout = asyncio.get_running_loop().time(), self._backend.lease_timeout
        for filled in building:
            presence = found.get(filled.row.database)
            if presence is not None and presence.pids and filled.until < float("inf"):
                filled.until = time + timeout

        await self._leases.expire()

    async def _renew(self, lent: list[Held], found: Mapping[str, Presence]) -> None:
        time, timeout = asyncio.get_running_loop().time(), self._backend.lease_timeout
        seen = []
        for held in lent:
            if self._backend.known.leases.get(held.row.database) is not held.row:
                continue  # given back meanwhile
            presence = found.get(held.row.database)
            if presence is None or presence.oid != held.row.oid:
                await self._leases.lost(held)
                continue
            own = held.entry.rewinder.pid if held.entry.rewinder else None
            came = held.sessions is not None and presence.sessions != held.sessions
            held.sessions = presence.sessions
            if came or any(pid != own for pid in presence.pids):
                held.until = time + timeout
                held.row.seen = dt.datetime.now(dt.UTC)
                if time - self._written.get(held.row.lease, 0.0) > timeout / 4:
                    self._written[held.row.lease] = time
                    seen.append(held.row.database)

        if seen:
            await self._backend.ledger.seen(seen)
            self._backend.events.changed()
        if len(self._written) > 2 * len(lent) + 100:
            known = {held.row.lease for held in self._leases}
            self._written = {key: at for key, at in self._written.items() if key in known}

    async def _make_room(self) -> None:
        """Another process of clonedb that waits for room gets the room of spare databases."""
        waits = await self._backend.thread(self._backend.server.admission.others_wait)
        for pool in self._pools():
            pool.yields = waits
            unused = dt.datetime.now(dt.UTC) - pool.used > _UNUSED
            if waits or (unused and pool.is_idle):
                pool.release_spares()

    def _pools(self) -> Iterator[Pool]:
        yield from self._callers.pools()
        yield from (found.pool for found in self._projects)

    async def _evict(self) -> None:
        """Let templates of callers go that were not used for long, or that take too much room."""
        time = dt.datetime.now(dt.UTC)
        total = 0
        for filled in sorted(self._callers, key=lambda one: one.pool.used, reverse=True):
            size = filled.record.metadata.size if filled.record else 0
            total += size
            age = (time - filled.pool.used).total_seconds()
            if filled.pool.state != "ready" or not filled.pool.is_idle or age < _RECENTLY:
                continue
            if age > self._retention.seconds:
                why = f"not used for {age / 86400:.1f} days"
            elif total > self._retention.bytes:
                why = (
                    f"templates take more than {self._retention.bytes / 1024**3:g} GB together"
                )
            else:
                continue
            await self._callers.discard(filled.row.hash, why, evicted=True)
            total -= size

    async def _recover(self, why: str) -> None:
        """Find the server again, however long it takes."""
        backend, pause = self._backend, 0.1
        backend.answers.clear()
        backend.why_not = why
        backend.events.add("refused", "", f"the server does not answer: {why}")
        await backend.let_go()

        while True:
            try:
                await backend.open()
                await self._found_again()
            except UnavailableError as error:
                await backend.let_go()
                backend.events.changed()
                pause = min(_LONGEST, pause * 2)
                backend.why_not = str(error)
                await asyncio.sleep(pause)
            else:
                backend.answers.set()
                backend.events.add("adopted", "", "the server answers again")
                return
