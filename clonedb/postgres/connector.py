"""How clonedb itself connects to a server: in UTF-8, in autocommit mode, and patient while the server recovers."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from clonedb.embedded.machine import clients_of
from clonedb.errors import ServerDownError, ServerError
from clonedb.originals import monotonic, sleep
from clonedb.postgres import keepalives
from clonedb.postgres.libpq_variables import unset
from clonedb.settings.config import Config
from clonedb.url import redact

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.pq import Ping

__all__ = ["Connector"]

_LIBPQ_QUESTION = r"\s*Is the server running (?:on that host|locally) and accepting .*\?"

_RECOVERY = 60.0  # seconds that a server may take until it accepts connections (SQLSTATE 57P03)
_RESTART = 10.0  # seconds in which a supervisor may start a server of the user's again, which was there before
_CROWDED = 10.0  # seconds: twice those after which an embedded server ends connections that prove nothing
_PAUSE = 0.1  # seconds between two attempts


class Connector:
    """Connects to one server by one way; `about` names it, `say` is told when it is waited for.

    `ending` tells the end of the log of a server that clonedb runs itself, when that does not
    answer; it is None where another process starts the server again when it has gone, and where
    variables of libpq may be meant for it.
    """

    def __init__(
        self,
        own: Mapping[str, str],
        config: Config,
        about: str,
        say: Callable[[str], None],
        *,
        ending: Callable[[], str] | None,
    ) -> None:
        timeout = str(
            max(2, round(config.connect_timeout))
        )  # libpq counts whole seconds, 2 at least
        self._keywords = {
            "connect_timeout": timeout,
            "application_name": "clonedb",
            **({} if ending is not None else keepalives.keywords(config.lease_timeout)),
            **own,
            "client_encoding": "UTF8",
        }
        self._config = config
        self._about = about
        self._say = say
        self._ending = ending
        self._sessions: WeakSet[Connection[Any]] = WeakSet()
        self._reached = False
        self._given_up = False
        self._next_attempt = 0.0

    def end_if_out_of_reach(self) -> None:
        """Connect once; if no answer comes, end all sessions that were opened here.

        A thread that waits on one of them would wait without an end behind a proxy that keeps
        them, while the server is out of its reach.
        """
        try:
            self.connect(self._config.maintenance_database).close()
        except ServerError:
            if self.out_of_reach:
                for session in [*self._sessions]:
                    _shut_down(session)

    @property
    def out_of_reach(self) -> bool:
        """Whether the server was there, and did not answer for as long as it was worth waiting."""
        return self._reached and self._given_up

    def connect(self, database: str, **keywords: Any) -> Connection[Any]:
        """A connection to a database; keywords are those of `psycopg.connect`.

        The server sends UTF-8, whichever encoding the database has: in that of a database with
        SQL_ASCII psycopg would give bytes instead of texts. Waits while the server starts or
        recovers from a crash, and for some seconds where it was there before. A second time
        that is not done in vain, and while no answer comes at all an attempt fails at once for some
        seconds after the last one. Raises ServerError.
        """
        import psycopg

        if monotonic() < self._next_attempt:
            raise ServerError(f"{self._about} is out of reach, as it was a moment ago")

        merged: dict[str, Any] = {**self._keywords, "dbname": database, **keywords}
        start = monotonic()
        said = False
        while True:
            try:
                with contextlib.nullcontext() if self._ending is None else unset():
                    connection = psycopg.connect(
                        "", autocommit=True, prepare_threshold=None, **merged
                    )
            except psycopg.OperationalError as error:
                found = self._state(error, merged)
                why, seconds = (
                    ("", 0.0) if self._given_up else self._reason_to_wait(found, error)
                )
                if monotonic() - start >= seconds:
                    self._given_up = bool(seconds) or self._given_up
                    if self.out_of_reach and isinstance(
                        error, psycopg.errors.ConnectionTimeout
                    ):
                        self._next_attempt = monotonic() + self._config.connect_timeout
                    raise self._failure(database, error, found) from None

                if not said:
                    self._say(f"{self._about} {why}; waiting (for {seconds:g} s at most)")
                    said = True

                sleep(_PAUSE)
            else:
                self._reached = True
                self._given_up = False
                if self._ending is None:
                    self._sessions.add(connection)
                    keepalives.keep_alive(connection, self._config.lease_timeout)
                return connection

    @staticmethod
    def _state(error: Exception, keywords: Mapping[str, Any]) -> Ping:
        """What the server does at the moment.

        libpq tells the SQLSTATE of a refusal to its function for pings only; its text may be in
        any language.
        """
        from psycopg import errors, pq
        from psycopg.conninfo import make_conninfo

        if isinstance(error, errors.ConnectionTimeout):
            return pq.Ping.NO_RESPONSE
        if "the database system is" in str(error):
            return pq.Ping.REJECT
        return pq.Ping(
            pq.PGconn.ping(make_conninfo("", **{**keywords, "connect_timeout": "2"}).encode())
        )

    def _reason_to_wait(self, state: Ping, error: Exception) -> tuple[str, float]:
        """Why, and for how many seconds, it is worth waiting."""
        from psycopg import pq

        if state == pq.Ping.REJECT:
            return (
                "accepts no connections yet: it is starting, or recovering from a crash",
                _RECOVERY,
            )

        if self._is_crowded(error):
            return "has no connection left", _CROWDED
        if state == pq.Ping.NO_RESPONSE and self._reached and self._ending is None:
            return "went away", _RESTART
        return "", 0.0

    def _is_crowded(self, error: Exception) -> bool:
        """Whether an embedded server, whose messages are English, has no connection left (SQLSTATE 53300)."""
        return self._ending is not None and "too many clients already" in str(error)

    def _failure(self, database: str, error: Exception, state: Ping) -> ServerError:
        from psycopg import pq

        config = self._config
        reason = redact(" ".join(re.sub(_LIBPQ_QUESTION, "", str(error)).split()))
        cannot = f"cannot connect to database {database!r} of {self._about}: {reason}"
        if self._is_crowded(error):
            clients = clients_of(int(self._keywords["port"]))
            return ServerError(
                f"{cannot}; close connections, or end the processes that have them"
                f" (connections to its port by account: {clients or 'unknown'})"
            )

        if self._ending is None:
            # one that refuses the password, or has no such database, is there
            kind = ServerError if state == pq.Ping.OK else ServerDownError
            return kind(
                f"{cannot}; check that it runs, and its host, port, user and password"
                f" (url is from {config.source('url')}; connect_timeout = {config.connect_timeout:g} s)"
            )

        if (
            state == pq.Ping.OK
            and database == config.maintenance_database
            and "does not exist" in reason
        ):
            return ServerError(
                f"{cannot}; a migration or a test has dropped it, and nothing works here without it: run"
                " `clonedb server reset`, after which the server begins anew"
            )

        if state == pq.Ping.OK:
            return ServerError(cannot)
        return ServerError(f"{cannot}; {self._ending()}")


def _shut_down(session: Connection[Any]) -> None:
    """End a session in which another thread may wait for an answer: that gets an error."""
    import _socket  # `socket.socket` may be pytest-socket's, or a mock

    import psycopg

    # closed, or ended by the server
    with contextlib.suppress(psycopg.Error, OSError):
        own = _socket.socket(fileno=os.dup(session.fileno()))
        try:
            own.shutdown(_socket.SHUT_RDWR)
        finally:
            own.close()
