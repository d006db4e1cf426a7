"""libpq's parameters as the environment sets them: by PG* variables, and by the service that PGSERVICE names."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg.pq import ConninfoOption

__all__ = [
    "ASYNCPG",
    "PLACE_VARIABLES",
    "SHAPING",
    "affecting",
    "against_environment",
    "answering",
    "defaults",
    "leading_to",
    "of_service",
    "unset",
]

PLACE_VARIABLES = MappingProxyType(
    {
        "PGHOST": "host",
        "PGPORT": "port",
        "PGUSER": "user",
        "PGPASSWORD": "password",
        "PGDATABASE": "dbname",
    }
)
"""The variables that say where a connection goes, each with its parameter."""

ASYNCPG = MappingProxyType(
    {
        "sslmode": "ssl",
        "ssl": "ssl",
        "target_session_attrs": "target_session_attrs",
        "passfile": "passfile",
    }
)
"""What asyncpg reads of the environment, too, or takes of a URL, each with its own name for it."""

SHAPING = ("PGOPTIONS", "PGTZ", "PGDATESTYLE", "PGGEQO", "PGCLIENTENCODING")
"""The variables that change what a session does, and with it what a migration makes."""

# no parameter takes these back, or they name files in which there may be others
_SETTINGS = ("PGTZ", "PGDATESTYLE", "PGGEQO")
_FILES = ("PGSERVICE", "PGSERVICEFILE", "PGSYSCONFDIR")

# the mapping whose changes reach libpq: a test may put another one in its place
_ENVIRON = os.environ

_GIVEN = frozenset(
    {*PLACE_VARIABLES.values(), "passfile", "application_name", "service", "servicefile"}
)
# libpq has no value of its own for these; an empty one it refuses, or SQLAlchemy leaves it out
# of a URL. Others name files for TLS, which the embedded server does not speak.
_NEUTRAL = MappingProxyType(
    {
        "client_encoding": "UTF8",
        "connect_timeout": "0",
        "hostaddr": "127.0.0.1",
        "options": " ",
        "require_auth": "scram-sha-256",
        "sslrootcert": os.devnull,
        "sslcertmode": "allow",
        "min_protocol_version": "3.0",
        "max_protocol_version": "latest",
    }
)


def _options() -> list[ConninfoOption]:
    """Libpq's parameters and what it takes for each now; of a service that is not there, nothing."""
    from psycopg import Error, pq

    try:
        return pq.Conninfo.get_defaults()
    except (Error, MemoryError):
        with unset(_set(_FILES)):
            return pq.Conninfo.get_defaults()


def defaults() -> Mapping[str, str]:
    """What libpq takes now for a parameter that is not given, from PG* variables and the service PGSERVICE names."""
    return {
        option.keyword.decode(): option.val.decode()
        for option in _options()
        if option.val is not None
    }


def of_service(service: str, file: str | None = None) -> Mapping[str, str]:
    """What libpq takes for a parameter that is not given where a connection names a service: its file says it first."""
    variables = {"PGSERVICE": service}
    if file:
        variables["PGSERVICEFILE"] = file
    with _UNSET.exchanged(variables):
        return defaults()


def against_environment() -> dict[str, str]:
    """The parameters that the environment changes, each with the value that it has without that, on this machine.

    Given with a connection they take the environment's effect away: PGSSLMODE=require would
    refuse a server without TLS, a PGHOSTADDR wins over any host. Where a connection goes, and
    as whom, is not among them but for that address.
    """
    found = {}
    for option in _options():
        name = option.keyword.decode()
        # compiled: what libpq takes without any variable or service
        if option.envvar is not None and name not in _GIVEN and option.val != option.compiled:
            neutral = _NEUTRAL.get(name) or (option.compiled or b"").decode()
            if neutral:
                found[name] = neutral
    return found


def leading_to(
    environment: Mapping[str, str], keywords: Mapping[str, str], *, alone: bool
) -> dict[str, str]:
    """An environment in which libpq's variables lead to what `keywords` name, for another program.

    A service and an address would win over the host. `alone` takes every other variable of
    libpq's away as well, which were not meant for this server.
    """
    unfit: set[str] = set()
    # libpq connects to PGHOSTADDR where there is a host, too
    if "host" in keywords:
        unfit |= {"PGSERVICE", "PGHOSTADDR"}
    if alone:
        unfit |= {
            *_SETTINGS,
            *_FILES,
            *(option.envvar.decode() for option in _options() if option.envvar),
        }

    kept = {name: value for name, value in environment.items() if name not in unfit}
    return kept | {
        name: keywords[keyword]
        for name, keyword in PLACE_VARIABLES.items()
        if keyword in keywords
    }


def answering(keywords: Mapping[str, str]) -> dict[str, str]:
    """The variables that `against_environment` has an answer to, each with that answer."""
    return {
        option.envvar.decode(): keywords[name]
        for option in _options()
        if option.envvar is not None
        and (name := option.keyword.decode()) in keywords
        and name not in _GIVEN
    }


def affecting() -> dict[str, str]:
    """The variables that are set now, and change connections whose place is given; each with its value."""
    names = {
        *_SETTINGS,
        *_FILES,
        *(option.envvar.decode() for option in _options() if option.envvar),
    }
    # those of the place are known, and the others change nothing where a password is given
    return _set(sorted(names - {*PLACE_VARIABLES, "PGAPPNAME", "PGPASSFILE"}))


def _set(names: Iterable[str]) -> dict[str, str]:
    """Those of some variables that are set, each with its value."""
    return {name: value for name in names if (value := _ENVIRON.get(name)) is not None}


class _Unset:
    """The variables that libpq does not see at the moment, in no thread: they stay in `os.environ`.

    libpq reads the environment of the C library, which a process has one of.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._contexts: Counter[str] = Counter()

    def enter(self, variables: Mapping[str, str]) -> list[str]:
        """Unset those that have these values: the names, for `leave`."""
        names = [name for name, value in variables.items() if _ENVIRON.get(name) == value]
        with self._lock:
            for name in names:
                # unset in the C library's environment alone, of which os.environ is a copy
                self._contexts[name] += 1
                os.unsetenv(name)
        return names

    def leave(self, names: Iterable[str]) -> None:
        """Set those again that no other thread needs unset, to what they are in `os.environ` now."""
        with self._lock:
            for name in names:
                self._contexts[name] -= 1
                self._restore(name)

    @contextlib.contextmanager
    def exchanged(self, variables: Mapping[str, str]) -> Iterator[None]:
        """Libpq sees other values of variables, in every thread: just long enough to ask it for its defaults."""
        with self._lock:
            for name, value in variables.items():
                os.putenv(name, value)
            try:
                yield
            finally:
                for name in variables:
                    self._restore(name)

    def _restore(self, name: str) -> None:
        value = _ENVIRON.get(name)
        # another thread needs it unset still
        if value is None or self._contexts[name]:
            os.unsetenv(name)
        else:
            os.putenv(name, value)


_UNSET = _Unset()


@contextlib.contextmanager
def unset(variables: Mapping[str, str] | None = None) -> Iterator[None]:
    """Libpq sees variables unset in this context: those that have given values, or else that no parameter takes back.

    Threads may do this at the same time: the last one that leaves sets them again.
    """
    wanted = _set((*_FILES, *_SETTINGS)) if variables is None else variables
    names = _UNSET.enter(wanted)
    try:
        yield
    finally:
        _UNSET.leave(names)
