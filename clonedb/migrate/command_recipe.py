"""`CommandRecipe`: a schema that a command of the project's makes, such as `python manage.py migrate`."""

# ruff: noqa: PTH111, PTH112, PTH113, PTH118, PTH119, PTH206, PTH208 - paths are text here: making a Path costs more than its use

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from clonedb.migrate.plain_recipe import PlainRecipe
from clonedb.project.find import import_roots_of
from clonedb.project.inputs import is_left_beside
from clonedb.project.recipe import Words
from clonedb.url import redact

if TYPE_CHECKING:
    from clonedb.migrate.process import MigrationProcess
    from clonedb.migrate.results import Migrated
    from clonedb.progress import Progress
    from clonedb.project.inputs import Reading
    from clonedb.url import DatabaseURL

__all__ = ["CommandRecipe"]

_GRACE = 5.0  # seconds that the interpreter has to end the command
# Django's, dbmate's and Prisma's; Rails'; Flyway's
_MIGRATIONS = frozenset({"migrations", "migrate", "migration"})
_INSTALLED = ("site-packages", "dist-packages")
_PACKAGES = (".dist-info", ".egg-info")
_LEFT_OUT = frozenset({"node_modules", "__pycache__", *_INSTALLED})
_MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")


@dataclass(frozen=True, slots=True)
class CommandRecipe(PlainRecipe):
    """The command that the setting `migrate` names, run in the project's directory.

    The fingerprint covers its words, the files and directories of the project that they name,
    the modules that they name, all directories called `migrations`, what Python files among
    these import, and the packages that are installed. What else the command reads stands under
    `watch`, which a build says.
    """

    KIND: ClassVar[str] = "migrate"

    @property
    def words(self) -> Words:
        """A command is run."""
        return Words(maker=repr(redact(shlex.join(self.config.migrate))), step="command")

    @property
    def steps(self) -> tuple[str, ...]:
        """The command."""
        return (shlex.join(self.config.migrate),)

    def take(self, reading: Reading) -> None:
        """Files and modules that can be known without running it, and what is installed."""
        rootdir = str(self.rootdir)
        roots = [os.path.join(root, "") for root in import_roots_of(self.rootdir)]
        for path in (*self._named(), *_below(rootdir, only_migrations=True)):
            contents = reading.file(self.KIND, path, os.path.basename(path))
            if contents is not None and path.endswith(".py"):
                reading.follow(_module(path, root) for root in roots if path.startswith(root))
                reading.follow(name for name in contents.imports if not name.startswith("."))

        reading.follow(
            part for word in self._parts() if _MODULE.fullmatch(part := word.rstrip("()"))
        )
        reading.text("version", "packages", "\n".join(_installed()))

    def _parts(self) -> Iterator[str]:
        """The words, and what stands in them behind and before `=` and `:` (`--app=shop:create_app`)."""
        for word in self.config.migrate:
            yield from dict.fromkeys([word, *re.split("[=:]", word)])

    def _named(self) -> Iterator[str]:
        """The files that words name, and those below directories; programs that are installed are none of them."""
        rootdir = str(self.rootdir)
        program = self.config.migrate[0]
        for part in self._parts():
            path = os.path.normpath(os.path.join(rootdir, os.path.expanduser(part)))
            within = path.startswith(os.path.join(rootdir, ""))
            if _MODULE.fullmatch(part) and os.path.isfile(os.path.join(path, "__init__.py")):
                continue  # a module, of which counts what it imports
            if os.path.isdir(path) and within:
                yield from _below(path)
            elif (
                os.path.isfile(path)
                and (within or part != program)
                and not _is_installed(path, rootdir)
            ):
                yield path

    def environment(self, url: DatabaseURL) -> dict[str, str]:
        """As any program is to find it."""
        from clonedb.migrate.environment import environment_as_it_is

        return environment_as_it_is(self.config, url)

    def setup(self, url: DatabaseURL) -> dict[str, Any]:
        """With the time in which the command is ended."""
        return {**PlainRecipe.setup(self, url), "grace": _GRACE}

    def fill(
        self, process: MigrationProcess, steps: Sequence[str], progress: Progress
    ) -> Migrated:
        """Run the command, and the seeds."""
        from clonedb.migrate.environment import variables_of

        words = self.config.migrate if steps else ()
        names = variables_of(self.config)
        return process.command(words, self.config.seed, names=names, progress=progress)


def _below(directory: str, *, only_migrations: bool = False) -> Iterator[str]:
    """The files below a directory, in order; only those below directories of migrations, if that is asked for."""
    for place, below, names in os.walk(directory):
        if "pyvenv.cfg" in names:  # an environment
            below.clear()
            continue

        below[:] = sorted(
            name for name in below if not name.startswith(".") and name not in _LEFT_OUT
        )
        parts = place[len(directory) :].split(os.sep)
        if only_migrations and _MIGRATIONS.isdisjoint(parts):
            continue
        for name in sorted(names):
            path = os.path.join(place, name)
            if not is_left_beside(name) and os.path.isfile(path):
                yield path


def _is_installed(path: str, rootdir: str) -> bool:
    """Whether a file is of the environment that Python runs in, as its programs are."""
    prefix = os.path.join(sys.prefix, "")
    # unless the project itself is below it, as with an interpreter of the whole system
    return path.startswith(prefix) and not os.path.join(rootdir, "").startswith(prefix)


def _module(path: str, root: str) -> str:
    """The dotted name that a file has below an import root."""
    name = path[len(root) :].removesuffix(".py").replace(os.sep, ".")
    return name.removesuffix(".__init__")


def _installed() -> list[str]:
    """Every installed package with its version: a command may migrate what any of them brings.

    The project's own directories are left out, which are in sys.path of one process and not of
    another.
    """
    found = set[str]()
    for place in sys.path:
        if os.path.basename(place) in _INSTALLED and os.path.isdir(place):
            # their names hold the version: django-5.1.dist-info
            found.update(name for name in os.listdir(place) if name.endswith(_PACKAGES))
    return sorted(found)
