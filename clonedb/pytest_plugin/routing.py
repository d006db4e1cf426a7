"""Routing in pytest's words: from when on the Router is there, and which clone it is told of."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from clonedb.errors import ConfigError
from clonedb.pytest_plugin.options import configuration, directory_of_tests
from clonedb.pytest_plugin.process_state import LED
from clonedb.pytest_plugin.run import run_of

if TYPE_CHECKING:
    from clonedb.clones.database import Database
    from clonedb.routing.application import Router
    from clonedb.settings.config import Config

__all__ = [
    "entered",
    "hold_loop",
    "is_routed",
    "left",
    "other_templates",
    "pytest_sessionstart",
    "taken_back",
]

_KEYS = ("route", "autouse")
_AUTOUSE = "clonedb.pytest_plugin.autouse"


_ROUTER = pytest.StashKey["Router"]()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin to route, and give every test a clone, where the configuration says so; before anything is collected.

    Raises pytest.UsageError for a configuration that cannot be followed: tests that were to be
    routed and are not might reach a real database.
    """
    config = session.config
    if config.option.collectonly or not _concerns(config):
        return
    try:
        settings = configuration(config)
        if settings.off:
            return
        router = _router(settings, config) if settings.route else None
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None

    if config.pluginmanager.hasplugin("dsession"):  # xdist's controller runs no test
        return
    if router is not None:
        router.install(libpqs_place=not _is_libpqs(settings))
        config.stash[_ROUTER] = router
        config.stash[LED] = lambda: router.found
        config.add_cleanup(
            router.uninstall
        )  # another run in the same process has a configuration of its own

    if settings.autouse:
        config.pluginmanager.import_plugin(_AUTOUSE)


def _router(settings: Config, config: pytest.Config) -> Router:
    from clonedb.routing.application import Router

    def look(*parameters: object) -> None:
        run_of(config).loans.require(*parameters)

    router = Router(
        settings.route, source=settings.source("route"), prefix=settings.prefix, look=look
    )
    # raises ConfigError now, and not in the first test, for a template that there is not
    for name in router.others(settings.template):
        settings.of_template(name, f"{settings.source('route')}: route")
    return router


def other_templates(config: pytest.Config, template: str) -> list[str]:
    """Those that the application is led to besides one: a test without their clones cannot use all its databases."""
    router = config.stash.get(_ROUTER, None)
    return [] if router is None else router.others(template)


def _is_libpqs(settings: Config) -> bool:
    """Whether it is libpq's variables that say where clonedb's own server is."""
    from clonedb.url import DatabaseURL

    with contextlib.suppress(ConfigError):  # which is told when the server is opened
        return settings.url is not None and DatabaseURL.parse(settings.url).host is None
    return False


def _concerns(config: pytest.Config) -> bool:
    """Whether anything may have set `route` or `autouse`, found out without reading any configuration as such."""
    if any(config.getoption(f"clonedb_{name}", None) is not None for name in _KEYS):
        return True
    if any(f"CLONEDB_{name.upper()}" in os.environ for name in _KEYS):
        return True
    start = directory_of_tests(config)
    for directory in (start, *start.parents):
        file = directory / "pyproject.toml"
        try:
            text = (
                file.read_bytes() if file.is_file() else b""
            )  # a FIFO would wait for its other end
        except OSError:
            continue

        if b"clonedb" in text and any(name.encode() in text for name in _KEYS):
            return True

    return False


def entered(
    config: pytest.Config, database: Database, template: str, *, stands_in: bool = False
) -> None:
    """A test, or a wider scope, holds a database of a template from now on: the application is led to it."""
    if (router := config.stash.get(_ROUTER, None)) is not None:
        router.enter(
            database.route,
            template=template,
            stands_in=stands_in,
            proof=database.clone.server.proof_only,
        )


def hold_loop(request: pytest.FixtureRequest) -> None:
    """Let pytest-asyncio's loop before 1.0, or the project's own, outlive a test's clone.

    It is closed without an end to its generators, and what an application's pool keeps open on
    it would stay open.
    """
    if (
        is_routed(request.config)
        and request.scope == "function"
        and "event_loop" in request.fixturenames
    ):
        request.getfixturevalue("event_loop")


def left(config: pytest.Config, database: Database) -> None:
    """The database is about to be given back: what stays connected of the application is what can be reset."""
    if (router := config.stash.get(_ROUTER, None)) is not None:
        router.leave(database.route, lasting=database.clone.lasting)


def taken_back(config: pytest.Config, holder: str = "") -> None:
    """A holder's clone was given back, and what was open on it still was reported: close that on this side, too."""
    if (router := config.stash.get(_ROUTER, None)) is not None:
        router.close_leaked(holder)


def is_routed(config: pytest.Config) -> bool:
    """Whether anything leads to the clones that are entered."""
    return _ROUTER in config.stash
