"""Where settings come from: pyproject.toml, the environment, the command line; each value is told its place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clonedb.errors import ConfigError
from clonedb.private_files import read_file
from clonedb.settings.config import Config
from clonedb.settings.keys import KEYS
from clonedb.url import redact

__all__ = ["load"]


def load(
    start: Path,
    *,
    options: Mapping[str, Any] | None = None,
    option_prefix: str = "--clonedb-",
    otherwise: Path | None = None,
) -> Config:
    """The configuration of the project that `start` lies in; its directory is `otherwise` if nothing says which it is.

    pyproject.toml's `[tool.clonedb]` (found upward from `start`), then CLONEDB_<KEY>, then
    `options`: keys as given on a command line, those that are None not being given.
    TEST_DATABASE_URL is used when nothing else gives a url; DATABASE_URL never is, because it
    is the application's.

    Raises ConfigError for an unknown key, a wrong type, or a file that is not TOML.
    """
    rootdir, table, place = _project(start.absolute(), otherwise or start.absolute())
    config = Config(rootdir=rootdir)
    # each later place wins
    if table:
        config = config.replace(place, **table)
    for name, value in _environment().items():
        config = config.replace(KEYS[name].variable, **{name: value})
    for name, value in (options or {}).items():
        if value is not None:
            config = config.replace(option_prefix + name.replace("_", "-"), **{name: value})

    if config.url is None and (url := os.environ.get("TEST_DATABASE_URL")):
        config = config.replace("TEST_DATABASE_URL", url=url)
    return config


def _project(start: Path, otherwise: Path) -> tuple[Path, dict[str, Any], str]:
    """The project's directory, its [tool.clonedb] table, and how to name that place.

    The nearest pyproject.toml with that table wins; else the nearest directory with an Alembic
    configuration; else `otherwise`. The search ends at a directory that holds .git: what is
    above is another project's.
    """
    with_alembic = None
    for directory in (start, *start.parents):
        file = directory / "pyproject.toml"
        tool = _tool(file)
        if "clonedb" in tool:
            place = f"{file} [tool.clonedb]"
            if not isinstance(tool["clonedb"], dict):
                raise ConfigError(
                    f"{file}: tool.clonedb is {redact(repr(tool['clonedb']))}; it takes a table"
                )

            return directory, tool["clonedb"], place

        if with_alembic is None and (
            "alembic" in tool or (directory / "alembic.ini").is_file()
        ):
            with_alembic = directory

        # looked at after the files beside it: they are this project's
        if (directory / ".git").exists():
            break

    return with_alembic or otherwise, {}, ""


def _tool(file: Path) -> dict[str, Any]:
    try:
        text = read_file(file)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
        # directories above may be closed to this account
        return {}
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None

    import tomllib  # 4 ms, which a project without such a file does not pay

    try:
        tool = tomllib.loads(text.decode()).get("tool", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None

    return tool if isinstance(tool, dict) else {}


def _environment() -> dict[str, Any]:
    values = {}
    for name, key in KEYS.items():
        if (text := os.environ.get(key.variable)) is not None:
            values[name] = key.parse(text, key.variable)
    _refuse_misspelt({key.variable for key in KEYS.values()})
    return values


def _refuse_misspelt(known: set[str]) -> None:
    """A CLONEDB_ variable that is nearly one of ours is a mistake; any other is left alone."""
    for variable in os.environ:
        if variable.startswith("CLONEDB_") and variable not in known:
            import difflib

            # a high cutoff, as other programs may have variables that begin so
            close = difflib.get_close_matches(
                variable[8:], [name[8:] for name in known], n=1, cutoff=0.8
            )
            if close:
                raise ConfigError(
                    f"unknown variable {variable!r} (did you mean 'CLONEDB_{close[0]}'?)"
                )
