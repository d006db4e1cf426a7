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
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

__all__ = ["Lead", "Look", "PatchedDrivers", "WatchedDrivers", "libpq_of"]

Look = Callable[..., None]
"""Is shown the parameters of a connection that may hold a token, and raises to have it refused."""

Lead = Callable[[str, list[Any], dict[str, Any]], bool]
"""Is shown a driver's name and all parameters of a connection, in the driver's words: positional, and by keyword.

It changes them in place to lead the connection elsewhere, and says whether it did; or it raises
to have the connection refused.
"""


class PatchedDrivers(ABC):
    """Replaces functions of the drivers, from `install` to `uninstall`.

    No driver is imported for that. One that is imported later is patched then, by a finder in
    `sys.meta_path`.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._waiting: dict[str, Callable[[ModuleType], None]] = {}
        self._asked: set[tuple[int, str]] = (
            set()
        )  # by threads that look for the same themselves

    @abstractmethod
    def _patches(self) -> Mapping[str, Callable[[ModuleType], None]]:
        """What patches each of the modules, by its name."""

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
        """Find nothing but a driver that is waited for, and that as everybody else would.

        Code that only asks whether it is installed does not import it, so that it is waited for
        until it is executed.
        """
        asked = threading.get_ident(), name
        if name not in self._waiting or asked in self._asked:
            return None
        self._asked.add(asked)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asked.discard(asked)
        if spec is None or spec.loader is None:  # it may be installed later
            return spec

        execute = spec.loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            execute(module)
            if (patch := self._waiting.pop(name, None)) is not None:
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
    """Shows `look` and `lead` the parameters of each new connection."""

    def __init__(self, look: Look, lead: Lead | None = None) -> None:
        super().__init__()
        self._look = look
        self._lead = lead or _lead_nowhere_else

    def _patches(self) -> Mapping[str, Callable[[ModuleType], None]]:
        return {"psycopg": self._psycopg, "psycopg2": self._psycopg2, "asyncpg": self._asyncpg}

    def uninstall(self) -> None:
        """No connection is shown any more, neither where a wrapper could not be taken away."""
        super().uninstall()
        self._look = _look_at_nothing
        self._lead = _lead_nowhere_else

    def _psycopg(self, psycopg: ModuleType) -> None:
        """Watch what makes parameters of a connection string and of keywords, documented as a place to change them."""

        def wrap(was: classmethod[Any, ..., Any]) -> classmethod[Any, ..., Any]:
            function = was.__func__

            @functools.wraps(function)
            def get_connection_params(cls: type, conninfo: str, **keywords: Any) -> Any:
                __tracebackhide__ = True
                self._look(conninfo, keywords.get("application_name"), keywords.get("passfile"))
                if self._lead("psycopg", [conninfo], keywords):
                    # what it said besides is in the keywords now
                    conninfo = ""
                return function(cls, conninfo, **keywords)

            return classmethod(get_connection_params)

        for kind in ("Connection", "AsyncConnection"):
            self._replace(getattr(psycopg, kind, None), "_get_connection_params", wrap)

    def _psycopg2(self, psycopg2: ModuleType) -> None:
        """Watch what `psycopg2.connect` calls with one connection string, in which its keywords are."""
        thread = threading.local()

        def wrap(was: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(was)
            def connect(dsn: str, *arguments: Any, **keywords: Any) -> Any:
                __tracebackhide__ = True
                self._look(dsn)
                positional: list[Any] = [dsn]
                parameters: dict[str, Any] = {}
                if getattr(thread, "leads", False) or not self._lead(
                    "psycopg2", positional, parameters
                ):
                    return was(dsn, *arguments, **keywords)

                # from the outermost wrapper on: another one has to know where it goes
                led: str = psycopg2.extensions.make_dsn(*positional, **parameters)
                thread.leads = True
                try:
                    return vars(psycopg2)["_connect"](led, *arguments, **keywords)
                finally:
                    thread.leads = False

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
                names = list(keywords)
                if self._lead("asyncpg", [], keywords):
                    # asyncpg requires each of these keywords: one that was taken away is None
                    keywords = {**dict.fromkeys(names), **keywords}
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


def _lead_nowhere_else(*_: object) -> bool:
    return False
