"""A sealed template as one file: what is in it, written whole or not at all, and read after it was checked.

A tar file, compressed, of a header (JSON) and what pg_dump wrote, in its order. It is SQL, as
the wheel that most machines run has pg_dump and no pg_restore: a connection is enough to
restore it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from clonedb.archive.script import Span
from clonedb.archive.target import target
from clonedb.archive.trust import digest_of
from clonedb.errors import BuildError, ServerError
from clonedb.private_files import open_regular
from clonedb.templates.metadata import Metadata

__all__ = ["Header", "Part", "Written", "read_archive", "write_archive"]

_VERSION = 3
_HEADER = "clonedb.json"
_CONTENTS = "contents.sql"
_DAMAGES = (
    *(
        tarfile.TarError,
        gzip.BadGzipFile,
        EOFError,
        zlib.error,
        ValueError,
        KeyError,
        TypeError,
    ),
    *(
        AttributeError,
        RecursionError,
        OverflowError,
        MemoryError,
    ),  # of JSON that is nested, or of other types
)
_LARGEST_HEADER = 64 * 1024 * 1024  # bytes


class Part(NamedTuple):
    """Where in the contents statements are that go in one message, or one COPY and its rows."""

    statements: Span
    rows: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an archive says of itself: `major` is PostgreSQL's, `roles` are those that the dump
    names, `public` whether there is a schema of that name.

    `settings` come before the `parts`, which are restored in their order.
    """

    metadata: Metadata
    major: int
    roles: tuple[str, ...]
    public: bool
    settings: str
    parts: tuple[Part, ...]


class Written(NamedTuple):
    """An archive that was written: its SHA-256 in hex, its size in bytes."""

    digest: str
    size: int


def write_archive(path: Path | None, header: Header, contents: io.BufferedRandom) -> Written:
    """Write an archive to a path, or to standard output: see target()."""
    data = {
        "clonedb archive": _VERSION,
        "metadata": header.metadata.to_json(),
        "postgresql": header.major,
        "roles": header.roles,
        "public": header.public,
        "settings": header.settings,
        "parts": header.parts,
        "contents": hashlib.file_digest(_rewound(contents), "sha256").hexdigest(),
    }
    text = json.dumps(data).encode()
    try:
        with target(path) as file:
            # the header first: it says what the file is before all of it is read
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
                _add(tar, _HEADER, len(text), io.BytesIO(text))
                _add(tar, _CONTENTS, contents.seek(0, os.SEEK_END), _rewound(contents))

            return Written(digest_of(file), file.seek(0, os.SEEK_END))
    except OSError as error:
        shown = "standard output" if path is None else repr(str(path))
        raise BuildError(f"{shown} cannot be written: {error.strerror or error}") from error


def _rewound(file: io.BufferedRandom) -> io.BufferedRandom:
    file.seek(0)
    return file


def _add(tar: tarfile.TarFile, name: str, size: int, content: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = size
    tar.addfile(entry, content)


@contextlib.contextmanager
def read_archive(
    path: Path, require: Callable[[str], None]
) -> Iterator[tuple[Header, io.BufferedRandom]]:
    """The header and the contents of an archive, checked from its first byte to its last.

    `require` is given the SHA-256 of the file before anything in it is looked at, and raises to
    have it refused. What is read is a copy, which no other process can change meanwhile. Raises
    BuildError for a file that is not there, damaged, another account's, or of a newer clonedb.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile())
            descriptor = open_regular(
                path.resolve(), os.O_RDONLY, remedy="name the file that was exported"
            )
            with open(descriptor, "rb") as original:  # noqa: PTH123  # a descriptor
                shutil.copyfileobj(original, file)
            # nothing of the file is parsed before that
            require(digest_of(file))
            _require_whole(file)
            tar = stack.enter_context(tarfile.open(fileobj=_rewound(file), mode="r:gz"))
            data = _header(path, tar)
            header = Header(
                metadata=_metadata(path, data),
                major=_number(data["postgresql"]),
                roles=tuple(map(str, data["roles"])),
                public=bool(data["public"]),
                settings=str(data["settings"]),
                parts=tuple(_parts(data["parts"])),
            )
            contents = stack.enter_context(tempfile.TemporaryFile())
            _copy(path, tar, _CONTENTS, contents, data["contents"])
            _require_all(header, contents.seek(0, os.SEEK_END))
        except ServerError as error:  # no regular file
            raise BuildError(f"{str(path)!r} cannot be read: {error}") from None
        except _DAMAGES as error:
            raise BuildError(
                f"{str(path)!r} is damaged, or no archive of clonedb's: {str(error) or 'it ends early'}"
            ) from None
        except OSError as error:
            reason = error.strerror or error
            raise BuildError(
                f"{str(path)!r} cannot be read: {reason}; `clonedb export` writes such files"
            ) from None

        yield header, contents


def _require_whole(file: io.BufferedRandom) -> None:
    """Read to the checksum at the end, before anything of it is believed."""
    with gzip.open(_rewound(file)) as unpacked:
        # gzip knows only at the end whether what it gave out was right
        while unpacked.read(1 << 20):
            pass


def _require_all(header: Header, size: int) -> None:
    """Raises ValueError unless the spans are the contents, from their first byte to their last, in order.

    That is how they are written. `size` is that of the contents, in bytes.
    """
    position = 0
    for part in header.parts:
        for span in (part.statements, part.rows):
            if span is not None:
                if span.start != position or span.length < 0:
                    raise ValueError(
                        f"bytes {span.start} to {span.start + span.length} stand where {position} begins"
                    )
                position += span.length
    if position != size:
        raise ValueError(f"its parts have {position} bytes, its contents {size}")


def _header(path: Path, tar: tarfile.TarFile) -> dict[str, Any]:
    # the first entry is the header: a file of another kind is known by its beginning
    first = tar.next()
    content = tar.extractfile(first) if first is not None and first.name == _HEADER else None
    if first is None or content is None or first.size > _LARGEST_HEADER:
        raise BuildError(
            f"{str(path)!r} is no archive of clonedb's; `clonedb export` writes such files"
        )

    data = json.loads(content.read())
    if not isinstance(data, dict) or not isinstance(
        version := data.get("clonedb archive"), int
    ):
        raise BuildError(
            f"{str(path)!r} is no archive of clonedb's; `clonedb export` writes such files"
        )

    if version > _VERSION:
        raise BuildError(
            f"{str(path)!r} is an archive of a newer clonedb (format {version}, this one reads {_VERSION});"
            " upgrade clonedb here, or export it anew with this version"
        )

    if version < _VERSION:
        raise BuildError(
            f"{str(path)!r} was exported by an older clonedb; export it anew with this one"
        )

    return data


def _parts(data: Sequence[Any]) -> Iterator[Part]:
    for statements, rows in data:
        yield Part(_span(statements), None if rows is None else _span(rows))


def _span(data: Sequence[Any]) -> Span:
    start, length = map(_number, data)
    return Span(start, length)


def _number(value: object) -> int:
    # JSON's true is an int to Python
    if type(value) is not int:
        raise TypeError(f"{value!r:.50} is no whole number")
    return value


def _metadata(path: Path, data: Mapping[str, Any]) -> Metadata:
    metadata = Metadata.from_json(data["metadata"])
    if metadata is None:
        raise BuildError(
            f"{str(path)!r} was exported by another version of clonedb; export it anew with this one"
        )
    return metadata


def _copy(
    path: Path, tar: tarfile.TarFile, name: str, file: io.BufferedRandom, digest: str
) -> None:
    content = tar.extractfile(name)
    if content is None:
        raise BuildError(f"{str(path)!r} is damaged: {name!r} in it is no file")
    shutil.copyfileobj(content, file)
    if hashlib.file_digest(_rewound(file), "sha256").hexdigest() != digest:
        raise BuildError(
            f"{str(path)!r} is damaged: {name!r} in it is not what was written; fetch it again"
        )
    file.seek(0)
