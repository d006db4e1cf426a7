"""What is done in each Python process below the project's own command: it is routed, and what it reads is noted.

Every process below inherits the variable that says where to, and the directory of
`sitecustomize` in PYTHONPATH, by which it comes here as it starts.
"""

# ruff: noqa: PTH118 - paths are text here

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from clonedb.migrate.inside.read_files import source_read_by
from clonedb.migrate.inside.variables import AskedVariables
from clonedb.postgres.address import redirect
from clonedb.postgres.drivers import WatchedDrivers
from clonedb.url import DatabaseURL

__all__ = ["Noted", "environment_below", "noted", "watch_and_route"]

_VARIABLE = "_CLONEDB_MIGRATE"
_EVENTS = ("open", "socket.connect", "sqlite3.connect", "variable")
_STARTUP = os.path.join(os.path.dirname(__file__), "startup")  # noqa: PTH120


class Noted(NamedTuple):
    """What the processes did.

    `read` are the project's files, and `variables` those of the environment that its code asked
    for. `elsewhere` are other databases that they opened.
    """

    read: frozenset[str]
    variables: frozenset[str]
    elsewhere: tuple[str, ...]


def environment_below(
    environment: Mapping[str, str], *, url: str, rootdir: str, notes: str
) -> dict[str, str]:
    """An environment in which every Python process is routed to `url`, and appends what it does to the file `notes`."""
    setup = {"url": url, "rootdir": rootdir, "notes": notes}
    path = [_STARTUP, environment.get("PYTHONPATH", "")]
    return {
        **environment,
        _VARIABLE: json.dumps(setup),
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }


def watch_and_route() -> None:
    """Watch this process, and route it, if it is below such a command."""
    text = os.environ.get(_VARIABLE)
    if text is None:
        return
    setup = json.loads(text)
    notes = _Notes(setup["notes"], setup["rootdir"])
    sys.addaudithook(notes.hear)
    # Python names files by the one or by the other
    for rootdir in {setup["rootdir"], os.path.realpath(setup["rootdir"])}:
        AskedVariables(rootdir, notes.variable)
    _Below(DatabaseURL.parse(setup["url"])).install()


def noted(notes: str) -> Noted:
    """What is in the file."""
    found: dict[str, dict[str, None]] = {"read": {}, "variable": {}, "elsewhere": {}}
    with open(notes, encoding="utf-8") as file:  # noqa: PTH123
        for line in file:
            with contextlib.suppress(ValueError):  # the process was killed as it wrote
                kind, what = json.loads(line)
                found[kind][what] = None

    return Noted(
        frozenset(found["read"]), frozenset(found["variable"]), tuple(found["elsewhere"])
    )


class _Below(WatchedDrivers):
    """Routes the drivers, and SQLAlchemy's engines: those of other drivers, and their roles."""

    def __init__(self, url: DatabaseURL) -> None:
        def lead(driver: str, positional: list[Any], keywords: dict[str, Any]) -> bool:
            redirect(url, driver, positional, keywords)
            return True

        super().__init__(lambda *_: None, lead)
        self._url = url

    def _patches(self) -> dict[str, Callable[[ModuleType], None]]:
        return {**super()._patches(), "sqlalchemy": self._sqlalchemy}

    def _sqlalchemy(self, _: ModuleType) -> None:
        from clonedb.migrate.inside.routing import route_engines
        from clonedb.migrate.inside.server_objects import share_server

        share_server(set())
        route_engines(self._url)


class _Notes:
    """Appends a line for each file of the project that this process reads, and for other databases that it opens."""

    def __init__(self, notes: str, rootdir: str) -> None:
        self._notes = notes
        self._rootdir = os.path.join(rootdir, "")
        self._real = os.path.join(os.path.realpath(rootdir), "")
        self._prefix = os.path.join(sys.prefix, "")
        self._seen: set[tuple[str, str]] = set()
        self._busy = False

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit event; what fails here is no failure of the command."""
        # noting opens a file, which is an event, too
        if self._busy or event not in _EVENTS:
            return
        self._busy = True
        try:
            self._note(event, arguments)
        except Exception:  # noqa: BLE001, S110 - as the docstring says
            pass
        finally:
            self._busy = False

    def variable(self, name: str) -> None:
        """A variable that the project's code asks for."""
        self.hear("variable", (name,))

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "variable":
            self._append(event, arguments[0])
        elif event == "sqlite3.connect":
            self._append("elsewhere", f"SQLite's {str(arguments[0])!r}")
        elif event == "socket.connect":
            # the address of a Unix socket is a path
            if isinstance(arguments[1], tuple):
                self._append("elsewhere", f"{arguments[1][0]}:{arguments[1][1]}")
        elif (path := source_read_by(event, arguments)) is not None:
            if path.startswith(self._real):
                path = self._rootdir + path[len(self._real) :]
            if path.startswith(self._rootdir) and not self._is_installed(path):
                self._append("read", path)

    def _is_installed(self, path: str) -> bool:
        """Whether a file is of the environment that the process runs in, where that is below the project."""
        return self._prefix.startswith(self._rootdir) and path.startswith(self._prefix)

    def _append(self, kind: str, what: str) -> None:
        if (kind, what) in self._seen:
            return
        self._seen.add((kind, what))
        line = json.dumps([kind, what]) + "\n"
        # several processes append to the file, a line at once
        descriptor = os.open(self._notes, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, line.encode())  # at once, as a process may be killed
        finally:
            os.close(descriptor)
