"""The process that parents one embedded PostgreSQL server and stops it when the last lease is gone.

Started as `python -I -S keeper.py DIRECTORY` with its parameters as JSON on standard input;
answers with one line of JSON on standard output, {} or {"error": ...}, when the server accepts
connections or cannot. Standard library only and nothing of clonedb, so that it is up in 20 ms.
The files of the directory are described in places.py (ServerDirectory).

Who lives is told by locks that the kernel holds, so that no kind of death leaves anything to
clean up: each user of the server holds `lease`, the keeper `keeper` (which it inherits already
locked), postgres and its children `server`.
"""
# os.path, because pathlib would make the start 30 % slower:
# ruff: noqa: PTH102, PTH104, PTH108, PTH110, PTH116, PTH123

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SHUTDOWN = (
    8.0  # seconds given to each of SIGINT (fast shutdown), SIGQUIT (immediate) and SIGKILL
)
RECOVERY = 300.0  # seconds given to a server that has a crash to recover from
ASKED, REMOVED = "asked to", "its files were removed"  # why a server is stopped


class StartError(Exception):
    """The server could not be started; the text is for the process that asked for it."""


class Keeper:
    """A server's directory, its postgres, and what became of each child."""

    def __init__(self, directory: str, parameters: dict[str, Any]) -> None:
        self.directory: str = directory
        self.postgres: str = parameters["postgres"]
        self.account: list[int] | None = parameters["account"]  # uid and gid to run it as
        self.settings: dict[str, str] = parameters["settings"]
        self.ports: list[int] = parameters["ports"]
        self.socket_dir: str = parameters["socket_dir"]
        self.idle_timeout: float = parameters["idle_timeout"]
        self.mark: str = parameters["mark"]
        self.about: dict[str, Any] = parameters["about"]
        self.lock: int = parameters["lock"]
        self.lease: int = self.open("lease", os.O_RDWR | os.O_CREAT)
        self.asked = False
        self.server: int = 0
        self.ended: dict[int, int] = {}
        self.wakeup: int = self.listen()

    def open(self, name: str, flags: int) -> int:
        """Open a regular file below our working directory, the server's, where `data` may be another account's."""
        # O_NONBLOCK: to open a FIFO that stands there would wait for a writer
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise OSError(f"{name!r} is no regular file")

    def read(self, name: str) -> str:
        """The text of a file; empty when it is not there, or is no regular file."""
        with (
            contextlib.suppress(OSError),
            open(self.open(name, os.O_RDONLY), errors="replace") as file,
        ):
            return file.read()
        return ""

    def try_lock(self, name: str) -> int | None:
        """A descriptor that holds the exclusive lock on a file, or None when another process holds it."""
        descriptor = self.open(name, os.O_RDWR | os.O_CREAT)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        os.close(descriptor)
        return None

    def listen(self) -> int:
        """Make SIGTERM a request to stop, and every signal an end of the current pause."""

        def ask(*_: object) -> None:
            self.asked = True

        reading, writing = os.pipe()
        # set_wakeup_fd() takes no descriptor that blocks
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, ask)
        # without a Python handler a signal is not written to the wakeup descriptor
        signal.signal(signal.SIGCHLD, lambda *_: None)
        return reading

    def pause(self, seconds: float) -> None:
        """Wait for a signal or for some seconds."""
        if select.select([self.wakeup], [], [], seconds)[0]:
            os.read(self.wakeup, 1024)

    def patiently(self, done: Callable[[], bool], seconds: float, step: float = 0.02) -> bool:
        """Wait until something is done, giving signs of life meanwhile; whether it was done in time."""
        begin = time.monotonic()
        while not done():
            if time.monotonic() - begin > seconds:
                return False
            os.utime(self.lock)
            self.pause(step)
        return True

    def spawn(self, arguments: list[str], *, inherit: int) -> int:
        """Start postgres as the server's account, its output in the log; its pid.

        On Linux it is told to die with the keeper, after the change of account, which would
        undo that.
        """
        parent = os.getpid()
        if pid := os.fork():
            return pid
        try:
            # what goes to standard output goes to the log, which is descriptor 2
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            os.set_inheritable(inherit, True)
            if self.account:
                # in this order: after setuid() the others are not allowed any more
                os.setgroups([])
                os.setgid(self.account[1])
                os.setuid(self.account[0])

            call("prctl", PR_SET_PDEATHSIG, signal.SIGQUIT, 0, 0, 0)
            # a keeper that died before prctl() sends no signal any more
            if os.getppid() == parent:
                os.execv(self.postgres, [self.postgres, *arguments])  # noqa: S606  # no shell is what we want
        except BaseException as error:  # noqa: BLE001  # nothing may return into the keeper's code from here
            os.write(2, f"cannot run {self.postgres!r}: {error}\n".encode())
        finally:
            os._exit(127)

    def reap(self) -> bool:
        """Collect the children that ended; whether any still lives."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return True
                self.ended[pid] = os.waitstatus_to_exitcode(status)
        return False

    def has_ended(self, pid: int) -> bool:
        """Whether a child is gone."""
        self.reap()
        return pid in self.ended

    def start(self) -> None:
        """Bring the server up. Raises StartError."""
        port = next((port for port in self.ports if self.serve(port)), None)
        if port is None:
            raise StartError(f"none of the ports {', '.join(map(str, self.ports))} is free")
        about = {
            **self.about,
            "pid": self.server,
            "keeper": os.getpid(),
            "port": port,
            "since": time.time(),
        }
        with open(
            self.open("ready.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w", encoding="utf-8"
        ) as file:
            file.write(json.dumps({**about, "socket_dir": self.socket_dir}))

        # a rename, so that no process reads a half of it
        os.rename("ready.new", "ready")
        say(f"port {port}, socket in {self.socket_dir!r}")

    def serve(self, port: int) -> bool:
        """Start postgres on a port; False when another process has the port."""
        settings = {
            **self.settings,
            "port": str(port),
            "unix_socket_directories": self.socket_dir,
        }
        options = [argument for item in settings.items() for argument in ("-c", "=".join(item))]
        # where in the log this attempt begins
        begin = os.fstat(2).st_size
        lock = self.try_lock("server")
        if lock is None:
            raise StartError(
                f"a process of an earlier server still uses the data in {self.directory!r}"
            )

        os.mkdir(self.socket_dir, 0o700)
        if self.account:
            os.chown(self.socket_dir, *self.account)
        self.server = self.spawn(["-D", f"{self.directory}/data", *options], inherit=lock)
        # postgres has its own copy of the descriptor: the lock now lives as long as its
        # processes
        os.close(lock)
        self.patiently(
            lambda: self.accepts() or self.has_ended(self.server) or self.asked, RECOVERY, 0.003
        )
        if self.accepts() and not self.asked:
            return True
        self.end_server(signal.SIGINT)
        with open(self.open("log", os.O_RDONLY), "rb") as log:
            log.seek(begin)
            if b"could not bind" in log.read():
                return False

        raise StartError(
            "it was asked to stop"
            if self.asked
            else "postgres ended before it accepted connections"
        )

    def accepts(self) -> bool:
        """Whether postgres takes connections: line 8 of postmaster.pid says so (`pg_ctl -w` looks every 100 ms)."""
        lines = self.read("data/postmaster.pid").splitlines()
        return len(lines) > 7 and lines[0] == str(self.server) and lines[7].strip() == "ready"

    def watch(self) -> str:
        """Wait until there is a reason to stop, and say which."""
        # four looks in idle_timeout, but at most 50 and at least one a second
        tick = min(max(self.idle_timeout / 4, 0.02), 1.0)
        last_used, used = time.monotonic(), os.fstat(self.lease).st_mtime_ns
        while True:
            self.pause(tick)
            if self.has_ended(self.server):
                return "postgres ended"
            if self.asked:
                return ASKED
            if self.is_removed():
                return REMOVED
            try:
                # taken only when no process holds it shared: there is no lease
                fcntl.flock(self.lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                last_used = time.monotonic()
                continue

            # a lease that came and went since the last look has set the file's time
            if (latest := os.fstat(self.lease).st_mtime_ns) != used or float(
                self.read("hold") or 0
            ) > time.time():
                last_used, used = time.monotonic(), latest

            if time.monotonic() - last_used >= self.idle_timeout:
                return (
                    "no lease"  # the lock is kept: newcomers wait, then start the server again
                )

            fcntl.flock(self.lease, fcntl.LOCK_UN)

    def is_removed(self) -> bool:
        """Whether our directory, the data or the socket is gone, or something else stands in their place."""
        try:
            # a path may lead to another file by now; a descriptor stays with the file
            mine = os.path.samestat(os.fstat(self.lock), os.stat(f"{self.directory}/keeper"))
        except FileNotFoundError:
            return True
        data = self.read("data/postmaster.pid").partition("\n")[0] == str(self.server)
        return not (mine and data and os.path.exists(self.socket_dir))

    def stop(self, reason: str) -> None:
        """End the server; leave the directory ready for the next start."""
        say(f"stopping: {reason}")
        with contextlib.suppress(FileNotFoundError):  # the directory may be deleted meanwhile
            # before the server is down, or a process would read it and connect in vain
            if reason != REMOVED:
                os.rename("ready", "last")
            if reason == ASKED:
                os.unlink("hold")
        # SIGQUIT (immediate shutdown) writes nothing to files that are removed
        clean = self.end_server(signal.SIGQUIT if reason == REMOVED else signal.SIGINT)
        with contextlib.suppress(FileNotFoundError):
            if clean and reason != REMOVED:
                self.settle()

    def end_server(self, first: signal.Signals) -> bool:
        """Stop postgres and the children that it left, remove its socket; whether it shut down properly."""
        import shutil

        for signum in (first, signal.SIGQUIT, signal.SIGKILL):
            if self.has_ended(self.server):
                break
            os.kill(self.server, signum)
            self.patiently(lambda: self.has_ended(self.server), SHUTDOWN, 0.005)

        for signum in (
            signal.SIGQUIT,
            signal.SIGKILL,
        ):  # backends of a postgres that was killed are ours now
            for pid in children() if self.reap() else ():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signum)

            self.patiently(lambda: not self.reap(), 1.0, 0.005)

        shutil.rmtree(self.socket_dir, ignore_errors=True)
        # 0: postgres wrote its shutdown checkpoint
        return self.ended.get(self.server) == 0

    def settle(self) -> None:
        """Write the data to disk after a proper shutdown, so that they may be trusted after a power failure too.

        No process waits for it: the locks are given up first. If the server was started
        meanwhile, its mark stays.
        """
        os.close(self.lease)
        fcntl.flock(self.lock, fcntl.LOCK_UN)
        if call("syncfs", self.lock) != 0:  # any file names the file system
            os.sync()
        with contextlib.suppress(BlockingIOError):
            # held by another keeper if the server has been started again
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.read("boot") == self.mark:
                os.unlink("boot")


def say(text: str) -> None:
    """A line in the log."""
    os.write(
        2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} [{os.getpid()}] keeper: {text}\n".encode()
    )


def call(function: str, *arguments: int) -> int:
    """Call a function of the C library; -1 where there is none of that name."""
    try:
        return int(getattr(ctypes.CDLL(None), function)(*arguments))
    except AttributeError:
        return -1


def children() -> list[int]:
    """The pids of our children, those inherited from a dead postgres among them (Linux)."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def answer(result: dict[str, str]) -> None:
    """Tell the process that started the keeper, unless it has ended meanwhile, and close the pipe."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(result).encode())
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def keep(directory: str, parameters: dict[str, Any]) -> NoReturn:
    """Be the keeper."""
    os.umask(0o077)
    os.set_inheritable(parameters["lock"], False)
    # the working directory is the server's from here on, even if it is renamed
    os.fchdir(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
    call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    keeper = Keeper(directory, parameters)
    os.ftruncate(keeper.lock, 0)
    os.pwrite(
        keeper.lock, json.dumps({"pid": os.getpid(), "host": keeper.about["host"]}).encode(), 0
    )
    try:
        keeper.start()
    except (StartError, OSError) as error:
        say(f"cannot start: {error}")
        if keeper.server:
            keeper.end_server(signal.SIGQUIT)
        answer({"error": str(error)})
        os._exit(1)

    answer({})
    keeper.stop(keeper.watch())
    os._exit(0)


if __name__ == "__main__":
    _given: dict[str, Any] = json.load(sys.stdin)
    if (
        os.fork() == 0
    ):  # the starting process has a child that ends at once, and none to wait for later
        keep(sys.argv[1], _given)
