"""The leases: who has which database, until when, and what becomes of it then."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from clonedb.clones.clone import Clone
from clonedb.originals import now
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from clonedb.service.backend import Backend
from clonedb.service.contract import (
    Address,
    Disconnected,
    Lease,
    NoSuchDatabaseError,
    UnavailableError,
)
from clonedb.service.pool import Pool
from clonedb.service.records import LeaseRow
from clonedb.service.sessions import Sessions
from clonedb.service.worker import PROJECT, Entry
from clonedb.templates.metadata import Kept

__all__ = ["Held", "Leases"]

_FOREVER = dt.datetime.max.replace(tzinfo=dt.UTC)
_INTRUDERS = 3  # returned databases that somebody connects to, after which they are dropped
_HOLDER = 300  # characters


@dataclass(slots=True, eq=False)
class Held:
    """A lent database: `until` is the loop's time at which it is free again if no client is connected.

    `sessions` is how many sessions the database had had when that was last looked at.
    """

    row: LeaseRow
    entry: Entry
    pool: Pool
    address: Address
    until: float
    sessions: int | None = None


class Leases:
    """All leases, in memory for replies and in the service's tables for the next process."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._by_lease: dict[str, Held] = {}
        self._by_id: dict[tuple[str, int], Held] = {}

    def __iter__(self) -> Iterator[Held]:
        return iter([*self._by_lease.values()])

    async def lend(
        self,
        pool: Pool,
        template: str,
        holder: str,
        deadline: float,
        *,
        project: str | None = None,
        disconnected: Disconnected | None = None,
    ) -> Lease:
        """A database of a pool, written down before it is told to the caller. Raises as `Pool.take`."""
        ledger, intruders = self._backend.ledger, 0
        while True:
            entry = await pool.take(deadline, disconnected)
            row = LeaseRow(
                entry.name,
                entry.oid,
                entry.id,
                secrets.token_hex(16),
                template,
                project,
                _shown(holder),
                dt.datetime.now(dt.UTC),
            )
            held = self._add(row, entry, pool)
            try:
                held.sessions = await ledger.lend(row)
            except BaseException:
                self._remove(held)
                pool.hand_back(entry)
                raise
            if entry.sessions is None or held.sessions == entry.sessions:
                break
            # somebody has connected to it since it was brought back
            self._remove(held)
            intruders += 1
            # a pool of connections that tries again and again does so at a database that is gone
            await (pool.give_back(entry) if intruders < _INTRUDERS else pool.drop(entry))

        pool.used = row.since
        self._backend.events.changed()
        return self.shown(held)

    def adopt(self, row: LeaseRow, server: Server, pool: Pool) -> Held:
        """Go on with a lease of an earlier process; its time begins anew."""
        clone = Clone(server, None, row.database, 0.0, row.oid)
        held = self._add(row, Entry(row.id, clone), pool)
        if row.kept:
            clone.kept = True
        else:
            pool.adopt()
        return held

    def by_id(self, template: str, id_: int) -> Held | None:
        """The lease of the database of a template that has this number."""
        return self._by_id.get((template, id_))

    def by_lease(self, lease: str) -> Held:
        """The lease of a name. Raises NoSuchDatabaseError."""
        if (held := self._by_lease.get(lease)) is None:
            raise NoSuchDatabaseError("no database of that lease is handed out")
        return held

    async def give_back(self, held: Held) -> None:
        """The caller has done with it; one that is kept stays."""
        if held.row.kept:
            return
        self._remove(held)
        await asyncio.gather(self._take_out(held), held.pool.give_back(held.entry))
        self._backend.events.changed()

    def renew(self, held: Held) -> Lease:
        """Begin the lease's time anew."""
        held.until = asyncio.get_running_loop().time() + self._backend.lease_timeout
        return self.shown(held)

    async def keep(self, held: Held) -> Lease:
        """Leave the database as it is, for a person; it counts for no pool any more. Raises UnavailableError."""
        if held.row.kept:
            return self.shown(held)

        # at once: a return that comes meanwhile leaves it alone
        held.row.kept = True
        try:
            await self._backend.work(_keep, held)
        except BaseException:
            held.row.kept = False
            raise
        held.pool.forget()
        await self._backend.ledger.lend(held.row)
        self._backend.events.add("kept", held.row.template, held.row.database)
        return self.shown(held)

    async def drop(self, held: Held, why: str = "on request") -> None:
        """End the lease, and drop its database."""
        self._remove(held)
        self._backend.events.add("dropped", held.row.template, f"{held.row.database}: {why}")
        await self._take_out(held)
        if held.row.kept:
            await self._backend.work(_drop_kept, held)
        else:
            await held.pool.drop(held.entry)

    async def expire(self) -> None:
        """End the leases of databases to which no client has been connected for too long."""
        time = asyncio.get_running_loop().time()
        over = [held for held in self if not held.row.kept and held.until < time]
        await asyncio.gather(*map(self._expire, over))

    async def _expire(self, held: Held) -> None:
        since = f"{held.row.since:%H:%M:%S}"
        text = f"{held.row.database} of {held.row.holder}, lent at {since}"
        self._backend.events.add("expired", held.row.template, text)
        await self.give_back(held)

    async def lost(self, held: Held) -> None:
        """Its database is gone from the server."""
        self._remove(held)
        if not held.row.kept:
            held.pool.forget()
        text = f"{held.row.database} is gone from the server: it was not the service that dropped it"
        self._backend.events.add("dropped", held.row.template, text)
        await self._take_out(held)

    def orphan(self, server: Server) -> None:
        """The server was started again: what is lent is made new when it comes back."""
        for held in [*self._by_lease.values()]:
            clone = Clone(server, None, held.row.database, 0.0, held.row.oid)
            clone.kept = held.row.kept
            held.entry = Entry(held.row.id, clone, why="the server was started again meanwhile")
            held.address = self._address(held.pool, held.row.database)

    def shown(self, held: Held) -> Lease:
        """A lease as its holder sees it."""
        row = held.row
        left = held.until - asyncio.get_running_loop().time()
        return Lease(
            lease=row.lease,
            template=row.template,
            id=row.id,
            address=held.address,
            holder=row.holder,
            since=row.since,
            expires=_FOREVER
            if row.kept
            else dt.datetime.now(dt.UTC) + dt.timedelta(seconds=left),
            seen=row.seen,
            kept=row.kept,
        )

    def newest_first(self) -> Sequence[Lease]:
        """All of them."""
        return [self.shown(held) for held in reversed(self._by_lease.values())]

    def _add(self, row: LeaseRow, entry: Entry, pool: Pool) -> Held:
        until = asyncio.get_running_loop().time() + self._backend.lease_timeout
        held = Held(row, entry, pool, self._address(pool, row.database), until)
        self._by_lease[row.lease] = held
        self._by_id[row.template, row.id] = held
        self._backend.known.leases[row.database] = row
        return held

    def _address(self, pool: Pool, database: str) -> Address:
        address = pool.address or self._backend.address
        if address is None:
            raise UnavailableError("the service has no server at the moment")
        return replace(address, database=database)

    def _remove(self, held: Held) -> None:
        self._by_lease.pop(held.row.lease, None)
        self._by_id.pop((held.row.template, held.row.id), None)
        self._backend.known.leases.pop(held.row.database, None)

    async def _take_out(self, held: Held) -> None:
        # a server that is gone: what is known is written down again when it is back
        with contextlib.suppress(UnavailableError):
            await self._backend.ledger.give_back([held.row.database])


def _keep(_server: Server, sessions: Sessions, held: Held) -> None:
    clone, worker = held.entry.clone, held.entry.worker
    kept = Kept(project=PROJECT, run="kept", when=now(), test=f"lease of {held.row.holder}")
    sessions.run(sql.comment, clone.name, kept.to_json())
    if worker is not None:
        worker.forget(held.entry)
    clone.kept = True
    # its slot is free
    clone.drop()


def _drop_kept(_server: Server, sessions: Sessions, held: Held) -> None:
    sessions.run(sql.drop_database, held.row.database, oid=held.row.oid)


def _shown(holder: str) -> str:
    """What a caller says of itself, as text that PostgreSQL takes."""
    clean = holder.replace("\0", "").encode("utf-8", "replace").decode()
    return clean[:_HOLDER]
