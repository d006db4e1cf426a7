"""What a process says while another one builds the template that it wants: soon, and again each minute."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator

import pytest

from clonedb.embedded import binaries, leases
from clonedb.errors import BuildError, LockTimeoutError
from clonedb.postgres.server import Server
from clonedb.postgres.servers import open_server
from clonedb.settings.config import Config
from clonedb.templates import locks, queue
from clonedb.templates.locks import server_lock
from clonedb.templates.queue import BuildQueue
from clonedb.url import DatabaseURL
from tests.templates.conftest import Heard

Configured = Callable[..., Config]
NAME = "the_template"


@pytest.mark.campaign("long")
def test_a_builder_of_this_machine(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who it is, since when, for how long this process waits, and how to end it."""
    monkeypatch.setattr(queue, "_PAUSE", 0.4)
    config = configured(lock_timeout=2.1)
    heard = Heard()
    with (
        contextlib.closing(open_server(config)) as server,
        BuildQueue(server, NAME, "one").turn(Heard()),
        pytest.raises(LockTimeoutError, match=f"is still being built by pid {os.getpid()}"),
        BuildQueue(server, NAME, "two").turn(heard),
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


@pytest.fixture
def second_url(config: Config) -> Iterator[str]:
    """Another server, as somebody else's."""
    second = config.replace("tests", servers=2).on_server(1)
    with leases.lease(second, binaries.choose(second, ())) as held:
        yield DatabaseURL(
            user=held.user, password=held.password, host="127.0.0.1", port=held.port
        ).render()


def test_a_build_that_failed_on_another_server(
    configured: Configured, server_url: str, second_url: str
) -> None:
    """It is told of to the processes of the run that want the template on the same server, and to no others."""
    config = configured(url=[server_url, second_url])
    with (
        contextlib.closing(open_server(config.on_server(0))) as server,
        contextlib.closing(open_server(config.on_server(1))) as second,
    ):
        with pytest.raises(BuildError), BuildQueue(server, NAME, "one").recorded():
            raise BuildError("no such table")
        with pytest.raises(BuildError, match="could not be built in this run: no such table"):
            BuildQueue(server, NAME, "one").raise_if_failed()
        BuildQueue(second, NAME, "one").raise_if_failed()
        # nor is it forgotten because the other one's succeeds
        with BuildQueue(second, NAME, "one").recorded():
            pass
        with pytest.raises(BuildError, match="could not be built in this run: no such table"):
            BuildQueue(server, NAME, "one").raise_if_failed()


def test_a_builder_on_another_server(
    configured: Configured, server_url: str, second_url: str
) -> None:
    """It is waited for by a run that uses both, as there will be a template to copy; by one that does not, it is not."""
    both = configured(url=[server_url, second_url], lock_timeout=0.2)
    with contextlib.ExitStack() as stack:

        def opened(config: Config) -> Server:
            return stack.enter_context(contextlib.closing(open_server(config)))

        servers = [opened(both.on_server(number)) for number in (0, 1)]
        alone = opened(configured(url=second_url, lock_timeout=0.2))
        with BuildQueue(servers[0], NAME, "one").turn(Heard()):
            with (
                pytest.raises(LockTimeoutError, match=f"being built by pid {os.getpid()}"),
                BuildQueue(servers[1], NAME, "one").turn(Heard()),
            ):
                pass
            with BuildQueue(alone, NAME, "two").turn(Heard()):
                pass


@pytest.mark.campaign("long")
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
