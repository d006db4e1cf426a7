"""What a process says while another one builds the template that it wants: soon, and again each minute."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable

import pytest

from clonedb.errors import LockTimeoutError
from clonedb.postgres.servers import open_server
from clonedb.settings.config import Config
from clonedb.templates import locks, queue
from clonedb.templates.locks import server_lock
from clonedb.templates.queue import BuildQueue
from tests.templates.conftest import Heard

Configured = Callable[..., Config]
NAME = "the_template"


def test_a_builder_of_this_machine(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who it is, since when, for how long this process waits, and how to end it."""
    monkeypatch.setattr(queue, "_PAUSE", 0.4)
    config = configured(lock_timeout=2.1)
    heard = Heard()
    with (
        BuildQueue(config, NAME, "one").turn(Heard()),
        pytest.raises(LockTimeoutError, match=f"is still being built by pid {os.getpid()}"),
        BuildQueue(config, NAME, "two").turn(heard),
    ):
        pass
    waited = [
        re.fullmatch(
            rf"template '{NAME}' is being built by pid {os.getpid()} since \d s \(`kill {os.getpid()}` ends it\);"
            r" waiting for (\d) s \(lock_timeout = 2.1 s\)",
            line,
        )
        for line in heard.lines
    ]
    assert len(waited) >= 3
    assert all(waited)


def test_a_builder_of_another_machine(
    configured: Configured, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, with its address, what it is at, and the statement that ends its session."""
    monkeypatch.setattr(locks, "_PAUSE", 0.4)
    config = configured(url=server_url, lock_timeout=4.0, lease_timeout=2.0)
    heard = Heard()
    with (
        contextlib.closing(open_server(config)) as server,
        server_lock(server, NAME, Heard()) as lease,
    ):
        lease.at = "revision 2 of 9 (it's */ 3f2a)"
        with (
            pytest.raises(LockTimeoutError, match="is still being built by clonedb build on"),
            server_lock(server, NAME, heard),
        ):
            pass
    assert len(heard.lines) >= 2
    assert re.fullmatch(
        rf"template '{NAME}' is being built by clonedb build on \S+, pid {os.getpid()} \(server process (\d+), from"
        r" 127.0.0.1, connected since \d s, at revision 2 of 9 \(it's    3f2a\)\); waiting for \d s"
        r" \(lock_timeout = 4 s\); `select pg_terminate_backend\(\1\)` ends it",
        heard.lines[0],
    )
