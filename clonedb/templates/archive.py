"""A sealed template as one file: what is in it, written whole or not at all, and read after it was checked.

A tar file, compressed, of a header (JSON) and what pg_dump wrote, in the steps in which it is restored. It is SQL, as
the wheel that most machines run has pg_dump and no pg_restore: whoever can connect can restore it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import secrets
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from clonedb.errors import BuildError
from clonedb.templates.metadata import Metadata
from clonedb.templates.script import Span

__all__ = ["Header", "Part", "Task", "read_archive", "write_archive"]

_VERSION = 2
_HEADER = "clonedb.json"
_CONTENTS = "contents.sql"
_LARGEST_HEADER = 64 * 1024 * 1024  # bytes


class Part(NamedTuple):
    """Where in the contents statements are, or one COPY and its rows."""

    statements: Span
    rows: Span | None = None


class Task(NamedTuple):
    """What is one transaction; `uses` are tables that nobody else may work on meanwhile."""

    parts: tuple[Part, ...]
    uses: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an archive says of itself: `major` is PostgreSQL's, `roles` are those that the dump names, `public` whether
    there is a schema of that name.

    `settings` are every session's. Of each of the `steps` all tasks may be done at once.
    """

    metadata: Metadata
    major: int
    roles: tuple[str, ...]
    public: bool
    settings: str
    steps: tuple[tuple[Task, ...], ...]


def write_archive(path: Path, header: Header, contents: io.BufferedRandom) -> None:
    """Write an archive: the file is there in whole or, whatever happens, not at all.

    It has no name until it is finished (O_TMPFILE), so that even kill -9 leaves nothing behind.
    """
    data = {
        "clonedb archive": _VERSION,
        "metadata": header.metadata.to_json(),
        "postgresql": header.major,
        "roles": header.roles,
        "public": header.public,
        "settings": header.settings,
        "steps": [[[parts, sorted(uses)] for parts, uses in step] for step in header.steps],
        "contents": hashlib.file_digest(_rewound(contents), "sha256").hexdigest(),
    }
    text = json.dumps(data).encode()
    try:
        with _nameless(path.parent) as file:
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
                _add(tar, _HEADER, len(text), io.BytesIO(text))
                _add(tar, _CONTENTS, contents.seek(0, os.SEEK_END), _rewound(contents))
            file.flush()
            os.fsync(file.fileno())
            _name(file, path)
    except OSError as error:
        raise BuildError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def _nameless(directory: Path) -> io.BufferedRandom:
    """A file that may get its name later; where the file system has no such files, one that loses it at once."""
    try:
        # tempfile opens with O_EXCL, after which a file can never get a name
        return os.fdopen(os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600), "w+b")
    except OSError:
        return tempfile.TemporaryFile(dir=directory)


def _rewound(file: io.BufferedRandom) -> io.BufferedRandom:
    file.seek(0)
    return file


def _add(tar: tarfile.TarFile, name: str, size: int, content: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = size
    tar.addfile(entry, content)


def _name(file: io.BufferedRandom, path: Path) -> None:
    """Give a nameless file its name, in place of what had it."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            # with a directory given Python calls linkat(2), which follows the link that /proc has
            os.link(f"/proc/self/fd/{file.fileno()}", beside.name, dst_dir_fd=directory)
        except OSError:  # a file system without O_TMPFILE, where the file has lost its name for good
            with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as copy:
                shutil.copyfileobj(_rewound(file), copy)
                copy.flush()
                os.fsync(copy.fileno())
        beside.replace(path)
        os.fsync(directory)
    finally:
        os.close(directory)
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def read_archive(path: Path) -> Iterator[tuple[Header, io.BufferedRandom]]:
    """The header and the contents of an archive, checked from its first byte to its last.

    Raises BuildError for a file that is not there, damaged, somebody else's, or of a newer clonedb.
    """
    with contextlib.ExitStack() as stack:
        try:
            _demand_whole(path)
            tar = stack.enter_context(tarfile.open(path, mode="r:gz"))
            data = _header(path, tar)
            header = Header(
                metadata=_metadata(path, data),
                major=int(data["postgresql"]),
                roles=tuple(map(str, data["roles"])),
                public=bool(data["public"]),
                settings=str(data["settings"]),
                steps=tuple(_steps(data["steps"])),
            )
            contents = stack.enter_context(tempfile.TemporaryFile())
            _copy(path, tar, _CONTENTS, contents, data["contents"])
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
            raise BuildError(
                f"{str(path)!r} is damaged, or no archive of clonedb's: {str(error) or 'it ends early'}"
            ) from None
        except OSError as error:
            reason = error.strerror or error
            raise BuildError(f"{str(path)!r} cannot be read: {reason}; `clonedb export` writes such files") from None
        yield header, contents


def _demand_whole(path: Path) -> None:
    """Read to the checksum at the end, before anything of it is believed."""
    with gzip.open(path) as file:
        while file.read(1 << 20):
            pass


def _header(path: Path, tar: tarfile.TarFile) -> dict[str, Any]:
    first = tar.next()
    content = tar.extractfile(first) if first is not None and first.name == _HEADER else None
    if first is None or content is None or first.size > _LARGEST_HEADER:
        raise BuildError(f"{str(path)!r} is no archive of clonedb's; `clonedb export` writes such files")
    data = json.loads(content.read())
    if not isinstance(data, dict) or not isinstance(version := data.get("clonedb archive"), int):
        raise BuildError(f"{str(path)!r} is no archive of clonedb's; `clonedb export` writes such files")
    if version > _VERSION:
        raise BuildError(
            f"{str(path)!r} is an archive of a newer clonedb (format {version}, this one reads {_VERSION});"
            " upgrade clonedb here, or export it anew with this version"
        )
    if version < _VERSION:
        raise BuildError(f"{str(path)!r} was exported by an older clonedb; export it anew with this one")
    return data


def _steps(data: Sequence[Sequence[Any]]) -> Iterator[tuple[Task, ...]]:
    for step in data:
        yield tuple(
            Task(
                tuple(Part(Span(*statements), Span(*rows) if rows else None) for statements, rows in parts),
                frozenset(uses),
            )
            for parts, uses in step
        )


def _metadata(path: Path, data: Mapping[str, Any]) -> Metadata:
    metadata = Metadata.from_json(data["metadata"])
    if metadata is None:
        raise BuildError(f"{str(path)!r} was exported by another version of clonedb; export it anew with this one")
    return metadata


def _copy(path: Path, tar: tarfile.TarFile, name: str, file: io.BufferedRandom, digest: str) -> None:
    content = tar.extractfile(name)
    if content is None:
        raise BuildError(f"{str(path)!r} is damaged: {name!r} in it is no file")
    shutil.copyfileobj(content, file)
    if hashlib.file_digest(_rewound(file), "sha256").hexdigest() != digest:
        raise BuildError(f"{str(path)!r} is damaged: {name!r} in it is not what was written; fetch it again")
    file.seek(0)
