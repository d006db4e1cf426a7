"""Building a template: from nothing or upon a layer, filled by its recipe, prepared, sealed, published."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clonedb.errors import BuildError, LeaseLostError, MigrationError, ServerError
from clonedb.migrate.blockers import Blockers
from clonedb.names import unfinished_name
from clonedb.originals import monotonic, now
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from clonedb.progress import Progress
from clonedb.project.fingerprint import surroundings
from clonedb.project.recipe import Builder, Built, NoHistoryError
from clonedb.quantities import counted
from clonedb.templates import layers
from clonedb.templates.catalog import note, note_use
from clonedb.templates.locks import BuildLease
from clonedb.templates.metadata import Metadata, TemplateRecord
from clonedb.templates.order import Order
from clonedb.templates.prepare import next_transaction, prepare, prepare_changed
from clonedb.templates.properties import give
from clonedb.templates.seal import create, describe, drop, publish, seal
from clonedb.templates.warnings import found_settings, remedy, unseen_files, unseen_variables

if TYPE_CHECKING:
    from psycopg import Connection


__all__ = ["build"]


class _UnfitError(Exception):
    """A layer cannot be built upon after all, and why; it is given where building upon it found that out."""

    def __init__(self, reason: str, layer: TemplateRecord | None = None) -> None:
        super().__init__(reason)
        self.layer = layer


@dataclass(frozen=True, slots=True)
class _Filled:
    """A filled database: what was done, what it was begun with, and how what changed since then is prepared.

    `history` is why there is none, if it is a text.
    """

    built: Built
    upon: TemplateRecord | None
    history: layers.History | str
    prepare: Callable[[Callable[[], Connection[Any]]], None]


def build(server: Server, order: Order, lease: BuildLease, *, progress: Progress) -> Metadata:
    """Build a template; the caller holds both locks, the server's by a lease. On any failure nothing is left.

    Raises StaleError when the files are others by now, BuildError, MissingExtensionError,
    PermissionDeniedError, or LeaseLostError.
    """
    return _Build(server, order, lease, _Noted(progress, lease)).carry_out()


class _Noted:
    """Progress that is also told to the processes of other hosts that wait for this build."""

    def __init__(self, progress: Progress, lease: BuildLease) -> None:
        self.say = progress.say
        self.warn = progress.warn
        self._progress = progress
        self._lease = lease

    def step(self, what: str, number: int, total: int, name: str) -> None:
        """The next heartbeat says so."""
        self._lease.at = f"{what} {number} of {total} ({name})"
        self._progress.step(what, number, total, name)


@dataclass(slots=True)
class _Build:
    """One build, from an empty database or a copy of a layer to a sealed template."""

    server: Server
    order: Order
    lease: BuildLease
    progress: Progress

    def carry_out(self) -> Metadata:
        """Build under a private name and publish under the template's; on any failure nothing is left."""
        server, order, start = self.server, self.order, monotonic()
        # a private name tells `gc` whose it is: what a killed build leaves is collected
        private = unfinished_name(
            server.config.prefix, order.wanted.digest, server.owner, server.next_number()
        )
        try:
            filled = self._fill(private)
            # before it is sealed: what was made of files that were edited is not published
            warnings = self._warnings(filled.built)
            unlogged = seal(server, private, filled.prepare)
            metadata = replace(self._metadata(private, filled, start), unlogged=unlogged)
            for message in warnings:
                self.progress.warn(message)
            publish(server, private, order.name, metadata, self.lease)
        except BaseException as error:
            if self.lease.lost and isinstance(error, Exception):
                if isinstance(error, LeaseLostError):
                    raise
                raise self.lease.error() from error  # gc drops what is left, from another host
            with contextlib.suppress(
                Exception
            ):  # the first error is the one to see; gc drops what is left
                server.run(drop, private)

            # here only for a base that was dropped: for layers `_fill` begins again
            if isinstance(error, _UnfitError):
                raise ServerError(f"{error}; run again to rebuild it") from error
            raise

        return metadata

    def _say_that_it_begins(self, why: str | None = None) -> None:
        reason = f", from nothing because {why}" if why else ""
        self.progress.say(
            f"building template {self.order.name!r} on {self.server.about}{reason}"
        )

    def _why_from_nothing(self) -> str | None:
        """Why no layer is there to build upon; None where there cannot be one yet."""
        order = self.order
        if not order.layers:
            return "it is to be built anew"
        return layers.why_none(
            self.server, order.recipe.key, order.config.template, order.wanted, order.step
        )

    def _warnings(self, built: Built) -> list[str]:
        """What there is to warn of, when the files are still the same."""
        order = self.order
        written = order.edits.require_none_since(built.files)
        return [
            *written,
            *found_settings(order.config),
            *unseen_files(order.recipe.rootdir, order.wanted, built.read),
            *unseen_variables(order.config, built.variables),
            *built.warnings,
        ]

    def _builder(self, private: str) -> contextlib.closing[Builder]:
        blockers = Blockers(self.server, private, alone=True)

        def waiting() -> None:
            self.lease.require()
            blockers()

        url = self.server.url(private)
        found = self.order.recipe.builder(
            url, remedy=lambda: remedy(self.server), waiting=waiting
        )
        return contextlib.closing(found)

    def _fill(self, private: str) -> _Filled:
        order = self.order
        with self._builder(private) as builder:
            if order.base is not None:
                self._say_that_it_begins()
                order.edits.require_none()
                return self._filled(
                    private, builder, order.base, f"it holds more than {order.step}s made"
                )

            # the interpreter imports what it needs while the files are looked at
            builder.start()
            order.edits.require_none()
            wanted = self._history(private, builder)
            try:
                if not isinstance(wanted, str) and (
                    found := self._layered(private, builder, wanted)
                ):
                    return found
            except _UnfitError as error:
                self.progress.say(
                    f"{error}; building template {order.name!r} from the first {order.step} on"
                )
                # its interpreter has run some steps in the database that is about to be dropped
                builder.close()
                with self._builder(private) as fresh:
                    return self._from_nothing(private, fresh, wanted, instead_of=error.layer)

            self._say_that_it_begins(self._why_from_nothing())
            return self._from_nothing(private, builder, wanted)

    def _from_nothing(
        self,
        private: str,
        builder: Builder,
        wanted: layers.History | str,
        *,
        instead_of: TemplateRecord | None = None,
    ) -> _Filled:
        """Fill an empty database; what comes of it says whether a layer that failed was to blame.

        If not, what fails upon it is an error at once from then on: the whole history is not
        run again each time.
        """
        # what the attempt upon a layer left
        self.server.run(drop, private)
        try:
            filled = self._filled(private, builder, None, wanted)
        except BuildError:
            if instead_of is not None:
                # it failed from nothing, too: the layer is not to blame
                note(self.server, instead_of, proven=True)
            raise

        if instead_of is not None:
            note(
                self.server,
                instead_of,
                layer="",
                unfit="what came after it failed, and not from nothing",
            )

        return filled

    def _history(self, private: str, builder: Builder) -> layers.History | str:
        """The steps on the way to the target; why they are not known, if they are not."""

        # env.py may ask its database before it can name the revisions
        @contextlib.contextmanager
        def on_database() -> Iterator[None]:
            self._create(private, None)
            try:
                yield
            finally:
                self.server.run(drop, private)

        try:
            steps = builder.history(on_database)
        except NoHistoryError as error:
            return str(error)

        return layers.history(surroundings(self.order.wanted, self.order.sources), steps)

    def _layered(
        self, private: str, builder: Builder, wanted: layers.History
    ) -> _Filled | None:
        """Fill the database upon the deepest layer; None when there is none. Raises _UnfitError."""
        if not self.order.layers:
            return None
        for layer in layers.deepest(self.server, wanted):
            # shared with clones that are being made, and refused while the collector has it
            if not self.server.use(layer.name):  # another process is collecting it
                continue
            name, step, rest = (
                self.order.name,
                self.order.step,
                wanted.steps[layer.metadata.depth :],
            )
            all_of_them = counted(len(wanted.steps), step)
            self.progress.say(
                f"building template {name!r} upon {layer.name!r}: {len(rest)} of {all_of_them}"
            )
            try:
                filled = self._filled(private, builder, layer, wanted)
            except (BuildError, ServerError) as error:
                # it has been shown before that the layer is sound: what failed are the steps
                if layer.metadata.proven and isinstance(error, MigrationError):
                    self.progress.say(
                        f"tried upon {layer.name!r} only; `clonedb build --force` begins from nothing"
                    )
                    raise

                reason = str(error).partition("\n")[0]
                raise _UnfitError(
                    f"template {layer.name!r} cannot be built upon: {reason}", layer
                ) from error

            # the plan and what was run differ: it is not known what is in there
            if filled.built.steps != rest:
                raise _UnfitError(
                    f"upon template {layer.name!r} other {step}s were run than there were to run",
                    layer,
                )

            note_use(self.server, layer)
            return filled

        return None

    def _filled(
        self,
        private: str,
        builder: Builder,
        below: TemplateRecord | None,
        history: layers.History | str,
    ) -> _Filled:
        server, config = self.server, self.order.config
        self._create(private, below)
        # after the copy: rows that are written from now on are not prepared yet
        since = server.run(next_transaction)
        if below is not None:
            server.run(give, private, below.metadata)
        if config.extensions:
            with contextlib.closing(server.connect(private)) as connection:
                for extension in config.extensions:
                    sql.create_extension(connection, extension)

        built = builder.build(
            upon=below.metadata.inputs if below else (), progress=self.progress
        )

        def prepared(connect: Callable[[], Connection[Any]]) -> None:
            with contextlib.closing(connect()) as connection:
                prepare(connection) if below is None else prepare_changed(connection, since)

        return _Filled(built, below, history, prepared)

    def _create(self, private: str, below: TemplateRecord | None) -> None:
        import psycopg

        try:
            create(self.server, self.order.config, private, below=below)
        except psycopg.errors.InvalidCatalogName as error:
            raise _UnfitError(
                f"template {below.name if below else ''!r} was dropped meanwhile"
            ) from error

    def _metadata(self, private: str, filled: _Filled, start: float) -> Metadata:
        order, built = self.order, filled.built
        described = describe(self.server, private)
        # the layer's own tables of versions come first, each once
        below = filled.upon.metadata.version_tables if filled.upon else []
        own: list[list[str | None]] = [list(table) for table in built.version_tables]
        begun = filled.upon.metadata.depth if filled.upon else 0
        unfit = layers.unfit(
            filled.history, built, order.recipe.words, described["settings"], begun=begun
        )
        # no layer: nothing may be built upon this template
        layer, depth = (
            ("", 0) if unfit or isinstance(filled.history, str) else filled.history.last
        )
        return Metadata(
            project=order.recipe.key,
            fingerprint=order.wanted.digest,
            heads=built.heads or (),
            revisions=len(built.steps),
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
            maker="" if built.heads is not None else order.recipe.words.maker,
            **described,
        )
