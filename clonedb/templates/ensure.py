"""Template databases: found when they are there, built once when they are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from clonedb.embedded.places import state_dir
from clonedb.errors import BuildError
from clonedb.names import template_name
from clonedb.postgres.server import Server
from clonedb.progress import Progress
from clonedb.project.fingerprint import (
    Fingerprint,
    ServerFacts,
    Sources,
    StaleError,
    fingerprint,
)
from clonedb.project.recipe import Recipe
from clonedb.quantities import counted
from clonedb.settings.config import Config
from clonedb.templates.catalog import find, note_use, templates
from clonedb.templates.crash_losses import what_is_lost
from clonedb.templates.metadata import TemplateRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from clonedb.templates.locks import BuildLease
    from clonedb.templates.order import Order

__all__ = [
    "Copied",
    "TemplateRecord",
    "ensure",
    "find",
    "fingerprint_on",
    "sources_of",
    "templates",
]

Copied: TypeAlias = "Callable[[Server, Config, str, BuildLease], TemplateRecord | None]"
"""Brings the template of a name from another server; None where there is none."""

_ATTEMPTS = 3  # builds that edits may spoil before an error says to stop editing


def sources_of(recipe: Recipe) -> Sources:
    """What a recipe's template is made of; files that stat says are unchanged are not read again."""
    return recipe.inputs(state_dir(recipe.config) / "index")


def fingerprint_on(
    server: Server, config: Config, sources: Sources, *, base: str | None = None
) -> Fingerprint:
    """The fingerprint of a template on a server; `base` is that of the template it is built upon."""
    info = server.info
    facts = ServerFacts(
        info.major, info.encoding, info.locale, "" if info.superuser else info.user
    )
    return fingerprint(config, sources, facts, base=base)


def ensure(
    server: Server,
    recipe: Recipe,
    sources: Sources,
    *,
    run: str,
    progress: Progress,
    rebuild: bool = False,
    base: TemplateRecord | None = None,
    copied: Copied | None = None,
) -> TemplateRecord:
    """The template that a recipe makes, built if it is not there; of any number of processes exactly one builds it.

    `run` names the test run: a rebuild happens once for it, and a build that failed in it is
    not tried again by its other workers, who get the error in a line. When `sources` were
    edited before they were used, or while they were, it begins again with the new ones. With a
    `base` it begins with a copy of that; else with the deepest template that is a beginning of
    the same history, and seeds with the template without them, unless it is a `rebuild`. What
    `copied` brings from another server is not built. Raises
    BuildError, ServerError or LockTimeoutError.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        lenient = attempt == _ATTEMPTS
        try:
            return _Attempt(
                server, recipe, sources, run, progress, rebuild, base, copied, lenient
            ).carry_out()
        except StaleError as error:
            edit = str(error)
            progress.say(
                f"{edit} before the template was ready; beginning again with what is there now"
            )
            # a new recipe: this one remembers the files as they were
            recipe = recipe.with_config(recipe.config)
            sources = sources_of(recipe)

    raise BuildError(
        f"{edit} while the template was being built, as something was each of the {_ATTEMPTS} times that it was tried;"
        " does a migration write among the files that the template is made of?"
    )


@dataclass(slots=True)
class _Attempt:
    """One attempt to have a template; with `lenient` files that are only written meanwhile do not spoil it."""

    server: Server
    recipe: Recipe
    sources: Sources
    run: str
    progress: Progress
    rebuild: bool
    base: TemplateRecord | None
    copied: Copied | None
    lenient: bool
    _lost: str | None = None

    def carry_out(self) -> TemplateRecord:
        """The template, found or built; raises StaleError when the sources were edited meanwhile."""
        wanted = self._fingerprint(self.sources)
        name = template_name(self.recipe.config.prefix, wanted.digest)
        # without any lock: mostly it is there
        if (template := self._ready(name)) is not None:
            return _in_use(self.server, template)
        if self.recipe.config.frozen:
            raise BuildError(
                _frozen(self.recipe.config, self.server, name, self._lost, anew=self.rebuild)
            )
        return self._build(name, wanted)

    def _build(self, name: str, wanted: Fingerprint) -> TemplateRecord:
        # where there is something to build: they take 10 ms
        from clonedb.templates.build import build
        from clonedb.templates.locks import server_lock
        from clonedb.templates.queue import BuildQueue

        server, recipe, progress = self.server, self.recipe, self.progress
        server.require_createdb()
        queue = BuildQueue(server, name, self.run)
        with queue.turn(progress), server_lock(server, name, progress) as lease:
            # another process may have built it while this one waited
            if (template := self._ready(name)) is not None:
                return _in_use(server, template)
            queue.raise_if_failed()
            if self._lost:
                progress.say(
                    f"template {name!r} has lost {self._lost} in a crash of the server; building it anew"
                )

            if self.copied is not None and not self.rebuild and not self._lost:
                template = self.copied(server, recipe.config, name, lease)
                if template is not None:
                    return _in_use(server, template)
            with queue.recorded():
                metadata = build(server, self._order(name, wanted), lease, progress=progress)

        steps = counted(metadata.revisions, recipe.words.step)
        progress.say(f"template {name!r} is ready: {steps} in {metadata.seconds:.1f} s")
        return _in_use(server, TemplateRecord(name, metadata, built=True))

    def _order(self, name: str, wanted: Fingerprint) -> Order:
        from clonedb.templates.edits import Edits
        from clonedb.templates.order import Order

        return Order(
            recipe=self.recipe,
            sources=self.sources,
            wanted=wanted,
            name=name,
            run=self.run,
            # built while this template's locks are held; it never waits for a template with
            # seeds, so that two processes cannot wait for each other
            base=self.base or self._schema(),
            layers=not self.rebuild,
            edits=Edits(
                wanted, self._look_again, rootdir=self.recipe.rootdir, lenient=self.lenient
            ),
        )

    def _fingerprint(self, sources: Sources) -> Fingerprint:
        below = self.base.metadata.fingerprint if self.base else None
        return fingerprint_on(self.server, self.recipe.config, sources, base=below)

    def _look_again(self) -> tuple[Sources, Fingerprint]:
        found = sources_of(self.recipe.with_config(self.recipe.config))
        return found, self._fingerprint(found)

    def _ready(self, name: str) -> TemplateRecord | None:
        """The template, if it is there, of this run in case of a rebuild, and has all that it had."""
        found = find(self.server, name)
        if found is None or (self.rebuild and found.metadata.run != self.run):
            return None
        self._lost = what_is_lost(self.server, found)
        return None if self._lost else found

    def _schema(self) -> TemplateRecord | None:
        """The template without seeds that one with seeds is built upon, so that a changed seed costs only the seeds."""
        config = self.recipe.config.of_schema()
        if config is None:
            return None
        recipe = self.recipe.with_config(config)
        return ensure(
            self.server,
            recipe,
            sources_of(recipe),
            run=self.run,
            progress=self.progress,
            rebuild=self.rebuild,
            copied=self.copied,
        )


def _frozen(config: Config, server: Server, name: str, lost: str | None, *, anew: bool) -> str:
    if anew:
        return (
            f"template {name!r} is to be built anew, and nothing is built here because frozen is set"
            f" ({config.source('frozen')}); leave out one of the two"
        )

    named = (config.project_wide or config).templates
    which = f" --template {config.template}" if config.template in named else ""
    state = (
        f"has lost {lost} in a crash of {server.about}" if lost else f"is not on {server.about}"
    )
    return (
        f"template {name!r} {state}, and it is not built here because frozen is set"
        f" ({config.source('frozen')}); run `clonedb{which} build` first"
    )


def _in_use(server: Server, template: TemplateRecord) -> TemplateRecord:
    """Share the template's lock, and note that it was used."""
    server.use(template.name)
    note_use(server, template)
    return template
