"""The way in from Python: `clonedb.template()` opens a project's template, whose `clone()` makes databases."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self, Unpack

from clonedb.clones.clone import Clone, create
from clonedb.errors import NoMigrationsError, ServerError
from clonedb.file_errors import files_that_can_be_written
from clonedb.migrate.recipes import find_recipe
from clonedb.originals import getpid
from clonedb.postgres.roles import prepare_role
from clonedb.postgres.server import Server
from clonedb.postgres.servers import Servers, open_server
from clonedb.postgres.url_driver import require_driver
from clonedb.progress import Progress, Silence, Warnings
from clonedb.sessions.echo import print_statements
from clonedb.settings.checks import check
from clonedb.settings.load import load
from clonedb.templates.chain import Chain
from clonedb.templates.ensure import Copied, TemplateRecord, ensure, find, sources_of
from clonedb.templates.run_pin import RunPin

if TYPE_CHECKING:
    from types import TracebackType

    from clonedb.clones.collector import Collector
    from clonedb.clones.database import Database
    from clonedb.project.fingerprint import Fingerprint
    from clonedb.project.recipe import Recipe
    from clonedb.run_state import RunState
    from clonedb.settings.config import Config
    from clonedb.settings.typed import Isolation, Settings
    from clonedb.supply import Supply

__all__ = [
    "Template",
    "fingerprint_of",
    "open_project_server",
    "open_template",
    "resolved",
    "template",
]


class Template:
    """A template that is ready, on a server that this process holds a lease on until `close()`.

    `name` is the template database's. `open_base` opens the template that it is built upon, if
    it is: one that was restored from a file is there without.
    """

    def __init__(
        self,
        server: Server,
        record: TemplateRecord,
        recipe: Recipe,
        *,
        base: Template | None = None,
        open_base: Callable[[], Template] | None = None,
        collector: Collector | None = None,
    ) -> None:
        self.server = server
        self.record = record
        self.recipe = recipe
        self._base = base
        self._open_base = open_base
        self._collector = collector
        self._lock = threading.Lock()
        self._supplies: dict[
            int, Supply
        ] = {}  # by process: a forked child leaves its parent's clones alone
        self._end = weakref.finalize(self, server.close)

    @property
    def name(self) -> str:
        """The template database's name."""
        return self.record.name

    @property
    def base(self) -> Template | None:
        """The template that this one is built upon, opened, and built if need be; None if it is built from nothing.

        Raises what opening a template does.
        """
        if self._base is None and self._open_base is not None:
            self._base = self._open_base()
        return self._base

    @property
    def fingerprint(self) -> str:
        """The digest of all that went into the template: 64 hexadecimal digits."""
        return self.record.metadata.fingerprint

    @property
    def heads(self) -> tuple[str, ...]:
        """The revisions in the template's version table."""
        return self.record.metadata.heads

    def supply(self, run: RunState | None = None) -> Supply:
        """What gives databases of the template in turn; `run` is what it shares with others of the process."""
        from clonedb.supply import Supply

        return Supply(self.server, self.record, self.recipe, base=self._base_record, run=run)

    def _base_record(self) -> TemplateRecord | None:
        return None if self.base is None else self.base.record

    def clone(self) -> Clone:
        """A new database in the template's exact state; as a context manager it is dropped at the end.

        Raises TemplateInUseError or ServerError.
        """
        self._require_open()
        return create(self.server, self.record)

    def database(
        self, isolation: Isolation | None = None
    ) -> contextlib.AbstractContextManager[Database]:
        """A database as a test gets it, under one of the isolations, for as long as the context lasts.

        Without an `isolation` it is the configured one. Leaving the context gives the database
        back: under `auto` it is rewound, and the next one that enters gets it. Two at a time
        are two databases, nested or in threads (under `worker` they are one). Connections that
        are left open are ended, with a LeakedConnectionWarning.

            with template.database() as db:
                engine = db.engine()

        Raises ConfigError for an isolation that there is not, and what making a clone raises.
        """
        wanted = self.server.config.isolation if isolation is None else isolation
        check("isolation", wanted, "template.database()")
        self._require_open()
        with self._lock:
            if getpid() not in self._supplies:
                self._supplies[getpid()] = self.supply()
            return self._supplies[getpid()].database(wanted)

    def _require_open(self) -> None:
        if not self._end.alive:
            raise ServerError(
                f"template {self.name!r} was closed here; open it again with clonedb.template()"
            )

    def close(self) -> None:
        """Drop what `database` holds for later, and give up the server; the next process collects the clones left."""
        supply = self._supplies.pop(getpid(), None)
        with contextlib.ExitStack() as stack:  # what fails keeps the server no lease
            if self._base is not None:
                stack.callback(self._base.close)
            stack.callback(self._end)
            if self._collector is not None:
                stack.callback(self._collector.join)
            if supply is not None:
                supply.close()

    def __repr__(self) -> str:
        return f"<template {self.name!r} on {self.server.about}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def template(start: str | Path = ".", **settings: Unpack[Settings]) -> Template:
    """The template of the project in a directory, built if it is not there.

    `settings` are the keys of `[tool.clonedb]`, and win over every other place. Use it as a
    context manager, or call `close()`; a process that ends gives everything up by itself.

        with clonedb.template() as template, template.clone() as db:
            engine = sqlalchemy.create_engine(db.url)

    What the build warns of becomes a UserWarning. Raises ConfigError, ServerError, BuildError
    or LockTimeoutError.
    """
    config = load(Path(start))
    if settings:
        config = config.replace("argument of clonedb.template()", **settings)
    heard = Warnings()
    opened = open_template(config, progress=heard)
    try:
        for message in heard.messages:
            warnings.warn(f"clonedb: {message}", stacklevel=2)
    except BaseException:  # a filter made an error of it
        opened.close()
        raise

    return opened


def open_project_server(
    config: Config, *, progress: Progress | None = None, servers: Servers | None = None
) -> Server:
    """The server for a project: the first that has every extension its files name, if something makes its schema.

    It is one of `servers` if those are given. Of several servers it is the first that answers.
    """
    servers, progress = servers or Servers(), progress or Silence()
    config = servers.placed(config, progress.warn)
    extensions: frozenset[str] = frozenset()
    with contextlib.suppress(NoMigrationsError):
        extensions = sources_of(find_recipe(config)).extensions
    return servers.open(config, extensions, progress=progress.say)


def open_template(
    config: Config,
    *,
    run: str | None = None,
    progress: Progress | None = None,
    rebuild: bool | None = None,
    servers: Servers | None = None,
) -> Template:
    """The template of a configured project; `run` names the test run that its workers share.

    One that is built upon another is opened after that, on the same server, which is one of
    `servers` if those are given. What dead processes left on the server is collected in the
    background. Raises as `template` does.
    """
    with files_that_can_be_written(config.rootdir):
        servers, progress = servers or Servers(), progress or Silence()
        chain = Chain.of(servers.placed(resolved(config), progress.warn))
        if config.echo:
            print_statements()
        opening = _Opening(run, progress, rebuild, chain.extensions, servers)
        return opening.open(chain, collecting=True)


class _Opening(NamedTuple):
    """How the templates of a chain are opened."""

    run: str | None
    progress: Progress
    rebuild: bool | None
    extensions: frozenset[str]
    servers: Servers

    def open(self, chain: Chain, *, collecting: bool = False) -> Template:
        """Open the first template of a chain, and those that it is built upon if it is not there."""
        recipe, sources, below = chain
        config = recipe.config
        server = self.servers.open(config, self.extensions, progress=self.progress.say)
        base: Template | None = None
        try:
            require_driver(config, server.public.driver)
            prepare_role(server)
            record = _pinned(server, config, self.run)
            anew = config.rebuild if self.rebuild is None else self.rebuild
            if record is None and below is not None and not anew:
                record = chain.find(server)
            if record is None:
                base = None if below is None else self.open(below)
                run = self.run or f"{getpid()}-{os.urandom(8).hex()}"
                record = ensure(
                    server,
                    recipe,
                    sources,
                    run=run,
                    progress=self.progress,
                    rebuild=anew,
                    base=base.record if base else None,
                    copied=self._copied(config, run),
                )

            if (
                self.run is not None
                and RunPin(config, self.run).write(record.name) != record.name
            ):
                record = _pinned(server, config, self.run) or record  # another worker was first
        except BaseException:
            server.close()
            if base is not None:
                base.close()
            raise

        open_below = None if below is None else functools.partial(self.open, below)
        collector = None
        if collecting:
            from clonedb.clones.collector import Collector

            collector = Collector(server)

        return Template(
            server, record, recipe, base=base, open_base=open_below, collector=collector
        )

    def _copied(self, config: Config, run: str) -> Copied | None:
        others = self.servers.others(config)
        if not others:
            return None
        from clonedb.transfer import Transfer

        return Transfer(others, self.extensions, run, self.progress).copy


def fingerprint_of(
    config: Config, *, progress: Progress | None = None
) -> tuple[Server, Recipe, Fingerprint]:
    """The fingerprint of the template that a configuration means, its recipe, and the open server that it is for.

    Raises ConfigError or ServerError.
    """
    chain = Chain.of(resolved(config))
    server = open_server(config, chain.extensions, progress=(progress or Silence()).say)
    try:
        return server, chain.recipe, chain.fingerprint(server)
    except BaseException:
        server.close()
        raise


def resolved(config: Config) -> Config:
    """The configuration of the template that it names: `template` may come from an option or a variable."""
    if config.project_wide is not None or config.template == "default":
        return config
    return config.of_template(config.template, config.source("template"))


def _pinned(server: Server, config: Config, run: str | None) -> TemplateRecord | None:
    """The template that this run began with, if another worker of the run has it and it is still there."""
    if run is None or (name := RunPin(config, run).read()) is None:
        return None
    found = find(server, name)
    return found if found and server.use(name) else None
