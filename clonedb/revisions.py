"""Clones at a revision: databases that stop on the way to the heads, and can be taken further up and down."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clonedb.api import Template, open_template, resolved
from clonedb.clones.clone import Clone
from clonedb.errors import ConfigError
from clonedb.migrate.alembic import AlembicMigrator, Migrated, MigrationProcess
from clonedb.migrate.blockers import Blockers
from clonedb.project.find import Project, find_project
from clonedb.settings.keys import nearest

if TYPE_CHECKING:
    from clonedb.progress import Progress
    from clonedb.settings.config import Config

__all__ = ["RevisionClone", "at", "config_at", "resolve", "revision_clone"]

_REVISION = re.compile(r"""^revision\s*(?::[^=\n]*)?=\s*(['"])([^'"\n]+)\1\s*(?:#.*)?$""", re.MULTILINE)
_LABELS = re.compile(r"^branch_labels\s*(?::[^=\n]*)?=\s*(.*)$", re.MULTILINE)
_WORDS = frozenset({"base", "head", "heads"})
_SIGNS = frozenset("+-@:")  # of relative revisions and branches; Alembic allows none of them in a revision's name


@dataclass(slots=True, eq=False)
class RevisionClone(Clone):
    """A clone that its test takes up and down: what a migration does to the rows that were there before.

    Migrations run as the maintenance role, in an interpreter that serves the clone until it is dropped: 0.4 s for the
    first, then what env.py and the revisions take. Before each, the pools of the clone's engines are emptied.
    """

    project: Project = field(kw_only=True, repr=False)
    _session: MigrationProcess | None = field(default=None, init=False, repr=False)
    _blockers: Blockers | None = field(default=None, init=False, repr=False)

    def upgrade(self, revision: str = "heads") -> Migrated:
        """What `alembic upgrade REVISION` does; `+1` is the next one. Raises MigrationError or ConfigError."""
        __tracebackhide__ = True
        wanted = resolve(self.project, revision, "upgrade()")
        return self._ready().upgrade(wanted)

    def downgrade(self, revision: str) -> Migrated:
        """What `alembic downgrade REVISION` does; `-1` is the one before. Raises MigrationError or ConfigError."""
        __tracebackhide__ = True
        wanted = resolve(self.project, revision, "downgrade()")
        return self._ready().downgrade(wanted)

    def current(self) -> tuple[str, ...]:
        """The revisions that the database is at; none at base."""
        return self._ready().current()

    def drop(self) -> None:
        """End the interpreter, and drop the database as any clone."""
        if self._session is not None:
            self._session.close()
        Clone.drop(self)

    def _ready(self) -> MigrationProcess:
        for engine in self._engines:
            engine.dispose()  # an idle transaction of a pool would block the DDL
        if self._session is None or self._blockers is None:
            migrator = AlembicMigrator(self.server.config, self.project)
            self._blockers = Blockers(self.server, self.name)
            self._session = migrator.session(self.server.url(self.name), waiting=self._blockers)
        self._blockers.forget()
        return self._session


def at(config: Config, revision: str, *, run: str | None = None, progress: Progress | None = None) -> Template:
    """The template of a project at one revision, without seeds, built if it is not there: the second use is a clone.

    `revision` is what Alembic takes: a name, the beginning of one, "head", "heads", a branch; "base" is a database
    without any. Give its clones to `revision_clone`. Raises as `open_template` does, and ConfigError for a revision
    that is not there.
    """
    return open_template(config_at(config, revision), run=run, progress=progress)


def config_at(config: Config, revision: str) -> Config:
    """The configuration of that template; the same one for each way to name the revision."""
    __tracebackhide__ = True
    config = resolved(config)
    wanted = resolve(find_project(config), revision, f"clonedb_at({revision!r})")
    return config.of_revision(wanted, f"clonedb_at({revision!r})")


def revision_clone(clone: Clone, project: Project) -> RevisionClone:
    """A clone that can be taken up and down."""
    values: Mapping[str, Any] = {each.name: getattr(clone, each.name) for each in dataclasses.fields(clone)}
    return RevisionClone(**values, project=project)


def resolve(project: Project, revision: str, source: str) -> str:
    """The whole name of a revision, read from the files without running them.

    A name that nothing starts with is an error with the nearest one, before a database is made. What only Alembic can
    know is left to it: relative revisions, branches, and names that a file works out when it is run.
    """
    __tracebackhide__ = True
    if revision in _WORDS or _SIGNS.intersection(revision):
        return revision
    files = [path for path in project.revision_files() if path.suffix == ".py" and path.is_file()]
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
        raise ConfigError(f"{source}: several revisions begin with {revision!r}: {listed}; write one of them out")
    labels = "\n".join(match[1] for text in texts if (match := _LABELS.search(text)))
    if None in matches or re.search(rf"""['"]{re.escape(revision)}['"]""", labels):
        return revision
    places = ", ".join(repr(str(place)) for place in project.version_locations)
    raise ConfigError(
        f"{source}: there is no revision {revision!r}{nearest(revision, dict.fromkeys(known))} among the {len(known)}"
        f" in {places}; `alembic history` lists them"
    )
