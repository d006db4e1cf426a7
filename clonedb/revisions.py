"""Databases at a revision: clones that stop on the way to the heads, and can be taken further up and down."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clonedb.api import Template, open_template, resolved
from clonedb.clones.clone import Clone
from clonedb.clones.database import PlainDatabase
from clonedb.errors import ConfigError
from clonedb.migrate.blockers import Blockers
from clonedb.migrate.recipes import find_recipe, require_revisions
from clonedb.settings.key import nearest

if TYPE_CHECKING:
    from clonedb.migrate.alembic_recipe import AlembicRecipe
    from clonedb.migrate.process import MigrationProcess
    from clonedb.migrate.results import Migrated
    from clonedb.progress import Progress
    from clonedb.project.find import Project
    from clonedb.settings.config import Config

__all__ = ["RevisionDatabase", "at", "config_at", "resolve"]

# `revision: str = "3f2a91"  # a comment`
_REVISION = re.compile(
    r"""^revision\s*(?::[^=\n]*)?=\s*(['"])([^'"\n]+)\1\s*(?:#.*)?$""", re.MULTILINE
)
_LABELS = re.compile(r"^branch_labels\s*(?::[^=\n]*)?=\s*(.*)$", re.MULTILINE)
_WORDS = frozenset({"base", "head", "heads"})
_SIGNS = frozenset(
    "+-@:"
)  # of relative revisions and branches; Alembic allows none of them in a revision's name


class RevisionDatabase(PlainDatabase):
    """A clone that its test takes up and down: what a migration does to the rows that were there before.

    Migrations run as the maintenance role, in an interpreter that serves the clone until
    `close`: 0.4 s for the first, then what env.py and the revisions take. Before each, the
    pools of the clone's engines are emptied.
    """

    def __init__(self, clone: Clone, recipe: AlembicRecipe) -> None:
        super().__init__(clone)
        self.recipe: AlembicRecipe = recipe
        self._session: MigrationProcess | None = None
        self._blockers: Blockers | None = None

    def upgrade(self, revision: str = "heads") -> Migrated:
        """What `alembic upgrade REVISION` does; `+1` is the next one. Raises MigrationError or ConfigError."""
        __tracebackhide__ = True
        wanted = resolve(self.recipe.project, revision, "upgrade()")
        return self._ready().upgrade(wanted)

    def downgrade(self, revision: str) -> Migrated:
        """What `alembic downgrade REVISION` does; `-1` is the one before. Raises MigrationError or ConfigError."""
        __tracebackhide__ = True
        wanted = resolve(self.recipe.project, revision, "downgrade()")
        return self._ready().downgrade(wanted)

    def current(self) -> tuple[str, ...]:
        """The revisions that the database is at; none at base."""
        return self._ready().current()

    def close(self) -> None:
        """End the interpreter; the clone is left to its owner."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _ready(self) -> MigrationProcess:
        self.clone.empty_pools()  # an idle transaction of one would block the DDL
        if self._session is None or self._blockers is None:
            server = self.clone.server
            self._blockers = Blockers(server, self.name)
            self._session = self.recipe.migrator.session(
                server.url(self.name), waiting=self._blockers
            )
        # what was told of an earlier migration's obstacles is no news for this one
        self._blockers.forget()
        return self._session


def at(
    config: Config, revision: str, *, run: str | None = None, progress: Progress | None = None
) -> Template:
    """The template of a project at one revision, without seeds, built if it is not there: the second use is a clone.

    `revision` is what Alembic takes: a name, the beginning of one, "head", "heads", a branch;
    "base" is a database without any. Make a `RevisionDatabase` of its clones. Raises as
    `open_template` does, and ConfigError for a revision that is not there.
    """
    return open_template(config_at(config, revision), run=run, progress=progress)


def config_at(config: Config, revision: str) -> Config:
    """The configuration of that template; the same one for each way to name the revision."""
    __tracebackhide__ = True
    config = resolved(config)
    recipe = require_revisions(find_recipe(config), "clonedb_at()")
    wanted = resolve(recipe.project, revision, f"clonedb_at({revision!r})")
    return recipe.config.of_revision(wanted, f"clonedb_at({revision!r})")


def resolve(project: Project, revision: str, source: str) -> str:
    """The whole name of a revision, read from the files without running them.

    A name that nothing starts with is an error with the nearest one, before a database is made.
    What only Alembic can know is left to it: relative revisions, branches, and names that a
    file works out when it is run.
    """
    __tracebackhide__ = True
    if revision in _WORDS or _SIGNS.intersection(revision):
        return revision
    # compiled revisions have no text to read
    files = [
        path for path in project.revision_files() if path.suffix == ".py" and path.is_file()
    ]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    matches = [_REVISION.search(text) for text in texts]
    known = [match[2] for match in matches if match]
    if revision in known:
        return revision
    found = [name for name in known if name.startswith(revision)] if revision else []
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(sorted(found)[:5])
        raise ConfigError(
            f"{source}: several revisions begin with {revision!r}: {listed}; write one of them out"
        )

    labels = "\n".join(match[1] for text in texts if (match := _LABELS.search(text)))
    # a name that is worked out when a file is run may be the one
    if None in matches or re.search(rf"""['"]{re.escape(revision)}['"]""", labels):
        return revision
    places = ", ".join(repr(str(place)) for place in project.version_locations)
    raise ConfigError(
        f"{source}: there is no revision {revision!r}{nearest(revision, dict.fromkeys(known))} among the {len(known)}"
        f" in {places}; `alembic history` lists them"
    )
