"""Which of the project's own modules given files import, transitively, found without importing any of them."""

# ruff: noqa: PTH100, PTH112, PTH113, PTH118, PTH120, PTH206 - paths are text here: making a Path costs more than its use

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import NamedTuple

from clonedb.project.stat_index import StatIndex

__all__ = ["Module", "Modules", "closure"]

# Every process that runs migrations has these loaded already, so that a directory of the same
# name (`alembic init alembic` makes one) is never what `from alembic import op` means.
_LOADED = frozenset({"alembic", "sqlalchemy"})
_INSTALLED = frozenset({"site-packages", "dist-packages"})


class Module(NamedTuple):
    """A module of the project: its file (none for a namespace package) and, of a package, where its modules are."""

    name: str
    path: str | None
    directories: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """The package that relative imports in it start from."""
        return self.name if self.directories else self.name.rpartition(".")[0]


class Modules:
    """Finds the project's own modules by name, as the import system would, by looking at directories.

    Its own are those below an import root, else below another entry of sys.path, else where an
    editable installation says (`find_spec` of the top-level name, which runs no code of the
    package). Never its own are those below a site-packages or dist-packages directory or
    another entry of sys.path that packages were installed into, nor the standard library's:
    their versions change with an environment, not with an edit.
    """

    def __init__(
        self, roots: Iterable[str | Path], index: StatIndex, *, rootdir: str | Path
    ) -> None:
        self._index = index
        self._rootdir = os.path.join(os.path.abspath(rootdir), "")
        self._library = os.path.join(os.path.dirname(os.path.abspath(os.__file__)), "")
        self._installations: tuple[str, ...] = ()
        named = [os.path.abspath(root) for root in roots]
        # also what is on sys.path by other ways, such as PYTHONPATH or a path of pytest's
        own = [
            root
            for root in dict.fromkeys([*named, *map(os.path.abspath, sys.path)])
            if self._is_own(root)
        ]
        # a root that is named is the project's even if packages are in it
        installations = {
            root for root in own if root not in named and self._is_installation(root)
        }
        # empty until here, because `_is_own` asks for it
        self._installations = tuple(os.path.join(root, "") for root in installations)
        self.roots: tuple[str, ...] = tuple(
            root for root in own if root not in installations and os.path.isdir(root)
        )
        self._found: dict[str, Module | None] = {}

    def closure(self, names: Iterable[str]) -> dict[str, Module]:
        """Every module with a file that is loaded by importing the given dotted names, by path.

        A package's `__init__` is loaded with each of its modules. Imports inside functions
        count, those under `if TYPE_CHECKING:` do not. Names that are not the project's, or not
        modules, are passed over.
        """
        # each name is looked at once: modules may import each other in a circle
        loaded: dict[str, Module] = {}
        pending = list(dict.fromkeys(names))
        seen = set(pending)
        while pending:
            for module in self._loaded_by(pending.pop()):
                if module.path is None or module.path in loaded:
                    continue
                contents = self._index.contents(module.path)
                if contents is None:
                    continue
                loaded[module.path] = module
                wanted = {absolute(name, module.package) for name in contents.imports} - seen
                seen |= wanted
                pending += wanted

        return loaded

    def find(self, name: str) -> Module | None:
        """The project's module of this dotted name, if there is one."""
        if name not in self._found:
            package, _, last = name.rpartition(".")
            if not package:
                self._found[name] = self._top(name)
            else:
                parent = self.find(package)
                self._found[name] = (
                    self._below(parent.directories, name, last) if parent else None
                )
        return self._found[name]

    def directories(self, package: str) -> tuple[str, ...]:
        """Where the files of a package are, the project's or an installed one's; nothing when it is not found."""
        own = self.find(package)
        if own is not None:
            return own.directories
        top, *below = package.split(".")
        # of the top-level package only: of a module in it, find_spec() would import the package
        spec = _find_spec(top)
        places = (spec.submodule_search_locations if spec is not None else None) or ()
        found = (os.path.join(os.path.abspath(place), *below) for place in places)
        return tuple(place for place in found if os.path.isdir(place))

    def is_installed(self, name: str) -> bool:
        """Whether a module belongs to a package that is installed, rather than the project's own."""
        top = name.partition(".")[0]
        return self.find(top) is None and _find_spec(top) is not None

    def _loaded_by(self, name: str) -> Iterator[Module]:
        end = 0
        # of `a.b.c`: a, a.b, a.b.c, as importing the last one loads all
        while end != -1 and name:
            end = name.find(".", end + 1)
            module = self.find(name if end == -1 else name[:end])
            if module is None:
                return
            yield module

    def _top(self, name: str) -> Module | None:
        if not name or name in _LOADED:
            return None
        module = self._below(self.roots, name, name)
        if module is not None and module.path is not None:
            return module
        # a directory without __init__.py gives way to whatever else has the name
        if name in sys.stdlib_module_names:
            return None
        return self._elsewhere(name, module)

    def _below(self, directories: Sequence[str], name: str, last: str) -> Module | None:
        """Look for one name as the import system does: package, module, then directories as a namespace package."""
        portions = []
        for directory in directories:
            # in one directory a package wins over a module; portions of a namespace package are
            # collected from all directories, and lose to both
            listing = self._index.listing(directory)
            entry = listing.get(last)
            below = os.path.join(directory, last)
            is_directory = entry is not None and entry.is_dir()
            if is_directory and "__init__.py" in self._index.listing(below):
                return Module(name, os.path.join(below, "__init__.py"), (below,))
            if last + ".py" in listing:
                return Module(name, below + ".py")
            if is_directory:
                portions.append(below)

        return Module(name, None, tuple(portions)) if portions else None

    def _elsewhere(self, name: str, namespace: Module | None) -> Module | None:
        spec = _find_spec(name)
        if spec is None:
            return namespace
        places = [os.path.abspath(place) for place in spec.submodule_search_locations or ()]
        # a namespace package has no origin
        if spec.origin and os.path.isfile(spec.origin):
            path = os.path.abspath(spec.origin)
            return (
                Module(name, path, tuple(places))
                if self._is_own(path) and path.endswith(".py")
                else None
            )

        own = dict.fromkeys(
            [*(namespace.directories if namespace else ()), *filter(self._is_own, places)]
        )
        return Module(name, None, tuple(own)) if own else None

    def _is_installation(self, directory: str) -> bool:
        """Whether packages were installed into a directory, as by `pip install --target`."""
        return any(name.endswith(".dist-info") for name in self._index.listing(directory))

    def _is_own(self, path: str) -> bool:
        path = os.path.join(path, "")
        if path.startswith(self._installations):
            return False
        # directories above the project are no matter, even if one is called site-packages
        if path.startswith(self._rootdir):
            path = path[len(self._rootdir) :]
        elif path.startswith(self._library):
            return False
        return _INSTALLED.isdisjoint(path.split(os.sep))


def _find_spec(top: str) -> ModuleSpec | None:
    """What the import system knows about a top-level name; asking runs no code of the package."""
    from importlib.util import find_spec

    try:
        return find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None


def absolute(name: str, package: str) -> str:
    """A name as written in a module of `package`, without leading dots; empty when it leads nowhere."""
    rest = name.lstrip(".")
    level = len(name) - len(rest)
    if not level:
        return name
    parts = package.split(".") if package else []
    if level > len(parts):
        return ""
    # one dot is the package itself, each further one a level above
    return ".".join([*parts[: len(parts) - level + 1], *([rest] if rest else [])])


def closure(
    paths: Iterable[Path],
    *,
    import_roots: Iterable[Path],
    rootdir: Path,
    index: StatIndex | None = None,
) -> tuple[Module, ...]:
    """The project's modules that some Python files import, transitively, ordered by name.

    The files are run on their own, as Alembic does with revisions, so relative imports in them
    lead nowhere. A file that does not parse counts without its imports; it is what migrating
    will stumble over.
    """
    index = index or StatIndex()
    modules = Modules(import_roots, index, rootdir=rootdir)
    found = (index.contents(os.path.abspath(path)) for path in paths)
    names = {
        name
        for contents in found
        if contents
        for name in contents.imports
        if not name.startswith(".")
    }
    return tuple(
        sorted(
            modules.closure(names).values(), key=lambda module: (module.name, module.path or "")
        )
    )
