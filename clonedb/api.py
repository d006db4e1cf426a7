"""The way in from Python: `clonedb.template()` opens a project's template, whose `clone()` makes databases."""

from __future__ import annotations

import contextlib
import os
import secrets
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from clonedb.clone import Clone, create
from clonedb.errors import NoMigrationsError
from clonedb.fingerprint import Sources
from clonedb.gc import Collector
from clonedb.postgres.server import Server, open_server
from clonedb.progress import Progress, Silence, Warnings
from clonedb.project.find import Project, find_project
from clonedb.settings import load
from clonedb.templates.find import Template, ensure, find, sources_of
from clonedb.templates.pin import Pin

if TYPE_CHECKING:
    from types import TracebackType

    from clonedb.config import Config

__all__ = ["OpenTemplate", "open_project_server", "open_template", "sources_of", "template"]


class OpenTemplate:
    """A template that is ready, on a server that this process holds a lease on until `close()`.

    `name` is the template database's; `built` whether opening it built it; `waited` the seconds that took.
    """

    def __init__(self, server: Server, record: Template, project: Project, collector: Collector | None = None) -> None:
        self.server = server
        self.record = record
        self.project = project
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


def open_project_server(config: Config, sources: Sources | None = None, *, progress: Progress | None = None) -> Server:
    """The server for a project: the first that has every extension its migrations name.

    Without the project's sources given, the project that the configuration leads to decides, if it leads to any.
    """
    if sources is None:
        with contextlib.suppress(NoMigrationsError):
            sources = sources_of(config, find_project(config))
    return open_server(config, sources.extensions if sources else (), progress=(progress or Silence()).say)


def open_template(
    config: Config, *, run: str | None = None, progress: Progress | None = None, rebuild: bool | None = None
) -> OpenTemplate:
    """The template of a configured project; `run` names the test run that its workers share.

    Without a run, what dead processes left on the server is collected in the background; a run sees to that itself.
    Raises as `template` does.
    """
    progress = progress or Silence()
    project = find_project(config)
    sources = sources_of(config, project)
    server = open_project_server(config, sources, progress=progress)
    try:
        record = _pinned(server, config, run) or ensure(
            server,
            project,
            sources,
            run=run or f"{os.getpid()}-{secrets.token_hex(8)}",
            progress=progress,
            rebuild=config.rebuild if rebuild is None else rebuild,
        )
        if run is not None and Pin(config, run).write(record.name) != record.name:  # another worker was first
            record = _pinned(server, config, run) or record
    except BaseException:
        server.close()
        raise
    return OpenTemplate(server, record, project, Collector(server) if run is None else None)


def _pinned(server: Server, config: Config, run: str | None) -> Template | None:
    """The template that this run began with, if another worker of the run has it and it is still there."""
    if run is None or (name := Pin(config, run).read()) is None:
        return None
    found = find(server, name)
    return found if found and server.use(name) else None
