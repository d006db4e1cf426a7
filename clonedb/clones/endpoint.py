"""What leads to one database: its URLs, and the connections and engines that they open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clonedb.postgres.server import Server
from clonedb.url import Hidden

if TYPE_CHECKING:
    from psycopg import Connection
    from sqlalchemy.engine import Engine

    from clonedb.sessions.loans import Loan
    from clonedb.url import DatabaseURL

__all__ = ["Endpoint"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The ways to a database: `url` for SQLAlchemy, `dsn` for libpq, psycopg and other languages, connections, engines.

    The URLs hold the password. With a `loan` they hold its token, too, and what they open is
    refused after its end.
    """

    server: Server = field(repr=False)
    name: str
    loan: Loan | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """`postgresql+psycopg://user:password@host:port/name`, with the configured driver."""
        url = self.server.public_url(self.name)
        return self._marked(url if self.loan is None else self.server.proven(url)).render()

    @property
    def dsn(self) -> str:
        """`postgresql://user:password@host:port/name`, without a driver and without a driver's own parameters."""
        url = self.server.public_url(self.name, driver="psycopg")
        known = url.conninfo()
        # what does not stand in the URL itself stands in its query
        parts = {"user", "password", "host", "dbname"} | ({"port"} if url.port else set())
        query = tuple((name, value) for name, value in known.items() if name not in parts)
        return self._marked(url.replace(driver=None, query=query)).render()

    def _marked(self, url: DatabaseURL) -> DatabaseURL:
        return url if self.loan is None else self.loan.mark(url)

    def connect(self, **keywords: Any) -> Connection[Any]:
        """A new psycopg connection; keywords are those of `psycopg.connect`."""
        import psycopg

        __tracebackhide__ = True
        try:
            connection = psycopg.connect(
                self.dsn, **{**self.server.kept_alive("psycopg"), **keywords}
            )
        except psycopg.OperationalError as error:
            # pytest shows the arguments of every frame, and those below this one hold the
            # password
            raise error.with_traceback(None) from None

        return connection if self.loan is None else self.loan.take(connection)

    def engine(
        self, *, connect_args: Mapping[str, Any] | None = None, **keywords: Any
    ) -> Engine:
        """A new synchronous SQLAlchemy engine; keywords are those of `create_engine`."""
        from sqlalchemy import create_engine

        from clonedb.sessions.lent_engine import (
            hide_password_in_tracebacks,
            refuse_late_statements,
        )

        # asyncpg has no synchronous side
        driver = "psycopg" if self.server.public.driver == "asyncpg" else None
        url = self.server.proven(self.server.public_url(self.name, driver=driver))
        secret: dict[str, Any] = dict(self.server.kept_alive(url.driver))
        if url.password is not None:
            secret["password"] = Hidden(url.password)
        engine = hide_password_in_tracebacks(
            create_engine(
                self._marked(url).render(),
                # what a caller gives wins
                connect_args={**secret, **(connect_args or {})},
                **keywords,
            )
        )
        if self.loan is not None:
            refuse_late_statements(engine, self.loan)
        return engine
