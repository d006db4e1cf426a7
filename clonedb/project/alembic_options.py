"""Alembic's main options as Alembic itself would read them, from alembic.ini, pyproject.toml and overrides.

The rules are those of `alembic.config.Config` (1.13 to 1.20), which cannot be asked because importing it costs 440 ms:
the .ini file is looked at first and `[tool.alembic]` fills in what it lacks; `%(here)s` is the file's directory and
`%%` a percent sign in both; lists are split by `path_separator`, in TOML they are lists.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from clonedb.errors import ConfigError
from clonedb.private_files import read_file
from clonedb.settings.keys import nearest
from clonedb.url import redact

__all__ = ["AlembicOptions", "load_ini", "load_toml"]

_SEPARATORS = MappingProxyType({"space": " ", "newline": "\n", "os": os.pathsep, ":": ":", ";": ";"})
_LEGACY_LOCATIONS = r", *|(?: +)"
_LEGACY_SYS_PATH = r", *|(?: +)|:"


class AlembicOptions(NamedTuple):
    """The main options of one project.

    `values` is everything as text; `lists` are the options that TOML gives as lists and no text replaced.
    """

    values: Mapping[str, str]
    lists: Mapping[str, tuple[str, ...]]

    def __repr__(self) -> str:
        """Without the values, which may hold a password."""
        return f"<options {', '.join(self.values)}>"

    @classmethod
    def read(
        cls,
        *,
        ini: Path | None,
        toml: Mapping[str, Any],
        toml_path: Path,
        section: str,
        overrides: Mapping[str, str | tuple[str, ...]],
    ) -> AlembicOptions:
        """Read `section` of an .ini file and the table `[tool.alembic]`, and apply overrides as `set_main_option` does.

        Raises ConfigError for a file that does not parse.
        """
        from_toml = _interpolated(toml, {"here": toml_path.parent.as_posix()})
        for name in ("path_separator", "version_path_separator"):
            from_toml.pop(name, None)  # Alembic asks the .ini file only
        texts = {name: _as_text(value) for name, value in overrides.items()}
        from_ini = _read_ini(ini, toml_path.parent, section, texts)
        values = {name: _as_text(value) for name, value in from_toml.items()} | from_ini
        lists = {
            name: tuple(map(str, value))
            for name, value in from_toml.items()
            if isinstance(value, list) and not from_ini.get(name)
        }
        here = {"here": (ini.parent if ini is not None else toml_path.parent).as_posix()}
        given = {name: list(value) for name, value in overrides.items() if isinstance(value, tuple)}
        lists |= {name: tuple(value) for name, value in _interpolated(given, here).items()}
        return cls(MappingProxyType(values), MappingProxyType(lists))

    def is_true(self, name: str) -> bool:
        """Whether a boolean option is set: `true` and nothing else, for Alembic."""
        return self.values.get(name) == "true"

    def version_locations(self) -> tuple[str, ...]:
        """Where revisions are, as written; nothing means `versions` below the script location."""
        return self._split("version_locations", _LEGACY_LOCATIONS, "path_separator", "version_path_separator")

    def prepend_sys_path(self) -> tuple[str, ...]:
        """What Alembic puts in front of sys.path, as written."""
        return self._split("prepend_sys_path", _LEGACY_SYS_PATH, "path_separator")

    def _split(self, name: str, legacy: str, *separators: str) -> tuple[str, ...]:
        if name in self.lists:
            return self.lists[name]
        text = self.values.get(name, "")
        if not text:  # Alembic does not look at a separator that separates nothing
            return ()
        option = next((option for option in separators if option in self.values), None)
        if option is None:
            parts = re.split(legacy, text)
        elif (separator := _SEPARATORS.get(self.values[option])) is not None:
            parts = text.split(separator)
        else:
            raise ConfigError(
                f"Alembic's {option} is {self.values[option]!r}{nearest(self.values[option], _SEPARATORS)};"
                f" it takes one of {', '.join(_SEPARATORS)}"
            )
        return tuple(stripped for part in parts if (stripped := part.strip()))


def load_toml(path: Path) -> dict[str, Any]:
    """A TOML file, or nothing when there is none; raises ConfigError when it does not parse."""
    try:
        text = read_file(path).decode()
    except (FileNotFoundError, IsADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    import tomllib  # 4 ms, which a project without such a file does not pay

    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{str(path)!r} cannot be read: {error}")


def load_ini(path: Path | None, defaults: Mapping[str, str]) -> configparser.ConfigParser:
    """An .ini file, or an empty one without a path; raises ConfigError when it does not parse."""
    parser = configparser.ConfigParser(defaults)
    if path is not None:
        try:
            # Alembic decodes by locale; what must be read here is ASCII, and a fingerprint must not know the locale
            parser.read_string(read_file(path).decode(errors="surrogateescape"), str(path))
        except (OSError, configparser.Error) as error:
            # the message may quote lines, and the cause would quote them again in a traceback
            raise ConfigError(f"{str(path)!r} cannot be read: {redact(str(error))}") from None
    return parser


def _read_ini(ini: Path | None, rootdir: Path, section: str, overrides: Mapping[str, str]) -> dict[str, str]:
    here = ini.parent if ini is not None else rootdir
    parser = load_ini(ini, {"here": here.as_posix()})
    if not parser.has_section(section):
        parser.add_section(section)
    for name, value in overrides.items():
        try:
            parser.set(section, name, value)
        except ValueError:
            # a lone percent sign, which `set` refuses, stands for itself
            parser.set(section, name, value.replace("%", "%%"))
    return {name: _get(parser, section, name) for name in parser.options(section) if name != "here"}


def _get(parser: configparser.ConfigParser, section: str, name: str) -> str:
    try:
        return parser.get(section, name)
    except configparser.InterpolationError:
        # env.py may set what this refers to at run time
        return parser.get(section, name, raw=True)


def _interpolated(table: Mapping[str, Any], here: Mapping[str, str]) -> dict[str, Any]:
    def interpolate(value: Any) -> Any:
        if isinstance(value, str):
            try:
                return value % here
            except (KeyError, ValueError, TypeError):
                return value
        if isinstance(value, list):
            return [interpolate(item) for item in value]
        return value

    return {name: interpolate(value) for name, value in table.items()}


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "\n".join(map(str, value))
    return str(value)
