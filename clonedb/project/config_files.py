"""Configuration files that are looked at as they are: TOML documents, and the sections of .ini files."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

from clonedb.errors import ConfigError
from clonedb.private_files import read_file
from clonedb.url import redact

__all__ = ["load_ini", "load_toml"]


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


def load_ini(path: Path) -> configparser.ConfigParser:
    """An .ini file; raises ConfigError when it does not parse."""
    parser = configparser.ConfigParser()
    try:
        # what is looked at here is ASCII, and must not depend on the locale
        parser.read_string(read_file(path).decode(errors="surrogateescape"), str(path))
    except (OSError, configparser.Error) as error:
        # the message may quote lines, and the cause would quote them again in a traceback
        raise ConfigError(f"{str(path)!r} cannot be read: {redact(str(error))}") from None
    return parser
