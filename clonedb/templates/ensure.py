"""Template databases: found when they are there, built once when they are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clonedb.embedded.places import state_dir
from clonedb.errors import BuildError
from clonedb.names import template_name
from clonedb.originals import monotonic
from clonedb.postgres.server import Server
from clonedb.progress import Progress
from clonedb.project.find import Project
from clonedb.project.fingerprint import Fingerprint, ServerFacts, Sources, StaleError, fingerprint, read_sources
from clonedb.quantities import counted
from clonedb.settings.config import Config
from clonedb.templates.catalog import find, note_use, templates
from clonedb.templates.crash_losses import what_is_lost
from clonedb.templates.metadata import TemplateRecord

if TYPE_CHECKING:
    from clonedb.migrate.alembic import Migrator

__all__ = ["TemplateRecord", "ensure", "find", "fingerprint_on", "sources_of", "templates"]

_ATTEMPTS = 3  # builds that edits may spoil before somebody is told to stop editing


def sources_of(config: Config, project: Project) -> Sources:
    """The files that a project's template is made of; those that stat says are unchanged are not read again."""
    return read_sources(config, project, index_dir=state_dir(config) / "index")


def fingerprint_on(
    server: Server, config: Config, project: Project, sources: Sources, *, base: str | None = None
) -> Fingerprint:
    """The fingerprint of a project's template on a server; `base` is that of the template it is built upon."""
    info = server.info
    facts = ServerFacts(info.major, info.encoding, info.locale, "" if info.superuser else info.user)
    return fingerprint(config, project, facts, index_dir=None, sources=sources, base=base)


def ensure(
    server: Server,
    project: Project,
    sources: Sources,
    *,
    run: str,
    progress: Progress,
    rebuild: bool = False,
    base: TemplateRecord | None = None,
    config: Config | None = None,
    migrator: Migrator | None = None,
) -> TemplateRecord:
    """The project's template, built if it is not there; of any number of processes that ask, exactly one builds it.

    `run` names the test run: a rebuild happens once for it, and a build that failed in it is not tried again by its
    other workers, who get the error in a line. When `sources` were edited before they were migrated, or while they
    were, it begins again with the new ones. With a `base` it begins with a copy of that; else with the deepest template
    that is a beginning of the same history, and seeds with the template without them, unless it is a `rebuild`.
    `config` is the template's if it is not the server's. Raises BuildError, ServerError or LockTimeoutError.
    """
    config = config or server.config
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _ensure(
                server,
                project,
                sources,
                config=config,
                run=run,
                progress=progress,
                rebuild=rebuild,
                base=base,
                migrator=migrator,
                lenient=attempt == _ATTEMPTS,
            )
        except StaleError as error:
            edit = str(error)
            progress.say(f"{edit} before the template was ready; beginning again with what is there now")
            sources = sources_of(config, project)
    raise BuildError(
        f"{edit} while the template was being built, as something was each of the {_ATTEMPTS} times that it was tried;"
        " does a migration write among the files that the template is made of?"
    )


def _ensure(
    server: Server,
    project: Project,
    sources: Sources,
    *,
    config: Config,
    run: str,
    progress: Progress,
    rebuild: bool,
    base: TemplateRecord | None,
    migrator: Migrator | None,
    lenient: bool,
) -> TemplateRecord:
    """One attempt; raises StaleError when the sources were edited meanwhile."""

    def wanted_of(sources: Sources) -> Fingerprint:
        below = base.metadata.fingerprint if base else None
        return fingerprint_on(server, config, project, sources, base=below)

    wanted = wanted_of(sources)
    name = template_name(config.prefix, wanted.digest)

    def look_again() -> tuple[Sources, Fingerprint]:
        found = sources_of(config, project)
        return found, wanted_of(found)

    lost: str | None = None

    def ready() -> TemplateRecord | None:
        nonlocal lost
        found = find(server, name)
        if found is None or (rebuild and found.metadata.run != run):
            return None
        lost = what_is_lost(server, found)
        return None if lost else found

    start = monotonic()
    if template := ready():
        return _in_use(server, template)
    if config.frozen:
        raise BuildError(_frozen(config, server, name, lost))
    from clonedb.templates.build import build  # where there is something to build: it takes 10 ms
    from clonedb.templates.edits import Edits
    from clonedb.templates.locks import server_lock
    from clonedb.templates.order import Order
    from clonedb.templates.queue import BuildQueue

    server.require_createdb()
    queue = BuildQueue(config, name, run)
    with queue.turn(progress), server_lock(server, name, progress):
        if template := ready():
            return _in_use(server, TemplateRecord(name, template.metadata, waited=monotonic() - start))
        queue.raise_if_failed()
        if lost:
            progress.say(f"template {name!r} has lost {lost} in a crash of the server; building it anew")
        with queue.recorded():
            order = Order(
                config=config,
                project=project,
                sources=sources,
                wanted=wanted,
                name=name,
                run=run,
                base=base or _schema(server, project, config, run, progress, rebuild=rebuild),
                layers=not rebuild,
                edits=Edits(wanted, look_again, rootdir=project.rootdir, lenient=lenient),
            )
            metadata = build(server, order, progress=progress, migrator=migrator)
    progress.say(f"template {name!r} is ready: {counted(metadata.revisions, 'revision')} in {metadata.seconds:.1f} s")
    return _in_use(server, TemplateRecord(name, metadata, built=True, waited=monotonic() - start))


def _schema(
    server: Server, project: Project, config: Config, run: str, progress: Progress, *, rebuild: bool
) -> TemplateRecord | None:
    """The template without seeds that one with seeds is built upon, so that a changed seed costs only the seeds."""
    schema = config.of_schema()
    if schema is None:
        return None
    return ensure(
        server, project, sources_of(schema, project), run=run, progress=progress, rebuild=rebuild, config=schema
    )


def _frozen(config: Config, server: Server, name: str, lost: str | None) -> str:
    named = (config.project_wide or config).templates
    which = f" --template {config.template}" if config.template in named else ""
    state = f"has lost {lost} in a crash of {server.about}" if lost else f"is not on {server.about}"
    return (
        f"template {name!r} {state}, and it is not built here because frozen is set"
        f" ({config.source('frozen')}); run `clonedb{which} build` first"
    )


def _in_use(server: Server, template: TemplateRecord) -> TemplateRecord:
    """Share the template's lock, and note that it was used."""
    server.use(template.name)
    note_use(server, template)
    return template
