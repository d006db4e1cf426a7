"""Connections of this process's drivers to an embedded server, which libpq's variables in the shell do not reach.

They were meant for another server: a PGSERVICE that is not there and a PGTZ that is no time
zone fail every connection by libpq, and no parameter takes them back.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Generator, Mapping
from types import ModuleType
from typing import Any

from clonedb.errors import ConfigError
from clonedb.postgres import libpq_variables
from clonedb.postgres.address import Address, aimed_at
from clonedb.postgres.drivers import PatchedDrivers
from clonedb.url import DatabaseURL

__all__ = ["EmbeddedConnections"]


class EmbeddedConnections(PatchedDrivers):
    """Unsets the variables that were found here while a driver connects to a port of this machine.

    A variable that a test sets to another value is meant, and stays. `answers` are the
    parameters with which the URLs that are handed out take variables back: asyncpg would send
    those that it does not know to the server, and psycopg2 brings a libpq that may be older
    than psycopg's, so that they get such a URL without.
    """

    def __init__(self, port: int, answers: Mapping[str, str]) -> None:
        super().__init__()
        self._place = {"host": "localhost", "port": str(port)}
        self._answers = frozenset(answers.items())
        self._variables = libpq_variables.affecting()

    def _patches(self) -> Mapping[str, Callable[[ModuleType], None]]:
        return {"psycopg": self._psycopg, "psycopg2": self._psycopg2, "asyncpg": self._asyncpg}

    def install(self) -> None:
        """Begin, if there is such a variable at all."""
        if self._variables:
            super().install()

    def uninstall(self) -> None:
        """Unset nothing any more, neither where a wrapper could not be taken away."""
        super().uninstall()
        self._variables = {}

    def _are_meant(self, positional: list[Any], keywords: Mapping[str, Any]) -> bool:
        """Whether the parameters of a connection lead to the server, whatever the database."""
        if not self._variables:
            return False
        found = aimed_at(positional, keywords, libpq_variables.defaults())
        return found.is_at(Address.of({**self._place, "dbname": found.database}, {}))

    def _unset(self) -> contextlib.AbstractContextManager[None]:
        return libpq_variables.unset(self._variables)

    def _without_answers(self, text: str) -> str:
        """A URL without what answers the variables; any other connection string as it is."""
        try:
            url = DatabaseURL.parse(text)
        except ConfigError:
            return text
        return url.replace(
            query=tuple(pair for pair in url.query if pair not in self._answers)
        ).render()

    def _psycopg(self, psycopg: ModuleType) -> None:
        """Patch the generator that connects, synchronously or not: libpq reads the variables in any of its steps."""

        def wrap(was: classmethod[Any, ..., Any]) -> classmethod[Any, ..., Any]:
            function = was.__func__

            @functools.wraps(function)
            def connect_gen(cls: type, conninfo: str = "", **keywords: Any) -> Any:
                __tracebackhide__ = True
                steps = function(cls, conninfo, **keywords)
                return self._stepped(steps) if self._are_meant([conninfo], {}) else steps

            return classmethod(connect_gen)

        self._replace(getattr(psycopg, "BaseConnection", None), "_connect_gen", wrap)

    def _stepped(self, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """The same generator, during each step of which the variables are not set, and are set in between."""
        __tracebackhide__ = True
        ready = None
        while True:
            with self._unset():
                try:
                    wanted = steps.send(ready)
                except StopIteration as end:
                    return end.value
            ready = yield wanted

    def _psycopg2(self, psycopg2: ModuleType) -> None:
        """Patch the function that connects, and the one before that has libpq verify the parameters."""

        def wrap_make_dsn(was: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(was)
            def make_dsn(dsn: str | None = None, **keywords: Any) -> Any:
                __tracebackhide__ = True
                if not self._are_meant([dsn], keywords):
                    return was(dsn, **keywords)
                kept = {
                    name: value
                    for name, value in keywords.items()
                    if (name, value) not in self._answers
                }
                return was(dsn and self._without_answers(dsn), **kept)

            return make_dsn

        def wrap(was: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(was)
            def connect(dsn: str, *arguments: Any, **keywords: Any) -> Any:
                __tracebackhide__ = True
                if not self._are_meant([dsn], {}):
                    return was(dsn, *arguments, **keywords)
                with self._unset():
                    return was(dsn, *arguments, **keywords)

            return connect

        self._replace(getattr(psycopg2, "extensions", None), "make_dsn", wrap_make_dsn)
        self._replace(psycopg2, "_connect", wrap)

    def _asyncpg(self, asyncpg: ModuleType) -> None:
        """Patch the function that reads the connection string, and have it read another environment: Python's own."""
        thread = threading.local()

        def wrap(was: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(was)
            def parse_connect_arguments(**keywords: Any) -> Any:
                __tracebackhide__ = True
                if not self._are_meant([], keywords):
                    return was(**keywords)
                if keywords.get("dsn"):
                    keywords["dsn"] = self._without_answers(keywords["dsn"])
                # by name and value: one that the test has set to something else is meant
                hidden = self._variables.items()
                # asyncpg's module has `_Os` in the place of os, which looks here
                thread.environ = {
                    name: value
                    for name, value in os.environ.items()
                    if (name, value) not in hidden
                }
                try:
                    return was(**keywords)
                finally:
                    del thread.environ

            return parse_connect_arguments

        connect_utils = getattr(asyncpg, "connect_utils", None)
        self._replace(connect_utils, "_parse_connect_arguments", wrap)
        self._replace(connect_utils, "os", lambda was: _Os(was, thread))


class _Os:
    """The module os with another environment, in threads that have one."""

    def __init__(self, was: ModuleType, thread: threading.local) -> None:
        self._was = was
        self._thread = thread

    def __getattr__(self, name: str) -> Any:
        return getattr(self._was, name)

    @property
    def environ(self) -> Mapping[str, str]:
        found: Mapping[str, str] = getattr(self._thread, "environ", self._was.environ)
        return found

    def getenv(self, name: str, default: str | None = None) -> str | None:
        return self.environ.get(name, default)
