"""Clones: databases in a template's exact state, made, kept or dropped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from clonedb.clones.copy_strategy import choose, share_blocks
from clonedb.clones.endpoint import Endpoint
from clonedb.embedded.memory import EMPTY
from clonedb.errors import ServerError, TemplateInUseError
from clonedb.names import clone_name
from clonedb.originals import monotonic, sleep
from clonedb.postgres import client_sessions, keepalives, obstacles, sql
from clonedb.postgres.admission import Waiter
from clonedb.postgres.background import MaintenanceSession
from clonedb.postgres.server import Server
from clonedb.postgres.unlogged import require_filled
from clonedb.sessions.lasting import LastingConnections
from clonedb.templates.metadata import Kept, TemplateRecord
from clonedb.templates.properties import give, has_any

if TYPE_CHECKING:
    from types import TracebackType

    from psycopg import Connection
    from sqlalchemy.engine import Engine

    from clonedb.sessions.loans import Loan
    from clonedb.settings.config import Config

__all__ = ["Clone", "create", "create_empty"]


_PATIENCE = 10.0  # seconds that a clone waits for sessions to leave the template


@dataclass(slots=True, eq=False)
class Clone:
    """A database of one's own, in the template's exact state.

    `name` is the database's. `template` is None for an empty database. `seconds` is what making
    it took; `oid` is the database's number, by which it is dropped even if a test renamed it;
    `crashes` is what `Server.crashes` was before it was made; `worth_keeping` is false if a
    failed test leaves nothing in it to look at. `on_drop` is called once when it is given up.
    `own_name` is the one that it was made with, and gets back when it is kept.
    As a context manager it drops the database at the end.
    """

    server: Server = field(repr=False)
    template: TemplateRecord | None = field(repr=False)
    name: str
    seconds: float
    oid: int | None = None
    crashes: int = 0
    kept: bool = False
    dropped: bool = False
    worth_keeping: bool = True
    on_drop: Callable[[], None] | None = field(default=None, repr=False)
    _engines: list[Engine] = field(default_factory=list, repr=False)
    _lasting: LastingConnections | None = field(default=None, repr=False)
    own_name: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.own_name = self.name

    def endpoint(self, loan: Loan | None = None) -> Endpoint:
        """What leads to the database; with a loan all of it is refused when the loan has ended."""
        return Endpoint(self.server, self.name, loan)

    @property
    def url(self) -> str:
        """`postgresql+psycopg://user:password@host:port/name`, for SQLAlchemy, with the configured driver."""
        return self.endpoint().url

    @property
    def dsn(self) -> str:
        """`postgresql://user:password@host:port/name`, for libpq, psycopg and other languages."""
        return self.endpoint().dsn

    def connect(self, **keywords: Any) -> Connection[Any]:
        """A new psycopg connection; keywords are those of `psycopg.connect`."""
        __tracebackhide__ = True
        return self.endpoint().connect(**keywords)

    def engine(self, **keywords: Any) -> Engine:
        """A new synchronous SQLAlchemy engine, disposed of when the clone is dropped.

        Its driver is the configured one, or psycopg if that is asyncpg, which has no
        synchronous side. Keywords are those of `create_engine`.
        """
        return self.disposing_of(self.endpoint().engine(**keywords))

    def disposing_of(self, engine: Engine) -> Engine:
        """An engine on the database, which is disposed of with those of `engine`."""
        self._engines.append(engine)
        return engine

    @property
    def lasting(self) -> LastingConnections:
        """The connections of clonedb's own fixtures, which stay open while the database goes from test to test."""
        if self._lasting is None:
            endpoint = self.endpoint()
            self._lasting = LastingConnections(self.name, endpoint.engine, endpoint.connect)
        return self._lasting

    def let_go(self) -> bool:
        """Close what a test left in the middle of a COPY or the like on connections of clonedb's: whether it did."""
        return self._lasting is not None and self._lasting.let_go()

    def empty_pools(self) -> None:
        """Close what is idle in the engines that `engine` made, which go on to work."""
        for engine in self._engines:
            engine.dispose()

    def dispose(self) -> None:
        """Close the pools of the engines that `engine` made."""
        while self._engines:
            self._engines.pop().dispose()

    def dispose_all(self) -> None:
        """Close the lasting connections, too."""
        self.dispose()
        if self._lasting is not None:
            self._lasting.close()

    def end_sessions(self) -> list[client_sessions.ClientSession]:
        """End what is connected to the database, the engines of `engine` included: the sessions that were left open.

        One that its client has just closed takes its server a moment to end, so they are given
        25 ms.
        """
        self.dispose_all()
        return self.server.run(client_sessions.end_open_sessions, self.name)

    def rename(self, name: str) -> None:
        """Have another name from now on; what is connected is ended, as PostgreSQL demands."""
        # first the pools: a rename ends their connections without their knowing
        self.dispose_all()
        self._lasting = None  # what it opens leads to the name
        self.server.run(_rename, self.name, name)
        self.name = name

    def take_own_name(self) -> None:
        """Have the name again that it was made with; where a test has dropped or renamed it, drop what is there.

        Raises ServerError when it is kept, and cannot be renamed.
        """
        import psycopg

        if self.name == self.own_name:
            return
        try:
            self.rename(self.own_name)
        except psycopg.Error as error:
            if self.kept:
                raise ServerError(
                    f"database {self.name!r} is kept, but could not be renamed to {self.own_name!r}:"
                    f" {' '.join(str(error).split())}; find it by its own name"
                ) from error
            self.drop()

    def is_sound(self) -> bool:
        """Whether the database is still the one that was made, under its name, and lets everybody in."""
        return self.server.run(sql.is_open, self.name, self.oid)

    @property
    def may_lack_rows(self) -> bool:
        """Whether the server may have crashed since it was made, which empties unlogged tables; costs no round trip."""
        filled = self.template is not None and self.template.metadata.unlogged
        return bool(filled) and self.crashes != self.server.crashes

    def keep(self, kept: Kept) -> None:
        """Let the database outlive this process: `clonedb drop` or retention ends it.

        Raises ServerError when it was dropped: COMMENT ON DATABASE only warns of that.
        """
        self.server.run(sql.comment, self.name, kept.to_json())
        if self.server.run(sql.find_database, self.name) is None:
            raise ServerError(
                f"database {self.name!r} is gone from {self.server.about}: somebody dropped it"
            )
        self.kept = True

    def drop(self) -> None:
        """Drop the database and end the sessions connected to it; nothing happens if it is kept or gone."""
        self.drop_by(self.server)

    def drop_by(self, session: MaintenanceSession) -> None:
        """`drop`, by another session than the server's."""
        self.dispose_all()
        try:
            # the name may go to the next test's clone
            if self.kept:
                self.take_own_name()
            elif not self.dropped:  # another database may have the name by now
                session.run(sql.drop_database, self.name, oid=self.oid)
                self.dropped = True
        except KeyboardInterrupt:  # which cancelled the statement
            _discard(session, self.name)
            raise
        finally:
            # once, and also if the drop failed: the slot of a clone that cannot be dropped is
            # not held for ever
            given_up, self.on_drop = self.on_drop, None
            if given_up is not None:
                given_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.drop()
        else:  # clean-up never hides the first error
            with contextlib.suppress(Exception):
                self.drop()


def create(
    server: Server,
    template: TemplateRecord,
    *,
    strategy: str | None = None,
    session: MaintenanceSession | None = None,
    waiter: Waiter | None = None,
    wait: bool = True,
) -> Clone:
    """Make a clone: CREATE DATABASE ... TEMPLATE, then what that does not copy; `strategy` is chosen if not given.

    Room in memory is waited for by `waiter`, without `wait` not at all. Raises
    TemplateInUseError when a session stays connected to the template (SQLSTATE 55006),
    ServerError when the template is gone or there is no room on the disk or in memory.
    """
    # before the copy: a crash while it is made counts as one after it
    start, crashes = monotonic(), server.crashes
    metadata, own = template.metadata, session or server
    name = clone_name(
        server.config.prefix, metadata.fingerprint, server.owner, server.next_number()
    )
    try:
        chosen = strategy or choose(server, template)
        room = partial(
            server.admission.room, metadata.size, f"clone {name!r}", waiter, wait=wait
        )
        _copy(server, own, template, name, room, strategy=chosen, deadline=start + _PATIENCE)
        # a crash before the copy may have emptied the template's unlogged tables
        if metadata.unlogged:
            require_filled(server, name, metadata.unlogged, template=template.name)
        # what CREATE DATABASE ... TEMPLATE does not copy: privileges, settings, the comment
        if has_any(metadata):
            own.run(give, name, metadata)
        if not server.embedded:
            own.run(keepalives.keep_clients_alive, name, server.config.lease_timeout)
        # by its number it is found even when a test has renamed it
        oid = own.run(sql.database_oid, name)
    except BaseException:  # Ctrl-C, too: it may come too late to cancel the statement
        _discard(own, name)
        raise

    return Clone(server, template, name, monotonic() - start, oid, crashes)


def create_empty(server: Server, config: Config) -> Clone:
    """Make a database in which nothing was made but a template's configured extensions; otherwise as `create`."""
    from clonedb.templates import seal

    start = monotonic()
    # in place of a fingerprint's first six digits
    name = clone_name(server.config.prefix, "empty0", server.owner, server.next_number())
    try:
        with _guard_disk(server, name), server.admission.room(EMPTY, f"clone {name!r}"):
            server.run(seal.create_empty, server, config, name)
        if config.extensions:
            with contextlib.closing(server.connect(name)) as connection:
                for extension in config.extensions:
                    sql.create_extension(connection, extension)

        oid = server.run(sql.database_oid, name)
    except BaseException:
        _discard(server, name)
        raise

    return Clone(server, None, name, monotonic() - start, oid)


@contextlib.contextmanager
def _guard_disk(server: Server, name: str) -> Iterator[None]:
    import psycopg

    try:
        yield
    except (psycopg.errors.DiskFull, psycopg.errors.IoError) as error:
        raise ServerError(
            f"{server.about} could not make clone {name!r}: {' '.join(str(error).split())}; free some space"
            " (`clonedb gc`, `clonedb list`) and run again"
        ) from None


def _rename(connection: Connection[Any], old: str, new: str) -> None:
    sql.end_sessions(connection, old)
    # a prepared transaction is in the way of RENAME as of DROP, and both wait 5 s before they say so
    for found in obstacles.find(connection, old):
        if found.valid and found.obstructed:
            obstacles.clear(connection, old)

    sql.rename_database(connection, old, new)


def _discard(session: MaintenanceSession, name: str) -> None:
    """Drop a database if it is there; the error that led here is the one to see, and gc drops what is left."""
    with contextlib.suppress(Exception):
        session.run(sql.drop_database, name)


def _copy(
    server: Server,
    session: MaintenanceSession,
    template: TemplateRecord,
    name: str,
    room: Callable[[], AbstractContextManager[None]],
    *,
    strategy: str | None,
    deadline: float,
) -> None:
    import psycopg

    def make(connection: Connection[Any]) -> None:
        share_blocks(server, connection, strategy)
        sql.create_database(connection, name, template=template.name, strategy=strategy)

    while True:
        try:
            with _guard_disk(server, name), room():
                session.run(make)
        except psycopg.errors.ObjectInUse as error:
            # the server has waited 5 s by itself for the sessions to go
            if monotonic() > deadline:
                found = session.run(sql.sessions, template.name)
                raise TemplateInUseError(
                    f"template {template.name!r} cannot be cloned while it has sessions:"
                    f" {'; '.join(found) or str(error).strip()}; end them, and let nobody connect to a template"
                ) from None

            # a session that has just been closed needs a moment
            sleep(0.02)
        except psycopg.errors.InvalidCatalogName:
            raise ServerError(
                f"template {template.name!r} is gone from {server.about}: somebody dropped it; run again to rebuild it"
            ) from None
        else:
            return
