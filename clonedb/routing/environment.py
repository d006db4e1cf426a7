"""The environment variables that name the application's database, and what they hold while a test has a clone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from clonedb.libpq import ASYNCPG, PLACE_VARIABLES, answering
from clonedb.routing.place import PLACE

if TYPE_CHECKING:
    from clonedb.url import DatabaseURL

__all__ = ["EVERYTHING", "Environment", "variables_in"]

EVERYTHING = "*"
_OTHER_PLACES = ("PGSERVICE", "PGHOSTADDR")  # libpq lets both win over the others


def variables_in(route: Iterable[str]) -> tuple[str, ...]:
    """Of the entries of `route`, those that are names of environment variables."""
    return tuple(entry for entry in route if entry != EVERYTHING and "://" not in entry)


class Environment:
    """Variables of this process, led to a clone and back.

    Each is remembered as it was `found`, unless it was found as it was left: a test's monkeypatch that outlives the
    clone puts the clone's URL back.
    """

    def __init__(self, variables: Mapping[str, DatabaseURL], defaults: Mapping[str, str]) -> None:
        self._variables = variables
        self._defaults = defaults
        self.found: dict[str, str | None] = {}
        self._written: dict[str, str | None] = {}

    def lead_to(self, url: DatabaseURL) -> None:
        """From now on the variables name this database, in URLs of the driver and the query that each had."""
        values: dict[str, str | None] = {name: _like(was, url).render() for name, was in self._variables.items()}
        keywords = {**self._defaults, **url.conninfo()}
        values |= {name: value for name, value in answering(url.conninfo()).items() if name in os.environ}
        values |= {name: keywords[keyword] for name, keyword in PLACE_VARIABLES.items() if keyword in keywords}
        if url.host is not None:
            values |= dict.fromkeys(_OTHER_PLACES)
        for name in self._written.keys() - values.keys():  # the URL before answered it, and this one does not
            _set(name, self.found[name])
            del self._written[name]
        for name, value in values.items():
            now = os.environ.get(name)
            if name not in self._written or now != self._written[name]:
                self.found[name] = now
            self._written[name] = value
            _set(name, value)

    def restore(self) -> None:
        """Every variable is what it was."""
        for name, value in self.found.items():
            _set(name, value)


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _like(was: DatabaseURL, url: DatabaseURL) -> DatabaseURL:
    """A URL with another one's driver and query, but for the part of the query that says how to reach its server."""
    query = tuple(pair for pair in was.query if pair[0] not in PLACE)
    place = tuple(pair for pair in url.query if pair[0] in PLACE)
    if was.driver == "asyncpg":  # SQLAlchemy hands a query on as asyncpg's own keywords, in which sslmode is ssl
        place = tuple((ASYNCPG[name], value) for name, value in place if name in ASYNCPG)
    return url.replace(driver=was.driver, query=(*place, *query))
