"""The files of one project as they are now: listed and examined once, read only when stat says that they changed.

What was read is remembered in one private file a project. An entry is worth something as long
as mtime, ctime, size and inode are the same. A file that was modified less than two seconds
before it was read is not remembered: a second change could leave the same times behind on file
systems with coarse clocks (git's rule for its index).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clonedb.errors import ConfigError, ServerError
from clonedb.originals import now_ns
from clonedb.private_files import PrivateDirectory, read_file
from clonedb.project.contents import LARGE, Contents, read_contents, read_large

__all__ = ["StatIndex"]

_VERSION = b"clonedb stat index 3 "
_SETTLED = 2_000_000_000  # nanoseconds

# mtime, ctime, size, inode, digest, number of the list of imports, extensions
_Entry = tuple[int, int, int, int, str, int, list[str]]


class StatIndex:
    """Listings, stats and contents of files; used for one look at a project, then thrown away.

    Listings, stats and contents are those of the first time they were asked for, so that one
    look sees one state. `stamps` has, for each file that was asked for, what changes whenever
    it is written: mtime, ctime, size and inode.
    """

    def __init__(self, index_dir: Path | None = None, key: str = "") -> None:
        """Read the index of the project `key` in `index_dir`; without a directory nothing is remembered."""
        name = hashlib.sha256(os.fsencode(key)).hexdigest()[:20]
        self._files = None if index_dir is None else PrivateDirectory(index_dir)
        self._name = f"files-{name}.index"
        self._read_now: dict[str, Contents | None] = {}
        self._listings: dict[str, Mapping[str, os.DirEntry[str]]] = {}
        self.stamps: dict[str, tuple[int, int, int, int]] = {}
        self._imports: list[tuple[str, ...]] = []
        self._known: dict[str, dict[str, _Entry]] = {}
        self._numbers: dict[tuple[str, ...], int] | None = None
        self._load()

    def listing(self, directory: str) -> Mapping[str, os.DirEntry[str]]:
        """The entries of a directory by name; none when it is missing or cannot be listed."""
        listing = self._listings.get(directory)
        if listing is None:
            try:
                with os.scandir(directory) as entries:
                    listing = {entry.name: entry for entry in entries}
            except OSError:
                listing = {}
            self._listings[directory] = listing
        return listing

    def contents(self, path: str) -> Contents | None:
        """What a file holds, or None when there is no such file (any more).

        Raises ConfigError when it may not be read.
        """
        directory, _, name = path.rpartition("/")
        listing = self._listings.get(directory)
        try:
            if listing is None:
                status = os.stat(path)  # noqa: PTH116 - a Path costs more than the call
            elif (entry := listing.get(name)) is None:
                return None
            else:
                status = entry.stat()
        except OSError:
            return None

        stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
        self.stamps[path] = stamp
        known = self._known.get(directory, {}).get(name)
        # JSON has made a list of it
        if known is not None and tuple(known[:4]) == stamp:
            return Contents(known[4], self._imports[known[5]], tuple(known[6]))
        if path not in self._read_now:
            self._read_now[path] = self._read(directory, name, status)
        return self._read_now[path]

    def save(self) -> None:
        """Write what was learnt, atomically; of two writers the last one wins, and either's file is right.

        An index that cannot be written costs time at the next start and is no error.
        """
        # set as soon as something was learnt
        if self._files is None or self._numbers is None:
            return
        files = {
            directory: kept
            for directory, names in self._known.items()
            if (
                # files that are gone are forgotten
                kept := {
                    name: entry
                    for name, entry in names.items()
                    if self._exists(directory, name)
                }
            )
        }
        body = json.dumps(
            {"imports": self._imports, "files": files}, separators=(",", ":")
        ).encode()
        data = b"%b%b\n%b" % (_VERSION, hashlib.sha256(body).hexdigest().encode(), body)
        with contextlib.suppress(OSError, ServerError):
            self._files.make()
            self._files.write(self._name, data)

        self._numbers = None

    def _exists(self, directory: str, name: str) -> bool:
        listing = self._listings.get(directory)
        return (
            name in listing
            if listing is not None
            else os.path.lexists(os.path.join(directory, name))  # noqa: PTH118
        )

    def _read(self, directory: str, name: str, status: os.stat_result) -> Contents | None:
        if not stat.S_ISREG(status.st_mode) and not (
            stat.S_ISFIFO(status.st_mode) and name.endswith(".py")
        ):
            return None  # Alembic would open that one, and wait for its other end

        path = Path(directory, name)
        # before it is read: a change meanwhile must look young
        now = now_ns()
        try:
            if (
                status.st_size >= LARGE
                and stat.S_ISREG(status.st_mode)
                and not name.endswith(".py")
            ):
                with path.open("rb") as file:
                    contents = read_large(name, file)
            else:
                contents = read_contents(name, read_file(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(
                f"{str(path)!r} belongs to what the template is made of, but cannot be read: {error.strerror}"
            ) from error

        if now - max(status.st_mtime_ns, status.st_ctime_ns) >= _SETTLED:
            self._remember(directory, name, status, contents)
        return contents

    def _remember(
        self, directory: str, name: str, status: os.stat_result, contents: Contents
    ) -> None:
        if self._numbers is None:
            self._numbers = {imports: number for number, imports in enumerate(self._imports)}
        # many files import the same: a list of imports is kept once, and entries have its
        # number
        number = self._numbers.setdefault(contents.imports, len(self._imports))
        if number == len(self._imports):
            self._imports.append(contents.imports)
        self._known.setdefault(directory, {})[name] = (
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_size,
            status.st_ino,
            contents.digest,
            number,
            list(contents.extensions),
        )

    def _load(self) -> None:
        data = b""
        if self._files is not None:
            with contextlib.suppress(
                OSError, ServerError
            ):  # not there, or not this account's alone
                data = self._files.read_bytes(self._name)

        head, _, body = data.partition(b"\n")

        # the checksum covers every kind of damage, so what follows it was written by `save`, in
        # its shape
        if head != _VERSION + hashlib.sha256(body).hexdigest().encode():
            return
        stored: dict[str, Any] = json.loads(body)
        self._imports = [tuple(names) for names in stored["imports"]]
        self._known = stored["files"]
