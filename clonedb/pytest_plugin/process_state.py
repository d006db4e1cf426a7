"""The process as it is between tests, put back while clonedb works: what a test replaces is the test's own.

A test may mock `open`, `threading.Thread` or `subprocess.Popen`, block sockets (pytest-socket),
fake the file system (pyfakefs), freeze the clock, empty `os.environ`. What lasts longer than
that test, such as a template or a clone that the next one gets, is made in the world that all
tests share.
"""

from __future__ import annotations

import builtins
import contextlib
import datetime as dt
import io
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Set as AbstractSet
from operator import itemgetter
from types import ModuleType
from typing import Any

import pytest

__all__ = [
    "LED",
    "ProcessState",
    "process_state_of",
    "pytest_fixture_setup",
    "pytest_runtestloop",
]

# pytest has imported all of these by itself; the clock may be frozen for the whole session, by
# the first conftest.py
_EARLY = (dt, threading, time)
_HOMES = (builtins, io, os, os.path, select, shutil, signal, socket, subprocess, tempfile)
_CLASSES = (pathlib.Path, pathlib.PurePath, socket.socket, subprocess.Popen, threading.Thread)

LED = pytest.StashKey[Callable[[], Mapping[str, str | None]]]()
"""Gives what the variables held that lead to a test's database at the moment; None for those that were not set."""

_STATE = pytest.StashKey["ProcessState"]()


def _functions(homes: Iterable[ModuleType | type]) -> Iterator[tuple[Any, str, Any]]:
    """The functions and classes in modules and classes: home, name, value. Of the builtins, `open`."""
    for home in homes:
        for name, value in vars(home).items():
            if home is builtins:
                wanted = name == "open"
            elif name.startswith("_") or name == "excepthook":  # which pytest itself replaces
                wanted = False
            else:
                wanted = callable(value) and not (
                    isinstance(value, type) and issubclass(value, BaseException)
                )

            if wanted:
                yield home, name, value


_AT_IMPORT = tuple(_functions(_EARLY))


class ProcessState:
    """The environment, the directory, `sys.path` and the functions of the session, as they were before any test.

    What the session's own fixtures set in the environment belongs to it, too (`follow`).
    """

    def __init__(self, led: Callable[[], Mapping[str, str | None]]) -> None:
        self._led = led
        self._environ = os.environ
        self._variables = dict(os.environ)
        # routing begins before this: the session has what the variables held until then
        for name, value in led().items():
            self._note(name, value)
        self._directory = _directory()
        self._path = sys.path.copy()
        # the first of a name counts: what there was at import
        functions: dict[Any, dict[str, Any]] = {}
        for home, name, value in (*_AT_IMPORT, *_functions(_HOMES), *_functions(_CLASSES)):
            functions.setdefault(home, {}).setdefault(name, value)
        self._functions = functions

        # hundreds are looked at several times for each test: by what runs in C
        self._known = tuple(
            (
                vars(home),
                # with one name an itemgetter gives no tuple: the first is asked for twice
                itemgetter(next(iter(known)), *known),
                (next(iter(known.values())), *known.values()),
            )
            for home, known in functions.items()
        )
        # what a class has beyond these, a test has added
        self._names = tuple((home, frozenset(vars(home))) for home in _CLASSES)
        self._depth = 0
        self._replaced = contextlib.ExitStack()

    @contextlib.contextmanager
    def unpatched(self) -> Iterator[None]:
        """No function that clonedb or a driver calls is a test's, and no file is a fake: for work on open servers."""
        self._depth += 1
        try:
            if (
                self._depth == 1
            ):  # connections of asynchronous drivers may be opened at the same time
                self._put_back(self._replaced)
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._replaced.close()

    def _put_back(self, stack: contextlib.ExitStack) -> None:
        _pause_fake_files(stack)
        # the mapping itself, in whose place a test may have put a dictionary
        _set(os, "environ", self._environ, stack)
        if not self._has_all():
            for home, known in self._functions.items():
                for name, value in known.items():
                    _set(home, name, value, stack)
        for home, names in self._names:
            # what was there is there again, so that more can only be new names
            if len(vars(home)) != len(names):
                _take_away(home, names, stack)

    def _has_all(self) -> bool:
        """Whether every function is where it was."""
        try:
            for now, get, values in self._known:
                if (
                    get(now) != values
                ):  # identity is compared first, and by what runs in C: a third of the time
                    return False
        except KeyError:  # a test has deleted one
            return False
        return True

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """And the environment, the directory and `sys.path` are the session's: for what a template is made of."""
        with self.unpatched(), contextlib.ExitStack() as stack:
            # what a migration sets goes with it: the environment of the caller comes back
            found = dict(os.environ)
            _change_variables(found, self._variables)
            stack.callback(lambda: _change_variables(dict(os.environ), found))
            if self._directory is not None and self._directory != _directory():
                with contextlib.suppress(
                    OSError
                ):  # it is gone, and no template of this session can be built there
                    _go(self._directory, stack)

            # a copy for what is built, which may add to it
            found_path = sys.path
            sys.path = self._path.copy()
            stack.callback(setattr, sys, "path", found_path)
            yield

    @contextlib.contextmanager
    def follow(self) -> Iterator[None]:
        """What a fixture of the session does to the environment is the session's."""
        before = dict(os.environ)
        try:
            yield
        finally:
            after, led = dict(os.environ), self._led()
            # what leads to a test's clone at the moment is not the fixture's doing
            for name in (before.keys() | after.keys()) - led.keys():
                if before.get(name) != after.get(name):
                    self._note(name, after.get(name))

    def _note(self, name: str, value: str | None) -> None:
        if value is None:
            self._variables.pop(name, None)
        else:
            self._variables[name] = value


def process_state_of(config: pytest.Config) -> ProcessState:
    """The process's state, which is looked at before the first test changes anything."""
    if _STATE not in config.stash:
        config.stash[_STATE] = ProcessState(config.stash.get(LED, dict))
        _leave_alone()
    return config.stash[_STATE]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Look at the world before the first test, and before any plugin's hook for it (pytest-socket's)."""
    process_state_of(session.config)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """Follow the fixtures of the session."""
    # a narrower fixture may set variables for the tests of its module alone
    if fixturedef.scope != "session":
        return (yield)
    with process_state_of(request.config).follow():
        return (yield)


def _directory() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - a Path of a test's own fakes
    except FileNotFoundError:
        return None


def _go(directory: str, stack: contextlib.ExitStack) -> None:
    here = os.open(".", os.O_RDONLY | os.O_CLOEXEC)  # which may be deleted already
    stack.callback(os.close, here)
    os.chdir(directory)
    stack.callback(os.fchdir, here)


def _change_variables(found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Make the environment what is wanted, touching only what differs: other threads may be reading it."""
    for name in found.keys() - wanted.keys():
        os.environ.pop(name, None)
    for name, value in wanted.items():
        if found.get(name) != value:
            os.environ[name] = value


def _set(home: Any, name: str, value: Any, stack: contextlib.ExitStack) -> None:
    """Let a module or a class have what it had, until the stack is unwound."""
    if name not in vars(home):
        stack.callback(delattr, home, name)
    elif vars(home)[name] is value:
        return
    else:
        stack.callback(setattr, home, name, vars(home)[name])
    setattr(home, name, value)


def _take_away(home: type, names: AbstractSet[str], stack: contextlib.ExitStack) -> None:
    """Let a class lack what was added to it, as pytest-socket adds a `connect`."""
    for name, value in [*vars(home).items()]:
        if name not in names and not name.startswith("_"):
            delattr(home, name)
            stack.callback(setattr, home, name, value)


def _patcher() -> Any:
    """pyfakefs's, while a test has a fake file system."""
    module = sys.modules.get("pyfakefs.fake_filesystem_unittest")
    return getattr(getattr(module, "Patcher", None), "PATCHER", None)


def _pause_fake_files(stack: contextlib.ExitStack) -> None:
    patcher = _patcher()
    if patcher is not None and patcher.is_patching:
        patcher.pause()
        stack.callback(patcher.resume)


def _leave_alone() -> None:
    """Keep pyfakefs out of clonedb's modules, whose threads work while a test has a fake file system."""
    module = sys.modules.get("pyfakefs.fake_filesystem_unittest")
    skipped = getattr(getattr(module, "Patcher", None), "RUNTIME_SKIPMODULES", None)
    # pyfakefs's own list of modules that keep the real files
    if isinstance(skipped, dict):
        skipped["clonedb"] = ["clonedb."]
