"""A template made of an archive: restored under a private name, prepared, sealed, published, as one that is built."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clonedb.errors import BuildError
from clonedb.fingerprint import Fingerprint, differences
from clonedb.names import template_name, unfinished_name
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from clonedb.progress import Progress
from clonedb.templates.archive import Header, read_archive
from clonedb.templates.locks import server_lock
from clonedb.templates.metadata import Template
from clonedb.templates.parallel import run_parallel
from clonedb.templates.prepare import prepare_restored, settle_rows
from clonedb.templates.queue import BuildQueue
from clonedb.templates.seal import create, describe, drop, publish, seal
from clonedb.templates.sealed import find
from clonedb.url import redact

if TYPE_CHECKING:
    from psycopg import Connection

    from clonedb.config import Config

__all__ = ["restore"]

_COPY = re.compile(rb"COPY .* FROM stdin;\n")
_ENTRY = re.compile(rb"^-- Name: .*; Type: .*; Schema: .*$", re.MULTILINE)
_INDEPENDENT = re.compile(rb"-- Name: .*; Type: (?:INDEX|CONSTRAINT); Schema: ")
_CHUNK = 1 << 18  # bytes
_FENCE = re.compile(rb"^\\restrict (\w+)$", re.MULTILINE)


def restore(
    server: Server, config: Config, wanted: Fingerprint, path: Path, *, run: str, progress: Progress
) -> Template:
    """The template in an archive, put on the server unless it is there; `built` says whether it was not.

    Raises BuildError for an archive that is unreadable, or of another fingerprint than the project's, and for what the
    server refuses; LockTimeoutError while somebody builds it.
    """
    with read_archive(path) as (header, sections):
        _demand_same(path, header, wanted)
        name = template_name(config.prefix, wanted.digest)
        server.demand_createdb()
        with BuildQueue(config, name, run).turn(progress), server_lock(server, name, progress):
            if found := find(server, name):
                return found
            progress.say(f"restoring template {name!r} on {server.about}")
            return _Restore(server, config, header, sections, name, path).carry_out(run)


def _demand_same(path: Path, header: Header, wanted: Fingerprint) -> None:
    if header.metadata.fingerprint == wanted.digest:
        return
    changes = [f"{each.kind} {each.name!r} {each.change}" for each in differences(header.metadata.inputs, wanted)]
    listed = ", ".join(changes[:5]) + (f" and {len(changes) - 5} more" if len(changes) > 5 else "")
    raise BuildError(
        f"{str(path)!r} holds another template than the one of this project as it is: {listed or 'other contents'};"
        " check out what it was exported from, or build (`clonedb build`) and export anew"
    )


@dataclass(frozen=True, slots=True)
class _Restore:
    server: Server
    config: Config
    header: Header
    sections: Mapping[str, io.BufferedRandom]
    name: str
    path: Path

    def carry_out(self, run: str) -> Template:
        """Restore under a private name and publish under the template's; on any failure nothing is left."""
        server, header, start = self.server, self.header, time.monotonic()
        private = unfinished_name(server.config.prefix, header.metadata.fingerprint, server.owner, server.next_number())
        try:
            for role in header.roles:
                server.run(lambda connection, role=role: sql.create_role_if_missing(connection, role))  # type: ignore[misc]
            create(server, self.config, private)
            self._fill(private)
            seal(server, private, prepare_restored)
            described = describe(server, private)
            metadata = replace(
                header.metadata,
                made=time.time(),
                used=time.time(),
                by=described["by"],
                size=described["size"],
                run=run,
                seconds=round(time.monotonic() - start, 3),
                lane=self.config.template,
                upon=None,
            )
            publish(server, private, self.name, metadata)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to see; gc drops what is left
                server.run(lambda connection: drop(connection, private))
            raise
        return Template(self.name, metadata, built=True, waited=time.monotonic() - start)

    def _fill(self, private: str) -> None:
        import psycopg

        def connect() -> Connection[Any]:
            return self.server.connect(private, client_encoding="UTF8")

        try:
            with contextlib.closing(connect()) as connection:
                connection.execute("set client_min_messages = error")
                if not self.header.public:
                    connection.execute("drop schema public")
                connection.execute(_script(self.sections["pre-data"]))
                with connection.transaction():
                    _rows(connection, self.sections["data"])
                settle_rows(connect)  # before there are indexes, which it would write anew
                before, independent, rest = _entries(_script(self.sections["post-data"]))
                run_parallel(connect, independent, before=[before])
                connection.execute(before + rest)
        except psycopg.Error as error:
            raise BuildError(
                f"{str(self.path)!r} cannot be restored on {self.server.about}:"
                f" {redact(' '.join(str(error).split())[:500])}"
            ) from error


def _entries(script: bytes) -> tuple[bytes, list[bytes], bytes]:
    """What comes first, the indexes and keys it begins with, each of which needs its table only, and the rest."""
    starts = [match.start() for match in _ENTRY.finditer(script)]
    parts = [script[start:end] for start, end in itertools.pairwise([*starts, len(script)])]
    independent = list(itertools.takewhile(_INDEPENDENT.match, parts))
    return script[: starts[0]] if starts else script, independent, b"".join(parts[len(independent) :])


def _script(file: io.BufferedRandom) -> bytes:
    return b"".join(_statements(file))


def _statements(file: io.BufferedRandom) -> Iterator[bytes]:
    """The lines of a script without psql's own, which fence it in with a word that is in no other line."""
    fence = _FENCE.search(file.read(4096))
    file.seek(0)
    words = {b"\\restrict " + fence[1], b"\\unrestrict " + fence[1]} if fence else set()
    return (line for line in file if line.rstrip() not in words)


def _rows(connection: Connection[Any], file: io.BufferedRandom) -> None:
    """Run the script of a section that holds rows: statements, and COPY with its rows up to a backslash and a dot."""
    pending: list[bytes] = []
    lines = _statements(file)
    for line in lines:
        if not _COPY.fullmatch(line):
            pending.append(line)
            continue
        connection.execute(b"".join(pending))
        pending = []
        with connection.cursor().copy(line) as copy:
            chunk = bytearray()
            for row in lines:
                if row == b"\\.\n":
                    break
                chunk += row
                if len(chunk) > _CHUNK:
                    copy.write(bytes(chunk))
                    chunk.clear()
            copy.write(bytes(chunk))
    connection.execute(b"".join(pending))
