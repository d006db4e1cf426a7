"""Where a project's migrations live, found and read without importing Alembic or any of the project's code."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from clonedb.errors import ConfigError, NoMigrationsError
from clonedb.project.alembic_options import AlembicFiles, AlembicOptions
from clonedb.project.closure import Modules
from clonedb.project.config_files import load_ini, load_toml
from clonedb.project.revision_files import compiled_revisions, is_revision
from clonedb.project.stat_index import StatIndex
from clonedb.settings.config import Config
from clonedb.settings.key import nearest

__all__ = ["Project", "find_project", "import_roots_of", "project_name"]

_PYTEST_FILES = MappingProxyType(
    {
        "pytest.ini": "pytest",
        ".pytest.ini": "pytest",
        "tox.ini": "pytest",
        "setup.cfg": "tool:pytest",
    }
)


# `revision: str = "3f2a91"`
_REVISION = r"""^revision\s*(?::[^=\n]*)?=\s*["']([^"'\n]+)["']"""
# `down_revision = None`: the first revision of a history
_FIRST = r"^down_revision\s*(?::[^=\n]*)?=\s*None\b"


class Project(NamedTuple):
    """A project's migrations: where they are and what Alembic is told about them.

    `ini` and `toml` are the files in use. `options` are the main options of both after
    interpolation, with the setting `alembic` on top; `{url}` in it is left as it is.
    `prepended` is what Alembic puts in front of sys.path. All paths are absolute.
    """

    rootdir: Path
    ini: Path | None
    toml: Path | None
    section: str
    options: Mapping[str, str]
    script_location: Path
    version_locations: tuple[Path, ...]
    recursive: bool
    import_roots: tuple[Path, ...]
    name: str
    prepended: tuple[Path, ...] = ()
    sourceless: bool = False

    def __repr__(self) -> str:
        """Without the options, which may hold a password."""
        return f"<project {self.name!r} in {str(self.rootdir)!r}>"

    @property
    def env_py(self) -> Path:
        """The script that Alembic runs."""
        return self.script_location / "env.py"

    @property
    def key(self) -> str:
        """What tells the project from others on a server, and its checkouts from none: `shop (3f2a91)`.

        That is its name and where its history begins: a name may be that of a directory, such
        as `app`. Reads every revision file.
        """
        first = []
        for path in self.revision_files():
            text = path.read_text(encoding="utf-8", errors="replace")
            if re.search(_FIRST, text, re.MULTILINE) and (
                found := re.search(_REVISION, text, re.MULTILINE)
            ):
                first.append(found[1])

        if not first:
            return self.name
        # sorted, so that a renamed file changes nothing
        return (
            f"{self.name} ({hashlib.sha256(' '.join(sorted(first)).encode()).hexdigest()[:6]})"
        )

    def revision_files(self) -> tuple[Path, ...]:
        """The files that Alembic would load as revisions, ordered by path."""
        found: set[Path] = set()
        for location in self.version_locations:
            for directory, below, names in os.walk(location):
                found.update(Path(directory, name) for name in names if is_revision(name))
                if self.sourceless:
                    cached = [path.name for path in Path(directory, "__pycache__").glob("*")]
                    found.update(
                        Path(directory, name) for name in compiled_revisions(names, cached)
                    )

                # os.walk() goes on to what is left in this list
                below[:] = [
                    name
                    for name in below
                    if self.recursive and not name.endswith("__pycache__")
                ]

        return tuple(sorted(found))


def find_project(config: Config) -> Project:
    """Find the project's migrations and read how Alembic is configured.

    Looked for in this order: the setting `alembic_ini` (an .ini file or a pyproject.toml); the
    environment variable ALEMBIC_CONFIG; alembic.ini and `[tool.alembic]` of pyproject.toml in
    the project's directory; `script_location` in the setting `alembic`. As with the alembic
    command, an .ini file and `[tool.alembic]` work together when there are both, and the .ini
    file's options win.

    Alembic takes a relative path from the directory it is run in, nearly always that of the
    configuration file. A test run may start anywhere, also beside another project's migrations.
    So a relative path is tried from the configuration file's directory, then from the
    project's, then from the current one; the first place with migrations is taken. A location
    `package:directory` is looked up in the import roots and on sys.path, without importing the
    package.

    Raises NoMigrationsError, with the places looked at, when nothing says where the migrations
    are, and ConfigError when what it says leads nowhere.
    """
    rootdir = _clean(config.rootdir)
    ini, toml = _files(config, rootdir)
    # which files, and what Alembic makes of them
    document = load_toml(toml)
    table = document.get("tool", {}).get("alembic", {})
    if not isinstance(table, dict):
        raise ConfigError(f"{str(toml)!r}: tool.alembic is {table!r}; it takes a table")
    section = config.alembic_section
    found_ini = ini if ini.is_file() else None
    here = ini if found_ini is not None else toml.with_name("alembic.ini")
    options = AlembicFiles(here, toml, table, section, config.alembic).read(config)
    location = options.values.get("script_location")
    if not location:
        raise _nothing_found(config, rootdir, ini, toml, table)
    # where that leads: locations may be packages, which are found in the import roots
    places = _Places.of((found_ini or toml).parent, rootdir)
    # the TOML file may be another directory's, and name and pythonpath are the project's
    pyproject = document if toml.parent == rootdir else load_toml(rootdir / "pyproject.toml")
    prepended = tuple(_prepended(places, options))
    roots = tuple(_import_roots(rootdir, prepended, pyproject))
    modules = Modules(roots, StatIndex(), rootdir=rootdir)
    script_location = _script_location(places, modules, location, ini=found_ini, toml=toml)
    versions = tuple(
        _version_location(places, modules, text) for text in options.version_locations
    )
    return Project(
        rootdir=rootdir,
        ini=found_ini,
        toml=toml if table else None,
        section=section,
        options=options.values,
        script_location=script_location,
        version_locations=versions or (script_location / "versions",),
        recursive=options.recursive,
        sourceless=options.sourceless,
        import_roots=roots,
        name=_name(pyproject, rootdir),
        prepended=prepended,
    )


def import_roots_of(rootdir: Path) -> tuple[Path, ...]:
    """Directories that a project's own modules are imported from, without those that Alembic adds."""
    return tuple(_import_roots(rootdir, (), load_toml(rootdir / "pyproject.toml")))


def project_name(rootdir: Path) -> str:
    """What pyproject.toml calls the project, or else its directory's name."""
    return _name(load_toml(rootdir / "pyproject.toml"), rootdir)


class _Places(NamedTuple):
    """The directories that a relative path may start from, the likeliest first."""

    bases: tuple[Path, ...]

    @classmethod
    def of(cls, *directories: Path) -> _Places:
        try:
            current = [Path.cwd()]
        except FileNotFoundError:
            current = []
        return cls(tuple(dict.fromkeys([*directories, *current])))

    def candidates(self, text: str) -> list[Path]:
        return list(dict.fromkeys(_clean(base / text) for base in self.bases))


def _files(config: Config, rootdir: Path) -> tuple[Path, Path]:
    """The .ini and the .toml file to read, whether they exist or not, except that one that is named must exist."""
    if config.alembic_ini is not None:
        named = config.path(config.alembic_ini)
        source = config.source("alembic_ini")
    elif variable := os.environ.get("ALEMBIC_CONFIG"):
        # Alembic takes it from the current directory, which a test run may have anywhere
        candidates = _Places.of(rootdir).candidates(variable)
        named = next((path for path in candidates if path.is_file()), candidates[0])
        source = "ALEMBIC_CONFIG"
    else:
        return rootdir / "alembic.ini", rootdir / "pyproject.toml"

    named = _clean(named)
    if not named.is_file():
        raise ConfigError(
            f"{source}: there is no file {str(named)!r}; name an alembic.ini or a pyproject.toml"
        )

    if named.suffix == ".toml":
        return named.with_name("alembic.ini"), named
    # an .ini file of another directory may come with a pyproject.toml of its own
    beside = named.with_name("pyproject.toml")
    return named, beside if beside.is_file() else rootdir / "pyproject.toml"


def _resolve(
    places: _Places, modules: Modules, text: str, fits: Callable[[Path], bool]
) -> list[Path]:
    """Where a location leads, the best place first; the others say where else was looked."""
    package, colon, below = text.partition(":")
    # `package:directory`, but not an absolute path with a colon in it
    if colon and not text.startswith("/"):
        candidates = [
            Path(directory, *below.split(":")) for directory in modules.directories(package)
        ]
    else:
        candidates = places.candidates(text)
    # those that fit before the others, and otherwise in their order
    return sorted(candidates, key=lambda path: not fits(path))


def _script_location(
    places: _Places, modules: Modules, text: str, *, ini: Path | None, toml: Path
) -> Path:
    candidates = _resolve(places, modules, text, lambda path: (path / "env.py").is_file())
    if candidates and (candidates[0] / "env.py").is_file():
        return candidates[0]
    where = f"script_location is {text!r}, as {str(ini or toml)!r} or the setting alembic says"
    if not candidates:
        raise ConfigError(f"{where}, but {_no_package(modules, text)}")
    existing = next((path for path in candidates if path.is_dir()), None)
    if existing is not None:
        raise ConfigError(
            f"{where}, but {str(existing)!r} has no env.py; `alembic init` makes one"
        )

    looked = ", ".join(repr(str(path)) for path in candidates)
    raise ConfigError(f"{where}, but there is no such directory; looked at {looked}")


def _version_location(places: _Places, modules: Modules, text: str) -> Path:
    candidates = _resolve(places, modules, text, Path.is_dir)
    if not candidates:
        raise ConfigError(f"version_locations names {text!r}, but {_no_package(modules, text)}")
    return candidates[0]


def _no_package(modules: Modules, text: str) -> str:
    roots = ", ".join(repr(root) for root in modules.roots)
    return f"no package {text.partition(':')[0]!r} was found; looked in {roots}, and among the installed ones"


def _prepended(places: _Places, options: AlembicOptions) -> Iterator[Path]:
    """The directories that Alembic puts in front of sys.path, as far as there are such."""
    for text in options.prepend_sys_path:
        # the first place that is there
        yield from list(filter(Path.is_dir, places.candidates(text)))[:1]


def _import_roots(
    rootdir: Path, prepended: Iterable[Path], pyproject: Mapping[str, Any]
) -> Iterator[Path]:
    """Directories that the project's own modules are imported from, in order, each once."""
    pythonpath = [_clean(rootdir / text) for text in _pythonpath(rootdir, pyproject)]
    for root in dict.fromkeys([*prepended, rootdir, rootdir / "src", *pythonpath]):
        if root.is_dir():
            yield root


def _pythonpath(rootdir: Path, pyproject: Mapping[str, Any]) -> Iterator[str]:
    """What pytest's option `pythonpath` says: a list in TOML, words in an .ini file."""
    table = pyproject.get("tool", {}).get("pytest", {})
    values = [table.get("pythonpath"), table.get("ini_options", {}).get("pythonpath")]
    for name, section in _PYTEST_FILES.items():
        # what does not parse is pytest's to complain about
        with contextlib.suppress(ConfigError):
            if (path := rootdir / name).is_file():
                values.append(
                    load_ini(path).get(section, "pythonpath", raw=True, fallback=None)
                )
    for value in values:
        # a list in TOML; words of a text elsewhere
        yield from shlex.split(value) if isinstance(value, str) else value or ()


def _clean(path: Path) -> Path:
    """An absolute path without `..`; links are left, because they are how the project is laid out."""
    return Path(os.path.normpath(path.absolute()))


def _name(pyproject: Mapping[str, Any], rootdir: Path) -> str:
    name = pyproject.get("project", {}).get("name")
    return name if isinstance(name, str) and name else rootdir.name


def _why_not(ini: Path, section: str) -> str:
    if not ini.is_file():
        return "no such file"
    sections = dict.fromkeys(load_ini(ini).sections())
    if section in sections:
        return f"no script_location in section [{section}]"
    return f"no section [{section}]{nearest(section, sections)}"


def _nothing_found(
    config: Config, rootdir: Path, ini: Path, toml: Path, table: Mapping[str, Any]
) -> NoMigrationsError:
    looked = {
        "setting alembic_ini": f"is {config.alembic_ini!r}"
        if config.alembic_ini
        else "not set",
        "environment variable ALEMBIC_CONFIG": "set"
        if os.environ.get("ALEMBIC_CONFIG")
        else "not set",
        str(ini): _why_not(ini, config.alembic_section),
        str(toml): (
            "no script_location in [tool.alembic]"
            if table
            else "no [tool.alembic]"
            if toml.is_file()
            else "no such file"
        ),
        "setting alembic": "no script_location",
    }
    lines = [f"  {place}: {why}" for place, why in looked.items()]
    found = (
        path
        for pattern in ("*/alembic.ini", "*/*/alembic.ini")
        for path in rootdir.glob(pattern)
    )
    near = sorted(path.relative_to(rootdir).as_posix() for path in found)
    near = [name for name in near if not name.startswith(".")]
    example = near[0] if near else "path/to/alembic.ini"
    return NoMigrationsError(
        "\n".join(
            [
                "no Alembic migrations were found; looked at",
                *lines,
                *([f"nearby there is {', '.join(map(repr, near[:3]))}"] if near else []),
                "what helps, one of:",
                "  run `alembic init migrations` in a project that has none",
                f"  write alembic_ini = {example!r} under [tool.clonedb] in pyproject.toml",
                "  write script_location = 'package:migrations' under [tool.clonedb.alembic]",
                "  write schema = ['schema.sql'] under [tool.clonedb] if SQL files make the schema",
                "  write metadata = 'package.models:Base.metadata' there if create_all() makes it",
                "  write migrate = 'COMMAND' there if another tool's command makes it",
            ]
        )
    )
