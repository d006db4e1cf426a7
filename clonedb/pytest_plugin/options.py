"""Command-line options and the marker: what pytest is told, turned into clonedb's configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clonedb.pytest_plugin.told import as_told, take
from clonedb.settings.checks import check
from clonedb.settings.key import Key
from clonedb.settings.keys import ISOLATIONS, KEYS

if TYPE_CHECKING:
    from clonedb.settings.config import Config

__all__ = [
    "MarkerArguments",
    "check_seed",
    "configuration",
    "directory_of_tests",
    "marker_of",
    "pytest_addoption",
    "pytest_configure",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """One `--clonedb-*` option a setting; the default is None, so that "not given" is known."""
    group = parser.getgroup("clonedb", "databases for tests (clonedb)")
    for key in KEYS.values():
        if (
            key.type is not dict and not key.secret
        ):  # a table has no place on a command line, nor has a password
            group.addoption(
                key.option,
                dest=_destination(key),
                default=None,
                help=_help(key),
                **_action(key),
            )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, and take what a worker elsewhere was told by the controller."""
    take(config)
    config.addinivalue_line(
        "markers",
        "clonedb(isolation=None, template=None, seed=None, keep=None): what database this test gets (isolation:"
        f" {', '.join(ISOLATIONS)}; the name of a template; what it is filled with), and whether it is kept afterwards"
        " (keep: failed, all, none)",
    )


def _destination(key: Key) -> str:
    return f"clonedb_{key.name}"


def _help(key: Key) -> str:
    choices = f" ({', '.join(key.choices)})" if key.choices else ""
    # argparse formats help texts by %
    return f"{key.help}{choices}".replace("%", "%%")


def _action(key: Key) -> dict[str, Any]:
    if key.type is bool:
        return {"action": "store_true"}
    if key.type is tuple:
        return {"action": "append", "metavar": "VALUE"}
    return {"metavar": key.name.rpartition("_")[2].upper()}


def configuration(config: pytest.Config) -> Config:
    """The configuration of a run: pyproject.toml from the tests upward, the environment, the command line.

    A worker on another host, or in another directory, has that of the controller. Raises
    ConfigError.
    """
    from clonedb.settings.load import load

    options = {}
    for key in KEYS.values():
        value = config.getoption(_destination(key), None)
        if value is not None:
            options[key.name] = (
                # a flag and a list are values already
                key.parse(value, key.option) if isinstance(value, str) else value
            )
    found = load(directory_of_tests(config), options=options, otherwise=config.rootpath)
    return as_told(found, config)


def directory_of_tests(config: pytest.Config) -> Path:
    """The directory that all tests of a run are in, as its arguments say: a project is looked for from there upward.

    In a repository of several projects it is deeper than pytest's rootdir, above which nothing
    of this run is.
    """
    # of `tests/test_it.py::test_one` the file
    named = [
        Path(config.invocation_params.dir, str(argument).partition("::")[0])
        for argument in config.args
    ]
    directories = [
        os.path.normpath(path if path.is_dir() else path.parent)
        for path in named
        if path.exists()
    ]
    # nothing is named where only modules are (--pyargs), or files that are not there
    common = Path(os.path.commonpath(directories)) if directories else config.rootpath
    return common if common.is_relative_to(config.rootpath) else config.rootpath


class MarkerArguments:
    """What `@pytest.mark.clonedb(...)` says of a test; None where it says nothing."""

    __slots__ = ("isolation", "keep", "seed", "template")

    def __init__(
        self,
        *,
        isolation: str | None = None,
        keep: str | None = None,
        seed: Any = None,
        template: str | None = None,
    ) -> None:
        self.isolation: str | None = isolation
        self.keep: str | None = keep
        self.seed: Any = seed
        self.template: str | None = template


def marker_of(item: pytest.Item) -> MarkerArguments:
    """What the test's markers say, each argument the nearest one's: the module's may say one, the test's another.

    Raises ConfigError for an argument or a value it does not take.
    """
    found = MarkerArguments()
    for marker in item.iter_markers("clonedb"):  # from the test outwards
        arguments = _arguments(marker, f"{item.nodeid}: @pytest.mark.clonedb")
        for name in MarkerArguments.__slots__:
            # the nearest marker that says anything of it
            if getattr(found, name) is None:
                setattr(found, name, getattr(arguments, name))
    return found


def _arguments(marker: pytest.Mark, place: str) -> MarkerArguments:
    """One marker's arguments, checked by calling a function with them."""
    from clonedb.errors import ConfigError

    try:
        arguments = MarkerArguments(*marker.args, **marker.kwargs)
    except TypeError:
        given = ", ".join(
            [
                *map(repr, marker.args),
                *(f"{name}={value!r}" for name, value in marker.kwargs.items()),
            ]
        )
        raise ConfigError(
            f"{place}({given}): it takes isolation=..., template=..., seed=... and keep=..., by name"
        ) from None

    for name in MarkerArguments.__slots__:
        if (value := getattr(arguments, name)) is not None:
            if name == "seed":
                check_seed(value, place)
            else:
                check(name, value, place)

    return arguments


def check_seed(seed: object, place: str) -> None:
    """Raises ConfigError unless it is a text, a function, or several of these."""
    from clonedb.errors import ConfigError

    several = seed if isinstance(seed, (list, tuple)) else [seed]
    if not all(isinstance(one, str) or callable(one) for one in several):
        raise ConfigError(
            f"{place}: seed is {seed!r}; it takes a text, a function, or a list of these"
        )
