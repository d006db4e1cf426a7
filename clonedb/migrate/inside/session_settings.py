"""What migrations set in their session, for a revision that is run after them and would not be in another session."""

from __future__ import annotations

from typing import Any

from clonedb.postgres.raw_cursors import hear_any
from clonedb.postgres.statements import changes_contents, custom_settings, named_settings

__all__ = ["SessionSettings"]

# pg_settings shows neither these nor custom settings (`app.tenant`), which must be asked for by
# their names
_HIDDEN = ("role", "session_authorization")
# source 'session' is a SET: not a file's, a role's or a database's setting
_SHOWN = "select name, setting from pg_settings where source = 'session'"
_NAMED = """
    select name, current_setting(name, true) from unnest(string_to_array(cast(:names as text), ',')) name
    where current_setting(name, true) is not null
"""
# bodies that may set or read a custom setting; pg_get_functiondef() refuses aggregates
_FUNCTIONS = """
    select pg_get_functiondef(p.oid)
    from pg_proc p join pg_namespace n on n.oid = pronamespace join pg_language l on l.oid = prolang
    where n.nspname not in ('pg_catalog', 'information_schema') and lanname not in ('c', 'internal')
          and prokind in ('f', 'p')
"""
_COMPUTED = "one whose name is computed, or a library"


class SessionSettings:
    """The settings of the migrations' session; custom ones are known by name from the statements that were run."""

    def __init__(self) -> None:
        self._custom: set[str] = set()
        self._computed = False

    def watch(self) -> None:
        """Read every statement from here on: SQLAlchemy's, and those of the drivers' own cursors below it."""
        from sqlalchemy import event
        from sqlalchemy.engine import Engine
        from sqlalchemy.pool import Pool

        event.listen(
            Engine,
            "before_cursor_execute",
            lambda _connection, _cursor, text, *_: self._read(text),
        )
        event.listen(
            Pool, "connect", lambda connection, _entry: hear_any(connection, self._read)
        )

    def _read(self, statement: str) -> None:
        names = custom_settings(statement)
        if names is None:
            self._computed = True
        self._custom |= names or named_settings(statement)

    def of(self, context: Any, *, ended: bool = False) -> set[tuple[str, str]]:
        """What SET, or SET LOCAL in this transaction, changed: in a transaction only, as asking must not begin one.

        Left out are settings that change no contents, such as timeouts.

        When the last step has `ended` nothing is left that a transaction begun here could hide
        from Alembic.
        """
        connection = context.connection
        if connection is None or not (ended or connection.in_transaction()):
            return set()
        try:
            found = {
                tuple(row)
                for row in connection.exec_driver_sql(_SHOWN)
                if changes_contents(row[0])
            }
            return found | self._not_shown(connection)
        except Exception:  # noqa: BLE001 - a failed transaction tells of itself
            return {("", "")}

    def _not_shown(self, connection: Any) -> set[tuple[str, str]]:
        from sqlalchemy import text

        names = {*_HIDDEN, *self._custom}
        for (body,) in connection.execute(text(_FUNCTIONS)):
            names |= named_settings(body)
        found = {
            tuple(row)
            for row in connection.execute(text(_NAMED), {"names": ",".join(sorted(names))})
        }
        return found | ({(_COMPUTED, "")} if self._computed else set())
