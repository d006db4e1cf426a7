"""Building a template: from nothing or upon a layer, migrated, prepared, sealed, published."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clonedb.aside import Aside
from clonedb.errors import BuildError, ServerError
from clonedb.fingerprint import Fingerprint, Sources, StaleError, differences, surroundings
from clonedb.migrate.alembic import AlembicMigrator, Migrated, Migrator, Session
from clonedb.names import unfinished_name
from clonedb.postgres import sql
from clonedb.postgres.room import has_ample_room
from clonedb.postgres.server import Server
from clonedb.postgres.state import state_dir
from clonedb.progress import Progress, Warnings
from clonedb.project.find import Project
from clonedb.project.revision_digests import revision_digests
from clonedb.statements import changes_contents
from clonedb.templates import layers
from clonedb.templates.ahead import Copying
from clonedb.templates.metadata import Metadata, Template
from clonedb.templates.prepare import next_transaction, prepare, prepare_changed
from clonedb.templates.properties import give
from clonedb.templates.remarks import remark, remedy
from clonedb.templates.seal import create, create_roles, describe, drop, publish, seal, strategy
from clonedb.templates.sealed import note_use

if TYPE_CHECKING:
    from psycopg import Connection

    from clonedb.config import Config

__all__ = ["Order", "build"]


class _UnfitError(Exception):
    """A layer cannot be built upon after all, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be built: the template `name` for a fingerprint; `base` is what its configuration builds it upon.

    With `layers`, a sealed template that is a beginning of the history is taken and only the rest migrated.
    `look_again` reads the files and takes the fingerprint anew. With `lenient` a file that was only written, and holds
    what it held before, is a warning.
    """

    config: Config
    project: Project
    sources: Sources
    wanted: Fingerprint
    name: str
    run: str
    base: Template | None
    layers: bool
    lenient: bool
    look_again: Callable[[], tuple[Sources, Fingerprint]]


@dataclass(frozen=True, slots=True)
class _Filled:
    """A migrated database: what was done, what it was begun with, and how what changed since then is prepared."""

    migrated: Migrated
    upon: Template | None
    history: layers.History | None
    prepare: Callable[[Callable[[], Connection[Any]]], None]


@dataclass(frozen=True, slots=True)
class _Guess:
    """The layer that will most likely be taken, and its copy that is being made."""

    template: Template
    copying: Copying


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
    stamps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def carry_out(self) -> Metadata:
        """Build under a private name and publish under the template's; on any failure nothing is left."""
        server, order, start = self.server, self.order, time.monotonic()
        private = unfinished_name(server.config.prefix, order.wanted.digest, server.owner, server.next_number())
        try:
            filled = self._fill(private)
            with Aside(lambda: self._looked_at(filled), name="clonedb-remarks") as looked:  # while the server prepares
                unlogged = seal(server, private, filled.prepare)
                metadata = replace(self._metadata(private, filled, start), unlogged=unlogged)
                for message in looked.result():
                    self.progress.warn(message)
            publish(server, private, order.name, metadata)
        except BaseException as error:
            with contextlib.suppress(Exception):  # the first error is the one to see; gc drops what is left
                server.run(lambda connection: drop(connection, private))
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
        return layers.why_none(self.server, self.order.project.name, self.order.config.template, self.order.wanted)

    def _demand_unchanged(self) -> Mapping[str, tuple[int, ...]]:
        """An edit after the fingerprint was taken would give a template whose name promises what is not in it."""
        sources, now = self.order.look_again()
        if now.digest != self.order.wanted.digest:
            changes = differences(self.order.wanted.abbreviated(), now)
            raise StaleError(", ".join(f"{change.name!r} was {change.change}" for change in changes[:3]))
        return sources.stamps

    def _demand_untouched(self, migrated: Migrated, heard: Warnings) -> None:
        """A file that was changed and changed back has its digest again, and what was migrated may be another's."""
        now = self._demand_unchanged()
        written = [path for path, stamp in now.items() if self.stamps.get(path, stamp) != stamp]
        written += [str(path) for path in migrated.scripts if not path.exists()]
        if not written:
            return
        names = ", ".join(repr(os.path.relpath(path, self.order.project.rootdir)) for path in written[:3])
        if not self.order.lenient:
            raise StaleError(f"{names} was written")
        heard.warn(
            f"{names} was written each time that the template was built, and holds what it held before; if it is not"
            " the build that writes it, edit less meanwhile and run `clonedb build --force`"
        )

    def _looked_at(self, filled: _Filled) -> list[str]:
        """What there is to warn of, when the files are still the same."""
        heard, order = Warnings(), self.order
        self._demand_untouched(filled.migrated, heard)
        complete = filled.upon is None or order.config.base is not None
        remark(order.project, order.wanted, filled.migrated, heard, complete=complete)
        return heard.messages

    def _fill(self, private: str) -> _Filled:
        order, migrator = self.order, self.migrator
        if order.base is not None or not isinstance(migrator, AlembicMigrator):
            self._say_that_it_begins()
            self.stamps = self._demand_unchanged()
            return self._filled(private, order.base, lambda: self._migrate(private), history=None)
        with migrator.session(self.server.url(private)) as session:
            session.start()
            try:
                with contextlib.ExitStack() as stack:
                    guess = self._guessed(private, stack) if order.layers else None
                    session.remedy = remedy(self.server)
                    self.stamps = self._demand_unchanged()
                    wanted = self._history(session)
                    if wanted is not None and (found := self._layered(private, session, wanted, guess)):
                        return found
            except _UnfitError as error:
                self.progress.say(f"{error}; building template {order.name!r} from the first revision on")
                session.close()  # a fresh interpreter for a fresh start
            else:
                self._say_that_it_begins(self._why_from_nothing())
            self.server.run(lambda connection: drop(connection, private))
            return self._filled(private, None, lambda: self._run(session), history=wanted)

    def _guessed(self, private: str, stack: contextlib.ExitStack) -> _Guess | None:
        """Begin to copy the layer that will most likely be taken, while the interpreter loads the revisions."""
        server = self.server
        template = layers.likeliest(server, self.order.wanted)
        if template is None or not server.use(template.name) or not has_ample_room(server, template.metadata.size):
            return None
        create_roles(server, self.order.config)
        return _Guess(template, stack.enter_context(Copying(server, private, template.name, strategy(server))))

    def _history(self, session: Session) -> layers.History | None:
        """The revisions on the way to the target; None when Alembic cannot say, which migrating will show again."""
        order = self.order

        def look() -> Mapping[Path, str]:
            return revision_digests(order.project, index_dir=state_dir(order.config) / "index")

        with contextlib.suppress(BuildError, ServerError), Aside(look, name="clonedb-digests") as digests:
            plan = session.plan(order.config.target)
            return layers.history(surroundings(order.wanted, order.sources), plan, digests.result())
        return None

    def _layered(self, private: str, session: Session, wanted: layers.History, guess: _Guess | None) -> _Filled | None:
        """Fill the database upon the deepest layer; None when there is none. Raises _UnfitError."""
        if not self.order.layers:
            return None
        for layer in layers.deepest(self.server, wanted):
            if not self.server.use(layer.name):  # somebody is collecting it
                continue
            copied = guess is not None and guess.template.name == layer.name and guess.copying.done()
            name, rest = self.order.name, wanted.steps[layer.metadata.depth :]
            self.progress.say(
                f"building template {name!r} upon {layer.name!r}: {len(rest)} of {len(wanted.steps)} revisions"
            )
            if not copied:
                self._drop_guess(private, guess)
            try:
                filled = self._filled(private, layer, lambda: self._run(session), history=wanted, copied=copied)
            except (BuildError, ServerError) as error:
                reason = str(error).partition("\n")[0]
                raise _UnfitError(f"template {layer.name!r} cannot be built upon: {reason}") from error
            if filled.migrated.revisions != rest:
                raise _UnfitError(f"upon template {layer.name!r} env.py ran other revisions than there were to run")
            note_use(self.server, layer)
            return filled
        return None

    def _drop_guess(self, private: str, guess: _Guess | None) -> None:
        """Make room for what is to be there instead of a wrong guess."""
        if guess is not None:
            guess.copying.done()
        self.server.run(lambda connection: drop(connection, private))

    def _filled(
        self,
        private: str,
        below: Template | None,
        migrate: Callable[[], Migrated],
        *,
        history: layers.History | None,
        copied: bool = False,
    ) -> _Filled:
        server, config = self.server, self.order.config
        if not copied:
            self._create(private, below)
        since = server.run(next_transaction)
        if below is not None:
            server.run(lambda connection: give(connection, private, below.metadata))
        if config.extensions:
            with contextlib.closing(server.connect(private)) as connection:
                for extension in config.extensions:
                    sql.create_extension(connection, extension)
        migrated = migrate()

        def prepared(connect: Callable[[], Connection[Any]]) -> None:
            with contextlib.closing(connect()) as connection:
                prepare(connection) if below is None else prepare_changed(connection, since)

        return _Filled(migrated, below, history, prepared)

    def _create(self, private: str, below: Template | None) -> None:
        import psycopg

        try:
            create(self.server, self.order.config, private, below=below)
        except psycopg.errors.InvalidCatalogName as error:
            raise _UnfitError(f"template {below.name if below else ''!r} was dropped meanwhile") from error

    def _migrate(self, private: str) -> Migrated:
        return self.migrator.migrate(self.server.url(private), progress=self.progress, remedy=remedy(self.server))

    def _run(self, session: Session) -> Migrated:
        return session.migrate(self.order.config.target, self.order.config.seed, progress=self.progress)

    def _metadata(self, private: str, filled: _Filled, start: float) -> Metadata:
        order, migrated = self.order, filled.migrated
        described = describe(self.server, private)
        below = filled.upon.metadata.version_tables if filled.upon else []
        own: list[list[str | None]] = [list(table) for table in migrated.version_tables]
        unfit = self._unfit(filled, described)
        layer, depth = ("", 0) if unfit or filled.history is None else filled.history.last
        return Metadata(
            project=order.project.name,
            fingerprint=order.wanted.digest,
            heads=migrated.heads,
            revisions=len(migrated.revisions),
            made=time.time(),
            used=time.time(),
            run=order.run,
            seconds=round(time.monotonic() - start, 3),
            lane=order.config.template,
            version_tables=[*below, *(table for table in own if table not in below)],
            inputs=order.wanted.abbreviated(),
            layer=layer,
            depth=depth,
            unfit=unfit,
            upon=filled.upon.name if filled.upon else None,
            **described,
        )

    def _unfit(self, filled: _Filled, described: Mapping[str, Any]) -> str:
        """Why nothing may be built upon this template, because it would not be what it is from zero; '' if it may.

        A setting that a revision gave to the database or left in its session holds in another session from the start,
        or no longer: the revisions after it would do something else. What Alembic ran must be what it had planned.
        """
        history, migrated = filled.history, filled.migrated
        if self.order.base is not None or self.order.config.seed:
            return "it holds more than revisions made"
        if history is None:
            return "Alembic could not say beforehand which revisions there are"
        if names := sorted({name for _, name, _ in described["settings"] if changes_contents(name)}):
            return f"the revisions gave the database settings of its own ({', '.join(names)})"
        if migrated.left_behind:
            return (
                f"the revisions left settings to those after them in their session ({', '.join(migrated.left_behind)})"
            )
        begun = filled.upon.metadata.depth if filled.upon else 0
        if migrated.revisions != history.steps[begun:]:
            return "env.py ran other revisions than Alembic plans"
        return ""
