"""`migrate`: the worker's database is upgraded to the target before a test, and downgraded to base after it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clonedb.clones.clone import Clone, create, create_empty
from clonedb.errors import MigrationError
from clonedb.isolation.changes import Changes
from clonedb.isolation.mode import CloneSource, Reusable
from clonedb.isolation.objects import Object, objects
from clonedb.isolation.own_session import open_session
from clonedb.migrate.blockers import Blockers
from clonedb.migrate.recipes import require_revisions
from clonedb.postgres import client_sessions
from clonedb.progress import Silence

if TYPE_CHECKING:
    from psycopg import Connection

    from clonedb.migrate.process import MigrationProcess

__all__ = ["Migrate"]


@dataclass(slots=True)
class _Own:
    """What belongs to a database: the interpreter that migrates it, a session in it, and what it held.

    `base` is what was there at first, `target` what was there after the last upgrade.
    """

    migrations: MigrationProcess
    connection: Connection[Any]
    changes: Changes
    base: frozenset[Object]
    target: frozenset[Object]


class Migrate(Reusable):
    """Real upgrades and real downgrades, on what the test left in the tables: dear, and an honest test of both.

    What the downgrades leave behind is an error of the test after which it is found, because
    the next upgrade would meet it. What the test's own statements left costs a new database.
    One interpreter serves all tests of a database.
    """

    def __init__(self, supply: CloneSource) -> None:
        super().__init__(supply)
        self._recipe = require_revisions(supply.recipe, "isolation 'migrate'")
        self._own: dict[Clone, _Own] = {}

    def make(self) -> Clone:
        """A database that only what the template is built upon was done to."""
        supply = self.supply
        base = supply.base()
        clone = supply.other(
            lambda: (
                create_empty(supply.server, self._recipe.config)
                if base is None
                else create(supply.server, base)
            )
        )
        migrations = self._recipe.migrator.session(
            supply.server.url(clone.name), waiting=Blockers(supply.server, clone.name)
        )
        try:
            connection = open_session(clone)
            there = frozenset(objects(connection))
            self._own[clone] = _Own(migrations, connection, Changes(connection), there, there)
        except BaseException:
            self._discard(clone)
            raise

        return clone

    def begin(self, clone: Clone) -> None:
        """Upgrade it to the target, and run the seeds."""
        config = self._recipe.config
        own = self._own[clone]
        own.migrations.migrate(config.target, config.seed, progress=Silence())
        own.target = frozenset(objects(own.connection))

    def end_sessions(self, clone: Clone) -> Sequence[client_sessions.ClientSession]:
        """All but the one that looks for what is left."""
        clone.dispose_all()
        keep = [self._own[clone].connection.info.backend_pid]
        return clone.server.run(client_sessions.end_open_sessions, clone.name, keep=keep)

    def reset(self, clone: Clone) -> bool:
        """Downgrade it to base; False if the test left something that its migrations know nothing of."""
        import psycopg

        own = self._own[clone]
        versions = {str(table) for table, _ in self.supply.template.metadata.version_tables}
        try:
            # before the downgrade: what is not from the upgrade is the test's own
            tested = frozenset(objects(own.connection))
            own.migrations.downgrade("base")
            after = objects(own.connection)
            # Alembic leaves its version table when it is back at base
            ours = _oids_of(own.connection, versions)
            left = {
                one: name
                for one, name in after.items()
                if one not in own.base and one.oid not in ours
            }
            by_test = tested - own.target
            # what the test made is no fault of the migrations, and costs a new database only
            _require_nothing_left([name for one, name in left.items() if one not in by_test])
            return (
                not left
                # the downgrade may have taken too much, and rows may differ where no object
                # does
                and own.base <= after.keys()
                and not own.changes.changed_contents(leave_out=versions)
            )
        except psycopg.Error:  # the test may have ended the session
            return False

    def drop(self, clone: Clone) -> None:
        """End its interpreter and clonedb's session, too."""
        if own := self._own.pop(clone, None):
            own.migrations.close()
            own.connection.close()
        clone.drop()


def _oids_of(connection: Connection[Any], tables: Collection[str]) -> Collection[int]:
    rows = connection.execute(
        "select oid::bigint from pg_class where relname = any(%s)", [[*tables]]
    )
    return {row[0] for row in rows}


def _require_nothing_left(names: Sequence[str]) -> None:
    if names:
        listed = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
        raise MigrationError(
            f"the downgrade to base left {listed} behind; a revision that makes something has to take it away in"
            " downgrade() (the next test gets a new database)"
        )
