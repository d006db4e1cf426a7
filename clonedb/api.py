"""The way in from Python: `clonedb.template()` opens a project's template, whose `clone()` makes databases."""

from __future__ import annotations

import contextlib
import os
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from clonedb.clone import Clone, create
from clonedb.errors import NoMigrationsError
from clonedb.fingerprint import Fingerprint, Sources
from clonedb.guest import getpid
from clonedb.postgres.roles import prepare_role
from clonedb.postgres.server import Server, open_server
from clonedb.progress import Progress, Silence, Warnings
from clonedb.project.find import Project, find_project
from clonedb.settings import load
from clonedb.templates.find import Template, ensure, find, fingerprint_on, sources_of
from clonedb.templates.pin import Pin

if TYPE_CHECKING:
    from types import TracebackType

    from clonedb.config import Config
    from clonedb.gc import Collector

__all__ = [
    "OpenTemplate",
    "fingerprint_of",
    "open_project_server",
    "open_template",
    "resolved",
    "sources_of",
    "template",
]


class OpenTemplate:
    """A template that is ready, on a server that this process holds a lease on until `close()`.

    `name` is the template database's; `base` the template that it is built upon, if it is.
    """

    def __init__(
        self,
        server: Server,
        record: Template,
        project: Project,
        *,
        base: OpenTemplate | None = None,
        collector: Collector | None = None,
    ) -> None:
        self.server = server
        self.record = record
        self.project = project
        self.base = base
        self._collector = collector
        self._end = weakref.finalize(self, server.close)

    @property
    def name(self) -> str:
        """The template database's name."""
        return self.record.name

    @property
    def fingerprint(self) -> str:
        """The digest of all that went into the template: 64 hexadecimal digits."""
        return self.record.metadata.fingerprint

    @property
    def heads(self) -> tuple[str, ...]:
        """The revisions in the template's version table."""
        return self.record.metadata.heads

    def clone(self) -> Clone:
        """A new database in the template's exact state; as a context manager it is dropped at the end.

        Raises TemplateInUseError or ServerError.
        """
        return create(self.server, self.record)

    def close(self) -> None:
        """Give up the server; clones that are left are collected by whoever comes next."""
        if self._collector is not None:
            self._collector.join()
        self._end()
        if self.base is not None:
            self.base.close()

    def __repr__(self) -> str:
        return f"<template {self.name!r} on {self.server.about}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def template(start: str | Path = ".", **settings: Any) -> OpenTemplate:
    """The template of the project in a directory, built if it is not there.

    `settings` are the keys of `[tool.clonedb]`, and win over every other place. Use it as a context manager, or call
    `close()`; a process that ends gives everything up by itself.

        with clonedb.template() as template, template.clone() as db:
            engine = sqlalchemy.create_engine(db.url)

    What the build warns of becomes a UserWarning. Raises ConfigError, ServerError, BuildError or LockTimeoutError.
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


def open_project_server(config: Config, *, progress: Progress | None = None) -> Server:
    """The server for a project: the first that has every extension its migrations name, if it has migrations."""
    extensions: frozenset[str] = frozenset()
    with contextlib.suppress(NoMigrationsError):
        extensions = sources_of(config, find_project(config)).extensions
    return open_server(config, extensions, progress=(progress or Silence()).say)


def open_template(
    config: Config, *, run: str | None = None, progress: Progress | None = None, rebuild: bool | None = None
) -> OpenTemplate:
    """The template of a configured project; `run` names the test run that its workers share.

    One that is built upon another is opened after that, on the same server. Without a run, what dead processes left on
    the server is collected in the background; a run sees to that itself. Raises as `template` does.
    """
    progress = progress or Silence()
    projects, extensions = _chain(config)
    if projects[0][0].echo:
        _echo()
    opened: OpenTemplate | None = None
    for each, project, sources in reversed(projects):
        server = open_server(each, extensions, progress=progress.say)
        try:
            prepare_role(server)
            record = _pinned(server, each, run) or ensure(
                server,
                project,
                sources,
                run=run or f"{getpid()}-{os.urandom(8).hex()}",
                progress=progress,
                rebuild=each.rebuild if rebuild is None else rebuild,
                base=opened.record if opened else None,
            )
            if run is not None and Pin(each, run).write(record.name) != record.name:  # another worker was first
                record = _pinned(server, each, run) or record
        except BaseException:
            server.close()
            if opened is not None:
                opened.close()
            raise
        collector = _collector(server) if run is None and each is projects[0][0] else None
        opened = OpenTemplate(server, record, project, base=opened, collector=collector)
    assert opened is not None  # noqa: S101 - the chain has one link at least
    return opened


def _collector(server: Server) -> Collector:
    from clonedb.gc import Collector

    return Collector(server)


def _echo() -> None:
    """Print the statements of every engine of this process, the application's too, as `create_engine(echo=True)` does
    for one.
    """
    import logging
    import sys

    logger = logging.getLogger("sqlalchemy.engine.Engine")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.stdout))


def _chain(config: Config) -> tuple[list[tuple[Config, Project, Sources]], frozenset[str]]:
    """A template and those it is built upon, the deepest last, and the extensions that any of them names."""
    found = []
    each: Config | None = resolved(config)
    while each is not None:
        project = find_project(each)
        found.append((each, project, sources_of(each, project)))
        each = each.of_base()
    return found, frozenset().union(*(sources.extensions for *_, sources in found))


def fingerprint_of(config: Config, *, progress: Progress | None = None) -> tuple[Server, Project, Fingerprint]:
    """The fingerprint of the template that a configuration means, and the open server that it is for.

    Raises ConfigError or ServerError.
    """
    projects, extensions = _chain(config)
    server = open_server(projects[0][0], extensions, progress=(progress or Silence()).say)
    digest: str | None = None
    try:
        for each, project, sources in reversed(projects):
            found = fingerprint_on(server, each, project, sources, base=digest)
            digest = found.digest
    except BaseException:
        server.close()
        raise
    return server, project, found


def resolved(config: Config) -> Config:
    """The configuration of the template that it names: `template` may come from an option or a variable."""
    if config.project_wide is not None or config.template == "default":
        return config
    return config.of_template(config.template, config.source("template"))


def _pinned(server: Server, config: Config, run: str | None) -> Template | None:
    """The template that this run began with, if another worker of the run has it and it is still there."""
    if run is None or (name := Pin(config, run).read()) is None:
        return None
    found = find(server, name)
    return found if found and server.use(name) else None
