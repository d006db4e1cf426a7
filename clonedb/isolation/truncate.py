"""`truncate`: the worker's clone; tables that a test wrote to get the template's rows back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clonedb.clones.clone import Clone
from clonedb.errors import PermissionDeniedError
from clonedb.isolation.changes import Changes, Found
from clonedb.isolation.contents import Contents
from clonedb.isolation.mode import CloneSource, Reusable
from clonedb.isolation.own_session import open_session
from clonedb.isolation.template_reset import TemplateReset
from clonedb.postgres import client_sessions

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Truncate"]


class Truncate(Reusable):
    """Rows that a test wrote are deleted; the template's rows and its sequences' values are put back.

    TRUNCATE, after which this is named, takes 1 to 2 ms a table and would empty each table that
    refers to it, too. With session_replication_role = replica no ordinary trigger and no
    foreign key acts, so that DELETE is enough. Any other change of a test costs a new clone.
    The rows are read once per process, from the first clone before any test had it, and held in
    memory. The session that does all this stays open, and so do those of clonedb's own fixtures
    and of routed engines.
    """

    def __init__(self, supply: CloneSource) -> None:
        super().__init__(supply)
        self._own: dict[Clone, tuple[Connection[Any], Changes]] = {}
        self._template_reset = TemplateReset(plans=True)
        self._known: Changes | None = None
        self._contents: Contents | None = None

    def make(self) -> Clone:
        """A clone; the process's first is also read."""
        clone = super().make()
        try:
            connection = open_session(clone)
            # before the contents are read: `Contents` tries to write some of them
            _silence(connection, clone)
            self._known = changes = (
                self._known.of_clone(connection) if self._known else Changes(connection)
            )
            self._own[clone] = connection, changes
            # by digest: the template of this name may have been built anew
            if self._contents is None or self._contents.digest != changes.digest:
                self._contents = Contents(connection, changes)
                changes.begin()  # what was tried was undone
        except BaseException:
            self._discard(clone)
            raise

        clone.lasting.reused = True
        return clone

    def end_sessions(self, clone: Clone) -> Sequence[client_sessions.ClientSession]:
        """All but those that stay open until the next test."""
        clone.dispose()
        renewal = self._template_reset.begin(clone)
        try:
            keep = {*renewal.pids, self._own[clone][0].info.backend_pid}
            return clone.server.run(client_sessions.end_open_sessions, clone.name, keep=keep)
        finally:
            renewal.end()

    def reset(self, clone: Clone) -> bool:
        """Put everything back; where that cannot be done, a test costs a new clone, and the report says why."""
        import psycopg

        connection, changes = self._own[clone]
        try:
            found = changes.look()
            why = changes.blind or found.elsewhere or self._put_back(connection, changes, found)
        except psycopg.Error as error:
            why = f"the server said: {str(error).splitlines()[0]}"
        if why:
            self.supply.note("refused", why)
        return why is None

    def drop(self, clone: Clone) -> None:
        """End its session, too."""
        if own := self._own.pop(clone, None):
            own[0].close()
        super().drop(clone)

    def _put_back(
        self, connection: Connection[Any], changes: Changes, found: Found
    ) -> str | None:
        assert self._contents is not None  # noqa: S101 - read when the clone was made
        if not found:
            return None
        if why := self._contents.why_not(found.tables):
            return why
        # in any order of tables: under session_replication_role = replica no foreign key is
        # checked
        with connection.transaction():
            self._contents.put_back(connection, found.tables, changes.mark)
            changes.sequences.put_back(found.sequences)

        # VACUUM refuses to run in a transaction
        if found.tables:
            self._contents.vacuum(connection, found.tables)
        # last: what was written to put rows back is none of the next test's
        changes.begin()
        return None


def _silence(connection: Connection[Any], clone: Clone) -> None:
    import psycopg

    try:
        connection.execute("set session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        raise PermissionDeniedError(
            f"{clone.server.about}: isolation 'truncate' puts rows back without firing triggers, for which role"
            f" {clone.server.info.user!r} lacks the right; as a superuser run `GRANT SET ON PARAMETER"
            f" session_replication_role TO \"{clone.server.info.user}\"` (PostgreSQL 15), or use isolation 'clone'"
        ) from None
