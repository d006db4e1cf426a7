"""What a template is made of, as one digest and the list of its inputs; static, and without a database.

The project's own modules that revisions and seeds import count, transitively, because a data migration runs them. What
only env.py imports does not: those are the models that `--autogenerate` compares with, and a template follows the
revisions. A project whose env.py migrates by such a module (`metadata.create_all`) names it under `watch`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from clonedb.postgres import libpq_variables
from clonedb.project.find import Project
from clonedb.project.inputs import Input, Sources, digest_of, read_sources
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL

__all__ = [
    "FORMAT",
    "OF_REVISIONS",
    "Difference",
    "Fingerprint",
    "Input",
    "ServerFacts",
    "Sources",
    "StaleError",
    "differences",
    "fingerprint",
    "read_sources",
    "surroundings",
]

# Counted up whenever clonedb prepares or seals templates in another way, so that old ones are not taken for new.
FORMAT = 3

_ABBREVIATED = 12
OF_REVISIONS = frozenset({"revision", "import", "target", "seed"})
"""The kinds of inputs that need not be the same in a template and in one that is built upon it."""

_LOCATIONS = frozenset(
    {"script_location", "version_locations", "prepend_sys_path", "path_separator", "version_path_separator"}
)
_NEW_REVISIONS = frozenset(
    {"file_template", "truncate_slug_length", "timezone", "output_encoding", "revision_environment", "post_write_hooks"}
)
_OF_SESSIONS = ("options", "client_encoding")
_CONNECTION = frozenset({"url", "uri", "dsn", "passwd", "password"})  # the last word of an option's name
_DATABASE_URL = r"(?i)\s*postgres(?:ql)?(?:\+\w+)?://"


class StaleError(Exception):
    """The files are no longer those of a fingerprint: they were edited before, or while, they were migrated."""


class ServerFacts(NamedTuple):
    """What a template depends on of the server it is built on.

    `role` is the one that builds it, to whom what the migrations make belongs; empty for a superuser, whom PostgreSQL
    asks for no privileges on what others own.
    """

    major: int
    encoding: str
    locale: str
    role: str


class Fingerprint(NamedTuple):
    """The digest of everything a template is made of (SHA-256, 64 hexadecimal digits), and the inputs, ordered."""

    digest: str
    inputs: tuple[Input, ...]

    @property
    def short(self) -> str:
        """The digest's beginning, as it stands in a template's name."""
        return self.digest[:_ABBREVIATED]

    def abbreviated(self) -> list[list[str]]:
        """Kind, name and the digest's beginning of each input: what a template's comment keeps for `differences`."""
        return [[item.kind, item.name, item.digest[:_ABBREVIATED]] for item in self.inputs]


class Difference(NamedTuple):
    """How one input differs between two fingerprints."""

    change: Literal["added", "removed", "changed"]
    kind: str
    name: str


def fingerprint(
    config: Config,
    project: Project,
    server: ServerFacts,
    *,
    index_dir: Path | None,
    sources: Sources | None = None,
    base: str | None = None,
) -> Fingerprint:
    """The fingerprint of the template that this configuration, project and server give.

    The same contents give the same digest wherever the checkout is, in whatever order directories are listed, and
    whatever their times. `index_dir` is where digests of unchanged files are remembered: 300 revisions then take 3 ms.
    `sources` are the files as `read_sources` saw them, for a caller who has looked already; `base` is the digest of the
    template that this one is built upon.

    Raises ConfigError for a seed that is not there, a watch glob without a match and a file that may not be read.
    """
    sources = sources or read_sources(config, project, index_dir=index_dir)
    inputs = [*sources.inputs, *_settings(config, project), *_versions(server)]
    if base is not None:
        inputs.append(Input("base", config.base or "base", base))
    inputs.sort(key=lambda item: (item.kind, item.name, item.digest))
    listed = json.dumps([(item.kind, item.name, item.digest) for item in inputs])
    return Fingerprint(digest_of(listed), tuple(inputs))


def surroundings(found: Fingerprint, sources: Sources) -> str:
    """The digest of all that migrating depends on apart from the revisions, what they import, and how far it goes.

    env.py, other files of the script location, options, -x, extensions, roles, watched files, server and versions:
    where one of these is another, nothing that was migrated before is worth anything. Seeds come later.
    """
    kept = [
        (item.kind, item.name, item.digest)
        for item in found.inputs
        if item.kind not in OF_REVISIONS or (item.kind == "import" and item.name in sources.watched)
    ]
    return digest_of(json.dumps(kept))


def differences(old: Sequence[Sequence[str]], new: Fingerprint) -> list[Difference]:
    """What differs between the inputs of a template (kind, name, digest) and those of a fingerprint, ordered.

    Digests may be abbreviated: they are the same when one begins with the other.
    """
    before = _by_name(old)
    after = _by_name([(item.kind, item.name, item.digest) for item in new.inputs])
    found = []
    for kind, name in sorted(before.keys() | after.keys()):
        was, now = before.get((kind, name), []), after.get((kind, name), [])
        if not was or not now:
            found.append(Difference("added" if now else "removed", kind, name))
        elif len(was) != len(now) or not all(_is_same(*pair) for pair in zip(was, now, strict=True)):
            found.append(Difference("changed", kind, name))
    return found


def _by_name(inputs: Sequence[Sequence[str]]) -> dict[tuple[str, str], list[str]]:
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for kind, name, digest in sorted(map(tuple, inputs)):
        grouped[kind, name].append(digest)
    return grouped


def _is_same(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _settings(config: Config, project: Project) -> Iterator[Input]:
    """What the configuration contributes, beyond the files it names."""
    yield Input("target", "target", digest_of(config.target))
    if config.prepare:
        yield Input("prepare", "prepare", digest_of(config.prepare))
    for name in sorted(set(config.extensions)):
        yield Input("extension", name, digest_of(name))
    for name in sorted(set(config.roles)):
        yield Input("role", name, digest_of(name))
    if config.locale:
        yield Input("locale", "locale", digest_of(config.locale))
    if config.salt:
        yield Input("salt", "salt", digest_of(config.salt))
    yield from _x_arguments(config)
    yield from _options(project)
    yield from _of_sessions(config)


def _of_sessions(config: Config) -> Iterator[Input]:
    """What the URL of a server and libpq's variables make of the sessions that migrate there.

    On the embedded server those variables are not set.
    """
    if config.url is None:
        return
    found = {name: os.environ[name] for name in libpq_variables.SHAPING if name in os.environ}
    if "PGSERVICE" in os.environ and "PGOPTIONS" not in found:
        found["PGOPTIONS"] = libpq_variables.defaults().get("options", "")
    found |= {name: value for name, value in DatabaseURL.parse(config.url).query if name in _OF_SESSIONS}
    for name, value in found.items():
        if value:
            yield Input("session", name, digest_of(value))


def _x_arguments(config: Config) -> Iterator[Input]:
    """What env.py is told by -x; of several with one name the order counts, as the last may win or all may."""
    values: dict[str, list[str]] = defaultdict(list)
    for argument in config.x:
        name, _, value = argument.partition("=")
        if not _is_database_url(value or name):
            values[name].append(argument)
    for name, arguments in values.items():
        yield Input("x", name, digest_of(json.dumps(arguments)))


def _options(project: Project) -> Iterator[Input]:
    """Alembic's main options that may change the migrated database: all that are not known to leave it alone.

    A project's own options count, because env.py reads them. Left out are where things are (their contents are inputs,
    and paths differ between machines), how new revisions are written, and how the database is reached, which clonedb
    decides. Directories of this machine in a value are replaced before it is digested.
    """
    if project.recursive:
        yield Input("option", "recursive_version_locations", digest_of("true"))
    for name, value in project.options.items():
        if name == "recursive_version_locations" or name in _LOCATIONS or name in _NEW_REVISIONS:
            continue
        if _is_connection(name) or _is_database_url(value):
            continue
        yield Input("option", name, digest_of(_portable(value, project)))


def _is_connection(name: str) -> bool:
    name = name.lower()
    last = name.replace("_", ".").replace("-", ".").rpartition(".")[2]
    return last in _CONNECTION or name.startswith(("sqlalchemy.echo", "sqlalchemy.pool"))


def _is_database_url(text: str) -> bool:
    return "://" in text and re.match(_DATABASE_URL, text) is not None


def _portable(value: str, project: Project) -> str:
    places = {"{rootdir}": project.rootdir, "{ini}": project.ini and project.ini.parent}
    for text, place in places.items():
        if place is not None and len(place.parts) > 1:
            value = value.replace(str(place), text)
    return value


def _versions(server: ServerFacts) -> Iterator[Input]:
    yield Input("format", "format", digest_of(str(FORMAT)))
    yield Input("server", "major", digest_of(str(server.major)))
    yield Input("server", "encoding", digest_of(server.encoding))
    yield Input("server", "locale", digest_of(server.locale))
    yield Input("server", "role", digest_of(server.role))
    for name in ("alembic", "sqlalchemy"):
        yield Input("version", name, digest_of(_minor_version(name)))


def _minor_version(name: str) -> str:
    """Major and minor version of an installed distribution, read from the name of its *.dist-info directory.

    importlib.metadata, which would say the same, costs 15 ms to import.
    """
    begin, end = f"{name}-", ".dist-info"
    for directory in sys.path:
        # listing one directory costs more than looking for the package in each
        if not os.path.isdir(os.path.join(directory, name)):  # noqa: PTH112, PTH118 - a Path costs more than the call
            continue
        entries = map(str.lower, os.listdir(directory or "."))  # noqa: PTH208 - so it does here
        found = [entry for entry in entries if entry.startswith(begin) and entry.endswith(end)]
        versions = sorted(entry[len(begin) : -len(end)] for entry in found if entry.count("-") == 2)
        if versions:
            return ".".join(versions[-1].split(".")[:2])
    from importlib import metadata

    return ".".join(metadata.version(name).split(".")[:2])
