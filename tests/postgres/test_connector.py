"""Clonedb's own connections: in UTF-8 whatever the server's encoding, and patient while it starts or recovers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from clonedb.clones.clone import create
from clonedb.clones.gc import collect
from clonedb.errors import ServerError
from clonedb.postgres import connector, sql
from clonedb.postgres.server import Server
from clonedb.postgres.servers import open_server
from clonedb.rewind.rewinder import Pristine, Rewinder, why_not
from clonedb.settings.config import Config
from tests.campaigns import VARIANT
from tests.embedded.sandbox import wait_until
from tests.rewind.ordinary import ordinary_server
from tests.rewind.shapes import make_template


@dataclass
class Machine:
    """A server of the user's, without a database in its URL, and what this process says while it waits for it."""

    url: str
    said: list[str] = field(default_factory=list)

    @property
    def data(self) -> Path:
        """The data directory."""
        return Path(self.url.partition("host=")[2])

    @property
    def pid(self) -> int:
        """The postmaster's process."""
        return int((self.data / "postmaster.pid").read_text().split("\n")[0])

    def open(self, config: Config) -> Server:
        """Open the server."""
        return open_server(config.replace("the test", url=self.url), progress=self.said.append)

    def crash(self) -> None:
        """Kill a session, after which the server ends all others and recovers."""
        with (
            contextlib.suppress(psycopg.OperationalError),
            psycopg.connect(self.url, dbname="postgres") as victim,
        ):
            os.kill(victim.info.backend_pid, signal.SIGKILL)
            victim.execute("select")


@pytest.fixture
def machine(postgres_bin: str | None) -> Iterator[Machine]:
    """A server that, as a standby, lets nobody in."""
    with ordinary_server(postgres_bin, "hot_standby=off") as url:
        yield Machine(url)


def test_a_server_that_recovers_is_waited_for(machine: Machine, config: Config) -> None:
    """With a line that says so, by sessions that were there before and by new ones."""
    with contextlib.closing(machine.open(config)) as server, ThreadPoolExecutor() as threads:
        (machine.data / "standby.signal").touch()  # recovery goes on until it is promoted
        machine.crash()
        wait_until(lambda: server.crashes > 0)
        found = threads.submit(server.run, sql.server_info)
        wait_until(lambda: bool(machine.said))
        assert not found.done()
        os.chown(machine.data / "standby.signal", machine.data.stat().st_uid, -1)
        # the server takes it away as soon as it sees it
        (machine.data / "about_to").touch()
        os.chown(machine.data / "about_to", machine.data.stat().st_uid, -1)
        (machine.data / "about_to").rename(machine.data / "promote")
        os.kill(machine.pid, signal.SIGUSR1)
        assert found.result(60) == server.info
    what = "accepts no connections yet: it is starting, or recovering from a crash; waiting (for 60 s at most)"
    assert machine.said == [f"{server.about} {what}"]


def test_a_server_that_is_started_again_is_waited_for(machine: Machine, config: Config) -> None:
    """As containers and services are: it is gone for some seconds."""
    with contextlib.closing(machine.open(config)) as server, ThreadPoolExecutor() as threads:
        owner, pid = machine.data.stat(), machine.pid
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        os.kill(pid, signal.SIGINT)
        wait_until(lambda: not (machine.data / "postmaster.pid").exists())
        found = threads.submit(server.run, sql.server_info)
        wait_until(lambda: bool(machine.said))
        account = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
        with subprocess.Popen(
            command, cwd="/", stderr=subprocess.DEVNULL, **account
        ) as process:  # type: ignore[call-overload]
            try:
                assert found.result(60) == server.info
            finally:
                process.send_signal(signal.SIGINT)
    assert machine.said[0] == f"{server.about} went away; waiting (for 10 s at most)"


@pytest.mark.campaign("long")
def test_a_server_that_stays_away_is_waited_for_once(
    machine: Machine, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before each test anew."""
    monkeypatch.setattr(connector, "_RESTART", 2.0)
    with contextlib.closing(machine.open(config)) as server:
        os.kill(machine.pid, signal.SIGINT)
        wait_until(lambda: not (machine.data / "postmaster.pid").exists())
        for _ in range(3):
            with pytest.raises(ServerError, match="cannot connect to database 'postgres'"):
                server.run(sql.server_info)
    assert len(machine.said) == 1


@pytest.mark.parametrize(
    "wrong", ["postgresql://nobody@127.0.0.1:1/", "postgresql://nobody@/?host=/nowhere"]
)
def test_a_wrong_url_fails_at_once(config: Config, wrong: str) -> None:
    """Nothing is waited for that was never there."""
    said: list[str] = []
    start = time.monotonic()
    with pytest.raises(ServerError, match="cannot connect to database 'postgres'"):
        open_server(config.replace("the test", url=wrong), progress=said.append)
    assert said == []
    assert time.monotonic() - start < 10  # the least that a server is waited for


@pytest.mark.parametrize(
    "encoding",
    ["SQL_ASCII", pytest.param("LATIN1", marks=VARIANT), pytest.param("EUC_JP", marks=VARIANT)],
)
def test_servers_of_other_encodings(
    postgres_bin: str | None, config: Config, encoding: str
) -> None:
    """All that clonedb reads arrives as text: templates are made, cloned, rewound and collected."""
    with ordinary_server(postgres_bin, encoding=encoding) as url:
        server = open_server(config.replace("the test", url=url))
        with contextlib.closing(server):
            assert server.info.encoding == encoding
            assert why_not(server) is None
            template = make_template(
                server, "create table item (name text); insert into item values ('a')", "0" * 64
            )
            with (
                contextlib.closing(Pristine(server, template)) as pristine,
                create(server, template) as clone,
            ):
                rewinder = Rewinder(clone, pristine)
                with clone.connect(client_encoding="SQL_ASCII", autocommit=True) as left_open:
                    left_open.execute(b"insert into item values ('b') -- \xc3\xa9")
                assert rewinder.rewind().kind == "rewound"
                rewinder.close()
                with contextlib.closing(
                    clone.connect(client_encoding="SQL_ASCII", autocommit=True)
                ) as left_open:
                    left_open.execute(
                        b"select 1 -- \xc3\xff" if encoding == "SQL_ASCII" else b"select 1"
                    )
                    (session,) = clone.end_sessions()
                    assert session.statement.startswith("select 1")
            assert collect(server) == []


def test_every_session_notices_a_cut_network(
    config: Config, server_url: str, server: Server
) -> None:
    """On both sides, also one with options of its own; what the url says stays. The embedded server is on this machine."""
    settings = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_user_timeout")
    url = f"{server_url}?keepalives_interval=3"
    theirs = config.replace("the test", url=url, lease_timeout=8.0)
    with (
        contextlib.closing(open_server(theirs)) as opened,
        contextlib.closing(opened.connect("postgres", options="-c jit=off")) as connection,
    ):
        shown = [connection.execute(f"show {name}".encode()).fetchone() for name in settings]
        assert shown == [("2",), ("2",), ("8000",)]
        given = connection.info.get_parameters()
        assert given["keepalives_idle"] == "2"
        assert given["keepalives_interval"] == "3"
        assert given["tcp_user_timeout"] == "6000"
    with contextlib.closing(server.connect("postgres")) as connection:
        assert "keepalives_idle" not in connection.info.get_parameters()
