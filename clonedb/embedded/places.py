"""Where embedded servers, locks and indexes are on disk, who may enter, and which process lives (the kernel's word)."""

from __future__ import annotations

import json
import os
import re
import sys
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from clonedb.embedded.binaries import DEBIAN, WHEELS, Binaries
from clonedb.embedded.memory import about, memory_base, refused_base
from clonedb.private_files import PrivateDirectory
from clonedb.settings.config import Config

__all__ = [
    "Running",
    "ServerDirectory",
    "data_about",
    "not_in_memory",
    "state_dir",
    "state_files",
]

_WITH = "-with-"  # in the name of a server for which the project sets parameters
_NUMBER = "-server-"  # in the name of the second and further ones of several servers


def state_files(config: Config) -> PrivateDirectory:
    """The directory of everything clonedb keeps between runs; made when missing, private to this user.

    `state_dir` when set, else the user's cache directory. Root's is the system's cache
    directory, mode 0711, because PostgreSQL refuses to run as root and the account that runs it
    could not pass root's home.

    Raises ServerError when it is another account's, a symbolic link, or writable by others: an
    account that may write to it decides which files a server of ours is made of.
    """
    directory = PrivateDirectory(_state_path(config))
    directory.make(_mode())
    return directory


def _mode() -> int:
    """Of the directories of servers: the account that runs root's must be able to pass them."""
    return 0o711 if os.geteuid() == 0 else 0o700


def state_dir(config: Config) -> Path:
    """The path of state_files(); raises what that raises."""
    return state_files(config).path


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
    where = about(memory_base(config, state) or state)
    why = not_in_memory(config)
    return f"{where} ({why})" if why else where


def not_in_memory(config: Config) -> str:
    """Why `data = "auto"` keeps away from memory although there is a directory for it there; mostly empty."""
    return refused_base(config, _state_path(config))


def default_state_dir() -> Path:
    """What platformdirs answers; on Linux worked out here where that is plain, because importing it costs 20 ms."""
    # site_cache_path() and user_cache_path() for the cases that are plain
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

    return (
        platformdirs.site_cache_path("clonedb")
        if root
        else platformdirs.user_cache_path("clonedb")
    )


class ServerDirectory(NamedTuple):
    """The directory of one embedded server. Its files:

    * `lease`: locked, shared, by every process that uses the server; its time is that of the
      last lease.
    * `start`: locked by the process that starts, stops or deletes the server.
    * `keeper`: locked by the keeper for as long as it lives; its time is the keeper's last sign
      of life while it waits.
    * `server`: locked by postgres and its children, which inherit the lock, so that it is free
      when none of them lives.
    * `ready`: the running server as JSON (`Running`), renamed to `last` when it stops.
    * `socket`: the path of the directory for the Unix socket.
    * `hold`: the unix time until which the server stays up without leases.
    * `failed`: why the last start failed, for those who waited for it.
    * `boot`: the boot id of the machine while data may be in memory only (fsync is off).
    * `password`: that of the role postgres.
    * `log`: what initdb, postgres and the keeper say.
    * `data`: the data directory.
    """

    directory: Path

    @classmethod
    def of(cls, config: Config, binaries: Binaries) -> ServerDirectory:
        """The place for a server of these binaries.

        Named by what makes data directories incompatible, the major version and who built it,
        and by a digest of the parameters that the project sets: with others it is another
        server. The second and further ones of several have a number.
        """
        if binaries.source in WHEELS:
            name = f"{binaries.source}-{binaries.major}"
        elif re.fullmatch(
            DEBIAN, str(binaries.directory)
        ):  # whether pg_config, PATH or a look at /usr/lib found it
            name = f"system-{binaries.major}"
        else:
            name = f"bin-{binaries.major}-{zlib.crc32(os.fsencode(binaries.directory)):08x}"

        if config.server:
            name += f"{_WITH}{zlib.crc32(repr(sorted(config.server.items())).encode()):08x}"
        # the first of several is the one that there is without others
        if config.number:
            name += f"{_NUMBER}{config.number + 1}"
        state = _state_path(config)
        return cls((memory_base(config, state) or state) / "servers" / name)

    @classmethod
    def all(cls, config: Config) -> list[ServerDirectory]:
        """Every place there is, by name."""
        servers = [PrivateDirectory(base) / "servers" for base in _bases(config)]
        return [
            cls(there.path / name)
            for there in servers
            for name in there.names()
            if there.is_directory(name)
        ]

    @classmethod
    def removed(cls, config: Config) -> list[tuple[PrivateDirectory, str]]:
        """Directories of servers on their way to deletion: where they are, and their names."""
        bases = [PrivateDirectory(base) for base in _bases(config)]
        return [
            (base, name)
            for base in bases
            for name in base.names()
            if name.startswith("removed-")
        ]

    @property
    def name(self) -> str:
        """What the server is called: `embedded-postgres-18`."""
        return self.directory.name

    @property
    def number(self) -> int:
        """Which of several servers it is, from 1."""
        digits = self.name.partition(_NUMBER)[2]
        return int(digits) if digits.isdecimal() else 1

    @property
    def has_parameters(self) -> bool:
        """Whether the project sets parameters of this server."""
        return _WITH in self.name

    @property
    def files(self) -> PrivateDirectory:
        """The directory as files in it are opened."""
        return PrivateDirectory(self.directory.parent.parent, ("servers", self.name))

    def file(self, name: str) -> Path:
        """The path of one of the files: to be shown, or given to programs."""
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
        self.files.make(_mode())

    def read(self, name: str) -> str:
        """The text of a file; empty when it is not there."""
        return self.files.read(name)

    def tail(self, *, start: int = 0, lines: int = 12) -> str:
        """The last lines of the log from a byte on, indented, without any password."""
        from clonedb.url import redact

        try:
            descriptor = self.files.open("log", os.O_RDONLY)
        except FileNotFoundError:
            return ""
        with open(descriptor, "rb") as file:  # noqa: PTH123  # Path.open() takes no descriptor
            file.seek(start)
            text = file.read().decode(errors="replace")
        return "".join(f"\n  {line}" for line in redact(text).strip().splitlines()[-lines:])

    def running(self) -> Running | None:
        """The server, if it is ready and its keeper lives.

        In this order: `ready` is moved away before a keeper's lock is taken, so what is read
        while the lock is held is never an earlier server's.
        """
        # the lock first: a `ready` whose keeper is dead says nothing
        if not self.files.is_held("keeper"):
            return None
        return Running.of(self._said("ready"))

    def held_until(self) -> float:
        """The unix time until which the server stays up without leases."""
        try:
            return float(self.read("hold") or 0)
        except ValueError:
            return 0.0

    def last(self) -> dict[str, Any]:
        """What a keeper said of the server that ran before (as Running); empty when none did."""
        return self._said("last")

    def keeper(self) -> dict[str, Any]:
        """`pid` and `host` of the keeper that lives or lived last; empty when no file says both."""
        said = self._said("keeper")
        return said if _is_pid(said.get("pid")) and isinstance(said.get("host"), str) else {}

    def _said(self, name: str) -> dict[str, Any]:
        """The JSON object in a file of a keeper's.

        Empty when it is not there, between the keeper's truncation and its write, and when the
        machine went down before the disk had it.
        """
        try:
            found = json.loads(self.read(name))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


class Running(NamedTuple):
    """What a keeper says of the server it runs: uid is the server's, binaries a directory, since in unix time.

    `build` tells the file `postgres` that it was started from; empty if an older clonedb
    started it.
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
    def of(cls, said: dict[str, Any]) -> Running | None:
        """What a keeper said, which may be another clonedb's and say more or less; None if that is not enough."""
        if not (_is_pid(said.get("pid")) and _is_pid(said.get("keeper"))):
            return None
        try:
            return cls(**{name: said[name] for name in cls._fields if name in said})
        except TypeError:  # it lacks a part
            return None


def _is_pid(value: object) -> bool:
    """Whether a file names one process: to -1 and 0 a signal is one to many, and 1 is the system's."""
    # `type() is`, because True is an int
    return type(value) is int and value > 1
