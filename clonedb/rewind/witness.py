"""The session that reads the WAL: it marks positions, ends a clone's sessions, and says what was written since."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clonedb.postgres.server import Server
from clonedb.rewind.facts import Facts, RefusedError
from clonedb.rewind.wal import Written, read_statement, sort_out

if TYPE_CHECKING:
    from psycopg import Connection, Cursor

__all__ = ["Mark", "Witness"]

_MOST_WAL = 16 * 1024 * 1024  # bytes, of all databases: reading costs 5.5 ms a MB, which a new clone has to beat
_PATIENCE = 1.0  # seconds that ended sessions get to be gone

_SETTINGS = (
    "-c synchronous_commit=local -c statement_timeout=30s -c lock_timeout=1s -c default_transaction_read_only=off"
    " -c idle_session_timeout=0 -c row_security=off"
)


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment at which a clone had its template's contents.

    What the WAL says was written from `position` on is to be undone, and rows made by transactions from `xid` on are
    not the template's. As long as the WAL ends at `quiet`, nobody on the server wrote anything.
    """

    position: str
    xid: str
    quiet: str


class Witness:
    """One session with the maintenance database, shared by a process's clones of one template.

    It commits synchronously (on this server; standbys do not matter), because the functions that read WAL read flushed
    WAL only. And it never comes back: when the server was restarted, what stood in the WAL unflushed may be lost, and
    every mark with it.
    """

    def __init__(self, server: Server) -> None:
        self._lock = threading.Lock()
        self._connection = server.connect(server.config.maintenance_database, options=_SETTINGS)
        read = read_statement(server.info.major)
        self._connection.execute(f"{_PREPARED}; prepare clonedb_read (pg_lsn, pg_lsn, oid, bigint) as {read}".encode())

    @property
    def broken(self) -> bool:
        """Whether the server ended the session."""
        return self._connection.closed

    def mark(self, database: str) -> tuple[int, str, Mark]:
        """The oid of a fresh clone, what is said of it outside of it, and the mark from which it is watched."""
        with self._session() as connection:
            row = connection.execute(_MARK, [database]).fetchone()
        if row is None:
            raise RefusedError("the clone is gone")
        oid, about, position, xid = row
        return oid, about, Mark(position, xid, position)

    def about(self, oid: int) -> str | None:
        """What is said of a database outside of it: name, owner, limits, settings, privileges, subscriptions."""
        with self._session() as connection:
            row = connection.execute(_ABOUT, [oid]).fetchone()
        return row[0] if row else None

    @contextlib.contextmanager
    def _session(self) -> Iterator[Connection[Any]]:
        """The session, for one thread at a time; it ends with an error that leaves it in the middle of something."""
        with self._lock:
            try:
                yield self._connection
            except BaseException:
                if self._connection.info.transaction_status != 0:
                    self._connection.close()
                raise

    def look(self, oid: int, since: Mark, keep: Collection[int], facts: Facts) -> tuple[Written, Mark]:
        """End the sessions of a database but the idle ones to keep, and read what was written: with the new mark.

        One message to the server if nobody was connected; else it is sent again when they are gone. The new position is
        that of a record of our own, written after they were gone and flushed by its commit. (What
        pg_current_wal_flush_lsn() gives may lie in the middle of a record, which would be read by nobody.) When nothing
        was written on the whole server, there is nothing to flush and to read.
        """
        kept = ",".join(str(int(pid)) for pid in keep)
        position = since.position
        message = (
            f"execute clonedb_sessions({oid}, '{{{kept}}}');"
            f" begin; execute clonedb_stop('{position}', '{since.quiet}'); commit; execute clonedb_size('{position}');"
            f" execute clonedb_read('{position}', current_setting('clonedb.stop')::pg_lsn, {oid}, {_MOST_WAL})"
        ).encode()
        deadline = time.monotonic() + _PATIENCE
        with self._session() as connection:
            while True:
                (sessions, prepared, slots), ((position, size, quiet),), rows = _results(connection.execute(message))
                if not sessions:
                    break
                _wait_until_gone(connection, oid, kept, deadline)
        if prepared:
            raise RefusedError("a prepared transaction is open")
        if slots:
            raise RefusedError("a replication slot was made")
        if size > _MOST_WAL:
            raise RefusedError("too much WAL was written")
        return sort_out(rows, facts), Mark(position, since.xid, quiet or since.quiet)

    def close(self) -> None:
        """End the session."""
        self._connection.close()


def _wait_until_gone(connection: Connection[Any], oid: int, kept: str, deadline: float) -> None:
    """Look each 0.5 ms; DROP ... WITH (FORCE) looks each 100 ms."""
    message = f"execute clonedb_sessions({oid}, '{{{kept}}}')".encode()
    while True:
        time.sleep(0.0005)
        row = connection.execute(message).fetchone()
        if row is None or not row[0]:
            return
        if time.monotonic() > deadline:
            raise RefusedError("a session would not end")


def _results(
    cursor: Cursor[Any],
) -> tuple[tuple[int, int, int], list[tuple[str, int, str | None]], list[tuple[Any, ...]]]:
    """The rows of the statements of `look` that have any, in their order."""
    found = []
    while True:
        if cursor.description is not None:
            found.append(cursor.fetchall())
        if not cursor.nextset():
            break
    sessions, _, sizes, rows = found
    return sessions[0], sizes, rows


# Up to 48 bytes after our record there is nothing but its commit: the least that changes a row takes more.
# Autovacuum changes no contents and cannot be ended for good. A session is kept only while it says that it is idle:
# one in a transaction has a snapshot and perhaps writes, and one that was told not to report says nothing.
_PREPARED = """
prepare clonedb_sessions (oid, int[]) as
select (select count(*) from (
            select pg_terminate_backend(a.pid) from pg_stat_get_activity(null) a
            where a.datid = $1 and a.backend_type <> 'autovacuum worker'
                  and not (a.pid = any($2) and a.state = 'idle') offset 0) ended)::int,
       (select count(*) from pg_prepared_xact() p where p.dbid = $1)::int,
       (select count(*) from pg_get_replication_slots() s where s.datoid = $1)::int;
prepare clonedb_stop (pg_lsn, pg_lsn) as
select set_config('clonedb.stop', (case when pg_current_wal_insert_lsn() = $2 then $1
                                        else pg_logical_emit_message(true, 'clonedb', '') end)::text, false);
prepare clonedb_size (pg_lsn) as
select stop::text, (stop - $1)::bigint,
       case when pg_current_wal_insert_lsn() - stop <= 48 then pg_current_wal_insert_lsn()::text end
from (select current_setting('clonedb.stop')::pg_lsn as stop) w
"""

_OUTSIDE = """
    (to_jsonb(d) - 'datfrozenxid' - 'datminmxid')::text
    || coalesce((select string_agg(s.setrole || s.setconfig::text, ' ' order by s.setrole)
                 from pg_db_role_setting s where s.setdatabase = d.oid), '')
    || coalesce(shobj_description(d.oid, 'pg_database'), '')
    || (select count(*) from pg_subscription u where u.subdbid = d.oid)
    || (select count(*) from pg_shseclabel l where l.objoid = d.oid and l.classoid = 'pg_database'::regclass)
"""

_ABOUT = f"select {_OUTSIDE} from pg_database d where d.oid = %s"  # noqa: S608 - all literals

_MARK = f"""
select d.oid::bigint, {_OUTSIDE}, pg_current_wal_insert_lsn()::text,
       pg_snapshot_xmax(pg_current_snapshot())::xid::text
from pg_database d where d.datname = %s
"""  # noqa: S608 - all literals
