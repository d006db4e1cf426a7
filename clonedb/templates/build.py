"""Building a template: create, migrate, prepare, seal, publish."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clonedb.errors import BuildError
from clonedb.fingerprint import Fingerprint, differences
from clonedb.migrate.alembic import AlembicMigrator, Migrated, Migrator
from clonedb.names import unfinished_name
from clonedb.postgres import properties, sql
from clonedb.postgres.server import Server
from clonedb.progress import Progress
from clonedb.project.find import Project
from clonedb.templates.metadata import Metadata, Template
from clonedb.templates.prepare import prepare
from clonedb.templates.properties import give

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["StaleError", "build"]


class StaleError(Exception):
    """The files are no longer those of the fingerprint: they were edited before or while they were migrated."""


def build(
    server: Server,
    project: Project,
    wanted: Fingerprint,
    *,
    name: str,
    run: str,
    progress: Progress,
    base: Template | None = None,
    look_again: Callable[[], Fingerprint],
    migrator: Migrator | None = None,
) -> Metadata:
    """Build the template `name` for a fingerprint; the caller holds both locks. On any failure nothing is left.

    `look_again` takes the fingerprint anew. Raises StaleError when it is another one by now, BuildError,
    MissingExtensionError or PermissionDeniedError.
    """
    migrator = migrator or AlembicMigrator(server.config, project)
    return _Build(server, project, wanted, name, run, progress, base, look_again, migrator).carry_out()


_TOOLS = ("pyproject.toml", "setup.cfg", "tox.ini")  # libraries look there for settings of their own


@dataclass(slots=True)
class _Build:
    """One build, from an empty database to a sealed template."""

    server: Server
    project: Project
    wanted: Fingerprint
    name: str
    run: str
    progress: Progress
    base: Template | None
    look_again: Callable[[], Fingerprint]
    migrator: Migrator

    def carry_out(self) -> Metadata:
        """Build under a private name and publish under the template's; on any failure nothing is left."""
        self._demand_unchanged()
        server, start = self.server, time.monotonic()
        private = unfinished_name(server.config.prefix, self.wanted.digest, server.owner, server.next_number())
        try:
            self._create(private)
            migrated = self._fill(private)
            self._demand_unchanged()
            metadata = self._seal(private, migrated, start)
            self._publish(private)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to see; gc drops what is left
                server.run(lambda connection: _drop(connection, private))
            raise
        return metadata

    def _demand_unchanged(self) -> None:
        """An edit after the fingerprint was taken would give a template whose name promises what is not in it."""
        now = self.look_again()
        if now.digest != self.wanted.digest:
            changes = differences(self.wanted.abbreviated(), now)
            raise StaleError(", ".join(f"{change.name!r} was {change.change}" for change in changes[:3]))

    def _create(self, private: str) -> None:
        import psycopg

        server = self.server
        strategy = "file_copy" if not server.info.fsync and server.info.major >= 15 else None
        for role in dict.fromkeys((*server.config.roles, *filter(None, [server.config.role]))):
            server.run(lambda connection, role=role: sql.create_role_if_missing(connection, role))  # type: ignore[misc]
        try:
            below = self.base.name if self.base else None
            server.run(lambda connection: sql.create_database(connection, private, template=below, strategy=strategy))
        except (psycopg.errors.DiskFull, psycopg.errors.ObjectInUse, psycopg.errors.InternalError) as error:
            raise BuildError(
                f"{server.about} could not create a database: {' '.join(str(error).split())}; "
                "a full disk or a session on template1 are the usual reasons"
            ) from error

    def _fill(self, private: str) -> Migrated:
        server, config = self.server, self.server.config
        if self.base is not None:
            below = self.base.metadata
            server.run(lambda connection: give(connection, private, below))
        if config.extensions:
            with contextlib.closing(server.connect(private)) as connection:
                for extension in config.extensions:
                    sql.create_extension(connection, extension)
        migrated = self.migrator.migrate(server.url(private), progress=self.progress, remedy=self._remedy())
        self._warn_of_unseen_files(migrated)
        self._warn_of_other_revisions(migrated)
        return migrated

    def _remedy(self) -> str:
        from clonedb.postgres import binaries

        if not self.server.embedded:
            return f"{self.server.about} does not have it; install it there, or use another url"
        found, _ = binaries.find(self.server.config)
        listed = "; ".join(f"{b.source} {b.version} in {b.directory}" for b in found)
        return (
            f"the {self.server.about} does not have it; name it in [tool.clonedb] extensions so that a PostgreSQL that"
            f" has it is chosen (found: {listed}), install it, or set url to a server that has it"
        )

    def _warn_of_unseen_files(self, migrated: Migrated) -> None:
        known = {name for _, name, _ in self.wanted.abbreviated()}
        root = self.project.rootdir
        unseen = []
        for path in migrated.read:
            name = path.relative_to(root).as_posix()
            hidden = any(part.startswith(".") or part == "site-packages" for part in path.relative_to(root).parts)
            if name not in known and not hidden and name not in _TOOLS and path != self.project.ini:
                unseen.append(name)
        if unseen:
            listed = ", ".join(json.dumps(name) for name in unseen[:5])
            self.progress.warn(
                f"the build read files that are not in the fingerprint: {listed}; a change in them would go unseen: "
                f"add watch = [{listed}] to [tool.clonedb]"
            )

    def _warn_of_other_revisions(self, migrated: Migrated) -> None:
        """An env.py may set `context.script.version_locations`: the fingerprint, which does not run it, cannot know.

        None at all is what Alembic says nothing of, and what a mistyped or wrongly separated location comes to.
        """
        known = {path.resolve() for path in self.project.revision_files()}
        if not known and not migrated.scripts:
            listed = ", ".join(repr(str(location)) for location in self.project.version_locations)
            self.progress.warn(
                f"there is no revision in {listed}, so the template is an empty database; if there should be some,"
                " check script_location, version_locations and path_separator"
            )
        others = sorted({str(path.parent) for path in migrated.scripts if path.resolve() not in known})
        if others:
            self.progress.warn(
                f"env.py migrated with revisions in {others[0]!r}, which is not a version location of the project; a"
                " change in them would go unseen: name it in version_locations under [tool.clonedb.alembic]"
            )

    def _seal(self, private: str, migrated: Migrated, start: float) -> Metadata:
        server = self.server
        with contextlib.closing(server.connect(private)) as connection:
            prepare(connection)
        server.connect(private).close()  # leaves pg_internal.init, which a FILE_COPY clone inherits: 4 ms a connection
        server.run(lambda connection: sql.end_sessions(connection, private))

        def describe(connection: Connection[Any]) -> Metadata:
            found = sql.find_database(connection, private)
            grants = properties.grants_on_database(connection, private)
            return Metadata(
                project=self.project.name,
                fingerprint=self.wanted.digest,
                heads=migrated.heads,
                revisions=len(migrated.revisions),
                made=time.time(),
                used=time.time(),
                by=f"{getpass.getuser()} on {socket.gethostname()}, pid {os.getpid()}",
                run=self.run,
                seconds=round(time.monotonic() - start, 3),
                size=sql.database_size(connection, private),
                lane=server.config.template,
                version_tables=self._version_tables(migrated),
                settings=[list(row) for row in properties.database_settings(connection, private)],
                grants=None if grants is None else [list(row) for row in grants],
                comment=found.comment if found else None,
                inputs=self.wanted.abbreviated(),
            )

        metadata = server.run(describe)
        server.run(lambda connection: sql.comment(connection, private, metadata.to_json()))
        server.run(lambda connection: sql.seal(connection, private))
        return metadata

    def _version_tables(self, migrated: Migrated) -> list[list[str | None]]:
        below = self.base.metadata.version_tables if self.base else []
        own: list[list[str | None]] = [list(table) for table in migrated.version_tables]
        return [*below, *(table for table in own if table not in below)]

    def _publish(self, private: str) -> None:
        """Give the finished database its name; one of that name (a rebuild's) steps aside in the same transaction."""
        server = self.server
        aside = unfinished_name(server.config.prefix, self.wanted.digest, server.owner, server.next_number())

        def rename(connection: Connection[Any]) -> None:
            with connection.transaction():
                if sql.find_database(connection, self.name) is not None:
                    sql.rename_database(connection, self.name, aside)
                sql.rename_database(connection, private, self.name)

        try:
            server.run(rename)
            server.run(lambda connection: _drop(connection, aside))
        except BaseException:  # Ctrl-C, too: it may come when it is renamed already
            with contextlib.suppress(Exception):
                server.run(lambda connection: _drop(connection, aside))
            raise


def _drop(connection: Connection[Any], name: str) -> None:
    if database := sql.find_database(connection, name):
        sql.drop_whatever(connection, database)
