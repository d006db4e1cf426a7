"""`clonedb check`: the migrations themselves, tried on databases of their own."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from clonedb.cli.configuration import Context
from clonedb.cli.progress import progress
from clonedb.cli.table import lines

if TYPE_CHECKING:
    from clonedb.api import Template
    from clonedb.clones.clone import Clone
    from clonedb.migrate.alembic import AlembicMigrator
    from clonedb.migrate.alembic_recipe import AlembicRecipe
    from clonedb.migrate.process import MigrationProcess
    from clonedb.migrate.results import Stair
    from clonedb.postgres.server import Server
    from clonedb.progress import Progress
    from clonedb.settings.config import Config

__all__ = ["COMMANDS"]


@click.command()
@click.option(
    "--no-stairway", is_flag=True, help="Leave out each revision's way up, down and up again."
)
@click.option(
    "--allow-irreversible", is_flag=True, help="A revision without a downgrade is no failure."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.pass_obj
def check(
    context: Context, *, no_stairway: bool, allow_irreversible: bool, as_json: bool
) -> None:
    """Try the migrations: one head, models that fit, each revision up, down and up again.

    The models are those of env.py (target_metadata), compared with a clone of the template. The
    revisions are tried one by one in a new database, which is dropped afterwards. The exit code
    is 1 if anything is not as it should be.
    """
    found = _Findings(allow_irreversible=allow_irreversible, stairway=not no_stairway)
    with progress() as shown:
        _Check(context, found, shown).carry_out()
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else "\n".join(found.text()))
    raise SystemExit(0 if found.ok else 1)


@dataclass(slots=True, kw_only=True)
class _Findings:
    """What a check found; `build` is why there is no template, `models` why nothing could be compared.

    `labels` are those of each head's branch, `history` what is wrong with the revision files as
    such.
    """

    allow_irreversible: bool
    stairway: bool
    rootdir: str = ""
    heads: tuple[str, ...] = ()
    labels: Mapping[str, frozenset[str]] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    build: str | None = None
    differences: list[str] | None = None
    models: str | None = None
    stairs: list[Stair] = field(default_factory=list)
    broken: str | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing failed; models that are not there are no failure."""
        bad = [
            self.build,
            self.history,
            self.differences,
            self.broken,
            self.untried,
            not self.heads_fit,
        ]
        return not any(bad) and all(map(self.fits, self.stairs))

    @property
    def heads_fit(self) -> bool:
        """Whether there is one head, or one for each labelled branch: those are meant to stay apart."""
        branches = [self.labels.get(head, frozenset()) for head in self.heads]
        # two heads without labels, or with the same ones, belong to one branch
        return len(set(branches)) == len(branches)

    @property
    def untried(self) -> int:
        """How many revisions no way led to."""
        return self.stairs[-1].total - self.stairs[-1].number if self.stairs else 0

    def fits(self, stair: Stair) -> bool:
        """Whether a revision is as it should be."""
        return stair.failed is None or (stair.irreversible and self.allow_irreversible)

    def result(self, stair: Stair) -> str:
        """What became of a revision, in a word or two."""
        if stair.irreversible:
            return "no downgrade"
        return "ok" if stair.failed is None else f"{stair.failed} failed"

    def as_json(self) -> dict[str, Any]:
        """For programs: seconds are numbers, a step that was not taken or did not work is null."""
        return {
            "ok": self.ok,
            "template": {"ok": self.build is None, "error": self.build},
            "history": {"ok": not self.history, "problems": self.history},
            "heads": {"ok": self._if_built(self.heads_fit), "revisions": list(self.heads)},
            "models": {
                "ok": self._if_built(not self.differences),
                "differences": self.differences,
                "not_compared": self.models,
            },
            "stairway": {
                "ok": not (self.broken or self.untried) and all(map(self.fits, self.stairs)),
                "error": self.broken,
                "not_tried": self.untried,
                "revisions": [self._stair_as_json(stair) for stair in self.stairs],
            }
            if self.stairway
            else None,
        }

    def _if_built(self, fits: bool) -> bool | None:  # noqa: FBT001 - a value
        """A verdict on the template, or none where there is no template."""
        return fits if self.build is None else None

    def _stair_as_json(self, stair: Stair) -> dict[str, Any]:
        return {
            "revision": stair.revision,
            "file": self._shown(stair),
            "message": stair.message,
            **{name: getattr(stair, name) for name in ("up", "down", "again")},
            "result": self.result(stair),
            "ok": self.fits(stair),
            "error": str(stair.error) if stair.error else None,
        }

    def text(self) -> Iterator[str]:
        """For people: a line for each check, the table, and then what failed and what to do."""
        yield from (f"history   {problem}" for problem in self.history)
        yield from self._on_template()
        if self.stairway:
            yield from self._on_stairs()
        yield "all is well" if self.ok else "something is not as it should be: see above"

    def _on_template(self) -> Iterator[str]:
        if self.build:
            # the stairway shows the error of that revision in full
            told_below = bool(self.stairs) and self.stairs[-1].failed == "upgrade"
            yield f"template  could not be built: {self.build.splitlines()[0] if told_below else self.build}"
            return

        if self.heads_fit and len(self.heads) > 1:
            branches = (
                f"{head} ({', '.join(sorted(self.labels[head])) or 'no label'})"
                for head in self.heads
            )
            yield f"heads     {len(self.heads)}, one for each branch: {', '.join(branches)}"
        elif len(self.heads) > 1:
            merge = f"alembic merge -m 'merge heads' {' '.join(self.heads)}"
            yield f"heads     {len(self.heads)}: {', '.join(self.heads)}; one revision has to join them: {merge}"
        else:
            yield (
                f"heads     one: {self.heads[0]}"
                if self.heads
                else "heads     none: there is no revision"
            )

        if self.differences is None:
            yield f"models    not compared: {self.models}"
        elif not self.differences:
            yield "models    fit the migrated database"
        else:
            count = (
                f"{len(self.differences)} difference{'s' if len(self.differences) > 1 else ''}"
            )
            yield f"models    {count} to the migrated database; a revision that brings it to them would"
            yield from (f"            {line}" for line in self.differences)
            yield "          write it: alembic revision --autogenerate -m '...', or mend the models"

    def _on_stairs(self) -> Iterator[str]:
        bad = [stair for stair in self.stairs if not self.fits(stair)]
        if self.stairs:
            count = f"{len(self.stairs)} revision{'s' if len(self.stairs) > 1 else ''}"
            how = (
                f"{len(bad)} of them not as {'it' if len(bad) == 1 else 'they'} should be"
                if bad
                else "all of them well"
            )
            yield f"stairway  {count} up, down and up again in {self.seconds:.1f} s, {how}"
            head = (
                "revision",
                "file",
                "message",
                "up",
                "down",
                "up again",
                "seconds",
                "result",
            )
            yield lines([head, *map(self._row, self.stairs)])

        for stair in bad:
            yield f"\n{stair.revision}: {self.result(stair)}"
            if stair.irreversible:
                yield str(stair.error).splitlines()[0]
                yield "hint: write its downgrade(), or allow what cannot be undone with --allow-irreversible"
            else:
                yield str(stair.error)

        if self.broken:
            yield f"stairway  {'not tried' if self.broken == self.build else self.broken}"
        if self.untried:
            last = self.stairs[-1].revision
            yield f"\n{self.untried} more not tried, because no way leads past {last!r}"

    def _row(self, stair: Stair) -> tuple[str, ...]:
        steps = (stair.up, stair.down, stair.again)
        shown = ["-" if seconds is None else f"{seconds * 1e3:.0f} ms" for seconds in steps]
        total = f"{sum(filter(None, steps)):.2f}"
        return (
            stair.revision,
            self._shown(stair),
            stair.message[:60],
            *shown,
            total,
            self.result(stair),
        )

    def _shown(self, stair: Stair) -> str:
        inside = stair.path.is_relative_to(self.rootdir)
        return os.path.relpath(stair.path, self.rootdir) if inside else str(stair.path)


class _Check:
    """One run of all checks, each as far as the ones before let it."""

    def __init__(self, context: Context, found: _Findings, shown: Progress) -> None:
        from clonedb.api import resolved

        self._config = resolved(context.config())
        self._found = found
        self._shown = shown

    def carry_out(self) -> None:
        """Fill in the findings; raises what keeps all of them from being made."""
        from clonedb.api import open_project_server, open_template
        from clonedb.errors import BuildError
        from clonedb.migrate.recipes import find_recipe, require_revisions

        recipe = require_revisions(find_recipe(self._config), "clonedb check")
        self._config = recipe.config  # with what was found where nothing was said
        self._found.rootdir = str(recipe.rootdir)
        self._look_at_history(recipe)
        # made anew: `_look_at_history` may have changed the target
        migrator = recipe.with_config(self._config).migrator
        with contextlib.ExitStack() as stack:
            try:
                template = stack.enter_context(
                    open_template(self._config, progress=self._shown)
                )
            except BuildError as error:
                # the revisions are tried all the same: that shows which of them fails
                self._found.build = str(error)
                server = open_project_server(self._config, progress=self._shown)
                stack.callback(server.close)
                self._climb(server, migrator, None)
                return

            self._found.heads = template.heads
            self._compare(template, migrator)
            self._climb(template.server, migrator, template.base)

    def _look_at_history(self, recipe: AlembicRecipe) -> None:
        """Ask Alembic for the heads, in an empty database, because it runs env.py before.

        A `target` that is no head is for templates only: half of a history would differ from
        the models in any case. What keeps Alembic from answering is told by what comes
        next.
        """
        from clonedb.api import open_project_server
        from clonedb.clones.clone import create_empty
        from clonedb.errors import BuildError
        from clonedb.migrate.alembic_recipe import doubled_revisions

        server = open_project_server(self._config, progress=self._shown)
        with (
            contextlib.closing(server),
            create_empty(server, self._config) as database,
            contextlib.suppress(BuildError),
        ):
            # an interpreter of its own, as env.py and all revisions are imported there
            with _session(server, recipe.migrator, database) as session:
                found = session.branches(self._config.target)
            self._found.labels = found.heads
            self._found.history = doubled_revisions(recipe.project, found.doubled)
            if found.meant and found.heads.keys() >= {*found.meant}:
                return

        if self._config.target != "heads":
            self._config = self._config.replace("clonedb check", target="heads")

    def _compare(self, template: Template, migrator: AlembicMigrator) -> None:
        from clonedb.migrate.results import NoModelsError

        # a template at a part of the history lacks what later revisions bring
        if self._found.labels and self._found.labels.keys() != {*template.heads}:
            self._found.models = f"target {self._config.target!r} is not the whole history"
            return
        with template.clone() as clone:
            try:
                with migrator.session(template.server.url(clone.name)) as session:
                    self._found.differences = session.differences()
            except NoModelsError as error:
                self._found.models = str(error)

    def _climb(self, server: Server, migrator: AlembicMigrator, base: Template | None) -> None:
        from clonedb.errors import BuildError

        if not self._found.stairway:
            return
        start = time.monotonic()
        try:
            for stair in self._stairs(server, migrator, base):
                self._found.stairs.append(stair)
        except BuildError as error:
            self._found.broken = str(error)
        self._found.seconds = time.monotonic() - start

    def _stairs(
        self, server: Server, migrator: AlembicMigrator, base: Template | None
    ) -> Iterator[Stair]:
        """Every revision that a way leads to; after a failure that spoils the database, another goes on above it."""
        # revisions that were tried, well or not; the next round goes on above them in a new
        # database
        tried: list[str] = []
        while True:
            last = None
            with (
                _database(server, self._config, base) as database,
                _session(server, migrator, database) as session,
            ):
                for last in session.stairway(self._config.target, tried, progress=self._shown):
                    tried.append(last.revision)
                    yield last

            # nothing above a failed upgrade can be reached
            if last is None or last.number == last.total or last.failed == "upgrade":
                return


def _database(server: Server, config: Config, base: Template | None) -> Clone:
    """Where the first revision is to begin: an empty database, or what the template is built upon."""
    from clonedb.clones.clone import create_empty

    return create_empty(server, config) if base is None else base.clone()


COMMANDS = (check,)


def _session(server: Server, migrator: AlembicMigrator, database: Clone) -> MigrationProcess:
    """An interpreter for a database of its own."""
    from clonedb.migrate.blockers import Blockers

    return migrator.session(
        server.url(database.name), waiting=Blockers(server, database.name, alone=True)
    )
