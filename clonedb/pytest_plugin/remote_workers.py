"""pytest-xdist's workers on other hosts or in other directories: what the controller tells them, and what must agree.

An ordinary worker has the controller's files and its environment. One of `--tx socket=...`,
`--tx ssh=...` or `--tx popen//chdir=...` has copies of the files, and the environment of
whatever started it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clonedb.errors import CloneDBError, ConfigError
from clonedb.pytest_plugin.options import configuration
from clonedb.pytest_plugin.told import KEY, OF_HOST, TOLD, network, notice_cut

if TYPE_CHECKING:
    from clonedb.settings.config import Config

__all__ = ["pytest_configure_node", "require_same_project"]

_PATHS = ("alembic_ini", "schema", "seed", "watch")
"""The settings that may name files of the project by their whole path."""
_LISTED = 8  # differences that the error names


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """On the controller: tell a worker that shares neither files nor environment what this run was told."""
    spec = node.gateway.spec
    if spec.popen and not spec.chdir and not spec.via:
        return
    if TOLD not in node.config.stash:
        node.config.stash[TOLD] = _to_tell(node.config)
    told = node.config.stash[TOLD]
    node.workerinput[KEY] = told
    notice_cut(node.gateway, told)


def _to_tell(pytest_config: pytest.Config) -> dict[str, Any]:
    """What workers are told, in types that execnet carries: settings and where each comes from, variables, inputs."""
    told = {"host": socket.gethostname(), "network": network()}
    try:
        config = configuration(pytest_config)
    except CloneDBError as error:
        return {**told, "error": str(error)}

    values = {
        name: _of_project(getattr(config, name), config.rootdir)
        if name in _PATHS
        else _plain(getattr(config, name))
        for name in config.sources
        if name not in OF_HOST
    }
    if config.urls:
        # the worker takes one of them by its number
        values["url"] = list(config.urls)
    return {
        **told,
        "values": values,
        "sources": {name: config.sources[name] for name in values},
        "variables": _variables(config),
        "inputs": _inputs(config),
        "directory": str(config.rootdir),
        "lease_timeout": config.lease_timeout,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _of_project(value: Any, rootdir: Path) -> Any:
    """A path, or several, from the project's directory, which is another one on the worker's host."""
    if isinstance(value, tuple):
        return [_of_project(item, rootdir) for item in value]
    within = isinstance(value, str) and Path(value).is_relative_to(rootdir)
    return str(Path(value).relative_to(rootdir)) if within else value


def _variables(config: Config) -> dict[str, str | None]:
    """Variables that a template depends on, and those by which libpq reaches the server; None for one to take away.

    Those that name files stay each host's own.
    """
    names = set(config.watch_env)
    found: dict[str, str | None] = {}
    if config.url is not None:
        from clonedb.postgres import libpq_variables

        # without a name libpq takes the account's, which may be another one there
        found["PGUSER"] = libpq_variables.defaults().get("user")
        names |= {*libpq_variables.PLACE_VARIABLES, *libpq_variables.SHAPING}
        names |= {name for name in libpq_variables.affecting() if not _names_file(name)}
    return {**{name: os.environ.get(name) for name in sorted(names)}, **found}


def _names_file(variable: str) -> bool:
    return os.path.isabs(os.environ.get(variable, ""))  # noqa: PTH117 - a text, of which no file is meant


def _inputs(config: Config) -> list[list[str]] | None:
    """What the run's template is made of, but for the server; None where nothing can be said of it."""
    from clonedb.api import resolved
    from clonedb.migrate.recipes import find_recipe
    from clonedb.project.fingerprint import ServerFacts, fingerprint
    from clonedb.templates.ensure import sources_of

    try:
        wanted = resolved(config)
        sources = sources_of(find_recipe(wanted))
    except CloneDBError:  # a test that asks for a database is told of it
        return None
    return fingerprint(wanted, sources, ServerFacts(0, "", "", "")).abbreviated()


def require_same_project(pytest_config: pytest.Config) -> None:
    """Raises ConfigError, which says what differs, unless a worker's copy of the project is what the controller has."""
    told = pytest_config.stash.get(TOLD, None)
    if told is None or told.get("inputs") is None or not hasattr(pytest_config, "workerinput"):
        return
    from clonedb.api import resolved
    from clonedb.migrate.recipes import find_recipe
    from clonedb.project.fingerprint import ServerFacts, differences, fingerprint
    from clonedb.templates.ensure import sources_of

    config = resolved(configuration(pytest_config))
    there = f"in {told['directory']} on host {told['host']}"
    here = f"in {config.rootdir} on host {socket.gethostname()}"
    remedy = (
        "have pytest-xdist copy the whole project (--rsyncdir, or rsyncdirs in its ini file)"
    )
    try:
        sources = sources_of(find_recipe(config))
    except CloneDBError as error:
        raise ConfigError(
            f"a worker's copy of the project, {here}, lacks what the run has {there}: {error}; {remedy}"
        ) from error

    found = fingerprint(config, sources, ServerFacts(0, "", "", ""))
    words = {"added": "only here", "removed": "missing here", "changed": "changed"}
    lines = [
        f"{words[each.change]}: {each.kind} {each.name}"
        for each in differences(told["inputs"], found)
    ]
    if lines:
        more = len(lines) - _LISTED
        listed = "; ".join([*lines[:_LISTED], *([f"and {more} more"] if more > 0 else [])])
        raise ConfigError(
            f"a worker's copy of the project, {here}, is not what the run has {there}, so that its template would be"
            f" another one: {listed}; {remedy}, and install the same versions"
        )
