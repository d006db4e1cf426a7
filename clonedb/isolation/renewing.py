"""A clone's lasting connections between two tests: reset, unless functions of the project make that impossible."""

from __future__ import annotations

import contextlib

from clonedb.clone import Clone
from clonedb.connections import OWN_SETTING, Renewal
from clonedb.rewind.sessions import SessionReset

__all__ = ["Renewing"]

# functions of the project's that make settings of their own do so behind every driver's back
_MAKES_SETTINGS = """
select exists (
    select from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname not in ('pg_catalog', 'information_schema')
          and (p.prosrc ~* %s or exists (select from unnest(p.proconfig) c where split_part(c, '=', 1) ~ '[.]')))
"""


class Renewing:
    """Resets what stays connected to the clones of one template from test to test."""

    def __init__(self) -> None:
        self._reset = SessionReset()
        self._makes_settings: bool | None = None

    def begin(self, clone: Clone) -> Renewal:
        """Begin to reset the connections that stay open until the next test; what cannot stay is closed."""
        if self._makes_settings is None:
            with contextlib.closing(clone.server.connect(clone.name)) as connection:
                row = connection.execute(_MAKES_SETTINGS, [OWN_SETTING]).fetchone()
            self._makes_settings = row is None or bool(row[0])
        if self._makes_settings:
            clone.lasting.close()
        return clone.lasting.renew(self._reset)
