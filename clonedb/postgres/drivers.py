"""The drivers' functions that connect, watched in this process: psycopg's, psycopg2's and asyncpg's.

Each is caught where all ways to connect meet, inside of the driver, and not by the public name:
that is imported into users' modules (`from psycopg import connect`) long before a test begins,
replaced by tests' own monkeypatches, and passed by when a pool connects. SQLAlchemy's engines
connect by the same drivers.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

__all__ = [
    "Guard",
    "Look",
    "PatchedDrivers",
    "RoutedDrivers",
    "Send",
    "WatchedDrivers",
    "libpq_of",
]

Look = Callable[..., None]
"""Is shown the parameters of a connection that may hold a token, and raises to have it refused."""

Guard = Callable[[list[Any], Mapping[str, Any]], None]
"""Is shown all parameters of a connection, in its driver's words, and raises to have it refused."""

Send = Callable[[str, list[Any], dict[str, Any]], None]
"""Changes a connection's parameters, positional ones and keywords, which are in the words of the driver named first."""


class PatchedDrivers(ABC):
    """Replaces functions of the drivers, from `install` to `uninstall`.

    No driver is imported for that. One that is imported later is patched then, by a finder in
    `sys.meta_path`.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._waiting: dict[str, Callable[[ModuleType], None]] = {}

    @abstractmethod
    def _psycopg(self, psycopg: ModuleType) -> None:
        """Patch this driver."""

    @abstractmethod
    def _psycopg2(self, psycopg2: ModuleType) -> None:
        """Patch this driver."""

    @abstractmethod
    def _asyncpg(self, asyncpg: ModuleType) -> None:
        """Patch this driver."""

    def _patches(self) -> dict[str, Callable[[ModuleType], None]]:
        """The packages to patch, each with what does it."""
        return {"psycopg": self._psycopg, "psycopg2": self._psycopg2, "asyncpg": self._asyncpg}

    def install(self) -> None:
        """Patch the drivers that are there, and wait for the others."""
        for name, patch in self._patches().items():
            if isinstance(sys.modules.get(name), ModuleType):
                patch(
                    importlib.import_module(name)
                )  # which waits for a thread that is just importing it
            elif name not in sys.modules:  # where None and mocks of tests stand, too
                self._waiting[name] = patch

        sys.meta_path.insert(0, self)

    def uninstall(self) -> None:
        """Every driver is what it was, unless other code has replaced the same function since."""
        self._waiting.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        while self._undo:
            self._undo.pop()()

    def find_spec(
        self, name: str, _path: object = None, _target: object = None
    ) -> ModuleSpec | None:
        """Find nothing but a driver that is waited for, and that as everybody else would."""
        patch = self._waiting.pop(name, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            self._waiting[name] = patch  # it may be installed later
            return spec

        execute = spec.loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            execute(module)
            patch(module)

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec

    def _replace(self, home: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        """Put a wrapper in the place of something that a module or a class has, until `uninstall`."""
        was = getattr(home, "__dict__", {}).get(name)
        if (
            was is None
        ):  # no driver, or a version that we do not know: its connections are made unseen
            return

        wrapper = wrap(was)
        setattr(home, name, wrapper)

        def undo() -> None:
            if vars(home).get(name) is wrapper:
                setattr(home, name, was)

        self._undo.append(undo)


class WatchedDrivers(PatchedDrivers):
    """Shows `look` and `guard` the parameters of each new connection."""

    def __init__(self, look: Look, guard: Guard | None = None) -> None:
        super().__init__()
        self._look = look
        self._guard = guard or _look_at_nothing

    def uninstall(self) -> None:
        """No connection is shown any more, neither where a wrapper could not be taken away."""
        super().uninstall()
        self._look = self._guard = _look_at_nothing

    def _psycopg(self, psycopg: ModuleType) -> None:
        """Watch what makes parameters of a connection string and of keywords, documented as a place to change them."""

        def wrap(was: classmethod[Any, ..., Any]) -> classmethod[Any, ..., Any]:
            function = was.__func__

            @functools.wraps(function)
            def get_connection_params(cls: type, conninfo: str, **keywords: Any) -> Any:
                __tracebackhide__ = True
                self._look(conninfo, keywords.get("application_name"), keywords.get("passfile"))
                self._guard([conninfo], keywords)
                return function(cls, conninfo, **keywords)

            return classmethod(get_connection_params)

        for kind in ("Connection", "AsyncConnection"):
            self._replace(getattr(psycopg, kind, None), "_get_connection_params", wrap)

    def _psycopg2(self, psycopg2: ModuleType) -> None:
        """Watch what `psycopg2.connect` calls with one connection string, in which its keywords are."""

        def wrap(was: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(was)
            def connect(dsn: str, *arguments: Any, **keywords: Any) -> Any:
                __tracebackhide__ = True
                self._look(dsn)
                self._guard([dsn], {})
                return was(dsn, *arguments, **keywords)

            return connect

        self._replace(psycopg2, "_connect", wrap)

    def _asyncpg(self, asyncpg: ModuleType) -> None:
        """Watch what `asyncpg.connect` and its pools call with keywords only.

        `asyncpg.connect` gets to know application_name and require_auth: SQLAlchemy hands them
        on from a URL whose driver a test has changed to asyncpg.
        """

        def wrap(was: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(was)
            async def connect(**keywords: Any) -> Any:
                __tracebackhide__ = True
                settings = keywords.get("server_settings") or {}
                self._look(
                    keywords.get("dsn"),
                    keywords.get("passfile"),
                    settings.get("application_name"),
                )
                self._guard([], keywords)
                return await was(**keywords)

            return connect

        def wrap_public(was: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(was)
            async def connect(
                *arguments: Any, application_name: str | None = None, **keywords: Any
            ) -> Any:
                keywords.pop("require_auth", None)  # libpq's, and nothing that asyncpg could do
                if application_name is not None:
                    settings = keywords.get("server_settings") or {}
                    keywords["server_settings"] = {
                        "application_name": application_name,
                        **settings,
                    }

                return await was(*arguments, **keywords)

            return connect

        self._replace(getattr(asyncpg, "connect_utils", None), "_connect", wrap)
        self._replace(asyncpg, "connect", wrap_public)


class RoutedDrivers(PatchedDrivers):
    """Lets `send` change where each new connection leads."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send = send

    def _psycopg(self, psycopg: ModuleType) -> None:
        def wrap(was: classmethod[Any, ..., Any]) -> classmethod[Any, ..., Any]:
            function = was.__func__

            @functools.wraps(function)
            def get_connection_params(cls: type, conninfo: str, **keywords: Any) -> Any:
                positional: list[Any] = [conninfo]
                self._send("psycopg", positional, keywords)
                return function(cls, *(positional or [""]), **keywords)

            return classmethod(get_connection_params)

        for kind in ("Connection", "AsyncConnection"):
            self._replace(getattr(psycopg, kind, None), "_get_connection_params", wrap)

    def _psycopg2(self, psycopg2: ModuleType) -> None:
        def wrap(was: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(was)
            def connect(dsn: str, *arguments: Any, **keywords: Any) -> Any:
                positional: list[Any] = [dsn]
                parameters: dict[str, Any] = {}
                self._send("psycopg2", positional, parameters)
                dsn = psycopg2.extensions.make_dsn(*positional, **parameters)
                return was(dsn, *arguments, **keywords)

            return connect

        self._replace(psycopg2, "_connect", wrap)

    def _asyncpg(self, asyncpg: ModuleType) -> None:
        def wrap(was: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(was)
            async def connect(**keywords: Any) -> Any:
                absent = dict.fromkeys(keywords)  # it demands each of them, and None is none
                self._send("asyncpg", [], keywords)
                return await was(**{**absent, **keywords})

            return connect

        self._replace(getattr(asyncpg, "connect_utils", None), "_connect", wrap)


def libpq_of(driver: str) -> int:
    """The version of libpq that a driver speaks with, as libpq writes it (160004); 0 for one without it."""
    with contextlib.suppress(ImportError):
        if driver in ("psycopg", "psycopg_async"):
            from psycopg import pq

            return pq.version()
        if driver == "psycopg2":
            from psycopg2 import extensions

            return int(extensions.libpq_version())
    return 0


def _look_at_nothing(*_: object) -> None:
    """A wrapper that could not be taken away has nothing to do any more."""
