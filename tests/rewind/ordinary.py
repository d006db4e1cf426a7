"""A server as packages ship it: checksums, fsync, full page writes and autovacuum on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

from clonedb.embedded.account import account_for, within_reach
from clonedb.embedded.binaries import choose
from clonedb.embedded.cluster import environment
from clonedb.embedded.places import ServerDirectory
from clonedb.settings.config import Config
from tests.embedded.sandbox import wait_until


@contextlib.contextmanager
def ordinary_server(
    postgres_bin: str | None, *options: str, encoding: str = "UTF8"
) -> Iterator[str]:
    """Its URL, without a database; `options` are further settings as `name=value`."""
    with restartable_server(postgres_bin, *options, encoding=encoding) as (url, _):
        yield url


@contextlib.contextmanager
def restartable_server(
    postgres_bin: str | None, *options: str, encoding: str = "UTF8"
) -> Iterator[tuple[str, Callable[[], None]]]:
    """The same, with a function that ends every session, stops the server and starts it again."""
    base = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())
    directory = Path(tempfile.mkdtemp(prefix="clonedb-ordinary-", dir=base))
    directory.chmod(0o711)
    config = Config(rootdir=Path("/")).replace(
        "the test", state_dir=str(directory), postgres_bin=postgres_bin
    )
    binaries = choose(config, ())
    place = ServerDirectory.of(config, binaries)
    place.prepare()
    account = account_for(place)
    programs = within_reach(binaries, place, account) if account else binaries.directory
    data = directory / "data"
    data.mkdir(0o700)
    if account:
        os.chown(data, account.uid, account.gid)
    who = (
        {"user": account.uid, "group": account.gid, "extra_groups": list[int]()}
        if account
        else {}
    )
    initdb = [
        programs / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        encoding,
        "--locale=C",
        "-k",
        "-N",
    ]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/", **who)  # type: ignore[call-overload]
    settings = [f"unix_socket_directories={data}", "listen_addresses=", *options]
    command = [
        programs / "postgres",
        "-D",
        data,
        *(part for setting in settings for part in ("-c", setting)),
    ]
    url = f"postgresql://postgres@/?host={data}"
    running: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        with (directory / "log").open("ab") as log:
            running.append(
                subprocess.Popen(
                    command, stdout=log, stderr=log, cwd="/", env=environment(), **who
                )  # type: ignore[call-overload]
            )
        wait_until(lambda: _answers(url))

    def stop() -> None:
        process = running.pop()
        process.send_signal(signal.SIGINT)
        process.wait(30)

    def restart() -> None:
        stop()
        start()

    try:
        start()
        yield url, restart
    finally:
        while running:
            stop()
        shutil.rmtree(directory)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, dbname="postgres").close()
    except psycopg.OperationalError:
        return False
    return True
