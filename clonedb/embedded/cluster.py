"""What a server of our own is made of: its data directory, its password, its settings, and who may connect."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clonedb.embedded.account import Account
from clonedb.embedded.places import ServerDirectory
from clonedb.errors import ServerError
from clonedb.originals import monotonic, sleep

if TYPE_CHECKING:
    import subprocess

__all__ = [
    "HBA",
    "ROLE_ITERATIONS",
    "Cluster",
    "environment",
    "last_words",
    "settings",
    "verifier",
]

ROLE_ITERATIONS = 2
"""Of the verifiers of roles that have the server's own password, by which they are told from users' passwords."""

PROGRAM_TIMEOUT = 300.0
"""Seconds given to initdb, which takes 0.6 to 1.3 s on an idle machine."""

_PREPARED = (
    "100"  # SQLAlchemy's twophase=True; a server does not start with fewer than it has prepared
)

HBA = """\
# written by clonedb at every start
local all all trust
host all all 127.0.0.1/32 scram-sha-256
host all all ::1/128 scram-sha-256
"""
"""Trust on the Unix socket, which stands in a directory that no other account can enter; a password on the loopback."""


def settings(major: int, parameters: Mapping[str, str]) -> dict[str, str]:
    """Settings given on the command line, where they win over postgresql.conf and ALTER SYSTEM.

    Durability is off: nothing in here outlives the need for it, and DROP DATABASE costs 6 ms
    instead of 400. No checkpoint interrupts a run. The log has no statement in it, because
    statements may hold passwords. `parameters` are the project's, and win.
    """
    values = {
        "listen_addresses": "127.0.0.1",
        "max_connections": "300",
        "max_prepared_transactions": _PREPARED,
        "authentication_timeout": "5s",  # another account's silent sockets would stay for a minute
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "wal_level": "replica",
        "autovacuum": "off",
        "jit": "off",
        "shared_buffers": "128MB",
        "dynamic_shared_memory_type": "mmap",  # files among the data: POSIX segments outlive a killed server
        "max_wal_size": "8GB",
        "wal_keep_size": "64MB",  # a CHECKPOINT by hand leaves the WAL that rewinding still has to read
        "checkpoint_timeout": "1h",
        "password_encryption": "scram-sha-256",
        "cluster_name": "clonedb",
        "log_min_messages": "log",
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
        "log_checkpoints": "off",
    }
    if major >= 14 and sys.platform == "linux":
        values["client_connection_check_interval"] = (
            "1s"  # a query whose client was killed ends
        )

    if major >= 16:
        values["scram_iterations"] = (
            "1"  # roles that migrations make connect in 3 ms instead of 13
        )

    return {**values, **parameters}


def verifier(password: str, iterations: int = 1) -> str:
    """What PostgreSQL stores of a password (SCRAM-SHA-256), made with one iteration on every version.

    The client asks the server for the number of iterations; 4,096 of them make connecting cost
    12.6 ms instead of 3.2, and protect a password that can be guessed, which 256 random bits
    cannot. Computed here, so that the password itself is in no statement.
    """
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    # RFC 5802: of the client's key only the hash (StoredKey) is kept, of the server's the key
    client = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    coded = (base64.b64encode(part).decode() for part in (salt, client, server))
    # the format of pg_authid.rolpassword: iterations, salt, StoredKey, ServerKey
    return f"SCRAM-SHA-256${iterations}:" + "{}${}:{}".format(*coded)


def environment() -> dict[str, str]:
    """The environment of PostgreSQL's programs: nothing of the caller's locale, time zone or PG* variables.

    Later processes share the server, so it must not depend on the environment of the one that
    started it.
    """
    names = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in names if name in os.environ}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A server that is not running, in the hands of the process that holds its `keeper` lock.

    `programs` is the directory of initdb and postgres, `lock` the descriptor with the lock,
    `server` the one with the lock `server`: programs inherit it, so that their life is known
    even if this process is killed. `parameters` are those that the project sets.
    """

    place: ServerDirectory
    programs: Path
    major: int
    account: Account | None
    lock: int
    server: int
    parameters: Mapping[str, str]

    def make_data(self) -> None:
        """Run initdb beside the final place, so that a half-made data directory never has the final name.

        Raises ServerError.
        """
        new = self.place.file("data.new")
        new.mkdir(0o700)
        # initdb refuses a directory that is not its account's
        if self.account is not None:
            os.chown(new, self.account.uid, self.account.gid)
        try:
            self._run(
                "initdb",
                f"--pgdata={new}",
                f"--locale={self._locale()}",
                *initdb_options(self.major),
            )
            # before the directory has its final name: no server ever starts without a password
            self.set_password(new)
        except BaseException:
            import shutil

            shutil.rmtree(new, ignore_errors=True)  # the disk may be full
            raise

        new.rename(self.place.data)

    def set_password(self, data: Path) -> None:
        """Give the role postgres a new password of 256 random bits, in single-user mode (25 ms). Raises ServerError.

        At every start: a process that took the port of a stopped server may have received the
        old one from a client. Before it, so that there is no moment at which the old one opens
        anything. The statement goes through standard input (arguments can be seen by everybody)
        and holds the verifier only. Roles that had the old password for theirs have none, until
        they are prepared.
        """
        password = os.urandom(32).hex()
        options = {
            "max_prepared_transactions": _PREPARED,
            **self.parameters,
            "exit_on_error": "on",
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
            "shared_buffers": "1MB",  # this and the two that follow: quicker by a half
            "max_connections": "10",
            "max_wal_senders": "0",
        }
        arguments = [
            argument for item in options.items() for argument in ("-c", "=".join(item))
        ]
        statement = f"ALTER ROLE postgres PASSWORD '{verifier(password)}'\n"
        statement += "UPDATE pg_catalog.pg_authid SET rolpassword = NULL"
        statement += f" WHERE rolpassword LIKE 'SCRAM-SHA-256${ROLE_ITERATIONS}:%'\n"
        self._run(
            "postgres",
            "--single",
            "-D",
            str(data),
            "-F",
            *arguments,
            "postgres",
            text=statement,
        )
        self.place.files.write("password", password)

    def _run(self, name: str, *arguments: str, text: str = "") -> None:
        """Run a program as the server's account, its output in the log, in a session that no Ctrl-C reaches."""
        import subprocess

        log = self.place.files.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        start = os.fstat(log).st_size
        try:
            process = subprocess.Popen(
                [self.programs / name, *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment(),
                pass_fds=[self.server],
                start_new_session=True,
                user=self.account.uid if self.account else None,
                group=self.account.gid if self.account else None,
                extra_groups=[] if self.account else None,
            )
        except OSError as error:
            raise ServerError(f"cannot run {str(self.programs / name)!r}: {error}") from None
        finally:
            os.close(log)

        with process:
            try:
                self._feed(process, text)
            except BaseException:
                # after an interrupt: a program that goes on would keep the lock `server`
                process.kill()
                raise

        if process.returncode != 0:
            raise ServerError(
                f"{name} of PostgreSQL {self.major} failed; {last_words(self.place, start)}"
            )

    def _feed(self, process: subprocess.Popen[bytes], text: str) -> None:
        """Give a program its input and wait for its end, with signs of life for those who wait for us."""
        assert process.stdin is not None  # noqa: S101  # for the type checker: Popen was told to make a pipe
        # initdb reads nothing; postgres may end before it has read all
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(text.encode())
        begin = monotonic()
        while process.poll() is None:
            # the time of the keeper's file is what waiting processes look at (watchdog.py)
            os.utime(self.lock)
            if monotonic() - begin > PROGRAM_TIMEOUT:
                process.kill()
            sleep(0.005)

    def _locale(self) -> str:
        """C.UTF-8 if the system has it, in which lower() and ~ '[[:alpha:]]' know all letters, else C.

        Asked in another process, because setlocale changes the whole process that calls it.
        """
        import subprocess

        question = "import locale; locale.setlocale(locale.LC_ALL, 'C.UTF-8')"
        try:
            subprocess.run(
                [sys.executable, "-I", "-S", "-c", question],
                stderr=subprocess.DEVNULL,
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return "C"

        return "C.UTF-8"


def last_words(place: ServerDirectory, start: int) -> str:
    """What the log of a server says from a byte on, for an error, and what to do if that is known."""
    ends = place.tail(start=start)
    remedy = ""
    # `FATAL:  database files are incompatible with server`
    if "incompatible with" in ends:
        remedy = "\nthe data were made by another build of PostgreSQL; run `clonedb server reset` to begin anew"
    elif place.has_parameters and ("FATAL" in ends or "\n  postgres: " in ends):
        # options are complained of before there is a log with levels: `postgres: ...`
        remedy = "\nthe project sets parameters of PostgreSQL (server in [tool.clonedb]); change what is complained of"
    return f"the log {str(place.log)!r} ends:{ends}{remedy}"


def initdb_options(major: int) -> list[str]:
    """What initdb is given besides the directory and the locale.

    Without checksums (18 has them by default), because with them hint bits are written to WAL
    and a read would look like a write. From 17 on with the builtin provider, whose C.UTF-8 is
    the same on every machine and has no collation version to go stale.
    """
    # --lc-messages=C, because the log is searched for PostgreSQL's English words
    options = [
        "--username=postgres",
        "--auth=trust",
        "--no-sync",
        "--encoding=UTF8",
        "--lc-messages=C",
    ]
    if major >= 14:
        options.append("--no-instructions")
    if major >= 17:
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    if major >= 18:
        options.append("--no-data-checksums")
    return options
