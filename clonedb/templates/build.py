"""Building a template: from nothing or upon a layer, migrated, prepared, sealed, published."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clonedb.embedded.places import state_dir
from clonedb.errors import BuildError, MigrationError, ServerError
from clonedb.migrate.alembic import AlembicMigrator, Migrated, MigrationProcess, Migrator
from clonedb.migrate.blockers import Blockers
from clonedb.names import unfinished_name
from clonedb.originals import monotonic, now
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from clonedb.progress import Progress, Warnings
from clonedb.project.fingerprint import surroundings
from clonedb.project.revision_digests import revision_digests
from clonedb.quantities import counted
from clonedb.templates import layers
from clonedb.templates.catalog import note, note_use
from clonedb.templates.metadata import Metadata, TemplateRecord
from clonedb.templates.order import Order
from clonedb.templates.prepare import next_transaction, prepare, prepare_changed
from clonedb.templates.properties import give
from clonedb.templates.seal import create, describe, drop, publish, seal
from clonedb.templates.warnings import remark, remedy

if TYPE_CHECKING:
    from psycopg import Connection


__all__ = ["build"]


class _UnfitError(Exception):
    """A layer cannot be built upon after all, and why; it is given where migrating found that out."""

    def __init__(self, reason: str, layer: TemplateRecord | None = None) -> None:
        super().__init__(reason)
        self.layer = layer


@dataclass(frozen=True, slots=True)
class _Filled:
    """A migrated database: what was done, what it was begun with, and how what changed since then is prepared."""

    migrated: Migrated
    upon: TemplateRecord | None
    history: layers.History | None
    prepare: Callable[[Callable[[], Connection[Any]]], None]


def build(server: Server, order: Order, *, progress: Progress, migrator: Migrator | None = None) -> Metadata:
    """Build a template; the caller holds both locks. On any failure nothing is left.

    Raises StaleError when the files are others by now, BuildError, MissingExtensionError or PermissionDeniedError.
    """
    return _Build(server, order, progress, migrator or AlembicMigrator(order.config, order.project)).carry_out()


@dataclass(slots=True)
class _Build:
    """One build, from an empty database or a copy of a layer to a sealed template."""

    server: Server
    order: Order
    progress: Progress
    migrator: Migrator

    def carry_out(self) -> Metadata:
        """Build under a private name and publish under the template's; on any failure nothing is left."""
        server, order, start = self.server, self.order, monotonic()
        private = unfinished_name(server.config.prefix, order.wanted.digest, server.owner, server.next_number())
        try:
            filled = self._fill(private)
            warnings = self._looked_at(filled)
            unlogged = seal(server, private, filled.prepare)
            metadata = replace(self._metadata(private, filled, start), unlogged=unlogged)
            for message in warnings:
                self.progress.warn(message)
            publish(server, private, order.name, metadata)
        except BaseException as error:
            with contextlib.suppress(Exception):  # the first error is the one to see; gc drops what is left
                server.run(drop, private)
            if isinstance(error, _UnfitError):
                raise ServerError(f"{error}; run again to rebuild it") from error
            raise
        return metadata

    def _say_that_it_begins(self, why: str | None = None) -> None:
        reason = f", from nothing because {why}" if why else ""
        self.progress.say(f"building template {self.order.name!r} on {self.server.about}{reason}")

    def _why_from_nothing(self) -> str | None:
        """Why no layer is there to build upon; None where there cannot be one yet."""
        if not self.order.layers:
            return "it is to be built anew"
        return layers.why_none(self.server, self.order.project.key, self.order.config.template, self.order.wanted)

    def _looked_at(self, filled: _Filled) -> list[str]:
        """What there is to warn of, when the files are still the same."""
        heard, order = Warnings(), self.order
        for message in order.edits.require_none_since(filled.migrated.scripts):
            heard.warn(message)
        complete = filled.upon is None or order.config.base is not None
        remark(order.project, order.wanted, filled.migrated, heard, complete=complete)
        return heard.messages

    def _fill(self, private: str) -> _Filled:
        order, migrator = self.order, self.migrator
        if order.base is not None or not isinstance(migrator, AlembicMigrator):
            self._say_that_it_begins()
            self.order.edits.require_none()
            return self._filled(private, order.base, lambda: self._migrate(private), history=None)
        with migrator.session(self.server.url(private), waiting=Blockers(self.server, private, alone=True)) as session:
            session.start()
            try:
                session.remedy = remedy(self.server)
                order.edits.require_none()
                wanted = self._history(private, session)
                if wanted is not None and (found := self._layered(private, session, wanted)):
                    return found
            except _UnfitError as error:
                self.progress.say(f"{error}; building template {order.name!r} from the first revision on")
                session.close()  # a fresh interpreter for a fresh start
                return self._from_nothing(private, session, wanted, instead_of=error.layer)
            self._say_that_it_begins(self._why_from_nothing())
            return self._from_nothing(private, session, wanted)

    def _from_nothing(
        self,
        private: str,
        session: MigrationProcess,
        wanted: layers.History | None,
        *,
        instead_of: TemplateRecord | None = None,
    ) -> _Filled:
        """Migrate an empty database; what comes of it says whether a layer that failed was to blame.

        If not, what fails upon it is an error at once from then on: the whole history is not run again each time.
        """
        self.server.run(drop, private)
        try:
            filled = self._filled(private, None, lambda: self._run(session), history=wanted)
        except BuildError:
            if instead_of is not None:
                note(self.server, instead_of, proven=True)
            raise
        if instead_of is not None:
            note(self.server, instead_of, layer="", unfit="what came after it failed, and not from nothing")
        return filled

    def _history(self, private: str, session: MigrationProcess) -> layers.History | None:
        """The revisions on the way to the target; None when Alembic cannot say, which migrating will show again."""
        order = self.order
        with contextlib.suppress(BuildError, ServerError):
            # first, as the interpreter still imports Alembic meanwhile
            digests = revision_digests(order.project, index_dir=state_dir(order.config) / "index")
            plan = self._plan(private, session)
            return layers.history(surroundings(order.wanted, order.sources), plan, digests)
        return None

    def _plan(self, private: str, session: MigrationProcess) -> Sequence[tuple[str, Path]]:
        """The revisions in Alembic's order; if they cannot be loaded yet, env.py runs first, on an empty database."""
        try:
            return session.plan(self.order.config.target)
        except BuildError:
            self._create(private, None)
            try:
                return session.plan(self.order.config.target, with_env_py=True)
            finally:
                self.server.run(drop, private)

    def _layered(self, private: str, session: MigrationProcess, wanted: layers.History) -> _Filled | None:
        """Fill the database upon the deepest layer; None when there is none. Raises _UnfitError."""
        if not self.order.layers:
            return None
        for layer in layers.deepest(self.server, wanted):
            if not self.server.use(layer.name):  # somebody is collecting it
                continue
            name, rest = self.order.name, wanted.steps[layer.metadata.depth :]
            all_of_them = counted(len(wanted.steps), "revision")
            self.progress.say(f"building template {name!r} upon {layer.name!r}: {len(rest)} of {all_of_them}")
            try:
                filled = self._filled(private, layer, lambda: self._run(session), history=wanted)
            except (BuildError, ServerError) as error:
                if layer.metadata.proven and isinstance(error, MigrationError):
                    self.progress.say(f"tried upon {layer.name!r} only; `clonedb build --force` begins from nothing")
                    raise
                reason = str(error).partition("\n")[0]
                raise _UnfitError(f"template {layer.name!r} cannot be built upon: {reason}", layer) from error
            if filled.migrated.revisions != rest:
                raise _UnfitError(
                    f"upon template {layer.name!r} env.py ran other revisions than there were to run", layer
                )
            note_use(self.server, layer)
            return filled
        return None

    def _filled(
        self,
        private: str,
        below: TemplateRecord | None,
        migrate: Callable[[], Migrated],
        *,
        history: layers.History | None,
    ) -> _Filled:
        server, config = self.server, self.order.config
        self._create(private, below)
        since = server.run(next_transaction)
        if below is not None:
            server.run(give, private, below.metadata)
        if config.extensions:
            with contextlib.closing(server.connect(private)) as connection:
                for extension in config.extensions:
                    sql.create_extension(connection, extension)
        migrated = migrate()

        def prepared(connect: Callable[[], Connection[Any]]) -> None:
            with contextlib.closing(connect()) as connection:
                prepare(connection) if below is None else prepare_changed(connection, since)

        return _Filled(migrated, below, history, prepared)

    def _create(self, private: str, below: TemplateRecord | None) -> None:
        import psycopg

        try:
            create(self.server, self.order.config, private, below=below)
        except psycopg.errors.InvalidCatalogName as error:
            raise _UnfitError(f"template {below.name if below else ''!r} was dropped meanwhile") from error

    def _migrate(self, private: str) -> Migrated:
        url, hint = self.server.url(private), remedy(self.server)
        if not isinstance(self.migrator, AlembicMigrator):
            return self.migrator.migrate(url, progress=self.progress, remedy=hint)
        with self.migrator.session(url, remedy=hint, waiting=Blockers(self.server, private, alone=True)) as session:
            return self._run(session)

    def _run(self, session: MigrationProcess) -> Migrated:
        return session.migrate(self.order.config.target, self.order.config.seed, progress=self.progress)

    def _metadata(self, private: str, filled: _Filled, start: float) -> Metadata:
        order, migrated = self.order, filled.migrated
        described = describe(self.server, private)
        below = filled.upon.metadata.version_tables if filled.upon else []
        own: list[list[str | None]] = [list(table) for table in migrated.version_tables]
        unfit = self._unfit(filled, described["settings"])
        layer, depth = ("", 0) if unfit or filled.history is None else filled.history.last
        return Metadata(
            project=order.project.key,
            fingerprint=order.wanted.digest,
            heads=migrated.heads,
            revisions=len(migrated.revisions),
            made=now(),
            used=now(),
            run=order.run,
            seconds=round(monotonic() - start, 3),
            lane=order.config.template,
            version_tables=[*below, *(table for table in own if table not in below)],
            inputs=order.wanted.abbreviated(),
            layer=layer,
            depth=depth,
            unfit=unfit,
            upon=filled.upon.name if filled.upon else None,
            **described,
        )

    def _unfit(self, filled: _Filled, settings: Sequence[Sequence[str | None]]) -> str:
        if self.order.base is not None or self.order.config.seed:
            return "it holds more than revisions made"
        begun = filled.upon.metadata.depth if filled.upon else 0
        return layers.unfit(filled.history, filled.migrated, settings, begun=begun)
