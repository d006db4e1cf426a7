"""The service behind its routes: templates of callers and of projects, and leases on their databases."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence

from clonedb.service import survey
from clonedb.service.backend import Backend
from clonedb.service.callers import CallerTemplates
from clonedb.service.contract import (
    Address,
    DiscardedError,
    Disconnected,
    Event,
    Lease,
    NoSuchDatabaseError,
    TemplateState,
    UnavailableError,
)
from clonedb.service.leases import Leases
from clonedb.service.pool import Pool, Sizes
from clonedb.service.projects import Projects
from clonedb.service.upkeep import Retention, Upkeep
from clonedb.settings.config import Config

__all__ = ["Retention", "Service", "Sizes"]

_COUNTED = 30.0  # seconds for which the sizes of all databases are not asked for again
_CLOSE = 15.0  # seconds that stopping may take
_PATIENCE = 30.0  # seconds for which a server that is being started again is waited for


class Service:
    """`clonedb.service.contract.Cloning`, on the server of a configuration.

    `sizes` are those of each template's pool: by default as many databases are ready as there
    are processors, and there may be as many as `max_clones` says. `lease_timeout` and
    `retention` (`keep_days`, `keep_bytes`) are the configuration's. There is one service for a
    server and a prefix; another one is refused.
    """

    def __init__(
        self,
        config: Config,
        *,
        sizes: Sizes | None = None,
        lease_timeout: float | None = None,
        retention: Retention | None = None,
    ) -> None:
        self._backend = Backend(
            config,
            sizes or Sizes.default(config.max_clones),
            config.lease_timeout if lease_timeout is None else lease_timeout,
        )
        self._backend.crowded = self._release_spares
        self._callers = CallerTemplates(self._backend)
        self._projects = Projects(self._backend)
        self._leases = Leases(self._backend)
        self._retention = retention or Retention(
            days=config.keep_days, gigabytes=config.keep_bytes / 1024**3
        )
        self._upkeep: asyncio.Task[None] | None = None
        self._sizes: Mapping[str, float] = {}
        self._sized = float("-inf")

        self._stopping = False

    async def start(self) -> None:
        """Find what an earlier process left: templates, leases; spare databases are dropped, and made anew on need.

        Raises UnavailableError: the server cannot be reached, or another service works there.
        """
        await self._backend.open()
        try:
            await self._adopt()
        except BaseException:
            await self._backend.let_go()
            raise
        upkeep = Upkeep(
            self._backend,
            leases=self._leases,
            callers=self._callers,
            projects=self._projects,
            retention=self._retention,
            found_again=self._found_again,
        )
        self._backend.answers.set()

        self._upkeep = asyncio.get_running_loop().create_task(upkeep.run())

    async def close(self) -> None:
        """Stop; leases stay. Spare databases are dropped, within 15 seconds; the next start drops what is left."""
        self._stopping = True
        self._backend.answers.set()  # those that wait for the server are told
        if self._upkeep is not None:
            self._upkeep.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._upkeep
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE):
                await asyncio.gather(*(pool.close() for pool in self._callers.pools()))
                await self._projects.close()
        await self._backend.close()

    async def initialize(self, hash_: str, holder: str) -> Address:
        """Begin a template: an empty database to fill. Raises AlreadyInitializedError, UnavailableError."""
        await self._until_server_answers(asyncio.get_running_loop().time() + _PATIENCE)
        return await self._callers.initialize(hash_, holder)

    async def finalize(self, hash_: str, *, doubtful: bool = False) -> None:
        """The template is filled; again is no error. Raises NoSuchTemplateError, UnavailableError.

        `doubtful` says that the caller may be one that was told AlreadyInitializedError, and
        finalizes all the same: then it is sealed when the builder has left it.
        """
        await self._until_server_answers(asyncio.get_running_loop().time() + _PATIENCE)
        await self._callers.finalize(hash_, doubtful=doubtful)

    async def discard(self, hash_: str) -> None:
        """Drop a template, and its spare databases. Raises NoSuchTemplateError."""
        await self._callers.discard(hash_)

    async def discard_all(self) -> None:
        """Drop every template that callers filled."""
        await self._callers.discard_all()

    async def acquire(
        self,
        hash_: str,
        holder: str,
        *,
        wait: float,
        project: str | None = None,
        disconnected: Disconnected | None = None,
    ) -> Lease:
        """A database in the template's state that no other caller has, after at most `wait` seconds.

        With `project`, the directory of a project of this host, `hash_` is ignored: its template
        is built, if it is not there. `disconnected` returns when the caller has disconnected,
        which ends its wait for a free database. A server that is being started again is waited for.

        Raises DisconnectedError, NoSuchTemplateError, DiscardedError, UnavailableError; and the project's own errors.
        """
        deadline = asyncio.get_running_loop().time() + wait
        await self._until_server_answers(deadline)
        if project is not None:
            return await self._acquire_of_project(project, holder, deadline, disconnected)
        filled = self._callers.get(hash_)
        lease = await self._leases.lend(
            filled.pool, hash_, holder, deadline, disconnected=disconnected
        )
        self._callers.note_use(filled)
        return lease

    async def _acquire_of_project(
        self, project: str, holder: str, deadline: float, disconnected: Disconnected | None
    ) -> Lease:
        while True:
            found = await self._projects.get(project, deadline)
            try:
                return await self._leases.lend(
                    found.pool,
                    found.template.name,
                    holder,
                    deadline,
                    project=found.directory,
                    disconnected=disconnected,
                )
            except (UnavailableError, DiscardedError):
                # it was given up while the caller waited, and is opened anew
                if not found.pool.is_closed and found.pool.state != "discarded":
                    raise
            await self._until_server_answers(deadline)

    async def give_back(self, hash_: str, id_: int) -> None:
        """IntegreSQL's unlock and recreate: what was written is undone before the next caller gets it.

        Raises NoSuchTemplateError, NoSuchDatabaseError.
        """
        held = self._leases.by_id(hash_, id_)
        if held is None:
            if not any(hash_ == found.template.name for found in self._projects):
                self._callers.get(hash_)
            raise NoSuchDatabaseError("test database not found")
        await self._leases.give_back(held)

    async def renew(self, lease: str) -> Lease:
        """Begin the lease's time anew. Raises NoSuchDatabaseError."""
        return self._leases.renew(self._leases.by_lease(lease))

    async def release(self, lease: str) -> None:
        """As `give_back`, by the lease's name. Raises NoSuchDatabaseError."""
        await self._leases.give_back(self._leases.by_lease(lease))

    async def keep(self, lease: str) -> Lease:
        """The database stays as it is, to be looked at. Raises NoSuchDatabaseError, UnavailableError."""
        return await self._leases.keep(self._leases.by_lease(lease))

    async def drop(self, lease: str) -> None:
        """End the lease and drop its database, kept or not. Raises NoSuchDatabaseError, UnavailableError."""
        await self._leases.drop(self._leases.by_lease(lease))

    def templates(self) -> Sequence[TemplateState]:
        """All templates, the last used first."""
        found = [*self._callers.states(), *self._projects.states()]
        return sorted(found, key=_last_used, reverse=True)

    def leases(self) -> Sequence[Lease]:
        """All leases, the newest first."""
        return self._leases.newest_first()

    def events(self) -> Sequence[Event]:
        """The last 200 events, the newest first."""
        return self._backend.events.newest_first()

    def counts(self) -> Mapping[tuple[str, ...], float]:
        """What was counted since the start, by a name and labels, as the protocol says."""
        return self._backend.events.counts

    def changes(self) -> AsyncGenerator[None]:
        """Something above has changed; at most four times a second."""
        return self._backend.events.changes()

    async def ping(self) -> Mapping[str, float]:
        """Ask the server; what only it knows: `sessions`, `bytes`, of the last half minute. Raises UnavailableError."""
        await self._backend.ledger.ping()
        time = asyncio.get_running_loop().time()
        if time - self._sized > _COUNTED:
            self._sized = time
            prefix = self._backend.config.prefix
            self._sizes = await self._backend.work(survey.sizes, prefix)
        return self._sizes

    def _release_spares(self, crowded: Pool) -> None:
        """Make room for a pool: the one that was not used for longest gives up what is ready."""
        pools = [*self._callers.pools(), *(found.pool for found in self._projects)]
        spare = [pool for pool in pools if pool.ready and pool is not crowded]
        if spare:
            least = min(spare, key=lambda pool: pool.used)
            least.yields = True
            least.release_spares()

    async def _until_server_answers(self, deadline: float) -> None:
        answers = self._backend.answers
        try:
            if not answers.is_set():
                async with asyncio.timeout_at(deadline):
                    await answers.wait()
        except TimeoutError:
            raise UnavailableError(
                f"the server does not answer, and is tried again and again: {self._backend.why_not}"
            ) from None
        if self._stopping:
            raise UnavailableError("the service is stopping")

    async def _adopt(self) -> None:
        """Go on with what the tables and the server both know, and drop the rest."""
        backend, known = self._backend, self._backend.known
        found = await backend.work(survey.survey)
        for hash_, filled in [*known.templates.items()]:
            if filled.database not in found.templates:
                del known.templates[hash_]
                await backend.ledger.remove_template(hash_)
                backend.events.add("discarded", hash_, f"{filled.database} is gone")
        for row in [*known.leases.values()]:
            if found.clones.get(row.database) != row.oid:
                del known.leases[row.database]
                await backend.ledger.give_back([row.database])
                backend.events.add("dropped", row.template, f"{row.database} is gone")

        names = {row.database for row in known.templates.values()} | {*known.leases}
        await self._clean_up(names)
        for filled in known.templates.values():
            self._callers.adopt(filled, found.templates[filled.database])
            backend.events.add("adopted", filled.hash, filled.database)
        pools = {filled.row.hash: filled.pool for filled in self._callers}
        for row in known.leases.values():
            if row.template not in pools:
                pools[row.template] = self._callers.retire_pool(row.template)
            self._leases.adopt(row, backend.server, pools[row.template])
            backend.events.add("adopted", row.template, f"{row.database} of {row.holder}")

    async def _clean_up(self, names: set[str]) -> None:
        for name, why in await self._backend.work(survey.clean_up, names):
            self._backend.events.add("refused", "", f"{name} could not be dropped: {why}")

    async def _found_again(self) -> None:
        """The server was started again: leases and templates are as they were, and spare databases are made new."""
        backend = self._backend
        for pool in (*self._callers.pools(), *(found.pool for found in self._projects)):
            pool.lose()
        await self._projects.give_up()
        for held in self._leases:
            # the pools of projects are closed: they are opened again on need
            if held.pool.is_closed:
                held.pool = self._callers.retire_pool(held.row.template)
                if not held.row.kept:
                    held.pool.adopt()
        self._leases.orphan(backend.server)
        names = {filled.row.database for filled in self._callers}
        names |= {held.row.database for held in self._leases}
        await self._clean_up(names)

        for filled in self._callers:
            self._callers.open(filled)


def _last_used(state: TemplateState) -> float:
    return state.used.timestamp() if state.used else 0.0
