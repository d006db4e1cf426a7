"""Starting an embedded server: the data are made if need be, then a keeper is set to work."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clonedb.embedded.account import Account, account_for, check_reach, within_reach
from clonedb.embedded.binaries import Binaries, build_of
from clonedb.embedded.cluster import HBA, Cluster, environment, last_words, settings
from clonedb.embedded.machine import boot_id, host
from clonedb.embedded.memory import require_room, settings_in_memory
from clonedb.embedded.places import ServerDirectory
from clonedb.embedded.recovery import clear
from clonedb.embedded.watchdog import Watchdog
from clonedb.errors import ServerError
from clonedb.private_files import same_file
from clonedb.settings.config import Config

__all__ = ["start_server"]

KEEPER = Path(__file__).with_name("keeper.py")

LOG_LIMIT = 1 << 20
"""Bytes after which the log is begun anew at a start."""


def start_server(
    place: ServerDirectory,
    config: Config,
    binaries: Binaries,
    watchdog: Watchdog,
    progress: Callable[[str], None],
) -> bool:
    """Start the server, in the process that holds the place's lock `start`; False when a keeper still lives.

    Raises ServerError, and leaves its text for those who wait.
    """
    if place.files.is_held("keeper"):
        return False
    if place.files.stat(
        "ready"
    ):  # a keeper was killed; before its lock is taken: see running()
        place.files.rename("ready", "last")

    lock = place.files.try_lock("keeper", fcntl.LOCK_EX)
    if lock is None:
        return False
    os.ftruncate(lock, 0)  # another process may have the pid of a dead keeper by now
    try:
        _start(place, config, binaries, lock, watchdog=watchdog, progress=progress)
    except ServerError as error:
        place.files.write("failed", str(error))
        raise
    finally:
        os.close(lock)

    return True


def _start(
    place: ServerDirectory,
    config: Config,
    binaries: Binaries,
    lock: int,
    *,
    watchdog: Watchdog,
    progress: Callable[[str], None],
) -> None:
    account = account_for(place)
    programs = binaries.directory
    if account is not None:
        check_reach(place, account)
        programs = within_reach(binaries, place, account)

    if (log := place.files.stat("log")) is not None and log.st_size > LOG_LIMIT:
        os.close(place.files.open("log", os.O_WRONLY | os.O_TRUNC))
    for directory, name in ServerDirectory.removed(config):  # of a reset that was killed
        with contextlib.suppress(OSError):  # another one is at it
            directory.remove_tree(name)

    server = clear(place, lock)
    try:
        cluster = Cluster(place, programs, binaries.major, account, lock, server, config.server)
        if not place.data.exists():
            require_room(place.directory, config)
            progress(f"preparing an embedded PostgreSQL {binaries.version} (initdb)")
            cluster.make_data()
        else:
            cluster.set_password(place.data)
    finally:
        # the keeper takes this lock itself, for postgres
        os.close(server)

    parameters = _parameters(place, config, binaries, programs, account)
    # the mark is written before the server is up: after a crash of the machine the data are
    # known to be lost
    place.files.write("boot", parameters["mark"])
    place.files.write("pg_hba.conf", HBA, 0o644)
    place.files.write("socket", parameters["socket_dir"])
    _set_keeper_to_work(place, {**parameters, "lock": lock}, watchdog)


def _parameters(
    place: ServerDirectory,
    config: Config,
    binaries: Binaries,
    programs: Path,
    account: Account | None,
) -> dict[str, Any]:
    """What the keeper is told."""
    uid = account.uid if account else os.geteuid()
    last = place.last()

    # random ports below those that the system gives to outgoing connections
    ports = [20000 + int.from_bytes(os.urandom(4), "big") % 12000 for _ in range(3)]
    return {
        "postgres": str(programs / "postgres"),
        "account": [account.uid, account.gid] if account else None,
        "settings": {
            **settings(binaries.major, config.server),
            **settings_in_memory(place.directory),
            "hba_file": str(place.file("pg_hba.conf")),
        },
        "ports": [last["port"], *ports] if "port" in last else ports,
        "socket_dir": f"{_temporary()}/clonedb-{uid}-{os.urandom(4).hex()}",
        "idle_timeout": config.idle_timeout,
        "mark": f"{boot_id()} {os.urandom(8).hex()}",
        "about": {
            "uid": uid,
            "version": binaries.version,
            "binaries": str(programs),
            "build": build_of(programs),
            "host": host(),
        },
    }


def _temporary() -> str:
    """Where the directory for the socket is made: a path of a socket has 107 bytes at most, and TMPDIR may be long."""
    return "/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else tempfile.gettempdir()  # noqa: S108  # a random name


def _set_keeper_to_work(
    place: ServerDirectory, parameters: dict[str, Any], watchdog: Watchdog
) -> None:
    """Start a keeper, which inherits the lock, and wait for its answer. Raises ServerError."""
    log = place.files.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    begin = os.fstat(log).st_size
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(KEEPER), str(place.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=[parameters["lock"]],
            cwd="/",
            env=environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise ServerError(
            f"cannot run {sys.executable!r}, which would watch over the server: {error}"
        ) from None
    finally:
        os.close(log)

    with process:
        try:
            answer = _ask(process, json.dumps(parameters), watchdog)
        except BaseException:
            process.kill()
            raise

    # the directory was deleted meanwhile: the server there is of no use, and `lease` tries
    # again
    if not same_file(parameters["lock"], place.files.stat("keeper")):
        raise FileNotFoundError(place.directory)
    if "error" in answer:
        raise ServerError(
            f"embedded server {place.name!r} did not start: {answer['error']}; {last_words(place, begin)}"
        )


def _ask(process: subprocess.Popen[bytes], text: str, watchdog: Watchdog) -> dict[str, str]:
    """Give the keeper its parameters and read its answer."""
    assert process.stdin is not None  # noqa: S101  # for the type checker: Popen was told to make pipes
    assert process.stdout is not None  # noqa: S101
    try:
        with process.stdin as pipe:
            pipe.write(text.encode())
    except BrokenPipeError:
        return {"error": "the keeper ended at once"}

    poll = select.poll()
    poll.register(process.stdout)
    answer = b""
    while True:
        # with a limit: a keeper that hangs never answers
        if not poll.poll(500):
            watchdog.check()
            continue

        if not (more := os.read(process.stdout.fileno(), 4096)):
            break
        answer += more

    return json.loads(answer) if answer else {"error": "the keeper ended without an answer"}
