"""A template made of an archive: restored under a private name, prepared, sealed, published, as one that is built."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clonedb.archive.file import Header, Part, read_archive
from clonedb.archive.script import Span
from clonedb.errors import BuildError
from clonedb.names import template_name, unfinished_name
from clonedb.originals import monotonic, now
from clonedb.postgres.roles import create_role_if_missing
from clonedb.postgres.server import Server
from clonedb.progress import Progress
from clonedb.project.fingerprint import Fingerprint, differences
from clonedb.templates.catalog import find
from clonedb.templates.crash_losses import what_is_lost
from clonedb.templates.locks import BuildLease, server_lock
from clonedb.templates.metadata import TemplateRecord
from clonedb.templates.prepare import prepare_restored, settle
from clonedb.templates.queue import BuildQueue
from clonedb.templates.seal import create, describe, drop, publish, seal
from clonedb.url import redact

if TYPE_CHECKING:
    from psycopg import Connection

    from clonedb.settings.config import Config

__all__ = ["Restore", "restore"]

_PIECE = 1 << 18  # bytes


def restore(
    server: Server,
    config: Config,
    wanted: Fingerprint,
    path: Path,
    *,
    require: Callable[[str], None],
    run: str,
    progress: Progress,
) -> TemplateRecord:
    """The template in an archive, put on the server unless it is there; `built` says whether it was not.

    `require` is given the digest of the archive, and raises to have it refused: an archive is
    code (trust.py).

    Raises BuildError for an archive that is unreadable, or of another fingerprint than the
    project's, and for what the server refuses; LockTimeoutError while another process builds
    it.
    """
    with read_archive(path, require) as (header, contents):
        _require_same(path, header, wanted)
        name = template_name(config.prefix, wanted.digest)
        server.require_createdb()
        queue = BuildQueue(server, name, run)
        with queue.turn(progress), server_lock(server, name, progress) as lease:
            found = find(server, name)
            # a crash of the server empties unlogged tables, of templates too
            if found is not None and what_is_lost(server, found) is None:
                return found
            progress.say(f"restoring template {name!r} on {server.about}")
            restoring = Restore(server, config, header, contents, name, repr(str(path)), lease)
            return restoring.carry_out(run)


def _require_same(path: Path, header: Header, wanted: Fingerprint) -> None:
    if header.metadata.fingerprint == wanted.digest:
        return
    changes = [
        f"{each.kind} {each.name!r} {each.change}"
        for each in differences(header.metadata.inputs, wanted)
    ]
    listed = ", ".join(changes[:5]) + (
        f" and {len(changes) - 5} more" if len(changes) > 5 else ""
    )
    raise BuildError(
        f"{str(path)!r} holds another template than the one of this project as it is: {listed or 'other contents'};"
        " check out what it was exported from, or build (`clonedb build`) and export anew"
    )


@dataclass(frozen=True, slots=True)
class Restore:
    """A template made of what `read_template` wrote, while its `lease` is held; `origin` is what errors call that."""

    server: Server
    config: Config
    header: Header
    contents: io.BufferedRandom
    name: str
    origin: str
    lease: BuildLease

    def carry_out(self, run: str) -> TemplateRecord:
        """Restore under a private name and publish under the template's; on any failure nothing is left.

        Raises BuildError for what the server refuses.
        """
        server, header, start = self.server, self.header, monotonic()
        private = unfinished_name(
            server.config.prefix,
            header.metadata.fingerprint,
            server.owner,
            server.next_number(),
        )
        try:
            # roles belong to the server, and the dump names them as owners
            for role in header.roles:
                server.run(create_role_if_missing, role)
            create(server, self.config, private, size=header.metadata.size)
            self._fill(private)
            unlogged = seal(server, private, lambda _: None)
            described = describe(server, private)
            # how it is on this server; the rest is the exporter's
            metadata = replace(
                header.metadata,
                made=now(),
                used=now(),
                by=described["by"],
                size=described["size"],
                run=run,
                seconds=round(monotonic() - start, 3),
                lane=self.config.template,
                upon=None,
                unlogged=unlogged,
            )
            publish(server, private, self.name, metadata, self.lease)
        except BaseException:
            with contextlib.suppress(
                Exception
            ):  # the first error is the one to see; gc drops what is left
                server.run(drop, private)

            raise

        return TemplateRecord(self.name, metadata, built=True)

    def _fill(self, private: str) -> None:
        import psycopg

        try:
            with contextlib.closing(
                # pg_dump was called with --encoding=UTF8
                self.server.connect(private, client_encoding="UTF8")
            ) as connection:
                connection.execute(self.header.settings.encode())
                settle(connection)
                connection.execute("set synchronous_commit = on")
                if not self.header.public:
                    connection.execute("drop schema public")
                for part in self.header.parts:
                    _restore_part(connection, part, self.contents.fileno())
                prepare_restored(connection)
        except psycopg.Error as error:
            raise BuildError(
                f"{self.origin} cannot be restored on {self.server.about}:"
                f" {redact(' '.join(str(error).split())[:500])}"
            ) from error


def _restore_part(connection: Connection[Any], part: Part, file: int) -> None:
    """Statements that go in one message are a transaction, and so is a COPY."""
    statements = b"".join(_pieces(file, part.statements))
    if part.rows is None:
        connection.execute(statements)
        return
    with connection.cursor().copy(statements) as copy:
        for piece in _pieces(file, part.rows):
            copy.write(piece)


def _pieces(file: int, span: Span) -> Iterator[bytes]:
    for start in range(span.start, span.start + span.length, _PIECE):
        yield os.pread(file, min(_PIECE, span.start + span.length - start), start)
