"""Where embedded servers, locks and indexes are on disk, who may enter, and which process lives (the kernel's word)."""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import sys
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from clonedb.config import Config
from clonedb.errors import ServerError
from clonedb.postgres.binaries import DEBIAN, WHEELS, Binaries
from clonedb.postgres.memory import about, memory_base

__all__ = ["Place", "Running", "data_about", "is_held", "same_file", "state_dir", "tail", "try_lock", "write_private"]


def state_dir(config: Config) -> Path:
    """The directory of everything clonedb keeps between runs; made when missing, private to this user.

    `state_dir` when set, else the user's cache directory. Root's is the system's cache directory, mode 0711, because
    PostgreSQL refuses to run as root and the account that runs it could not pass root's home.

    Raises ServerError when it is somebody else's, a symbolic link, or writable by others: whoever may write to it
    decides which files a server of ours is made of.
    """
    directory = _state_path(config)
    _make_private(directory)
    return directory


def _state_path(config: Config) -> Path:
    if config.state_dir is not None:
        return Path(os.path.abspath(config.path(config.state_dir)))  # noqa: PTH100  # resolve() would follow a symlink
    return default_state_dir()


def _bases(config: Config) -> list[Path]:
    """The directories that servers may be in: the state directory, and the one in memory."""
    state = _state_path(config)
    memory = memory_base(config, state)
    return [state, memory] if memory else [state]


def data_about(config: Config) -> str:
    """Where the data of the embedded server are, in words. Raises ServerError where memory is wanted and missing."""
    state = _state_path(config)
    return about(memory_base(config, state) or state)


def default_state_dir() -> Path:
    """What platformdirs answers; on Linux worked out here where that is plain, because importing it costs 20 ms."""
    root = os.geteuid() == 0
    if sys.platform == "linux" and "ANDROID_DATA" not in os.environ:
        if root:
            return Path("/var/cache/clonedb")
        cache, home = os.environ.get("XDG_CACHE_HOME", ""), os.environ.get("HOME", "")
        if cache.startswith("/"):
            return Path(cache) / "clonedb"
        if not cache and home.startswith("/"):
            return Path(home) / ".cache" / "clonedb"
    import platformdirs

    return platformdirs.site_cache_path("clonedb") if root else platformdirs.user_cache_path("clonedb")


def _make_private(directory: Path) -> None:
    """Make a directory if need be, and refuse one that is not this user's alone."""
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        directory.mkdir(mode, parents=True)
        directory.chmod(mode)  # mkdir's mode is cut by the umask
    except FileExistsError:
        pass
    except OSError as error:
        raise ServerError(f"cannot make {str(directory)!r}: {error}; set state_dir (CLONEDB_STATE_DIR)") from None
    found = directory.lstat()
    problem = ""
    if not stat.S_ISDIR(found.st_mode):
        problem = "it is a symbolic link" if stat.S_ISLNK(found.st_mode) else "it is no directory"
    elif found.st_uid != os.geteuid():
        problem = f"it belongs to uid {found.st_uid}"
    elif found.st_mode & 0o022:
        problem = f"others may write to it (mode {stat.S_IMODE(found.st_mode):04o})"
    if problem:
        raise ServerError(
            f"will not keep a server in {str(directory)!r}: {problem}; set state_dir (CLONEDB_STATE_DIR) to a directory"
            " of your own"
        )


class Place(NamedTuple):
    """The directory of one embedded server. Its files:

    lease     locked, shared, by every process that uses the server; its time is that of the last lease
    start     locked by the process that starts, stops or deletes the server
    keeper    locked by the keeper for as long as it lives; its time is the keeper's last sign of life while it waits
    server    locked by postgres and its children: the lock is inherited, so it is free when none of them lives
    ready     the running server as JSON (Running), renamed to `last` when it stops
    socket    path of the directory for the Unix socket
    hold      unix time until which the server stays up without leases
    failed    why the last start failed, for those who waited for it
    boot      boot id of the machine while data may be in memory only (fsync is off)
    password  of the role postgres
    log       what initdb, postgres and the keeper say
    data      the data directory
    """

    directory: Path

    @classmethod
    def of(cls, config: Config, binaries: Binaries) -> Place:
        """The place for a server of these binaries.

        Named by what makes data directories incompatible: the major version, and who built it.
        """
        if binaries.source in WHEELS:
            name = f"{binaries.source}-{binaries.major}"
        elif re.fullmatch(DEBIAN, str(binaries.directory)):  # whether pg_config, PATH or a look at /usr/lib found it
            name = f"system-{binaries.major}"
        else:
            name = f"bin-{binaries.major}-{zlib.crc32(os.fsencode(binaries.directory)):08x}"
        state = _state_path(config)
        return cls((memory_base(config, state) or state) / "servers" / name)

    @classmethod
    def all(cls, config: Config) -> list[Place]:
        """Every place there is, by name."""
        return [cls(path) for base in _bases(config) for path in sorted(base.glob("servers/*/"))]

    @classmethod
    def removed(cls, config: Config) -> list[Path]:
        """Directories of servers on their way to deletion."""
        return [path for base in _bases(config) for path in sorted(base.glob("removed-*"))]

    @property
    def name(self) -> str:
        """What the server is called: `embedded-postgres-18`."""
        return self.directory.name

    def file(self, name: str) -> Path:
        """The path of one of the files."""
        return self.directory / name

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"

    @property
    def log(self) -> Path:
        """The log of initdb, postgres and the keeper."""
        return self.directory / "log"

    def prepare(self) -> None:
        """Make the directories that are missing. Raises ServerError when one is not ours."""
        for directory in (self.directory.parent.parent, self.directory.parent, self.directory):
            _make_private(directory)

    def read(self, name: str) -> str:
        """The text of a file; empty when it is not there."""
        try:
            return self.file(name).read_text()
        except FileNotFoundError:
            return ""

    def running(self) -> Running | None:
        """The server, if it is ready and its keeper lives.

        In this order: `ready` is moved away before a keeper's lock is taken, so what is read while the lock is held is
        never an earlier server's.
        """
        if not is_held(self.file("keeper")):
            return None
        ready = self.read("ready")
        return Running.parse(ready) if ready else None

    def held_until(self) -> float:
        """The unix time until which the server stays up without leases."""
        try:
            return float(self.read("hold") or 0)
        except ValueError:
            return 0.0

    def last(self) -> dict[str, Any]:
        """What a keeper said of the server that ran before (as Running); empty when none did."""
        found = json.loads(self.read("last") or "{}")
        return found if isinstance(found, dict) else {}

    def keeper(self) -> dict[str, Any]:
        """`pid` and `host` of the keeper that lives or lived last; empty when there was none."""
        try:
            found = json.loads(self.read("keeper") or "{}")
        except ValueError:  # between the keeper's truncation and its write
            return {}
        return found if isinstance(found, dict) else {}


class Running(NamedTuple):
    """What a keeper says of the server it runs: uid is the server's, binaries a directory, since in unix time.

    `build` tells the file `postgres` that it was started from; empty if an older clonedb started it.
    """

    pid: int
    keeper: int
    uid: int
    port: int
    socket_dir: str
    since: float
    version: str
    binaries: str
    host: str
    build: str = ""

    @classmethod
    def parse(cls, text: str) -> Running:
        """Read what a keeper wrote, which may be another clonedb's and say more or less."""
        found = json.loads(text)
        return cls(**{name: found[name] for name in cls._fields if name in found})


def try_lock(path: Path, operation: int) -> int | None:
    """A descriptor that holds the lock on a file, or None when somebody else holds it.

    A lock on a file that was deleted meanwhile proves nothing, so it is taken again on the file that is there now.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            if same_file(descriptor, path):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            raise ServerError(
                f"cannot lock {str(path)!r}: {error}; set state_dir (CLONEDB_STATE_DIR) to a local file system"
            ) from None
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the exclusive lock on a file."""
    if not path.exists():
        return False
    descriptor = try_lock(path, fcntl.LOCK_SH)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def same_file(descriptor: int, path: Path) -> bool:
    """Whether the path still names the file that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file at once: whoever reads it finds the old or the new text, never a part."""
    new = path.with_name(f"{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(descriptor, "w") as file:  # noqa: PTH123  # Path.open() takes no descriptor
        os.fchmod(descriptor, mode)
        file.write(text)
    new.replace(path)


def tail(path: Path, *, start: int = 0, lines: int = 12) -> str:
    """The last lines of a log from a byte on, indented, without any password."""
    from clonedb.url import redact

    try:
        with path.open("rb") as file:
            file.seek(start)
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "".join(f"\n  {line}" for line in redact(text).strip().splitlines()[-lines:])
