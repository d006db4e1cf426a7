"""What a template depends on that Alembic makes: scripts, options, arguments of env.py, target, versions.

The project's own modules that revisions import count, transitively, because a data migration
runs them. What only env.py imports does not: those are the models that `--autogenerate`
compares with, and a template follows the revisions. A project whose env.py migrates by such a
module (`metadata.create_all`) names it under `watch`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

from clonedb.project.find import Project
from clonedb.project.inputs import Reading, Sources, is_left_beside
from clonedb.project.revision_files import compiled_revisions, is_revision
from clonedb.project.versions import minor_version
from clonedb.settings.config import Config

__all__ = ["alembic_sources"]

_LOCATIONS = frozenset(
    {
        "script_location",
        "version_locations",
        "prepend_sys_path",
        "path_separator",
        "version_path_separator",
    }
)
_NEW_REVISIONS = frozenset(
    {
        "file_template",
        "truncate_slug_length",
        "timezone",
        "output_encoding",
        "revision_environment",
        "post_write_hooks",
    }
)
_CONNECTION = frozenset(
    {"url", "uri", "dsn", "passwd", "password"}
)  # the last word of an option's name
# `postgresql+psycopg://`, `postgres://`
_DATABASE_URL = r"(?i)\s*postgres(?:ql)?(?:\+\w+)?://"


def alembic_sources(config: Config, project: Project, *, index_dir: Path | None) -> Sources:
    """Everything that a project's template depends on apart from the server; raises as `Reading.finish`."""
    reading = Reading(
        config,
        rootdir=project.rootdir,
        import_roots=project.import_roots,
        index_dir=index_dir,
        # no path has a NUL byte in it
        key=f"{project.rootdir}\0{project.script_location}",
    )
    for path in filter(None, (project.ini, project.toml)):
        reading.index.contents(
            str(path)
        )  # whether it was written during a build; its options are inputs

    _Scripts(project, reading).take()
    reading.text("target", "target", config.target)
    if config.prepare:
        reading.text("prepare", "prepare", config.prepare)
    _x_arguments(reading, config)
    _options(reading, project)
    for name in ("alembic", "sqlalchemy"):
        reading.text("version", name, minor_version(name))
    return reading.finish()


class _Scripts:
    """The files under the version locations and the script location."""

    def __init__(self, project: Project, reading: Reading) -> None:
        self._project = project
        self._reading = reading
        self._env_py = str(project.env_py)
        self._versions = {str(location) for location in project.version_locations}
        self._visited: set[str] = set()

    def take(self) -> None:
        """Take all of them, the revisions with what they import."""
        project = self._project
        for location in (*project.version_locations, project.script_location):
            # a location that holds the whole project is not a directory of migrations only
            deep = not project.rootdir.is_relative_to(location)
            self._walk(str(location), f"{location.name}/", deep=deep)

    def _walk(self, directory: str, outside: str, *, deep: bool) -> None:
        """Take the files of a directory, and with `deep` of those below; `outside` names it beyond the rootdir."""
        # the version locations come first: below the script location they are met again
        if directory in self._visited:
            return
        self._visited.add(directory)
        is_version = directory in self._versions

        for name, entry in self._reading.index.listing(directory).items():
            path = f"{directory}/{name}"
            if entry.is_dir():
                enters_all = is_version and self._project.recursive and name != "__pycache__"
                # links to directories may lead in circles
                if entry.is_symlink() or not (enters_all or (deep and not _is_ignored(name))):
                    continue
                # in a recursive version location each directory below is one, too
                if enters_all:
                    self._versions.add(path)
                self._walk(path, f"{outside}{name}/", deep=deep)
            elif is_version and is_revision(name):
                contents = self._reading.file("revision", path, outside + name)
                if contents:
                    self._reading.follow(contents.imports)
            elif not _is_ignored(name):
                self._reading.file(
                    "env" if path == self._env_py else "script", path, outside + name
                )

        if is_version and self._project.sourceless:
            self._take_compiled(directory, outside)

    def _take_compiled(self, directory: str, outside: str) -> None:
        names = {
            name
            for name, entry in self._reading.index.listing(directory).items()
            if not entry.is_dir()
        }
        cached = self._reading.index.listing(f"{directory}/__pycache__")
        for name in compiled_revisions(names, cached):
            self._reading.file("revision", f"{directory}/{name}", outside + name)


def _is_ignored(name: str) -> bool:
    """Whether a file or directory under a location takes no part in migrating; hidden ones do not."""
    return name.startswith(".") or is_left_beside(name)


def _x_arguments(reading: Reading, config: Config) -> None:
    """What env.py is told by -x; of several with one name the order counts, as the last may win or all may."""
    values: dict[str, list[str]] = defaultdict(list)
    for argument in config.x:
        name, _, value = argument.partition("=")
        # clonedb decides which database is meant, so that the URL is no input
        if not _is_database_url(value or name):
            values[name].append(argument)
    for name, arguments in values.items():
        reading.text("x", name, json.dumps(arguments))


def _options(reading: Reading, project: Project) -> None:
    """Alembic's main options that may change the migrated database: all that are not known to leave it alone.

    A project's own options count, because env.py reads them. Left out are where things are
    (their contents are inputs, and paths differ between machines), how new revisions are
    written, and how the database is reached, which clonedb decides. Directories of this machine
    in a value are replaced before it is digested.
    """
    if project.recursive:
        reading.text("option", "recursive_version_locations", "true")
    for name, value in project.options.items():
        if (
            name == "recursive_version_locations"
            or name in _LOCATIONS
            or name in _NEW_REVISIONS
        ):
            continue

        if _is_connection(name) or _is_database_url(value):
            continue
        reading.text("option", name, _portable(value, project))


def _is_connection(name: str) -> bool:
    name = name.lower()
    # the last word of `sqlalchemy.url`, `my_db_url` or `db-dsn`
    last = name.replace("_", ".").replace("-", ".").rpartition(".")[2]
    return last in _CONNECTION or name.startswith(("sqlalchemy.echo", "sqlalchemy.pool"))


def _is_database_url(text: str) -> bool:
    return "://" in text and re.match(_DATABASE_URL, text) is not None


def _portable(value: str, project: Project) -> str:
    places = {"{rootdir}": project.rootdir, "{ini}": project.ini and project.ini.parent}
    for text, place in places.items():
        # a project in / would have every slash replaced
        if place is not None and len(place.parts) > 1:
            value = value.replace(str(place), text)
    return value
