"""One PostgreSQL server as clonedb uses it: how it is reached, what it is like, and this process's lease on it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, LiteralString, ParamSpec, Self, TypeVar

from clonedb.errors import MissingExtensionError, PermissionDeniedError, ServerError
from clonedb.names import new_owner
from clonedb.originals import getpid
from clonedb.postgres import keepalives, locks, sql
from clonedb.postgres.access import Access
from clonedb.postgres.admission import Admission
from clonedb.postgres.connector import Connector
from clonedb.postgres.embedded_connections import EmbeddedConnections
from clonedb.postgres.growth import Growth
from clonedb.postgres.heartbeat import Heartbeat, application_name, beat
from clonedb.postgres.local_leases import LocalLeases
from clonedb.postgres.message import is_alive
from clonedb.postgres.process_lock import ProcessLock
from clonedb.postgres.proxies import is_proxied, require_sessions
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL, redact

if TYPE_CHECKING:
    from psycopg import Connection

    from clonedb.embedded.binaries import Binaries
    from clonedb.embedded.leases import Lease

__all__ = ["Server"]

T = TypeVar("T")
P = ParamSpec("P")


class Server:
    """A server in use by this process. Closing it gives up the leases, and with them every clone not kept.

    `public` is the URL that is handed out, without a database; `place` a text that two servers
    do not share; `info` what the server said of itself; `owner` the name under which this process
    owns databases: no process collects them as long as the session that holds its lock lives, or,
    on this machine, the process itself. `proxied` says whether a proxy is in between, so that what
    the server says of sessions is the proxy's. `admission` finds room for one more database;
    `growth` watches this process's, where they are in memory. `say` prints what it waits for.
    `config` has no template's settings: those travel with the template's recipe.
    """

    def __init__(
        self,
        config: Config,
        access: Access,
        lease: Lease | None = None,
        binaries: Binaries | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.config = config
        self.lease = lease
        self.binaries = binaries
        self.public: DatabaseURL = access.public
        self.about: str = access.about
        self.place: str = access.place
        self.say: Callable[[str], None] = say or (lambda _message: None)
        self._access = access
        self._connector = Connector(
            access.own,
            config,
            access.about,
            self.say,
            ending=None if lease is None else lease.ending,
        )
        self.admission: Admission = Admission(self)
        self.growth: Growth = Growth(self)
        self._drivers = (
            None if lease is None else EmbeddedConnections(lease.port, access.answers)
        )
        self._maintenance: Connection[Any] | None = None
        self._pid = getpid()
        self._owner: str | None = None
        # the templates whose locks are shared
        self._used: set[str] = set()
        self._local = LocalLeases(config)
        # reentrant: `owner` and `use` hold it while they run statements
        self._lock = ProcessLock()
        self._number = 0
        # those who have it open: `close` of the last one closes it
        self._users = 1
        self._heartbeat = Heartbeat(
            self._beat, self._connector.end_if_out_of_reach, config.lease_timeout
        )
        self._opened = 0  # sessions with the maintenance database, one after the other
        self.info: sql.ServerInfo = self.run(sql.server_info)
        try:
            # clonedb's own server is reached by its socket
            self.proxied: bool = lease is None and self.run(self._is_proxied)
        except BaseException:
            self.close()
            raise

        if self._drivers is not None:
            self._drivers.install()

    @property
    def embedded(self) -> bool:
        """Whether clonedb runs this server itself."""
        return self.lease is not None

    @property
    def is_open(self) -> bool:
        """Whether not everybody who uses it has closed it."""
        return self._users > 0

    def share(self) -> Self:
        """The server for one more who will close it."""
        with self._lock:
            self._users += 1
        return self

    @property
    def owner(self) -> str:
        """The process's name among the owners of databases; asking for it takes the lease."""
        with self._lock:
            if self._owner is None:
                owner = new_owner()
                # a file lock stays when the session is lost, and the advisory lock with it
                self._local.take(owner)
                self.run(locks.try_lock, locks.owner_key(owner))
                self._owner = owner
                self.growth.watch()
            return self._owner

    def use(self, template: str) -> bool:
        """Share a template's lock until the server is closed: False if the template is being collected."""
        with self._lock:
            if template not in self._used:
                if not self.run(locks.try_lock, locks.use_key(template), shared=True):
                    return False
                self._local.take(template)
                self._used.add(template)
            return True

    def next_number(self) -> int:
        """Counts this process's databases on the server."""
        with self._lock:
            self._number += 1
            return self._number

    def connect(self, database: str, **keywords: Any) -> Connection[Any]:
        """A connection of clonedb's own to a database, in autocommit mode.

        Raises ServerError when it cannot be had within connect_timeout, or when the server has
        recovered from a crash.
        """
        return self._connector.connect(database, **keywords)

    def run(
        self,
        function: Callable[Concatenate[Connection[Any], P], T],
        /,
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """Call a function with this process's one session with the maintenance database, and hold its lock meanwhile.

        `server.run(sql.comment, name, text)` is `sql.comment(connection, name, text)`.

        A session that the server ended while it was idle is replaced once. Raises
        PermissionDeniedError when the role may not do it.
        """
        import psycopg

        with self._lock:
            connection = self._session()
            try:
                return function(connection, *arguments, **named)
            except psycopg.errors.InsufficientPrivilege as error:
                raise self._denied(error, connection.info.user) from error
            except psycopg.OperationalError as error:
                if not connection.broken:
                    raise
                self._maintenance = None
                reason = str(error).strip().splitlines()[0]
                try:
                    return function(self._session(), *arguments, **named)
                except psycopg.OperationalError:
                    raise ServerError(f"{self.about} went away: {redact(reason)}") from error
            except BaseException:  # an interrupt may have come in the middle of a statement, which cannot be resumed
                if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    connection.close()
                raise

    def rows(
        self, query: LiteralString, parameters: Sequence[object] = ()
    ) -> list[tuple[Any, ...]]:
        """The rows of one query on that session."""
        return self.run(lambda connection: connection.execute(query, parameters).fetchall())

    @property
    def crashes(self) -> int:
        """How often the session with the maintenance database was lost, as it is whenever the server crashes.

        It costs no round trip: a session that the server has ended shows that by a socket that
        can be read.
        """
        session = self._maintenance
        if session is None:
            return self._opened
        # all of them but the one that is open now
        lost = self._opened - 1
        if self._pid != getpid() or not self._lock.acquire(blocking=False):
            return lost  # another thread waits for an answer on it, and will see
        try:
            return lost + (session.closed or not is_alive(session.pgconn))
        finally:
            self._lock.release()

    def _is_proxied(self, connection: Connection[Any]) -> bool:
        if not is_proxied(connection):
            return False
        require_sessions(
            connection, lambda: self.connect(self.config.maintenance_database), self.about
        )
        return True

    def _session(self) -> Connection[Any]:
        if self._pid != getpid():  # a forked child must not speak on its parent's session
            self._pid, self._maintenance, self._owner = getpid(), None, None
            self._used.clear()
            self._local.forget()

        if self._maintenance is None or self._maintenance.closed:
            connection = self._open_maintenance()
            try:
                self._lock_again(connection)
            except BaseException:
                connection.close()
                raise

            self._maintenance = connection
            self._opened += 1

        return self._maintenance

    def _lock_again(self, connection: Connection[Any]) -> None:
        """Take the locks that ended with the session before; it may hold them for another moment, while it ends."""
        if self._owner is not None:
            if not self.embedded and (loss := self._heartbeat.loss(self.about)):
                self.say(loss)
            key = locks.owner_key(self._owner)
            if not locks.wait_for_lock(connection, key, timeout=self.config.connect_timeout):
                self._owner = None  # another process collects what we had; later databases get another owner
        for template in self._used:
            locks.try_lock(connection, locks.use_key(template), shared=True)

    def _open_maintenance(self) -> Connection[Any]:
        # an embedded server's users are on this machine, where file locks tell who lives
        name = application_name(None if self.embedded else self.config.lease_timeout)
        connection = self.connect(self.config.maintenance_database, application_name=name)
        # limits that the role or the database was given are not meant for this session
        settings = "set statement_timeout = 0; set lock_timeout = 0"
        # the first version that has it
        if connection.info.server_version >= 140000:
            settings += "; set idle_session_timeout = 0"
        connection.execute(settings)
        if not self.embedded:
            self._heartbeat.begin()
        return connection

    def _beat(self) -> bool | None:
        """Send a heartbeat: whether it was answered; None if the session is at work."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            session = self._maintenance
            if session is None or self._pid != getpid():
                return True
            # after a failure the next statement meets it, and opens another session
            return beat(session, "select", self.config.lease_timeout) is None
        finally:
            self._lock.release()

    def _denied(self, error: Exception, user: str) -> PermissionDeniedError:
        message = str(error).strip().splitlines()[0]
        return PermissionDeniedError(
            f"{self.about}: {message}; clonedb creates databases there: "
            f"grant it with `ALTER ROLE ... CREATEDB` as a superuser (role {user!r}), or use another url"
        )

    def require_createdb(self) -> None:
        """Raises PermissionDeniedError unless the role may create databases."""
        if not self.info.may_create_databases:
            raise PermissionDeniedError(
                f"{self.about}: role {self.info.user!r} may not create databases; "
                f'run `ALTER ROLE "{self.info.user}" CREATEDB` as a superuser, or use another url'
            )

    def require_extensions(self, extensions: Collection[str]) -> None:
        """Raises MissingExtensionError unless the server can create every one of the extensions."""
        if (
            not extensions or self.binaries is not None
        ):  # an embedded server was chosen by what it has
            return

        # asked for as if it were an extension: only servers that were built with ICU have it
        icu = (
            "select 'ICU' where exists (select from pg_collation where collname = 'und-x-icu')"
        )
        query = f"select name from pg_available_extensions where name = any(%s) union all {icu}"  # noqa: S608 - ours
        rows = self.rows(query, [list(extensions)])
        missing = sorted(set(extensions) - {row[0] for row in rows})
        if missing:
            raise MissingExtensionError(
                f"{self.about} has no extension {', '.join(map(repr, missing))}, which the migrations create; "
                f"install it there (Debian: postgresql-contrib or postgresql-{self.info.major}-NAME),"
                " or use another url"
            )

    def url(self, database: str, *, driver: str | None = None) -> DatabaseURL:
        """The URL of one database of the server, for people and applications: loopback TCP, or the user's own URL."""
        return self.public.replace(database=database, driver=driver or self.public.driver)

    def public_url(self, database: str, *, driver: str | None = None) -> DatabaseURL:
        """The URL of a test's database, for the test and the application: that of the configured role, if there is one.

        Without a password of that role, on a server of the user's own, libpq looks for one
        (PGPASSFILE, ~/.pgpass). On the embedded server it says what variables of libpq in the
        environment would make it something else.
        """
        url, config = self.url(database, driver=driver), self.config
        url = self._access.answered(url)
        if config.role is None:
            return url
        return url.replace(
            user=config.role,
            password=self.lease.password if self.lease else config.role_password,
        )

    def proof_only(self, driver: str | None) -> Mapping[str, Any]:
        """What lets a driver never send the embedded server's password in the clear.

        The port of a stopped server may be taken by any account. With SCRAM the password itself
        is never sent, and a server that does not know it is refused; from libpq 16 on a client
        may demand that. Empty for other drivers.
        """
        from clonedb.postgres.drivers import libpq_of

        known = self.lease is not None and libpq_of(driver or "psycopg") >= 160000
        return {"require_auth": "scram-sha-256"} if known else {}

    def proven(self, url: DatabaseURL) -> DatabaseURL:
        """A URL of the server with what proof_only() says of its driver."""
        query = {**dict(url.query), **self.proof_only(url.driver)}
        return url.replace(query=tuple(query.items()))

    def kept_alive(self, driver: str | None) -> Mapping[str, Any]:
        """What a driver is told beside a URL: `proof_only`, and keepalives where the network to the server may be cut.

        What the url says of them stays. Drivers without libpq know none.
        """
        from clonedb.postgres.drivers import libpq_of

        proof = self.proof_only(driver)
        if self.embedded or not libpq_of(driver or "psycopg"):
            return proof
        known = dict(self.public.query)
        own = keepalives.keywords(self.config.lease_timeout)
        return {**proof, **{name: own[name] for name in own if name not in known}}

    @property
    def out_of_reach(self) -> bool:
        """Whether the server, which was there, did not answer when it was last connected to."""
        return self._connector.out_of_reach

    def close(self) -> None:
        """The last user gives up the leases: the session first, so that nothing of ours is left when the server stops.

        May be called again by the last user.
        """
        with self._lock:
            # not below 0, for a last user that calls it again
            self._users -= self._users > 0
            if self._users:
                return
            self.growth.close()
            self._heartbeat.close()
            # a forked child leaves its parent's session alone
            if self._maintenance is not None and self._pid == getpid():
                self._maintenance.close()
            self._maintenance = None
            self._owner = None
            self._used.clear()
            self._local.close()
            if self._drivers is not None:
                self._drivers.uninstall()
            if self.lease is not None:
                self.lease.close()
