"""The server as the service works on it: its sessions, its tables, and the threads that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from clonedb.embedded.cluster import verifier
from clonedb.errors import CloneDBError
from clonedb.postgres.roles import let_role_log_in
from clonedb.postgres.server import Server
from clonedb.postgres.servers import Servers
from clonedb.service.contract import Address, UnavailableError
from clonedb.service.events import Events, in_a_line
from clonedb.service.ledger import Known, Ledger
from clonedb.service.pool import Pool, Sizes
from clonedb.service.sessions import Sessions
from clonedb.settings.config import Config

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Backend", "address_of"]

T = TypeVar("T")
P = ParamSpec("P")

_CLOSE = 5.0  # seconds that what goes on behind replies is waited for, as a project's build
_THREADS = 8  # for what belongs to no pool


class Backend:
    """One server, which may be replaced by another object when it was started again."""

    def __init__(self, config: Config, sizes: Sizes, lease_timeout: float) -> None:
        self.config = config
        self.sizes = sizes
        self.lease_timeout = lease_timeout
        self.events: Events = Events()
        self.known: Known = Known()
        # gives up what other pools hold ready
        self.crowded: Callable[[Pool], None] = lambda _pool: None
        self.servers: Servers = Servers()
        # set while the server answers and what is known of it is what is there
        self.answers: asyncio.Event = asyncio.Event()
        self.why_not: str = ""  # it does not, in words
        self._next_id = 0
        self._threads = ThreadPoolExecutor(_THREADS, "clonedb-service")
        self._tasks: set[asyncio.Task[object]] = set()
        # a thread that was at work may have opened their sessions again
        self._former: list[Server] = []
        self._server: Server | None = None
        self._sessions: Sessions | None = None
        self._ledger: Ledger | None = None

        self.address: Address | None = None

    @property
    def server(self) -> Server:
        """The server. Raises UnavailableError before it is open."""
        if self._server is None:
            raise UnavailableError("the service has no server at the moment")
        return self._server

    @property
    def sessions(self) -> Sessions:
        """Sessions with its maintenance database for threads."""
        if self._sessions is None:
            raise UnavailableError("the service has no server at the moment")
        return self._sessions

    @property
    def ledger(self) -> Ledger:
        """The service's tables."""
        if self._ledger is None:
            raise UnavailableError("the service has no server at the moment")
        return self._ledger

    def new_id(self) -> int:
        """The number of a new database: none that is lent has it."""
        self._next_id += 1
        return self._next_id - 1

    def new_pool(self, name: str, lost: Callable[[str], None]) -> Pool:
        """A pool; `lost` is called when its template is gone from the server."""
        return Pool(
            name,
            self.sizes,
            self.new_id,
            self.events,
            lost=lost,
            crowded=self.crowded,
        )

    async def open(self) -> None:
        """Open the server and the tables, for the first time or again. Raises UnavailableError."""
        generation = None if self._ledger is None else self._ledger.generation
        server = await self.thread(self.servers.open, self.config)
        ledger = Ledger(server, self.known)
        try:
            address = await self.thread(address_of, server)
            await ledger.open(generation)
            if server.embedded:
                name = f"{self.config.prefix}_service"
                await self.thread(server.run, _let_callers_in, name, ledger.password)
                address = replace(address, username=name, password=ledger.password)
        except BaseException:
            await self.thread(server.close)
            raise
        self._server, self._sessions, self._ledger = server, Sessions(server), ledger
        self.address = address
        highest = max((row.id for row in self.known.leases.values()), default=-1)

        self._next_id = max(self._next_id, highest + 1)

    async def thread(
        self, function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs
    ) -> T:
        """Call a function in a thread. Errors of clonedb and of the server become UnavailableError."""
        import psycopg

        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._threads, lambda: function(*arguments, **named)
            )
        except UnavailableError:
            raise
        except (CloneDBError, psycopg.Error) as error:
            raise UnavailableError(in_a_line(error)) from error

    async def work(
        self,
        function: Callable[Concatenate[Server, Sessions, P], T],
        /,
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """Call a function of the server and its sessions in a thread; raises as `thread`."""
        server, sessions = self.server, self.sessions
        return await self.thread(lambda: function(server, sessions, *arguments, **named))

    def background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that goes on behind a reply; `close` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def let_go(self) -> None:
        """Give the server up: the tables' session first, which holds the lock."""
        server, sessions, ledger = self._server, self._sessions, self._ledger
        if ledger is not None:
            await ledger.close()
        if sessions is not None:
            sessions.close()
        if server is not None:
            self._former.append(server)
            await self.thread(server.close)
        self._server = self._sessions = None

    async def close(self) -> None:
        """Give everything up; leases stay."""
        if self._tasks:
            await asyncio.wait([*self._tasks], timeout=_CLOSE)
        await self.let_go()
        for server in self._former:
            await self.thread(server.close)
        self._threads.shutdown(wait=False)


def _let_callers_in(connection: Connection[Any], name: str, password: str) -> None:
    """Have a role for callers of an embedded server: the password of its own is another one after each start."""
    from psycopg.sql import SQL, Identifier

    let_role_log_in(connection, name, verifier(password))
    connection.execute(SQL("alter role {} superuser").format(Identifier(name)))


def address_of(server: Server) -> Address:
    """Where a server is for its callers, over TCP; without a database."""

    def look(connection: Connection[Any]) -> Address:
        info, url = connection.info, server.public
        if server.embedded:
            return Address(
                url.host or "", url.port or 0, url.user or "", url.password or "", ""
            )
        # of several hosts in the url the one that answered; a password may be of ~/.pgpass
        local = info.host.startswith(("/", "@"))
        host = "localhost" if local else info.host
        return Address(host, info.port, info.user, info.password, "")

    return server.run(look)
