"""The environment variables that name the application's database: what they hold with a clone, and without one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from clonedb.postgres.address import ADDRESS, NO_DATABASE, NO_DIRECTORY, NO_HOST
from clonedb.postgres.libpq_variables import ASYNCPG, PLACE_VARIABLES, answering

if TYPE_CHECKING:
    from clonedb.url import DatabaseURL

__all__ = ["EVERYTHING", "Environment", "like", "no_place", "variables_in"]

EVERYTHING = "*"
_OTHER_PLACES = ("PGSERVICE", "PGHOSTADDR")  # libpq lets both win over the others
_LEADS_ELSEWHERE = frozenset(
    {"hostaddr", "port", "service", "servicefile", "passfile"}
)  # parameters of a URL


def variables_in(route: Iterable[str]) -> tuple[str, ...]:
    """Of the entries of `route`, those that are names of environment variables."""
    return tuple(entry for entry in route if entry != EVERYTHING and "://" not in entry)


class Environment:
    """Variables of this process: led nowhere, from there to a clone and back, and in the end what they were.

    A value that is set by others meanwhile is put back after a clone, unless it was found as it
    was left: a test's monkeypatch that outlives the clone puts the clone's URL back. `labels` tell
    the places apart that variables lead to while there is no clone.
    """

    def __init__(
        self,
        variables: Mapping[str, DatabaseURL],
        defaults: Mapping[str, str],
        labels: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._variables = variables
        self._defaults = defaults
        self._labels = labels
        self._nowhere = _Patch()
        self._clone = _Patch()

    @property
    def found(self) -> dict[str, str | None]:
        """What those variables held that are led at the moment; None for those that were not set."""
        found: dict[str, str | None] = {}
        for patch in (self._clone, self._nowhere):
            for name, written in patch.written.items():
                # a value that others have set since is theirs
                if found.get(name, os.environ.get(name)) == written:
                    found[name] = patch.found[name]
        return found

    def lead_nowhere(self, *, libpqs_place: bool) -> None:
        """From now on the variables name a server that does not exist, whose name says what to do.

        A URL keeps its form, as settings classes refuse others at import. Of libpq's variables
        only PGDATABASE changes without `libpqs_place`.
        """
        values: dict[str, str | None] = {
            name: _nowhere(was, self._labels.get(name, "")).render()
            for name, was in self._variables.items()
        }
        # libpq's variables fill in what a URL leaves out, whatever `route` names
        values["PGDATABASE"] = NO_DATABASE
        if libpqs_place:
            values |= {"PGHOST": NO_DIRECTORY, **dict.fromkeys(_OTHER_PLACES)}
        self._nowhere.write(values)

    def lead_to(
        self, url: DatabaseURL, apart: Mapping[str, DatabaseURL | None] = MappingProxyType({})
    ) -> None:
        """From now on the variables name this database, in URLs of the driver and the query that each had.

        Those in `apart` name another one, or none if it is None; libpq's are not among them.
        """
        values: dict[str, str | None] = {
            name: like(was, to).render()
            for name, was in self._variables.items()
            if (to := apart.get(name, url)) is not None
        }
        keywords = {**self._defaults, **url.conninfo()}
        values |= {
            name: value
            for name, value in answering(url.conninfo()).items()
            # an answer to a variable that is not set would be a setting of its own
            if name in os.environ
        }
        values |= {
            name: keywords[keyword]
            for name, keyword in PLACE_VARIABLES.items()
            if keyword in keywords
        }
        # without a host it is a variable that says where the server is
        if url.host is not None:
            values |= dict.fromkeys(_OTHER_PLACES)
        self._clone.write(values)

    def leave(self) -> None:
        """Every variable is what it was before a clone: it leads nowhere, or where others have led it."""
        self._clone.restore()

    def restore(self) -> None:
        """Every variable that is led is what it was."""
        for name, value in self.found.items():
            _set(name, value)


class _Patch:
    """Values `written` to variables, and what was `found` there; None for a variable that is not set."""

    def __init__(self) -> None:
        self.found: dict[str, str | None] = {}
        self.written: dict[str, str | None] = {}

    def write(self, values: Mapping[str, str | None]) -> None:
        """Set these variables; those that were written before and are none of these are what they were."""
        # what the last clone has led and this one does not
        for name in self.written.keys() - values.keys():
            _set(name, self.found[name])
            del self.written[name]
        for name, value in values.items():
            now = os.environ.get(name)
            # as it was written: then what was found before still holds
            if name not in self.written or now != self.written[name]:
                self.found[name] = now
            self.written[name] = value
            _set(name, value)

    def restore(self) -> None:
        """Put back what was found."""
        for name, value in self.found.items():
            _set(name, value)


def no_place(label: str) -> tuple[str, str]:
    """The directory of sockets and the host that do not exist, with a label in their names if there is one."""
    return (
        f"{NO_DIRECTORY}/{label}" if label else NO_DIRECTORY,
        f"{label}.{NO_HOST}" if label else NO_HOST,
    )


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def like(was: DatabaseURL, url: DatabaseURL) -> DatabaseURL:
    """A URL with another one's driver and query, but for the part of the query that says how to reach its server."""
    # options and application_name are the application's, the way to the server the clone's
    query = tuple(pair for pair in was.query if pair[0] not in ADDRESS)
    address = tuple(pair for pair in url.query if pair[0] in ADDRESS)
    if (
        was.driver == "asyncpg"
    ):  # SQLAlchemy hands a query on as asyncpg's own keywords, in which sslmode is ssl
        address = tuple((ASYNCPG[name], value) for name, value in address if name in ASYNCPG)
    return url.replace(driver=was.driver, query=(*address, *query))


def _nowhere(was: DatabaseURL, label: str) -> DatabaseURL:
    """A URL of the same form, database and user, of a server that does not exist; its password is not told."""
    is_socket = was.host is None or was.host.startswith(("/", "@"))
    directory, host = no_place(label)
    return was.replace(
        host=directory if is_socket else host,
        # some password, where there was one: what reads the URL may insist on it
        password=None if was.password is None else "none",
        query=tuple(pair for pair in was.query if pair[0] not in _LEADS_ELSEWHERE),
    )
