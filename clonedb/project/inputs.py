"""The files that a template is made of: found, read through the stat index, named the same on every machine."""

# ruff: noqa: PTH100, PTH111, PTH117, PTH118, PTH119, PTH120, PTH207 - paths are text here: making a Path costs more than its use

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from clonedb.errors import ConfigError
from clonedb.project.closure import Module, Modules
from clonedb.project.contents import ICU, Contents
from clonedb.project.dump_archives import files_of, is_archive
from clonedb.project.stat_index import StatIndex
from clonedb.settings.config import Config

__all__ = ["Input", "Reading", "Sources", "digest_of", "is_left_beside"]

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


_SQL = ("schema", "migrate", "seed")  # the kinds of inputs that may be SQL scripts


class Input(NamedTuple):
    """One thing that a template is made of.

    `kind` is import, seed or watch for files, and otherwise extension, role, base, server,
    format, locale, env, salt or session; and what a recipe has of its own (Alembic: revision, env,
    script; option, x, target, prepare, version). `name` is a file's path from the project's
    directory, or, outside of it, its module's name. `digest` is SHA-256 in hexadecimal.
    """

    kind: str
    name: str
    digest: str


class Sources(NamedTuple):
    """The inputs of a recipe, and every extension that its files or the configuration name.

    `watched` are those imported modules that `watch` names, too: more than the recipe's steps
    depends on them. `stamps` has what changes when a file is written, by path: a file that is
    changed and changed back has the same digest.
    """

    inputs: tuple[Input, ...]
    extensions: frozenset[str]
    watched: frozenset[str] = frozenset()
    stamps: Mapping[str, tuple[int, ...]] = MappingProxyType({})


def digest_of(text: str) -> str:
    """The digest of a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


class Reading:
    """One reading of a project's files: a recipe takes those of its own, then `finish` those that any recipe has.

    Only files that stat says changed since last time are read. A file is taken once: for what
    it was taken for first.
    """

    def __init__(
        self,
        config: Config,
        *,
        rootdir: Path,
        import_roots: Iterable[Path],
        index_dir: Path | None,
        key: str,
    ) -> None:
        """`key` names the project in the stat index, which is in `index_dir`; without one nothing is remembered."""
        self.index: StatIndex = StatIndex(index_dir, key)
        self._config = config
        self._modules = Modules(import_roots, self.index, rootdir=rootdir)
        self._rootdir = os.path.abspath(rootdir)
        # what `_relative` found out, by directory
        self._prefixes: dict[str, str | None] = {}
        # names of modules to follow; then by path in the project, or else by path: what was
        # taken, and under which name
        self._imported: set[str] = set()
        self._taken: set[str] = set()
        self._names: dict[str, str] = {}
        self._watched: set[str] = set()
        self._inputs: list[Input] = []
        self._extensions: set[str] = set(config.extensions)
        if config.locale and config.locale.startswith("icu:"):
            self._extensions.add(ICU)

    def text(self, kind: str, name: str, text: str) -> None:
        """Take what is no file: a setting, a version."""
        self._inputs.append(Input(kind, name, digest_of(text)))

    def file(self, kind: str, path: str, outside: str) -> Contents | None:
        """Take a file, unless it is gone or was taken before; `outside` is its name if it is not in the project.

        What it imports is taken only after `follow`.
        """
        relative = self._relative(path)
        # by the path in the project, as two paths may lead to one file
        if (relative or path) in self._taken:
            return None
        contents = self.index.contents(path)
        if contents is not None:
            self._taken.add(relative or path)
            self._names[relative or path] = relative or outside
            self._note(kind, relative or outside, contents)
            if kind in _SQL:
                self._take_included(kind, path, contents)
        return contents

    def _take_included(self, kind: str, script: str, contents: Contents) -> None:
        """Take the files that an SQL script reads: from the project's directory, or from beside it."""
        if not script.lower().endswith(".sql"):
            # pg_dump's formats include nothing
            return
        for name in contents.imports:
            # psql looks for `\i` from its current directory, for `\ir` from the script's
            for directory in (self._rootdir, os.path.dirname(script)):
                path = os.path.abspath(os.path.join(directory, name))
                self.file(kind, path, os.path.basename(path))

    def archive(self, kind: str, path: str) -> None:
        """Take a dump in one of pg_dump's own formats, which may be a directory."""
        for file in files_of(path):
            self.file(kind, file, os.path.basename(file))

    def follow(self, modules: Iterable[str]) -> None:
        """Take the project's own modules among these dotted names, and what they import, transitively."""
        self._imported.update(modules)

    def finish(self) -> Sources:
        """Take seeds, what is imported, and watched files, and remember what was read.

        Raises ConfigError for a seed that is not there, a watch glob without a match and a file
        that may not be read.
        """
        self._seeds()
        for path, module in self._modules.closure(self._imported).items():
            self.file("import", path, module.name)
        # last: a file that was taken as something else stays that
        self._watch()
        self.index.save()
        return Sources(
            tuple(self._inputs),
            frozenset(self._extensions),
            frozenset(self._watched),
            self.index.stamps,
        )

    def _seeds(self) -> None:
        """The SQL files and modules that fill the template, and their order."""
        seeds = self._config.seed
        for seed in seeds:
            module, colon, _ = seed.partition(":")
            if colon and not seed.endswith(".sql"):
                self.module("seed", seed, module)
            else:
                self._seed_file(seed)
        if len(seeds) > 1:
            # the digests of seeds do not say which comes first
            self.text("seed", "(order)", "\n".join(seeds))

    def _watch(self) -> None:
        """The files that the globs under `watch` match."""
        for pattern in self._config.watch:
            matches = glob.glob(
                os.path.expanduser(pattern), root_dir=self._rootdir, recursive=True
            )
            # a pattern matches by chance what an editor leaves, a name means it
            if glob.has_magic(pattern):
                matches = [
                    match for match in matches if not any(map(is_left_beside, match.split("/")))
                ]

            if not sum(self._take_watched(match) for match in sorted(matches)):
                raise ConfigError(
                    f"{self._config.source('watch')}: watch names {pattern!r}, which matches no file in"
                    f" {self._rootdir!r}; write 'directory/**' for all files below a directory"
                )

    def _take_watched(self, match: str) -> bool:
        path = os.path.abspath(os.path.join(self._rootdir, match))
        outside = os.path.basename(path) if os.path.isabs(match) else os.path.normpath(match)
        name = self._relative(path) or path
        # `_names` has the name that an imported module was given
        self._watched.add(_text(self._names.get(name, name)))
        # `file` gives None for what was taken before, which is a match, too
        return self.file("watch", path, outside) is not None or name in self._taken

    def _seed_file(self, seed: str) -> None:
        path = os.path.abspath(self._config.path(seed))
        contents = self.index.contents(path)
        if contents is None and is_archive(path):
            self.archive("seed", path)
            return
        if contents is None:
            raise ConfigError(
                f"{self._config.source('seed')}: seed {seed!r} is neither a file ({path!r}) nor package.module:function"
            )
        relative = self._relative(path)
        self._taken.add(relative or path)
        self._note("seed", relative or os.path.basename(path), contents)
        self._take_included("seed", path, contents)

    def module(self, kind: str, named: str, name: str) -> None:
        """Take a module that a setting of the name `kind` names (`module:function`), and what it imports.

        A seed is called what the setting says, and any other input by its file. Raises
        ConfigError for a module that is neither the project's nor installed.
        """
        module = self._modules.find(name)
        contents = self.index.contents(module.path) if module and module.path else None
        if module and module.path and contents:
            file = self._relative(module.path) or module.path
            self._taken.add(file)
            self._note(kind, named if kind == "seed" else file, contents)
            self.follow([name])
            if kind != "seed":
                # `metadata` may name a package that imports its modules as it finds them
                self._take_package(kind, module)
        elif self._modules.is_installed(name):
            self.text(kind, named, named)
        else:
            roots = ", ".join(repr(root) for root in self._modules.roots)
            raise ConfigError(
                f"{self._config.source(kind)}: {kind} {named!r} names a module that was not found; looked in {roots}"
            )

    def _take_package(self, kind: str, module: Module) -> None:
        """Take every module below a package, which may import those that it finds in its directory."""
        for directory in module.directories:
            for below, _, names in os.walk(directory):
                for name in sorted(names):
                    if not name.endswith(".py"):
                        continue
                    relative = os.path.relpath(os.path.join(below, name), directory)
                    dotted = (
                        f"{module.name}.{relative.removesuffix('.py').replace(os.sep, '.')}"
                    )
                    self.file(kind, os.path.join(below, name), dotted)
                    self.follow([dotted.removesuffix(".__init__")])

    def _note(self, kind: str, name: str, contents: Contents) -> None:
        if contents.extensions:
            self._extensions.update(contents.extensions)
        self._inputs.append(
            Input(kind, name if name.isascii() else _text(name), contents.digest)
        )

    def _relative(self, path: str) -> str | None:
        """A file's path from the project's directory, which one of the two may name through a link; None outside."""
        directory, _, name = path.rpartition("/")
        # once for each directory: realpath() asks the system for each of its parts
        if directory not in self._prefixes:
            pairs = (
                (directory, self._rootdir),
                (os.path.realpath(directory), os.path.realpath(self._rootdir)),
            )
            ended = (
                (os.path.join(place, ""), os.path.join(rootdir, "")) for place, rootdir in pairs
            )
            prefixes = (
                place[len(rootdir) :] for place, rootdir in ended if place.startswith(rootdir)
            )
            self._prefixes[directory] = next(prefixes, None)

        prefix = self._prefixes[directory]
        return None if prefix is None else prefix + name


def is_left_beside(name: str) -> bool:
    """Whether Python, an editor or a merge left a file of this name beside others."""
    return name.endswith(_LEFT_BESIDE)


def _text(name: str) -> str:
    """A file's name as text that can be stored and printed, also if its bytes are no ASCII."""
    return name if name.isascii() else os.fsencode(name).decode(errors="backslashreplace")
