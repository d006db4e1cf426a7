"""PostgreSQL servers that are not clonedb's own: as initdb makes them, with such settings as are asked for."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from clonedb.embedded.account import account_for, within_reach
from clonedb.embedded.binaries import Binaries
from clonedb.embedded.cluster import environment
from clonedb.embedded.places import ServerDirectory

__all__ = ["TUNED", "cluster"]

TUNED: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
}
"""What is set on a server whose data nobody will miss; clonedb's embedded server is given the same."""


@contextlib.contextmanager
def cluster(
    binaries: Binaries, base: Path, *, settings: Mapping[str, str], initdb: Sequence[str] = ()
) -> Iterator[str]:
    """A server with data of its own below `base`, gone at the end: its URL, without a database.

    It is reached by a socket in a directory that only the account running the server can pass (and root). Raises
    RuntimeError, with the server's log, when it does not come up.
    """
    directory = Path(tempfile.mkdtemp(prefix="clonedb-cluster-", dir=base))
    sockets = Path(
        tempfile.mkdtemp(prefix="clonedb-", dir="/tmp")
    )  # a socket's path has 107 bytes at most
    log = directory / "log"
    try:
        place = ServerDirectory(directory)
        account = account_for(place)
        programs = within_reach(binaries, place, account) if account else binaries.directory
        identity: dict[str, Any] = (
            {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
        )
        for path in (directory, sockets):
            if account:
                os.chown(path, account.uid, account.gid)
        common: dict[str, Any] = {
            "cwd": "/",
            "env": environment(),
            "stdin": subprocess.DEVNULL,
            **identity,
        }
        with log.open("w") as output:
            streams: dict[str, Any] = {"stdout": output, "stderr": subprocess.STDOUT}
            options = (
                "-U",
                "postgres",
                "--auth=trust",
                "--no-sync",
                "-E",
                "UTF8",
                "--locale=C",
                *initdb,
            )
            command: list[str | Path] = [
                programs / "initdb",
                "-D",
                directory / "data",
                *options,
            ]
            if subprocess.run(command, check=False, **common, **streams).returncode != 0:
                raise _failure(log)
            values = {
                "listen_addresses": "",
                "unix_socket_directories": str(sockets),
                **settings,
            }
            words = [
                word for name, value in values.items() for word in ("-c", f"{name}={value}")
            ]
            server = subprocess.Popen(
                [programs / "postgres", "-D", directory / "data", *words], **common, **streams
            )
        try:
            _wait(server, sockets, log)
            yield f"postgresql://postgres@/?host={sockets}"
        finally:
            server.send_signal(signal.SIGINT)  # fast shutdown: sessions are ended
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.send_signal(signal.SIGQUIT)
                server.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(sockets, ignore_errors=True)


def _wait(server: subprocess.Popen[bytes], sockets: Path, log: Path) -> None:
    """Until the server answers, which takes a fast one 50 ms."""
    deadline = time.monotonic() + 60
    while True:
        if server.poll() is not None or time.monotonic() > deadline:
            raise _failure(log)
        try:
            psycopg.connect(host=str(sockets), user="postgres", dbname="postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.02)
        else:
            return


def _failure(log: Path) -> RuntimeError:
    return RuntimeError(
        f"PostgreSQL did not come up:\n{log.read_text(errors='replace')[-2000:]}"
    )
