"""`Servers`: one process has each server once, and keeps it until the last of those who asked has closed it."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

import pytest

from clonedb.postgres.servers import Servers
from clonedb.settings.config import Config
from clonedb.settings.keys import TEMPLATE_KEYS
from tests.embedded.sandbox import Sandbox, is_alive, wait_until
from tests.projects import Project


def test_templates_of_one_configuration_share_a_server(config: Config) -> None:
    """Whatever makes their templates; it is open until both have closed it."""
    servers = Servers()
    first = servers.open(config)
    second = servers.open(
        config.replace("the test", target="one", seed=["a.sql"], locale="C").of_revision(
            "one", "x"
        )
    )
    assert second is first
    first.close()
    assert second.rows("select 1") == [(1,)]
    second.close()
    assert not second.is_open
    with contextlib.closing(servers.open(config)) as third:
        assert third is not first


@pytest.mark.parametrize(
    "settings",
    [{"role": "reader"}, {"keep": "none"}, {"prefix": "other"}, {"lock_timeout": 7.0}],
)
def test_another_setting_means_another_server(config: Config, settings: dict[str, Any]) -> None:
    """Each setting that does not make a template is the server's."""
    servers = Servers()
    with (
        contextlib.closing(servers.open(config)) as first,
        contextlib.closing(servers.open(config.replace("the test", **settings))) as second,
    ):
        assert second is not first
        assert (first.is_open, second.is_open) == (True, True)


def test_a_server_does_not_carry_a_templates_configuration(config: Config) -> None:
    """What uses it there would take another template's, silently."""
    settings: dict[str, Any] = {
        "target": "one",
        "seed": ["a.sql"],
        "extensions": ["citext"],
        "salt": "x",
        "x": ["y"],
    }
    with contextlib.closing(Servers().open(config.replace("the test", **settings))) as server:
        carried = {
            name
            for name in TEMPLATE_KEYS
            if getattr(server.config, name) != getattr(Config(config.rootdir), name)
        }
        assert carried == set()
        assert not TEMPLATE_KEYS & server.config.sources.keys()
        assert server.config.source("state_dir") == "tests"


def test_a_server_that_died_is_not_shared(sandbox: Sandbox) -> None:
    """The next who asks gets one that runs."""
    servers = Servers()
    with contextlib.closing(servers.open(sandbox.config)) as dead:
        running = sandbox.running()
        os.kill(running.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(running.keeper))
        with contextlib.closing(servers.open(sandbox.config)) as alive:
            assert alive is not dead
            assert alive.rows("select 1") == [(1,)]


SESSIONS = """
import pytest, psycopg, os

@pytest.mark.clonedb(template="early")
def test_early(clonedb_dsn): ...

def test_at(clonedb_at, clonedb_empty):
    clonedb_at("one")

def test_sessions(clonedb_dsn):
    with psycopg.connect(clonedb_dsn) as connection:
        query = "select count(*) from pg_stat_activity where application_name like %s"
        assert connection.execute(query, [f"clonedb on %, pid {os.getpid()}"]).fetchone() == (1,)
"""


def test_a_run_has_one_session_with_the_server_whatever_templates_it_has(
    items: Project,
) -> None:
    """The default one, a named one, one at a revision, and a database in which nothing was made."""
    items.settings(templates={"early": {"target": "one"}})
    items.write("test_it.py", SESSIONS)
    assert "3 passed" in items.pytest().demand().out
