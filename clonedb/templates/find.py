"""Template databases: found when they are there, built once when they are not."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clonedb.config import Config
from clonedb.errors import BuildError, LockTimeoutError, PermissionDeniedError, ServerError
from clonedb.fingerprint import Fingerprint, ServerFacts, Sources, fingerprint, read_sources
from clonedb.migrate.alembic import Migrator
from clonedb.names import template_name
from clonedb.postgres import locks, sql
from clonedb.postgres.server import Server
from clonedb.postgres.state import state_dir
from clonedb.progress import Progress
from clonedb.project.find import Project
from clonedb.templates.build import StaleError, build
from clonedb.templates.metadata import Metadata, Template
from clonedb.templates.queue import BuildQueue

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Template", "ensure", "find", "fingerprint_on", "sources_of", "templates"]

_ATTEMPTS = 3  # builds that edits may spoil before somebody is told to stop editing


def find(server: Server, name: str) -> Template | None:
    """The sealed template of this name, or None."""
    database = server.run(lambda connection: sql.find_database(connection, name))
    if database is None or not database.is_template:
        return None
    metadata = Metadata.from_json(database.comment)
    return Template(name, metadata) if metadata else None


def templates(server: Server) -> list[Template]:
    """All sealed templates under the configured prefix, the newest first."""
    found = server.run(lambda connection: sql.databases(connection, server.config.prefix))
    known = [(d.name, Metadata.from_json(d.comment)) for d in found if d.is_template]
    listed = [Template(name, metadata) for name, metadata in known if metadata is not None]
    return sorted(listed, key=lambda template: template.metadata.made, reverse=True)


def sources_of(config: Config, project: Project) -> Sources:
    """The files that a project's template is made of; those that stat says are unchanged are not read again."""
    return read_sources(config, project, index_dir=state_dir(config) / "index")


def fingerprint_on(
    server: Server, config: Config, project: Project, sources: Sources, *, base: str | None = None
) -> Fingerprint:
    """The fingerprint of a project's template on a server; `base` is that of the template it is built upon."""
    facts = ServerFacts(server.info.major, server.info.encoding, server.info.locale)
    return fingerprint(config, project, facts, index_dir=None, sources=sources, base=base)


def ensure(
    server: Server,
    project: Project,
    sources: Sources,
    *,
    run: str,
    progress: Progress,
    rebuild: bool = False,
    base: Template | None = None,
    migrator: Migrator | None = None,
) -> Template:
    """The project's template, built if it is not there; of any number of processes that ask, exactly one builds it.

    `run` names the test run: a rebuild happens once for it, and a build that failed in it is not tried again by its
    other workers, who get the error in a line. When `sources` were edited before they were migrated, or while they
    were, it begins again with the new ones. With a `base` it begins with a copy of that. Raises BuildError,
    ServerError or LockTimeoutError.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _ensure(
                server, project, sources, run=run, progress=progress, rebuild=rebuild, base=base, migrator=migrator
            )
        except StaleError as error:
            edit = str(error)
            progress.say(f"{edit} before the template was ready; beginning again with what is there now")
            sources = sources_of(server.config, project)
    raise BuildError(
        f"{edit} while the template was being built, as something was each of the {_ATTEMPTS} times that it was tried;"
        " does a migration write among the files that the template is made of?"
    )


def _ensure(
    server: Server,
    project: Project,
    sources: Sources,
    *,
    run: str,
    progress: Progress,
    rebuild: bool,
    base: Template | None,
    migrator: Migrator | None,
) -> Template:
    """One attempt; raises StaleError when the sources were edited meanwhile."""
    config = server.config

    def wanted_of(sources: Sources) -> Fingerprint:
        below = base.metadata.fingerprint if base else None
        return fingerprint_on(server, config, project, sources, base=below)

    wanted = wanted_of(sources)
    name = template_name(config.prefix, wanted.digest)

    def ready() -> Template | None:
        found = find(server, name)
        return None if found and rebuild and found.metadata.run != run else found

    start = time.monotonic()
    if template := ready():
        return _in_use(server, template)
    if config.frozen:
        raise BuildError(_frozen(config, server, name))
    server.demand_createdb()
    queue = BuildQueue(config, name, run)
    with queue.turn(progress), _server_lock(server, name, progress):
        if template := ready():
            return _in_use(server, Template(name, template.metadata, waited=time.monotonic() - start))
        queue.raise_if_failed()
        progress.say(f"building template {name!r} on {server.about}")
        with queue.recorded():
            metadata = build(
                server,
                project,
                wanted,
                name=name,
                run=run,
                progress=progress,
                base=base,
                look_again=lambda: wanted_of(sources_of(config, project)),
                migrator=migrator,
            )
    progress.say(f"template {name!r} is ready: {metadata.revisions} revisions in {metadata.seconds:.1f} s")
    return _in_use(server, Template(name, metadata, built=True, waited=time.monotonic() - start))


def _frozen(config: Config, server: Server, name: str) -> str:
    named = (config.project_wide or config).templates
    which = f" --template {config.template}" if config.template in named else ""
    return (
        f"template {name!r} is not on {server.about}, and it is not built here because frozen is set"
        f" ({config.source('frozen')}); run `clonedb{which} build` first"
    )


def _in_use(server: Server, template: Template) -> Template:
    """Share the template's lock, and note once an hour that it was used: the least recently used are collected."""
    import psycopg

    server.use(template.name)
    if time.time() - template.metadata.used > 3600:
        text = replace(template.metadata, used=time.time()).to_json()
        with contextlib.suppress(psycopg.Error, PermissionDeniedError):  # another worker notes it, or the owner will
            server.run(lambda connection: sql.comment(connection, template.name, text))
    return template


@contextlib.contextmanager
def _server_lock(server: Server, name: str, progress: Progress) -> Iterator[None]:
    """Hold the template's advisory lock on a session of its own: the truth across hosts."""
    key, timeout, told = locks.build_key(name), server.config.lock_timeout, False
    application = f"clonedb build on {socket.gethostname()}, pid {os.getpid()}"[:63]
    with contextlib.closing(server.connect(server.config.maintenance_database, application_name=application)) as own:
        _demand_sessions(server, own)

        def waiting(seconds: float) -> None:
            nonlocal told
            if seconds > 1 and not told:
                told = True
                who = locks.holder(own, key) or "another session"
                progress.say(f"template {name!r} is being built by {who}; waiting (lock_timeout = {timeout:g} s)")

        if not locks.wait_for_lock(own, key, timeout=timeout, waiting=waiting):
            who = locks.holder(own, key) or "another session"
            raise LockTimeoutError(
                f"template {name!r} is still being built by {who}, after lock_timeout = {timeout:g} s; "
                "end that process if it hangs, or raise lock_timeout"
            )
        yield


def _demand_sessions(server: Server, own: Connection[Any]) -> None:
    """Refuse a transaction-pooling proxy: a lock taken through it belongs to nobody.

    Such a proxy gives a second client the server session that the first one is not using at the moment.
    """
    pid = own.execute("select pg_backend_pid()").fetchone()
    other = server.run(lambda connection: connection.execute("select pg_backend_pid()").fetchone())
    if pid == other:
        raise ServerError(
            f"{server.about} is behind a proxy that shares sessions (PgBouncer with pool_mode = transaction?), on which"
            " locks hold nothing; give clonedb a url that reaches the server itself"
        )
