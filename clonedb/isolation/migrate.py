"""`migrate`: the worker's database is upgraded to the target before a test, and downgraded to base after it."""

from __future__ import annotations

import contextlib

from clonedb.clone import Clone, create, create_empty
from clonedb.errors import MigrationError
from clonedb.isolation.strategy import Origin, Reusable
from clonedb.migrate.alembic import AlembicMigrator, Session
from clonedb.progress import Silence

__all__ = ["Migrate"]

_LEFT = """
    select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'S') and c.relpersistence <> 't' and n.nspname <> 'information_schema'
          and n.nspname !~ '^pg_' and not exists (
              select from pg_depend d where d.objid = c.oid and d.classid = 'pg_class'::regclass and d.deptype = 'e')
    order by 1
"""


class Migrate(Reusable):
    """Real upgrades and real downgrades, on what the test left in the tables: dear, and an honest test of both.

    What the downgrades leave behind is an error of the test after which it is found, because the next upgrade would
    meet it. One interpreter serves all tests of a database.
    """

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self._sessions: dict[Clone, Session] = {}

    def make(self) -> Clone:
        """A database that only what the template is built upon was done to."""
        origin = self.origin
        base = origin.base
        clone = origin.beside(lambda: create_empty(origin.server) if base is None else create(origin.server, base))
        migrator = AlembicMigrator(origin.server.config, origin.project)
        self._sessions[clone] = migrator.session(origin.server.url(clone.name))
        return clone

    def begin(self, clone: Clone) -> None:
        """Upgrade it to the target, and run the seeds."""
        config = self.origin.server.config
        self._sessions[clone].migrate(config.target, config.seed, progress=Silence())

    def reset(self, clone: Clone) -> bool:
        """Downgrade it to base."""
        self._sessions[clone].downgrade("base")
        if self.origin.base is None:
            self._demand_nothing_left(clone)
        return True

    def drop(self, clone: Clone) -> None:
        """End its interpreter, too."""
        self._sessions.pop(clone).close()
        clone.drop()

    def _demand_nothing_left(self, clone: Clone) -> None:
        versions = {table for table, _ in self.origin.template.metadata.version_tables}
        with contextlib.closing(clone.server.connect(clone.name)) as connection:
            left = [name for _, name in connection.execute(_LEFT) if name not in versions]
        if left:
            listed = ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")
            raise MigrationError(
                f"the downgrade to base left {listed} behind; a revision that makes something has to take it away in"
                " downgrade() (the next test gets a new database)"
            )
