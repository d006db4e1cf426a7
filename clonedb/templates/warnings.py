"""What a build says of a project: files that nobody watches, revisions that lie elsewhere, extensions that lack."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from clonedb.migrate.alembic import Migrated
from clonedb.postgres.server import Server
from clonedb.progress import Progress
from clonedb.project.find import Project
from clonedb.project.fingerprint import Fingerprint
from clonedb.project.real_paths import RealPaths

__all__ = ["doubled_revisions", "remark", "remedy"]

_TOOLS = ("pyproject.toml", "setup.cfg", "tox.ini")  # libraries look there for settings of their own


def remark(project: Project, wanted: Fingerprint, migrated: Migrated, progress: Progress, *, complete: bool) -> None:
    """Warn of what the migrations read or ran that is not in the fingerprint; `complete` if they began with nothing."""
    _unseen_files(project, wanted, migrated, progress)
    _other_revisions(project, migrated, progress, complete=complete)
    for message in doubled_revisions(project, migrated.doubled):
        progress.warn(message)


def _unseen_files(project: Project, wanted: Fingerprint, migrated: Migrated, progress: Progress) -> None:
    known = {name for _, name, _ in wanted.abbreviated()}
    root = project.rootdir
    unseen = []
    for path in migrated.read:
        name = path.relative_to(root).as_posix()
        hidden = any(part.startswith(".") or part == "site-packages" for part in path.relative_to(root).parts)
        if name not in known and not hidden and name not in _TOOLS and path != project.ini:
            unseen.append(name)
    if unseen:
        listed = ", ".join(json.dumps(name) for name in unseen[:5])
        progress.warn(
            f"the build read files that are not in the fingerprint: {listed}; a change in them would go unseen: "
            f"add watch = [{listed}] to [tool.clonedb]"
        )


def _other_revisions(project: Project, migrated: Migrated, progress: Progress, *, complete: bool) -> None:
    """An env.py may set `context.script.version_locations`: the fingerprint, which does not run it, cannot know.

    None at all is what Alembic says nothing of, and what a mistyped or wrongly separated location comes to.
    """
    real = RealPaths()
    known = {real.of(path) for path in project.revision_files()}
    if complete and not known and not migrated.scripts:
        listed = ", ".join(repr(str(location)) for location in project.version_locations)
        progress.warn(
            f"there is no revision in {listed}, so the template is an empty database; if there should be some,"
            " check script_location, version_locations and path_separator"
        )
    others = sorted({str(path.parent) for path in migrated.scripts if real.of(path) not in known})
    if others:
        progress.warn(
            f"env.py migrated with revisions in {others[0]!r}, which is not a version location of the project; a"
            " change in them would go unseen: name it in version_locations under [tool.clonedb.alembic]"
        )


def doubled_revisions(project: Project, doubled: Sequence[tuple[str, Sequence[Path]]]) -> list[str]:
    """What to say of ids that several revision files have: one of them silently never runs."""
    found = []
    for name, paths in doubled:
        files = [repr(os.path.relpath(path, project.rootdir)) for path in paths]
        found.append(
            f"revision {name!r} is in {len(files)} files, {' and '.join(files)}, of which Alembic runs the last only;"
            " give each an id of its own"
        )
    return found


def remedy(server: Server) -> str:
    """What to do when the migrations want an extension that the server lacks."""
    from clonedb.embedded import binaries

    if not server.embedded:
        return f"{server.about} does not have it; install it there, or use another url"
    found, _ = binaries.find(server.config)
    listed = "; ".join(f"{b.source} {b.version} in {b.directory}" for b in found)
    return (
        f"the {server.about} does not have it; name it in [tool.clonedb] extensions so that a PostgreSQL that"
        f" has it is chosen (found: {listed}), install it, or set url to a server that has it"
    )
