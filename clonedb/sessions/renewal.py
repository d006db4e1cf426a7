"""Idle connections that are made as new for the next test, all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

__all__ = ["Renewal", "Reset"]


class Reset(Protocol):
    """What makes an idle session as new, or fails."""

    def message(self, *, settings: bool) -> str:
        """What to send for that, as one simple query; `settings` says whether one may have been changed meanwhile."""

    def __call__(self, cursor: Any, *, settings: bool) -> None:
        """Reset it through a DBAPI cursor."""

    def begin(self, connection: PGconn, *more: str, settings: bool) -> None:
        """Send the reset, and `more` statements with it."""

    def end(self, connection: PGconn) -> bool:
        """Wait for it: whether the session is idle again, and as new."""


class Renewal:
    """Connections that are being reset, all at once, and not to be used until `end`; `pids` are their backends'."""

    def __init__(self, reset: Reset) -> None:
        self.pids: list[int] = []
        self.reset = reset
        self._begun: list[tuple[PGconn, Callable[[], None], Callable[[], None]]] = []

    def begin(
        self,
        connection: PGconn,
        *more: str,
        settings: bool,
        keep: Callable[[], None],
        lose: Callable[[], None],
    ) -> None:
        """Begin with one, of which `keep` is called at the end if it works then, and `lose` if not.

        `settings` says whether one may have been changed in the session.
        """
        import psycopg

        try:
            if connection.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                raise psycopg.InterfaceError("it is in the middle of something")
            self.reset.begin(connection, *more, settings=settings)
            self.pids.append(connection.backend_pid)
        except psycopg.Error:
            lose()
        else:
            self._begun.append((connection, keep, lose))

    def end(self) -> None:
        """Wait until all are reset, and give them back; may be called again."""
        while self._begun:
            connection, keep, lose = self._begun.pop()
            works = False
            try:
                works = self.reset.end(connection)
            finally:
                (keep if works else lose)()
