"""Sessions that connect again as soon as they were ended, as an extension's background workers do."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest

import clonedb
from clonedb.errors import BuildError, ServerError
from clonedb.names import clone_name
from clonedb.postgres import sql
from clonedb.postgres.servers import open_server
from clonedb.settings.config import Config
from tests.projects import Project, databases
from tests.rewind.ordinary import ordinary_server


class Returning:
    """A session in every database with a prefix, and another one as soon as it was ended."""

    def __init__(self, dsn: str, prefix: str) -> None:
        self._dsn = dsn
        self._prefix = prefix
        self._stop = threading.Event()
        self._threads: dict[str, threading.Thread] = {}
        self.pids: dict[str, set[int]] = {}
        self._look = threading.Thread(target=self._find, daemon=True)
        self._look.start()

    def close(self) -> None:
        """End them."""
        self._stop.set()
        for thread in (self._look, *self._threads.values()):
            thread.join(10)

    def _find(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stop.is_set():
                for found in sql.databases(connection, self._prefix):
                    if found.name not in self._threads:
                        thread = threading.Thread(
                            target=self._stay, args=[found.name], daemon=True
                        )
                        self._threads[found.name] = thread
                        thread.start()
                self._stop.wait(0.001)

    def _stay(self, name: str) -> None:
        pids = self.pids.setdefault(name, set())
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._dsn, dbname=name, autocommit=True) as connection:
                    pids.add(connection.info.backend_pid)
                    while not self._stop.is_set():
                        connection.execute("select pg_sleep(0.2)")
            except psycopg.OperationalError as error:
                if "does not exist" in str(error):
                    return


@pytest.fixture
def returning(admin_dsn: str) -> Iterator[Callable[[str], Returning]]:
    """A function that begins them for a prefix."""
    with contextlib.ExitStack() as stack:
        yield lambda prefix: stack.enter_context(
            contextlib.closing(Returning(admin_dsn, prefix))
        )


@pytest.mark.usefixtures("variables")
def test_they_stop_neither_builds_nor_drops(
    items: Project, admin_dsn: str, prefix: str, returning: Callable[[str], Returning]
) -> None:
    """A build, a clone and its drop wait for none of them: each such wait would take 5 s."""
    workers = returning(prefix)
    with clonedb.template(items.directory) as template:
        assert template.record.metadata.seconds < 5
        with template.clone() as clone:
            while not workers.pids.get(clone.name):
                threading.Event().wait(0.01)
        assert databases(admin_dsn, prefix) == [template.name]
    ended = [pids for name, pids in workers.pids.items() if name != clone.name]
    assert any(len(pids) > 1 for pids in ended), "none connected again"


@pytest.fixture(scope="module")
def url(postgres_bin: str | None) -> Iterator[str]:
    """A server of these tests' own, which no other test waits for."""
    with ordinary_server(postgres_bin, "fsync=off") as found:
        yield found


@pytest.mark.campaign("long")
def test_what_stays_is_named(config: Config, url: str, prefix: str) -> None:
    """A session whose process is stopped: the error says which, and what to do."""
    name = clone_name(prefix, "0" * 12, "aaaaaaazz", 1)
    with contextlib.closing(open_server(config.replace("the test", url=url))) as server:
        server.run(sql.create_database, name)
        stays = psycopg.connect(url, dbname=name, application_name="stays")
        pid = stays.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(
                ServerError,
                match=rf"database '{name}' cannot be dropped while it is in use: pid {pid} \(stays\) of postgres; stop",
            ):
                server.run(sql.drop_database, name, patience=0.1)
        finally:
            os.kill(pid, signal.SIGCONT)
            stays.close()
        server.run(sql.drop_database, name)


@pytest.mark.campaign("long")
@pytest.mark.usefixtures("variables")
def test_sessions_that_stop_a_build_are_named(items: Project, url: str, prefix: str) -> None:
    """One on template1, which new databases are copies of."""
    with (
        psycopg.connect(url, dbname="template1", application_name="of alice", autocommit=True),
        pytest.raises(
            BuildError,
            match=r"could not create a database: .*\(pid \d+ \(of alice\) of postgres\); end",
        ),
    ):
        clonedb.template(items.directory, url=url, prefix=prefix)
