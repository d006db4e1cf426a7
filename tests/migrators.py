"""What Alembic is asked for one thing at a time, each in an interpreter of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from clonedb.migrate.alembic import AlembicMigrator
from clonedb.migrate.results import Migrated, Stair
from clonedb.url import DatabaseURL

__all__ = ["Migrator", "Migrators"]


class Migrator(AlembicMigrator):
    """Starts the interpreter, asks, and ends it."""

    def migrate(self, url: DatabaseURL) -> Migrated:
        """Migrate to the configured target, and run the seeds."""
        with self.session(url) as session:
            return session.migrate(self.config.target, self.config.seed)

    def upgrade(self, url: DatabaseURL, revision: str = "heads") -> Migrated:
        """What `alembic upgrade` does."""
        with self.session(url) as session:
            return session.upgrade(revision)

    def downgrade(self, url: DatabaseURL, revision: str = "base") -> Migrated:
        """What `alembic downgrade` does."""
        with self.session(url) as session:
            return session.downgrade(revision)

    def current(self, url: DatabaseURL) -> tuple[str, ...]:
        """What `alembic current` says."""
        with self.session(url) as session:
            return session.current()

    def differences(self, url: DatabaseURL) -> list[str]:
        """What `alembic check` finds."""
        with self.session(url) as session:
            return session.differences()

    def stairway(self, url: DatabaseURL, *, skip: Collection[str] = ()) -> Iterator[Stair]:
        """Each revision up, down and up again."""
        with self.session(url) as session:
            yield from session.stairway("heads", skip)

    def seed(self, url: DatabaseURL, seeds: Collection[str]) -> tuple[Path, ...]:
        """Run seeds: the data files that they read."""
        with self.session(url) as session:
            return session.fill((), seeds).read


Migrators = Callable[..., Migrator]
