"""Directories of this account alone, and the files in them: opened so that no other account decides what is opened.

A directory in a shared place (/tmp, /dev/shm) has a name that others can take first, with a
directory of theirs or with a symbolic link. So each use opens it without following links, looks
at the owner, kind and mode of what was opened, and opens everything in it relative to that
descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clonedb.errors import ServerError

__all__ = ["PrivateDirectory", "open_regular", "read_file", "read_regular", "same_file"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK for a FIFO, which would be waited for
_REGULAR = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class PrivateDirectory(NamedTuple):
    """A directory that this account alone writes to, as are those on the way to it from `base`.

    `below` are the names on that way. Every method looks anew, and raises ServerError when one
    of the directories belongs to another account, is a link, or may be written by others: an
    account that may write to it decides which files are used. It raises FileNotFoundError when
    one is not there, unless it says otherwise.
    """

    base: Path
    below: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.base.joinpath(*self.below)

    @property
    def top(self) -> PrivateDirectory:
        """The directory at `base`."""
        return PrivateDirectory(self.base)

    @property
    def above(self) -> PrivateDirectory:
        """The directory that it is in; it must not be the one at `base`."""
        return PrivateDirectory(self.base, self.below[:-1])

    def __truediv__(self, name: str) -> PrivateDirectory:
        """A directory in this one."""
        return PrivateDirectory(self.base, (*self.below, name))

    def problem(self) -> str:
        """Why it must not be used, in words; empty when it may be, or is not there yet."""
        try:
            with self.entered():
                return ""
        except FileNotFoundError:
            return ""
        except ServerError as error:
            return str(error)

    @contextlib.contextmanager
    def entered(self) -> Iterator[int]:
        """A descriptor of the directory, for as long as the context lasts."""
        # each directory by its own descriptor: what was checked cannot be exchanged for another
        # one afterwards
        here = _open_directory(self.base, None)
        try:
            for depth, name in enumerate(self.below, 1):
                there = _open_directory(
                    Path(name), here, self.base.joinpath(*self.below[:depth])
                )
                os.close(here)
                here = there
            yield here
        finally:
            os.close(here)

    def make(self, mode: int = 0o700) -> None:
        """Make what is missing of it."""
        for depth in range(len(self.below) + 1):
            part = PrivateDirectory(self.base, self.below[:depth])
            try:
                part.path.mkdir(mode, parents=True)
                made = True
            except FileExistsError:
                made = False
            except OSError as error:
                raise ServerError(
                    f"cannot make {str(part.path)!r}: {error}; set state_dir (CLONEDB_STATE_DIR)"
                ) from None

            # also what was there already must be ours alone
            with part.entered() as directory:
                if made:
                    os.fchmod(directory, mode)  # mkdir's mode is cut by the umask

    def names(self) -> list[str]:
        """What is in it, sorted; nothing when it is not there."""
        try:
            with self.entered() as directory:
                return sorted(os.listdir(directory))  # noqa: PTH208  # of a descriptor
        except FileNotFoundError:
            return []

    def stat(self, name: str) -> os.stat_result | None:
        """What is known of an entry, a link itself and not what it leads to; None when it is not there."""
        try:
            with self.entered() as directory:
                return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def is_directory(self, name: str) -> bool:
        """Whether an entry is a directory, and no link to one."""
        found = self.stat(name)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def open(self, name: str, flags: int, mode: int = 0o600) -> int:
        """Open a file of this account in it, and nothing but a regular file, without waiting; see open_regular()."""
        with self.entered() as directory:
            return open_regular(
                name,
                flags,
                mode,
                directory=directory,
                owner=os.geteuid(),
                path=self.path / name,
            )

    def read_bytes(self, name: str) -> bytes:
        """The contents of a file."""
        return _read(self.open(name, os.O_RDONLY))

    def read(self, name: str) -> str:
        """The text of a file; empty when it is not there."""
        try:
            return self.read_bytes(name).decode(errors="replace")
        except FileNotFoundError:
            return ""

    def write(self, name: str, text: str | bytes, mode: int = 0o600) -> None:
        """Write a file at once: a reader finds the old or the new text, never a part."""
        with self.entered() as directory, _written(directory, name, text, mode) as new:
            os.replace(new, name, src_dir_fd=directory, dst_dir_fd=directory)

    def write_first(self, name: str, text: str) -> bool:
        """Write a file at once, unless it is there already; whether it was written."""
        with self.entered() as directory, _written(directory, name, text, 0o600) as new:
            try:
                os.link(new, name, src_dir_fd=directory, dst_dir_fd=directory)
            except FileExistsError:
                return False
            return True

    def rename(self, old: str, new: str) -> None:
        """Give an entry another name in the directory, in place of what had it."""
        with self.entered() as directory:
            os.replace(old, new, src_dir_fd=directory, dst_dir_fd=directory)

    def unlink(self, name: str) -> None:
        """Remove an entry, a link itself and not what it leads to; nothing happens when it is not there."""
        with contextlib.suppress(FileNotFoundError), self.entered() as directory:
            os.unlink(name, dir_fd=directory)

    def remove_tree(self, name: str) -> None:
        """Remove a directory in it with all that it holds; links are removed, and not followed."""
        import shutil

        with contextlib.suppress(FileNotFoundError), self.entered() as directory:
            shutil.rmtree(name, dir_fd=directory)

    def try_lock(self, name: str, operation: int) -> int | None:
        """A descriptor that holds the lock on a file, which is made if need be; None when another process holds it.

        A lock on a file that was deleted meanwhile proves nothing, so it is taken again on the
        file that is there now.
        """
        while True:
            descriptor = self.open(name, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
                # it may have been deleted between open and lock
                if same_file(descriptor, self.stat(name)):
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                return None
            except OSError as error:
                os.close(descriptor)
                raise ServerError(
                    f"cannot lock {str(self.path / name)!r}: {error}; set state_dir (CLONEDB_STATE_DIR) to a local"
                    " file system"
                ) from None

            os.close(descriptor)

    def is_held(self, name: str) -> bool:
        """Whether a process holds the exclusive lock on a file."""
        if self.stat(name) is None:
            return False
        # a shared lock is refused only where an exclusive one is held
        descriptor = self.try_lock(name, fcntl.LOCK_SH)
        if descriptor is None:
            return True
        os.close(descriptor)
        return False


def same_file(descriptor: int, found: os.stat_result | None) -> bool:
    """Whether a file that was opened is the one that was found."""
    return found is not None and os.path.samestat(os.fstat(descriptor), found)


def open_regular(
    name: str | Path,
    flags: int,
    mode: int = 0o600,
    *,
    directory: int | None = None,
    owner: int | None = None,
    path: Path | None = None,
    remedy: str = "remove it",
) -> int:
    """Open a regular file, without following a link in its last place and without waiting (for a FIFO's other end).

    `owner` is the account that alone may write to it, if that matters; an error calls the file
    `path`, and says to do `remedy`. Raises ServerError when it is anything else,
    FileNotFoundError when it is not there.
    """
    shown = str(path or name)
    try:
        descriptor = os.open(name, flags | _REGULAR, mode, dir_fd=directory)
    except OSError as error:  # ELOOP: a link; ENXIO: a FIFO or socket
        found = _look(name, directory)
        if found is None or stat.S_ISREG(found.st_mode):
            error.filename = (
                shown  # which names no directory where that was given as a descriptor
            )
            raise

        raise ServerError(f"will not open {shown!r}: it is {_kind(found)}; {remedy}") from error

    # of what was opened, not of what has the name now
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        problem = f"it is {_kind(found)}"
    elif owner is None or (found.st_uid == owner and not found.st_mode & 0o022):
        # 0o022: the group or others may write
        return descriptor
    elif found.st_uid != owner:
        problem = f"it belongs to uid {found.st_uid}"
    else:
        problem = f"others may write to it (mode {stat.S_IMODE(found.st_mode):04o})"

    os.close(descriptor)
    raise ServerError(f"will not open {shown!r}: {problem}; {remedy}")


def read_regular(
    name: str | Path, *, directory: int | None = None, owner: int | None = None
) -> bytes:
    """The contents of a regular file; see open_regular()."""
    return _read(open_regular(name, os.O_RDONLY, directory=directory, owner=owner))


def read_file(path: Path) -> bytes:
    """The contents of a file, wherever a link leads; raises OSError for a FIFO, which would wait for a writer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise OSError(
            errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL,
            f"it is {_kind(found)} and no file",
        )
    return _read(descriptor)


@contextlib.contextmanager
def _written(directory: int, name: str, text: str | bytes, mode: int) -> Iterator[str]:
    """The name of a new file with a text, which is gone after the context if it still has that name."""
    new = f".{name}.{secrets.token_hex(4)}"
    # O_EXCL: never a file that another process has put there
    descriptor = os.open(
        new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _REGULAR, mode, dir_fd=directory
    )
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  # Path.open() takes no descriptor
            os.fchmod(descriptor, mode)
            file.write(text.encode() if isinstance(text, str) else text)

        yield new
    finally:
        # the context has renamed it, or an error kept it from that
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=directory)


def _read(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()


def _open_directory(name: Path, above: int | None, path: Path | None = None) -> int:
    """Open a directory that must be this account's alone. Raises ServerError when it is not."""
    path = path or name
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=above)
    except FileNotFoundError:
        raise
    except OSError as error:
        # ELOOP or ENOTDIR: a link, or no directory; EACCES: this account may not enter it
        found = _look(name, above)
        if found is None:
            raise FileNotFoundError(str(path)) from error
        problem = f"it is {_kind(found)}"
        if stat.S_ISDIR(found.st_mode):
            problem = (
                f"it belongs to uid {found.st_uid}"
                if found.st_uid != os.geteuid()
                else str(error.strerror)
            )
    else:
        found = os.fstat(descriptor)
        if found.st_uid == os.geteuid() and not found.st_mode & 0o022:
            return descriptor
        os.close(descriptor)
        problem = f"others may write to it (mode {stat.S_IMODE(found.st_mode):04o})"
        if found.st_uid != os.geteuid():
            problem = f"it belongs to uid {found.st_uid}"

    raise ServerError(
        f"will not keep files in {str(path)!r}: {problem}; set state_dir (CLONEDB_STATE_DIR) to a directory of your own"
    )


def _look(name: str | Path, above: int | None) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=above, follow_symlinks=False)
    except OSError:
        return None


def _kind(found: os.stat_result) -> str:
    kinds = (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISREG, "no directory"),
    )
    return next((text for is_kind, text in kinds if is_kind(found.st_mode)), "a device")
