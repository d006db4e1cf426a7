"""The environment of the interpreter that makes a schema: the usual names of a database lead to the one being built."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from importlib import metadata

from clonedb.errors import ConfigError
from clonedb.postgres.libpq_variables import leading_to
from clonedb.routing.environment import like, variables_in
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL

__all__ = ["environment_as_it_is", "environment_of", "is_old_sqlalchemy", "variables_of"]


def variables_of(config: Config) -> tuple[str, ...]:
    """The variables that hold the URL of the database that is built: the usual one, and those in `route`."""
    return tuple(dict.fromkeys(["DATABASE_URL", *variables_in(config.route)]))


def environment_of(
    config: Config, url: DatabaseURL, driver_of: Callable[[str | None], str]
) -> dict[str, str]:
    """The caller's environment, but for what would lead to another database.

    A script that connects without SQLAlchemy, by libpq's variables or by DATABASE_URL, must not
    reach another one. `driver_of` says which driver the URL has that stands in for the one of a
    variable.
    """
    # for the embedded server (no url): other variables of libpq were meant for another one
    environment = leading_to(os.environ, url.conninfo(), alone=config.url is None)
    for name in variables_of(config):
        value = os.environ.get(name)
        driver = None if _is_plain(value) else driver_of(value)
        environment[name] = url.replace(driver=driver).render()
    return environment


def environment_as_it_is(config: Config, url: DatabaseURL) -> dict[str, str]:
    """As `environment_of`, for a program of any kind: a URL has the driver and the query that stand in its variable.

    One that is not set names no driver: psql, Django and others know none. The embedded server
    speaks no TLS, which Go's lib/pq demands unless a variable says that there is none.
    """
    environment = leading_to(os.environ, url.conninfo(), alone=config.url is None)
    if config.url is None:
        environment["PGSSLMODE"] = "disable"
    plain = url.replace(driver=None)
    for name in variables_of(config):
        try:
            was = DatabaseURL.parse(os.environ[name])
        except (KeyError, ConfigError):
            was = plain
        environment[name] = like(was, plain).render()
    return environment


def is_old_sqlalchemy() -> bool:
    """Whether psycopg2 is the driver that SQLAlchemy takes for a URL that names none: before 2.1 it is."""
    return tuple(map(int, metadata.version("sqlalchemy").split(".")[:2])) < (2, 1)


def _is_plain(text: str | None) -> bool:
    """Whether a URL names no driver, and SQLAlchemy's own for that is installed: psycopg and psql read it as it is."""
    if not text or text.partition("://")[0] not in ("postgresql", "postgres"):
        return False
    return (
        importlib.util.find_spec("psycopg2" if is_old_sqlalchemy() else "psycopg") is not None
    )
