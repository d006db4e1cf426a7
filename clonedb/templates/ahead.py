"""What a build begins before it is known to be needed: the copy of a layer."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self

from clonedb.errors import ServerError
from clonedb.postgres import message, sql
from clonedb.postgres.server import Server
from clonedb.templates.metadata import TemplateRecord

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Guess"]


class Guess:
    """A database that is being made as a copy of the template that will most likely be built upon.

    This process does other things meanwhile: the server copies 150 MB in 0.2 s. What fails here fails again where it is
    waited for. Leaving the context ends it.
    """

    def __init__(self, server: Server, name: str, template: TemplateRecord, strategy: str | None) -> None:
        self._template = template.name
        self._given_up = False
        self._made: bool | None = None
        self._connection = server.connect(server.config.maintenance_database)
        try:
            self._connection.execute("set statement_timeout = 0; set lock_timeout = 0")
            statement = sql.copy_of(name, template=template.name, strategy=strategy).as_string(self._connection)
            message.send(self._connection.pgconn, [statement])
        except BaseException:
            self._connection.close()
            raise

    def is_of(self, template: str) -> bool:
        """Wait for it; whether the database is there as a copy of this template."""
        return not self._given_up and self._template == template and self._done()

    def give_up(self) -> None:
        """Wait for it; the caller drops it."""
        self._given_up = True
        self._done()

    def _done(self) -> bool:
        """Wait for it; whether the database is there."""
        import psycopg

        if self._made is None:
            try:
                message.answer(self._connection.pgconn)
            except (psycopg.Error, ServerError):
                self._made = False
            else:
                self._made = True
        return self._made

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(Exception):
            if self._made is None:
                self._connection.pgconn.get_cancel().cancel()
            self._done()
        self._connection.close()
