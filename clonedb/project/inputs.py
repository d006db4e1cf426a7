"""The files that a template is made of: found, read through the stat index, named the same on every machine."""

# ruff: noqa: PTH100, PTH111, PTH117, PTH118, PTH119, PTH207 - paths are text here: making a Path costs more than its use

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from clonedb.errors import ConfigError
from clonedb.project.closure import Modules
from clonedb.project.contents import ICU, Contents
from clonedb.project.find import Project, is_revision
from clonedb.project.stat_index import StatIndex
from clonedb.settings.config import Config

__all__ = ["Input", "Sources", "digest_of", "read_sources"]

# what Python, editors and merges leave beside files
_LEFT_BESIDE = (
    "__pycache__",
    ".pyc",
    ".pyo",
    "~",
    "#",
    ".bak",
    ".orig",
    ".rej",
    ".swp",
    ".swo",
    ".tmp",
    "___jb_tmp___",
)


class Input(NamedTuple):
    """One thing that a template is made of.

    `kind` is revision, env, script, import, seed or watch for files, and otherwise option, x, target, extension, role,
    base, version, server, format, prepare, locale or salt. `name` is a file's path from the project's directory, or,
    outside of it, its module's name. `digest` is SHA-256 in hexadecimal.
    """

    kind: str
    name: str
    digest: str


class Sources(NamedTuple):
    """What the files say: the inputs they are, and every extension that they or the configuration name.

    `watched` are those imported modules that `watch` names, too: more than the revisions depends on them. `stamps` has
    what changes when a file is written, by path: a file that is changed and changed back has the same digest.
    """

    inputs: tuple[Input, ...]
    extensions: frozenset[str]
    watched: frozenset[str] = frozenset()
    stamps: Mapping[str, tuple[int, ...]] = MappingProxyType({})


def digest_of(text: str) -> str:
    """The digest of a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def read_sources(config: Config, project: Project, *, index_dir: Path | None) -> Sources:
    """Look at every file the template depends on; only those that stat says changed since last time are read.

    Raises ConfigError for a seed that is not there, a watch glob without a match and a file that may not be read.
    """
    index = StatIndex(index_dir, f"{project.rootdir}\0{project.script_location}")
    reading = _Reading(config, project, index)
    reading.scripts()
    reading.seeds()
    reading.imports()
    reading.watched()
    index.save()
    return Sources(tuple(reading.inputs), frozenset(reading.extensions), frozenset(reading.watched_names), index.stamps)


class _Reading:
    """One reading of a project's files, step by step: a file that one step found is left out of later ones."""

    def __init__(self, config: Config, project: Project, index: StatIndex) -> None:
        self._config = config
        self._project = project
        self._index = index
        self._modules = Modules(project.import_roots, index, rootdir=project.rootdir)
        self._rootdir = os.path.abspath(project.rootdir)
        self._prefixes: dict[str, str | None] = {}
        self._imported: set[str] = set()
        self._taken: set[str] = set()
        self._names: dict[str, str] = {}
        self.inputs: list[Input] = []
        self.extensions: set[str] = set(config.extensions)
        if config.locale and config.locale.startswith("icu:"):
            self.extensions.add(ICU)
        self.watched_names: set[str] = set()

    def scripts(self) -> None:
        """Every file under the version locations and the script location."""
        project = self._project
        versions = {str(location) for location in project.version_locations}
        visited: set[str] = set()
        for location in (*project.version_locations, project.script_location):
            # a location that holds the whole project is not a directory of migrations only
            deep = not project.rootdir.is_relative_to(location)
            self._walk(str(location), f"{location.name}/", versions, visited, deep=deep)

    def seeds(self) -> None:
        """The SQL files and modules that fill the template, and their order."""
        seeds = self._config.seed
        for seed in seeds:
            module, colon, _ = seed.partition(":")
            if colon and not seed.endswith(".sql"):
                self._seed_module(seed, module)
            else:
                self._seed_file(seed)
        if len(seeds) > 1:
            self.inputs.append(Input("seed", "(order)", digest_of("\n".join(seeds))))

    def imports(self) -> None:
        """The project's own modules that revisions and seeds import, transitively."""
        for path, module in self._modules.closure(self._imported).items():
            self._add("import", path, module.name)

    def watched(self) -> None:
        """The files that the globs under `watch` match."""
        for pattern in self._config.watch:
            matches = glob.glob(os.path.expanduser(pattern), root_dir=self._rootdir, recursive=True)
            if glob.has_magic(pattern):
                matches = [match for match in matches if not any(map(_is_left_beside, match.split("/")))]
            if not sum(self._watch(match) for match in sorted(matches)):
                raise ConfigError(
                    f"{self._config.source('watch')}: watch names {pattern!r}, which matches no file in"
                    f" {str(self._project.rootdir)!r}; write 'directory/**' for all files below a directory"
                )

    def _watch(self, match: str) -> bool:
        path = os.path.abspath(os.path.join(self._rootdir, match))
        outside = os.path.basename(path) if os.path.isabs(match) else os.path.normpath(match)
        name = self._relative(path) or path
        self.watched_names.add(_text(self._names.get(name, name)))
        return self._add("watch", path, outside) is not None or name in self._taken

    def _walk(self, directory: str, outside: str, versions: set[str], visited: set[str], *, deep: bool) -> None:
        """Take the files of a directory, and with `deep` of those below; `outside` names it beyond the rootdir."""
        if directory in visited:
            return
        visited.add(directory)
        project = self._project
        is_version = directory in versions
        env_py = str(project.env_py)
        for name, entry in self._index.listing(directory).items():
            path = f"{directory}/{name}"
            if entry.is_dir():
                enters_all = is_version and project.recursive and name != "__pycache__"
                if entry.is_symlink() or not (enters_all or (deep and not _is_ignored(name))):
                    continue
                if enters_all:
                    versions.add(path)
                self._walk(path, f"{outside}{name}/", versions, visited, deep=deep)
            elif is_version and is_revision(name):
                contents = self._add("revision", path, outside + name)
                if contents:
                    self._imported.update(contents.imports)
            elif not _is_ignored(name):
                self._add("env" if path == env_py else "script", path, outside + name)

    def _seed_file(self, seed: str) -> None:
        path = os.path.abspath(self._config.path(seed))
        contents = self._index.contents(path)
        if contents is None:
            raise ConfigError(
                f"{self._config.source('seed')}: seed {seed!r} is neither a file ({path!r}) nor package.module:function"
            )
        relative = self._relative(path)
        self._taken.add(relative or path)
        self._note("seed", relative or os.path.basename(path), contents)

    def _seed_module(self, seed: str, name: str) -> None:
        module = self._modules.find(name)
        contents = self._index.contents(module.path) if module and module.path else None
        if module and module.path and contents:
            self._taken.add(self._relative(module.path) or module.path)
            self._note("seed", seed, contents)
            self._imported.add(name)
        elif self._modules.is_installed(name):
            self.inputs.append(Input("seed", seed, digest_of(seed)))
        else:
            roots = ", ".join(repr(root) for root in self._modules.roots)
            raise ConfigError(
                f"{self._config.source('seed')}: seed {seed!r} names a module that was not found; looked in {roots}"
            )

    def _add(self, kind: str, path: str, outside: str) -> Contents | None:
        """Take a file as an input, unless it is gone or was taken before; `outside` is its name beyond the rootdir."""
        relative = self._relative(path)
        if (relative or path) in self._taken:
            return None
        contents = self._index.contents(path)
        if contents is not None:
            self._taken.add(relative or path)
            self._names[relative or path] = relative or outside
            self._note(kind, relative or outside, contents)
        return contents

    def _note(self, kind: str, name: str, contents: Contents) -> None:
        if contents.extensions:
            self.extensions.update(contents.extensions)
        self.inputs.append(Input(kind, name if name.isascii() else _text(name), contents.digest))

    def _relative(self, path: str) -> str | None:
        """A file's path from the project's directory, which one of the two may name through a link; None outside."""
        directory, _, name = path.rpartition("/")
        if directory not in self._prefixes:
            pairs = (directory, self._rootdir), (os.path.realpath(directory), os.path.realpath(self._rootdir))
            ended = ((os.path.join(place, ""), os.path.join(rootdir, "")) for place, rootdir in pairs)
            prefixes = (place[len(rootdir) :] for place, rootdir in ended if place.startswith(rootdir))
            self._prefixes[directory] = next(prefixes, None)
        prefix = self._prefixes[directory]
        return None if prefix is None else prefix + name


def _is_ignored(name: str) -> bool:
    """Whether a file or directory under a location takes no part in migrating; hidden ones do not."""
    return name.startswith(".") or name.endswith(_LEFT_BESIDE)


def _is_left_beside(name: str) -> bool:
    return name.endswith(_LEFT_BESIDE)


def _text(name: str) -> str:
    """A file's name as text that can be stored and printed, whatever bytes it has."""
    return name if name.isascii() else os.fsencode(name).decode(errors="backslashreplace")
