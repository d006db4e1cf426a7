"""The templates that callers fill: begun by one of them for a hash, finalized, prepared, discarded."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from clonedb.service import filling, survey
from clonedb.service.backend import Backend
from clonedb.service.contract import (
    Address,
    AlreadyInitializedError,
    DiscardedError,
    NoSuchTemplateError,
    TemplateState,
    UnavailableError,
)
from clonedb.service.pool import Pool
from clonedb.service.records import TemplateRow, digest_of
from clonedb.service.worker import Worker
from clonedb.templates.catalog import note_use
from clonedb.templates.metadata import TemplateRecord

__all__ = ["CallerTemplates", "Filled"]

_LEFT = 1.0  # seconds without a session after which the builder of a template counts as done
_LOOK = 0.05  # seconds between two looks for one
_HOUR = dt.timedelta(hours=1)


@dataclass(slots=True, eq=False)
class Filled:
    """A template that a caller fills or has filled.

    `until` is the loop's time until which the caller that fills it has it although no session of
    its is there. `record` is known when it is sealed. `lock` is held while its database is made
    or sealed. `refused` are the callers that wanted to fill it, too; `finalized` counts those
    that said that it is full.
    """

    row: TemplateRow
    pool: Pool
    until: float
    record: TemplateRecord | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    preparing: asyncio.Task[object] | None = None
    refused: int = 0
    finalized: int = 0

    @property
    def is_building(self) -> bool:
        """Whether it is not full yet."""
        return self.record is None


class CallerTemplates:
    """All of them, by their hashes."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._by_hash: dict[str, Filled] = {}
        self._retired: list[Filled] = []
        # of which a caller that was given up may still write to the database
        self._used: set[str] = set()

    def __iter__(self) -> Iterator[Filled]:
        return iter([*self._by_hash.values()])

    def pools(self) -> Iterator[Pool]:
        """Those of templates that were discarded and whose databases are still lent, too."""
        for filled in (*self._by_hash.values(), *self._retired):
            yield filled.pool

    def get(self, hash_: str) -> Filled:
        """The template of a hash. Raises NoSuchTemplateError."""
        if (found := self._by_hash.get(hash_)) is None:
            raise NoSuchTemplateError("template not found")
        return found

    async def initialize(self, hash_: str, holder: str) -> Address:
        """Begin a template: where its empty database is. Raises AlreadyInitializedError, UnavailableError."""
        time = asyncio.get_running_loop().time()
        found = self._by_hash.get(hash_)
        if found is not None and not (found.is_building and time > found.until):
            found.refused += 1
            raise AlreadyInitializedError("template is already initialized")

        address = self._backend.address
        if address is None:
            raise UnavailableError("the service has no server at the moment")
        filled = found or self._add(hash_)
        # nobody else takes it over meanwhile
        filled.until = float("inf")
        filled.refused = filled.finalized = 0
        if found is not None:
            text = f"{found.row.holder} has left it unfinished, and {holder} begins it anew"
            self._backend.events.add("evicted", hash_, text)
        try:
            async with filled.lock:
                await self._begin(filled, holder, anew=digest_of(hash_) in self._used)
        except BaseException as error:
            if self._by_hash.get(hash_) is filled:
                del self._by_hash[hash_]
            filled.pool.state = "discarded"
            filled.pool.tell(UnavailableError(f"the template could not be begun: {error}"))
            self._retire(filled)
            raise
        return replace(address, database=filled.row.database)

    async def _begin(self, filled: Filled, holder: str, *, anew: bool) -> None:
        backend, hash_ = self._backend, filled.row.hash
        if filled.row.database:
            with contextlib.suppress(UnavailableError):  # the next start drops it
                await backend.work(filling.drop, filled.row.database)
        self._used.add(digest_of(hash_))
        database = await backend.work(filling.begin, hash_, anew=anew)
        time = dt.datetime.now(dt.UTC)
        filled.row = TemplateRow(hash_, database, holder, time, time)
        if self._by_hash.get(hash_) is not filled:
            await backend.work(filling.drop, database)
            raise UnavailableError("the template was discarded while it was begun")

        backend.known.templates[hash_] = filled.row
        await backend.ledger.put_template(filled.row)
        filled.until = asyncio.get_running_loop().time() + backend.lease_timeout
        backend.events.changed()

    async def finalize(self, hash_: str, *, doubtful: bool = False) -> None:
        """The template is full; as `Service.finalize`. Raises NoSuchTemplateError, UnavailableError."""
        filled, backend = self.get(hash_), self._backend
        filled.finalized += 1
        if doubtful:
            await self._until_left(filled)

        async with filled.lock:
            if self._by_hash.get(hash_) is not filled:
                raise NoSuchTemplateError("template not found")
            if not filled.is_building:
                return
            database = filled.row.database
            filled.record = await backend.work(filling.seal, database, hash_)
            filled.row.sealed = dt.datetime.now(dt.UTC)
            with contextlib.suppress(UnavailableError):  # its comment says so, too
                await backend.ledger.put_template(filled.row)
            took = (filled.row.sealed - filled.row.begun).total_seconds()
            backend.events.count("builds")
            backend.events.count("build seconds", by=took)
            size = filled.record.metadata.size / 1e6
            text = f"{database}, {size:.0f} MB, by {filled.row.holder} in {took:.1f} s"
            backend.events.add("built", hash_, text)
            self.open(filled)

    async def _until_left(self, filled: Filled) -> None:
        """Wait until it is sure that the one that fills a template is done with it."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        while (
            filled.is_building
            and self._by_hash.get(filled.row.hash) is filled
            and filled.finalized <= filled.refused
            and loop.time() <= filled.until
        ):
            name = filled.row.database
            presence = (await self._backend.work(survey.look, [name] if name else [])).get(name)
            if presence is None or presence.pids or not presence.sessions:
                since = loop.time()
            elif loop.time() - since > _LEFT:
                return
            await asyncio.sleep(_LOOK)

    def open(self, filled: Filled) -> None:
        """Make databases of a sealed template from now on, and prepare it behind that."""
        backend, record = self._backend, filled.record
        if record is None or backend.address is None:
            return
        prepared = filling.is_prepared(record.metadata)
        filled.pool.state = "ready" if prepared else "preparing"
        worker = Worker(backend.server, record, backend.sessions)
        filled.pool.open(worker, backend.address)
        if not prepared:
            filled.preparing = backend.background(self._prepare(filled, record))

    async def _prepare(self, filled: Filled, record: TemplateRecord) -> None:
        backend = self._backend
        try:
            filled.record = await backend.work(filling.prepare, record)
        except UnavailableError as error:
            # it does without; each database of it costs a little more
            text = f"could not be prepared: {error}"
            if self._by_hash.get(filled.row.hash) is filled:
                backend.events.add("refused", filled.row.hash, text)
        finally:
            filled.preparing = None
        if self._by_hash.get(filled.row.hash) is not filled:
            with contextlib.suppress(UnavailableError):  # the next start drops it
                await backend.work(filling.drop, record.name)
            return

        filled.pool.state = "ready"
        if backend.address is not None:
            worker = Worker(backend.server, filled.record or record, backend.sessions)
            filled.pool.open(worker, backend.address)
        backend.events.changed()

    async def discard(
        self, hash_: str, why: str = "on request", *, evicted: bool = False
    ) -> None:
        """Drop a template, and its spare databases. Raises NoSuchTemplateError."""
        filled, backend = self.get(hash_), self._backend
        del self._by_hash[hash_]
        backend.known.templates.pop(hash_, None)
        filled.pool.discard()
        backend.events.add("evicted" if evicted else "discarded", hash_, why)
        self._retire(filled)

        with contextlib.suppress(UnavailableError):  # what stays is dropped by the next start
            await backend.ledger.remove_template(hash_)
            async with filled.lock:
                # the end of the preparation drops it otherwise
                if filled.preparing is None and filled.row.database:
                    await backend.work(filling.drop, filled.row.database)

    async def discard_all(self) -> None:
        """Drop all of them."""
        await asyncio.gather(
            *(self._discard_if_there(hash_) for hash_ in [*self._by_hash]),
        )

    async def _discard_if_there(self, hash_: str) -> None:
        with contextlib.suppress(NoSuchTemplateError):
            await self.discard(hash_)

    def adopt(self, row: TemplateRow, record: TemplateRecord | None) -> None:
        """Go on with a template of an earlier process, which is sealed if there is a record of it."""
        filled = self._add(row.hash)
        filled.row, filled.record = row, record
        filled.pool.used = row.used
        self.open(filled)

    def note_use(self, filled: Filled) -> None:
        """A database of it was lent: written down once an hour."""
        if filled.pool.used - filled.row.used > _HOUR:
            filled.row.used = filled.pool.used
            self._backend.background(self._put(filled))

    async def _put(self, filled: Filled) -> None:
        backend = self._backend
        with contextlib.suppress(UnavailableError):
            await backend.ledger.put_template(filled.row)
            if filled.record is not None:
                # also where collectors of other processes look
                await backend.thread(note_use, backend.server, filled.record)

    async def close_retired(self) -> None:
        """End the pools of discarded templates none of whose databases is lent any more."""
        done = [filled for filled in self._retired if filled.pool.is_idle]
        self._retired = [filled for filled in self._retired if filled not in done]
        for filled in done:
            await filled.pool.close()

    def states(self) -> Iterator[TemplateState]:
        """What there is to say of each."""
        for filled in (*self._by_hash.values(), *self._retired):
            row, pool, record = filled.row, filled.pool, filled.record
            yield TemplateState(
                hash=row.hash,
                state=pool.state,
                project=None,
                heads=(),
                bytes=record.metadata.size if record else 0,
                built_by=row.holder,
                built=row.sealed,
                used=pool.used,
                ready=pool.ready,
                leased=pool.leased,
                waiting=pool.waiting,
            )

    def retire_pool(self, hash_: str) -> Pool:
        """A pool for what is lent of a template that is gone."""
        time = dt.datetime.now(dt.UTC)
        pool = self._pool(hash_)
        pool.state = "discarded"
        self._retired.append(Filled(TemplateRow(hash_, "", "", time, time), pool, 0.0))
        return pool

    def _add(self, hash_: str) -> Filled:
        time = dt.datetime.now(dt.UTC)
        until = asyncio.get_running_loop().time() + self._backend.lease_timeout
        filled = Filled(TemplateRow(hash_, "", "", time, time), self._pool(hash_), until)
        self._by_hash[hash_] = filled
        return filled

    def _pool(self, hash_: str) -> Pool:
        backend = self._backend

        def lost(why: str) -> None:
            backend.background(self._discard_lost(pool, why))

        pool = backend.new_pool(hash_, lost)
        return pool

    async def _discard_lost(self, pool: Pool, why: str) -> None:
        """Discard the template of a pool, unless its hash is another template's by now."""
        found = self._by_hash.get(pool.name)
        if found is not None and found.pool is pool:
            await self.discard(pool.name, why)

    def _retire(self, filled: Filled) -> None:
        filled.pool.tell(DiscardedError("template was just discarded"))
        if filled not in self._retired:
            self._retired.append(filled)
