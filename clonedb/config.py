"""What clonedb can be told: one frozen Config, in which every value remembers where it came from."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

from clonedb.errors import ConfigError
from clonedb.url import redact

__all__ = ["KEYS", "Config", "Key"]

KEEP = ("failed", "all", "none")
ISOLATION = ("auto", "clone", "worker")
STRATEGY = ("auto", "file_copy", "wal_log")


def _key(default: Any, about: str, *, choices: tuple[str, ...] = (), minimum: float | None = None) -> Any:
    metadata = {"help": about, "choices": choices, "minimum": minimum}
    if isinstance(default, dict):
        return field(default_factory=lambda: MappingProxyType(dict(default)), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything a project can choose, passed whole from the first step to the last.

    `rootdir` is the project's directory: relative paths start there. `sources` names, for each key that was set, the
    place it was set at; a key that is not in it has its default.
    """

    rootdir: Path
    url: str | None = _key(None, "URL of the PostgreSQL server to use; without one, an embedded server is run")
    maintenance_database: str = _key("postgres", "database for administrative statements and locks")
    connect_timeout: float = _key(5.0, "seconds to wait for a connection", minimum=0.1)
    postgres_bin: str | None = _key(None, "directory with the binaries of the embedded server (postgres, initdb)")
    state_dir: str | None = _key(None, "directory for the embedded server, locks and indexes")
    idle_timeout: float = _key(10.0, "seconds the embedded server lives on after its last user", minimum=0.1)
    prefix: str = _key("clonedb", "what the name of every database that clonedb makes begins with")
    alembic_ini: str | None = _key(None, "path of alembic.ini or pyproject.toml; found in the project if not given")
    alembic_section: str = _key("alembic", "section of alembic.ini (alembic's -n)")
    alembic: Mapping[str, str] = _key({}, "Alembic's main options, set or overridden; {url} stands for the URL")
    x: tuple[str, ...] = _key((), "arguments for env.py (alembic's -x)")
    target: str = _key("heads", "revision to migrate the template to")
    seed: tuple[str, ...] = _key((), "SQL files and package.module:function callables that fill the template")
    extensions: tuple[str, ...] = _key((), "extensions to create before the migrations run")
    roles: tuple[str, ...] = _key((), "roles to create when the server lacks them")
    watch: tuple[str, ...] = _key((), "globs of further files that the template depends on")
    salt: str = _key("", "any text; a different one gives a different template")
    driver: str | None = _key(None, "driver in the URLs handed out (psycopg, psycopg2, asyncpg, ...)")
    route: tuple[str, ...] = _key((), "environment variables that hold the application's database URL")
    isolation: str = _key("auto", "what a test gets", choices=ISOLATION)
    strategy: str = _key("auto", "how CREATE DATABASE copies", choices=STRATEGY)
    lock_timeout: float = _key(600.0, "seconds to wait for somebody else's build", minimum=0)
    keep: str = _key("failed", "whose clones are kept after the test", choices=KEEP)
    keep_count: int = _key(3, "how many kept clones a project has at most", minimum=0)
    keep_templates: int = _key(5, "how many templates a project has at most, by last use", minimum=1)
    rebuild: bool = _key(False, "build the template anew, once for the run")
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    def __repr__(self) -> str:
        """The values that were set, without any password."""
        values = ", ".join(f"{name}={self.shown(name)}" for name in KEYS if name in self.sources)
        return f"Config(rootdir={str(self.rootdir)!r}{', ' if values else ''}{values})"

    def source(self, name: str) -> str:
        """Where the value of a key came from: a file and table, a variable, an option, or 'default'."""
        return self.sources.get(name, "default")

    def shown(self, name: str) -> str:
        """The value of a key as text that may be shown to anybody: a URL without its password."""
        value = getattr(self, name)
        if isinstance(value, Mapping):
            return redact(repr(dict(value)))
        return redact(repr(list(value) if isinstance(value, tuple) else value))

    def replace(self, source: str, **values: Any) -> Config:
        """A copy with some keys set, after checking them.

        `source` is what `clonedb config` shows as their place of origin.

        Raises ConfigError for an unknown key (with the nearest right one), a wrong type, or a value out of range.
        """
        checked = {name: check(name, value, source) for name, value in values.items()}
        sources = MappingProxyType({**self.sources, **dict.fromkeys(checked, source)})
        return dataclasses.replace(self, **checked, sources=sources)

    def path(self, value: str) -> Path:
        """A path from the configuration: `~` expanded, relative ones from the project's directory."""
        return self.rootdir / Path(value).expanduser()


@dataclass(frozen=True, slots=True)
class Key:
    """One setting: its name, type, help, and the values it takes."""

    name: str
    type: type
    help: str
    choices: tuple[str, ...]
    minimum: float | None
    default: Any

    @property
    def option(self) -> str:
        """The command-line option: --clonedb-lock-timeout for lock_timeout."""
        return "--clonedb-" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable: CLONEDB_LOCK_TIMEOUT for lock_timeout."""
        return "CLONEDB_" + self.name.upper()

    def parse(self, text: str, source: str) -> Any:
        """A value from a command line or an environment variable; lists are JSON or separated by commas.

        Raises ConfigError.
        """
        if self.type is bool:
            if (word := text.strip().lower()) in {"1", "true", "yes", "on"}:
                return True
            if word in {"0", "false", "no", "off", ""}:
                return False
            raise ConfigError(f"{source}: {self.name} is {text!r}; write true or false")
        if self.type in (tuple, dict):
            return self._parse_json(text, source)
        if self.type in (int, float):
            try:
                return self.type(text)
            except ValueError:
                kind = "a whole number" if self.type is int else "a number"
                raise ConfigError(f"{source}: {self.name} is {text!r}; write {kind}") from None
        return text

    def _parse_json(self, text: str, source: str) -> Any:
        if self.type is tuple and not text.lstrip().startswith("["):
            return tuple(part.strip() for part in text.split(",") if part.strip())
        try:
            return json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{source}: {self.name} is {text!r}, which is not JSON: {error}") from None


def _plain_type(hint: Any) -> type:
    if isinstance(hint, type):
        return hint
    origin = getattr(hint, "__origin__", None)
    if origin is tuple:
        return tuple
    if origin is not None:
        return dict
    return next(part for part in get_args(hint) if part is not type(None))


def _keys() -> Mapping[str, Key]:
    hints = get_type_hints(Config)
    return MappingProxyType(
        {
            f.name: Key(f.name, _plain_type(hints[f.name]), default=f.default, **f.metadata)
            for f in dataclasses.fields(Config)
            if f.metadata
        }
    )


KEYS: Mapping[str, Key] = _keys()


def nearest(word: str, words: Mapping[str, Any]) -> str:
    """` (did you mean 'x'?)`, or nothing when no word is close."""
    close = difflib.get_close_matches(word, words, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check(name: str, value: Any, source: str) -> Any:
    """The value of a key in its own type, or a ConfigError that says what the key takes."""
    key = KEYS.get(name)
    if key is None:
        raise ConfigError(f"{source}: unknown setting {name!r}{nearest(name, KEYS)}; `clonedb config` lists them all")
    if value is None and key.default is None:
        return None
    if key.type is tuple:
        return _check_list(key, value, source)
    if key.type is dict:
        return _check_table(key, value, source)
    if key.type is float and type(value) is int:
        value = float(value)
    if type(value) is not key.type:
        kind = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}[key.type]
        raise ConfigError(f"{source}: {name} is {value!r}; it takes {kind}")
    if key.choices and value not in key.choices:
        hint = nearest(value, dict.fromkeys(key.choices))
        raise ConfigError(f"{source}: {name} is {value!r}{hint}; it takes one of {', '.join(key.choices)}")
    if key.minimum is not None and not value >= key.minimum:
        raise ConfigError(f"{source}: {name} is {value!r}; the least it takes is {key.minimum:g}")
    return value


def _check_list(key: Key, value: Any, source: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{source}: {key.name} is {value!r}; it takes a list of strings")
    return tuple(value)


def _check_table(key: Key, value: Any, source: str) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{source}: {key.name} is {value!r}; it takes a table of names and values")
    return MappingProxyType({str(name): _as_ini(item) for name, item in value.items()})


def _as_ini(item: Any) -> str:
    """An Alembic option as the text that an .ini file would hold."""
    if isinstance(item, bool):
        return str(item).lower()
    if isinstance(item, (list, tuple)):
        return "\n".join(str(part) for part in item)
    return str(item)
