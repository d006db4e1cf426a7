"""File locks beside the advisory ones: who lives on this machine although the server lost its session."""

from __future__ import annotations

import contextlib
import fcntl
import os

from clonedb.embedded.places import state_files
from clonedb.errors import ServerError
from clonedb.originals import monotonic, sleep
from clonedb.private_files import PrivateDirectory
from clonedb.settings.config import Config

__all__ = ["LocalLeases", "is_leased"]

_LOOK = 0.001  # seconds; `is_leased` holds the lock for some microseconds
_LIMIT = 30.0  # seconds after which the process that holds the lock counts as stopped


class LocalLeases:
    """The locked files of one process, each named after an owner of databases or a template in use.

    An advisory lock ends with its session, which an administrator, a proxy or a crash of the
    server may end while the process goes on. The kernel gives a file lock back when the process
    ends, and at no other time.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._held: dict[str, int] = {}

    def take(self, name: str) -> None:
        """Lock the file of a name until `close`; several processes may.

        Raises ServerError as PrivateDirectory, and when another process holds the lock alone
        for too long.
        """
        if name in self._held:
            return
        files = _files(self._config)
        files.make()
        begin = monotonic()
        # shared: it is refused only while `is_leased` has it alone
        while (descriptor := files.try_lock(name, fcntl.LOCK_SH)) is None:
            if monotonic() - begin > _LIMIT:
                raise ServerError(
                    f"waited {_LIMIT:g} s for the lock on {str(files.path / name)!r}, which another process holds (it"
                    " may be stopped; `fuser` of that file tells which); end that process and try again"
                )

            sleep(_LOOK)

        self._held[name] = descriptor

    def forget(self) -> None:
        """In a forked child: the locks are the parent's."""
        while self._held:
            # flock's are of the open file: what a child closes, its parent still holds
            os.close(self._held.popitem()[1])

    def close(self) -> None:
        """Give all locks back, and remove the files that no other process has locked."""
        while self._held:
            name, descriptor = self._held.popitem()
            os.close(descriptor)
            with contextlib.suppress(OSError):  # the state directory is being deleted
                is_leased(self._config, name)


def is_leased(config: Config, name: str) -> bool:
    """Whether a living process of this machine, with the same state directory, has locked the file of a name.

    The file of a dead one is removed.
    """
    files = _files(config)
    if files.stat(name) is None:
        return False
    descriptor = files.try_lock(name, fcntl.LOCK_EX)
    if descriptor is None:
        return True
    files.unlink(name)
    os.close(descriptor)
    return False


def _files(config: Config) -> PrivateDirectory:
    return state_files(config) / "leases"
