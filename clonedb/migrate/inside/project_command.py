"""The project's own command that makes a schema: run without a shell, in a session of its own, watched, and ended."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from clonedb.migrate.inside.below import Noted, environment_below, noted
from clonedb.migrate.inside.failure import RefusedError, scrub
from clonedb.migrate.inside.strays import adopt_orphans, children, end_children
from clonedb.url import DatabaseURL

__all__ = ["ProjectCommand"]

_GRACE = 2.0  # seconds between SIGTERM and SIGKILL
_FIRST_PAUSE = 0.002  # seconds between two looks whether it has ended, which grow
_LAST_PAUSE = 0.05
_NEWS = (
    2.0  # seconds between two looks at its last line of output, which is told if it is another
)
_SILENCE = 10.0  # seconds after which the same line is told again
_TAIL = 65536  # bytes of output that are looked at for the last lines
_LINES = 30
_SHELLS = frozenset({"&&", "||", "|", ";", ">", "<", "&", "cd", "export", "source"})

_ROLE = re.compile(r'\brole "[^"]+" already exists')
_ABOUT_ROLES = (
    "hint: roles belong to the server, on which many templates are built: create one only where pg_roles"
    " lacks it\n"
)

# what is in a database besides the system's own, and besides what belongs to extensions
_MADE = """
    select exists (
        select from (
            select oid, 'pg_class'::regclass as kind from pg_class
            union all select oid, 'pg_proc'::regclass from pg_proc
            union all select oid, 'pg_type'::regclass from pg_type
            union all select oid, 'pg_namespace'::regclass from pg_namespace
        ) made
        where oid >= 16384 and not exists (
            select from pg_depend d where d.classid = made.kind and d.objid = made.oid and d.deptype = 'e'
        )
    )
"""


class ProjectCommand:
    """Runs commands one after the other; `end`, from another thread, ends what runs, and lets no other begin."""

    def __init__(self, setup: Mapping[str, Any], tell: Callable[[int, str], None]) -> None:
        """`tell` is told now and then for how many seconds a command has run, and its last line of output."""
        self._setup = setup
        self._tell = tell
        self._lock = threading.Lock()
        self._ended = False
        self._process: subprocess.Popen[bytes] | None = None
        self._others: set[int] = set()  # children that are not the command's

    def run(self, words: Sequence[str], *, limit: float, names: Sequence[str]) -> Noted:
        """Run a command until it has filled the database; what its processes read.

        It may take `limit` seconds. `names` are the variables that lead it to the database. What
        it leaves behind ends with it, daemons too. Raises RefusedError.
        """
        with tempfile.TemporaryDirectory(prefix="clonedb-") as directory:
            notes = os.path.join(directory, "notes")  # noqa: PTH118 - it is text
            open(notes, "x").close()  # noqa: PTH123
            with open(os.path.join(directory, "output"), "x+b") as output:  # noqa: PTH118, PTH123
                process = self._started(words, notes, output)
                try:
                    in_time = self._waited(process, output, limit)
                finally:
                    self._stop(process)

                told = _Told(words, self._last_lines(output), self._by_hand(words, names))
            found = noted(notes)

        if not in_time:
            raise RefusedError(
                told.failure(f"still ran after migrate_timeout = {limit:g} s, and was ended")
            )
        if process.returncode:
            raise RefusedError(told.failure(f"failed: {_ending(process.returncode)}"))
        self._require_filled(told, found)
        return found

    def end(self) -> None:
        """End what runs, and let nothing begin any more."""
        with self._lock:
            self._ended = True
            process = self._process
        if process is not None:
            _terminate(process)
            # its own entry stays, because the thread that waits for it reaps it
            end_children(but=self._others | {process.pid})

    def _started(
        self, words: Sequence[str], notes: str, output: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        # unbuffered: its last lines are to be there when it is ended
        environment = environment_below(
            {**os.environ, "PATH": _path(), "PYTHONUNBUFFERED": "1"},
            url=self._setup["own_url"],
            rootdir=self._setup["rootdir"],
            notes=notes,
        )
        with self._lock:
            if self._ended:
                raise RefusedError("the build was ended")
            adopt_orphans()
            self._others = children()
            try:
                self._process = subprocess.Popen(
                    words,
                    cwd=self._setup["rootdir"],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # without a terminal no password is asked for
                )
            except OSError as error:
                raise RefusedError(_about_start(words, error)) from None

            return self._process

    def _waited(
        self, process: subprocess.Popen[bytes], output: IO[bytes], limit: float
    ) -> bool:
        """Whether the command ended in time; it is not reaped, so that its number stays that of its session."""
        start = looked = told = time.monotonic()
        shown, pause = "", _FIRST_PAUSE
        while not _has_ended(process):
            now = time.monotonic()
            if now - start >= limit:
                return False

            if now - looked >= _NEWS:
                looked = now
                line = (self._last_lines(output) or [""])[-1]
                if line != shown or now - told >= _SILENCE:
                    shown, told = line, now
                    self._tell(round(now - start), line)

            time.sleep(pause)
            pause = min(pause * 2, _LAST_PAUSE)

        return True

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        if not _has_ended(process):
            _terminate(process)
        _signal(process, signal.SIGKILL)  # what it has left behind
        process.wait()
        end_children(but=self._others)  # what it has left behind in other sessions
        with self._lock:
            self._process = None

    def _last_lines(self, output: IO[bytes]) -> list[str]:
        size = os.fstat(output.fileno()).st_size
        data = os.pread(output.fileno(), _TAIL, max(0, size - _TAIL))
        # a process that opens /dev/stdout anew begins at another place of the file
        text = scrub(data.decode(errors="replace").replace("\0", ""), self._setup["secrets"])
        # a progress bar writes over its own line
        lines = [
            line.rpartition("\r")[2].rstrip() for line in text.replace("\r\n", "\n").split("\n")
        ]
        return [line for line in lines if line][-_LINES:]

    def _by_hand(self, words: Sequence[str], names: Sequence[str]) -> str:
        schemes = {name: os.environ[name].partition("://")[0] for name in names}
        variables = " ".join(f"{name}={scheme}:///NAME" for name, scheme in schemes.items())
        return f"cd {shlex.quote(self._setup['rootdir'])} && {variables} PGDATABASE=NAME {shlex.join(words)}"

    def _require_filled(self, told: _Told, found: Noted) -> None:
        import psycopg

        url = DatabaseURL.parse(self._setup["own_url"])
        own: Any = url.conninfo()
        try:
            with psycopg.connect(**own) as connection:
                (filled,) = connection.execute(_MADE).fetchone() or (False,)
        except psycopg.OperationalError as error:
            gone = f"ended without an error, but its database cannot be reached: {error}"
            raise RefusedError(told.failure(gone)) from None

        if filled:
            return
        elsewhere = [place for place in found.elsewhere if not place.endswith(f":{url.port}")]
        reached = f" (it opened {', '.join(elsewhere[:3])})" if elsewhere else ""
        nothing = (
            "ended without an error, but the database that is being built is empty; it may have written to another"
            f" one{reached}: let it read DATABASE_URL, libpq's variables (PGHOST, PGDATABASE, ...), or a variable that"
            ' you name: route = ["NAME"] in [tool.clonedb]'
        )
        raise RefusedError(told.failure(nothing))


class _Told:
    """What every message about a command has in it."""

    def __init__(self, words: Sequence[str], lines: Sequence[str], by_hand: str) -> None:
        self._name = shlex.join(words)
        self._lines = lines
        self._by_hand = by_hand

    def failure(self, what: str) -> str:
        """The command, what became of it, its last output, and how to run it by hand."""
        output = "".join(f"\n  {line}" for line in self._lines) or " nothing"
        hint = _ABOUT_ROLES if any(map(_ROLE.search, self._lines)) else ""
        return (
            f"the command {self._name!r} {what}\n{hint}last output:{output}\n"
            f"to run it by hand, on an empty database NAME of your own:\n  {self._by_hand}"
        )


def _path() -> str:
    """PATH, behind the directories in which this environment has its programs."""
    own = [os.path.dirname(sys.executable), sysconfig.get_path("scripts")]  # noqa: PTH120 - it is text
    return os.pathsep.join(
        dict.fromkeys([*own, *os.environ.get("PATH", os.defpath).split(os.pathsep)])
    )


def _about_start(words: Sequence[str], error: OSError) -> str:
    name = shlex.join(words)
    shell = ""
    if "=" in words[0] or not _SHELLS.isdisjoint(words):
        shell = '; it is run without a shell: migrate = ["sh", "-c", "..."] runs one'
    elif " " in words[0]:
        shell = "; a list has each word by itself: write it as a text, or split it"
    if not isinstance(error, FileNotFoundError):
        return f"the command {name!r} cannot be started: {error.strerror}{shell}"
    return (
        f"the command {name!r} cannot be started: there is no program {words[0]!r} in PATH or in"
        f" {os.path.dirname(sys.executable)!r}{shell or '; install it, or write its path in migrate'}"  # noqa: PTH120
    )


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    # WNOWAIT leaves it a zombie, whose number no other process gets
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    try:
        return os.waitid(os.P_PID, process.pid, options) is not None
    except ChildProcessError:  # reaped: by another thread, or because SIGCHLD is ignored
        return True


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """End a session: first in its own way, then at once."""
    _signal(process, signal.SIGTERM)
    end = time.monotonic() + _GRACE
    while time.monotonic() < end:
        if _has_ended(process):
            break
        time.sleep(_LAST_PAUSE)

    _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        # the leader of a session has the number of its first group
        os.killpg(process.pid, number)


def _ending(code: int) -> str:
    return f"exit status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
