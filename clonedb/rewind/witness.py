"""The session that reads the WAL: it marks positions, ends a clone's sessions, and says what was written since."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clonedb.originals import monotonic, sleep
from clonedb.postgres.client_sessions import ClientSession, given_time
from clonedb.postgres.message import answer, ask, is_alive, number, send, text
from clonedb.postgres.server import Server
from clonedb.rewind.facts import Facts, RefusedError
from clonedb.rewind.wal import Written, read_statement, sort_out

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.pq.abc import PGconn

__all__ = ["FAR", "Mark", "Witness"]

FAR = 0.0005
"""Seconds of a round trip to the server above which one that is saved is worth some work in vain."""

_SETTINGS = (
    "-c synchronous_commit=local -c statement_timeout=30s -c lock_timeout=1s -c default_transaction_read_only=off"
    " -c idle_session_timeout=0 -c row_security=off -c stats_fetch_consistency=none -c jit=off"
    " -c plan_cache_mode=force_generic_plan"  # or the reading would be planned each time, which takes 75 us
)


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment at which a clone had its template's contents, and no transaction was open in it.

    What the WAL says was written from `position` on is to be undone, and rows made by
    transactions from `xid` on are not the template's; but what the transaction `undoing` wrote,
    which came after this moment, is the way back to it. `xid` is older than `position`, or rows
    of a transaction in between would be taken for the template's; `own` is how many
    transactions of the witness came in between. `early` is a transaction of clonedb's that only
    deleted rows of tests, of which the WAL after `position` may tell as well. As long as the
    WAL ends at `quiet`, no session of the server wrote anything. `sessions` is how many clients
    had ever connected to the clone.
    """

    position: str
    xid: int
    quiet: str
    sessions: int
    own: int = 0
    undoing: int | None = None
    early: int | None = None

    @property
    def ours(self) -> str:
        """The transactions that are left out where the WAL is read, as a literal."""
        known = (one for one in (self.undoing, self.early) if one is not None)
        return "'{" + ",".join(str(one % 2**32) for one in known) + "}'"

    @property
    def rows(self) -> str:
        """The limit and the exception, as two literals that are compared with rows' xmin, which has 32 bits."""
        return f"'{self.xid % 2**32}', '{(self.undoing or 0) % 2**32}'"


class Witness:
    """One session with the maintenance database, shared by a process's clones of one template.

    It commits synchronously (on this server; standbys do not matter), because the functions
    that read WAL read flushed WAL only. And it never comes back: when the server was restarted,
    what stood in the WAL unflushed may be lost, and every mark with it.
    """

    def __init__(self, server: Server) -> None:
        self._lock = threading.Lock()
        # pg_logical_emit_message() has a parameter `flush` since 17
        self._flushes = server.info.major >= 17
        self._connection = server.connect(server.config.maintenance_database, options=_SETTINGS)
        emit = _EMIT_AND_FLUSH if self._flushes else _EMIT
        self.far: bool = _round_trip(self._connection.pgconn) > FAR
        read = read_statement(server.info.major, writers=self.far)
        read = f"prepare clonedb_read (pg_lsn, pg_lsn, oid, bigint, xid[]) as {read}"
        self._connection.execute(f"{_PREPARED.format(emit=emit)}; {_ABOUT}; {read}".encode())

    @property
    def broken(self) -> bool:
        """Whether the server ended the session."""
        return self._connection.closed

    @property
    def is_alive(self) -> bool:
        """Whether the server has not ended the session, asked of the socket: a crash of the server ends all of them."""
        # another thread that holds the lock waits for an answer, and will see
        return self._lock.locked() or (not self.broken and is_alive(self._connection.pgconn))

    def mark(self, database: str, template: str) -> tuple[int, int, str, Mark]:
        """The oids of a fresh clone and its template, what is said of the clone outside of it, and its first mark."""
        with self._session() as connection:
            row = connection.execute(_MARK, [template, database]).fetchone()
        if row is None:
            raise RefusedError("the clone is gone")
        oid, template_oid, about, position, xid, sessions = row
        return oid, template_oid or 0, about, Mark(position, xid, position, sessions)

    def about(self, oid: int) -> str | None:
        """What is said of a database outside of it: name, owner, limits, settings, privileges, subscriptions."""
        with self._session() as connection:
            row = connection.execute(f"execute clonedb_about({oid})".encode()).fetchone()
        return row[0] if row else None

    @contextlib.contextmanager
    def _session(self) -> Iterator[Connection[Any]]:
        """The session, for one thread at a time; it ends with an error that leaves it in the middle of something."""
        with self._lock:
            try:
                yield self._connection
            except BaseException:
                # with answers not read yet, or in a transaction, it would answer the next
                # question wrongly
                if self._connection.info.transaction_status != 0:
                    self._connection.close()
                raise

    def look(
        self,
        oid: int,
        since: Mark,
        keep: Collection[int],
        facts: Facts,
        *,
        most_wal: int,
        busy: Collection[int] = (),
        meanwhile: Callable[[], int | None] = lambda: None,
    ) -> tuple[Written, Mark] | None:
        """What was written in a database, with the new mark; None if others than the idle sessions to keep are there.

        Those of `busy` need not be idle: the caller knows that nothing runs in them but what it
        sent itself.

        Raises RefusedError when that is more than `most_wal` bytes of WAL, of all databases
        together.

        One message to the server; `meanwhile` is called while it works on that, and gives the
        transaction whose records are left out (`Mark.early`), if there is one. The new
        position is that of a record of our own, flushed with it. (What
        pg_current_wal_flush_lsn() gives may lie in the middle of a record, which would be read
        by none.) Before that the next transaction's number is taken, and then it is asked who
        is connected: a transaction with a lower number is either one of a session that is
        connected, or has ended, and all that it wrote is before the position. Sessions that
        came while the WAL was read are told by the server's count of them, which is read at the
        beginning and at the end. When nothing was written on the whole server, there is nothing
        to flush and to read.
        """
        # of unlogged relations, a change may be the only one on the server and leave no WAL
        quiet = "0/0" if facts.unlogged_tables or facts.unlogged_sequences else since.quiet
        emit = f"execute clonedb_stop('{since.position}', '{quiet}')"
        message = (
            f"execute clonedb_look({oid}, {_pids(keep)}, {_pids(busy)})",
            # up to 16 only a commit flushes
            *((emit,) if self._flushes else ("begin", emit, "commit")),
            f"execute clonedb_place('{since.position}')",
            f"execute clonedb_read('{since.position}', {_STOP}, {oid}, {most_wal}, {since.ours})",
            *((f"execute clonedb_about({oid})",) if self.far else ()),
            f"execute clonedb_count({oid})",
        )
        with self._session() as connection:
            send(connection.pgconn, message)
            early = meanwhile()
            # `begin` and `commit` have no results
            seen, _, placed, rows, *about, counted = answer(connection.pgconn)

        ((sessions, others, prepared, slots, xid, _),), ((stop, size, silent),) = seen, placed
        # a session that came and went in between is in the count
        if others != b"0" or counted[0][0] != sessions:
            return None
        # it survives its session, and COMMIT PREPARED may come at any time
        if prepared not in {None, b"0"}:
            raise RefusedError("a prepared transaction is open")
        if slots not in {None, b"0"}:
            raise RefusedError("a replication slot was made")
        if int(size or 0) > most_wal:
            raise RefusedError("too much WAL was written")
        written, position, count = sort_out(rows, facts, early), text(stop), number(sessions)
        written.about = text(about[0][0][0]) if about and about[0] else None
        # nothing was written anywhere: `clonedb_stop` emitted no record
        if position == since.position:
            return written, replace(since, sessions=count)
        # our record's own transaction, where one was needed
        quiet, own = text(silent) if silent else since.quiet, 0 if self._flushes else 1
        return written, Mark(position, number(xid), quiet, count, own)

    def send_away(
        self, oid: int, keep: Collection[int], *, at_once: bool, deadline: float
    ) -> list[ClientSession]:
        """End a database's sessions but the idle ones to keep and wait until they are gone: those that clients left.

        Before that they have time to go by themselves, unless `at_once`. Raises RefusedError
        when one is still there at `deadline`. Looks each 0.5 ms; DROP ... WITH (FORCE) looks
        each 100 ms.
        """
        with self._session() as connection:
            # a client that has just closed its connection still has a backend for a moment
            still = [] if at_once else given_time(lambda: _others(connection, "see", oid, keep))
            others = _others(connection, "end", oid, keep) if still or at_once else []
            # a session whose client is gone was not left open, though its backend still was
            # there
            no_leaks = {*keep, *(one.pid for one in still if one.closed)}
            left_open = [one for one in others if one.client and one.pid not in no_leaks]
            while others:
                if monotonic() > deadline:
                    raise RefusedError("a session would not end")
                sleep(0.0005)
                others = _others(connection, "see", oid, keep)
        return left_open

    def close(self) -> None:
        """End the session."""
        self._connection.close()


def _round_trip(connection: PGconn) -> float:
    """Seconds to the server and back, the least of three: other processes may disturb one."""
    found: list[float] = []
    for _ in range(3):
        start = monotonic()
        ask(connection, ["select"])
        found.append(monotonic() - start)
    return min(found)


def _pids(keep: Collection[int]) -> str:
    return "'{" + ",".join(str(int(pid)) for pid in keep) + "}'"


def _others(
    connection: Connection[Any], what: str, oid: int, keep: Collection[int]
) -> list[ClientSession]:
    rows = connection.execute(
        f"execute clonedb_{what}({oid}, {_pids(keep)}, '{{}}')".encode()
    ).fetchall()
    return [ClientSession(*row) for row in rows]


# Autovacuum changes no contents and cannot be ended for good. A session is kept only while it
# says that it is idle: one in a transaction has a snapshot and perhaps writes, and one that was
# told not to report says nothing. One that is being reset may be active.
_OTHERS = """
from pg_stat_get_activity(null) a
where a.datid = $1 and a.backend_type <> 'autovacuum worker'
      and not (a.pid = any($2) and (a.state = 'idle' or a.state = 'active' and a.pid = any($3)))
"""

# a server whose databases are SQL_ASCII knows no character beyond ASCII, and the driver would
# get bytes of it
_SESSION = (
    "a.pid, a.application_name, coalesce(a.state, ''),"
    " case when getdatabaseencoding() = 'SQL_ASCII' then regexp_replace(coalesce(a.query, ''), '[^ -~]+', '?', 'g')"
    " else coalesce(a.query, '') end, host(a.client_addr), a.client_port, a.backend_type = 'client backend'"
)

_STOP = "current_setting('clonedb.stop')::pg_lsn"

# the latter is flushed by its commit; 17 and newer can do without a transaction
_EMIT_AND_FLUSH = "pg_logical_emit_message(false, 'clonedb', '', true)"
_EMIT = "pg_logical_emit_message(true, 'clonedb', '')"

# Up to 48 bytes after our record there is nothing but its commit: the least that changes a row
# takes more. In their order: the snapshot is the statement's and older than all else in it, and
# sessions are counted before it is asked who is there, so that one that comes after that makes
# a difference.
_PREPARED = f"""
prepare clonedb_look (oid, int[], int[]) as
select *, set_config('clonedb.others', others::text, false)
from (select pg_stat_get_db_sessions($1),
             (select count(*) {_OTHERS}) as others,
             case when current_setting('max_prepared_transactions') <> '0'
                  then (select count(*) from pg_prepared_xact() p where p.dbid = $1) end,
             case when current_setting('wal_level') = 'logical'
                  then (select count(*) from pg_get_replication_slots() s where s.datoid = $1) end,
             pg_snapshot_xmax(pg_current_snapshot())
      offset 0) l;
prepare clonedb_stop (pg_lsn, pg_lsn) as
select set_config('clonedb.stop', case when current_setting('clonedb.others') <> '0' then $1
                                       when pg_current_wal_insert_lsn() = $2 then $1 else {{emit}} end::text, false);
prepare clonedb_place (pg_lsn) as
select stop, stop - $1,
       case when pg_current_wal_insert_lsn() - stop <= 48 then pg_current_wal_insert_lsn() end
from (select {_STOP} as stop) w;
prepare clonedb_count (oid) as select pg_stat_get_db_sessions($1);
prepare clonedb_see (oid, int[], int[]) as select {_SESSION} {_OTHERS};
prepare clonedb_end (oid, int[], int[]) as
select pid, application, state, query, address, port, client
from (select {_SESSION}, pg_terminate_backend(a.pid)
      {_OTHERS} offset 0) e (pid, application, state, query, address, port, client, ended)
"""  # noqa: S608 - all literals

_OUTSIDE = """
    (to_jsonb(d) - 'datfrozenxid' - 'datminmxid')::text
    || coalesce((select string_agg(s.setrole || s.setconfig::text, ' ' order by s.setrole)
                 from pg_db_role_setting s where s.setdatabase = d.oid), '')
    || coalesce(shobj_description(d.oid, 'pg_database'), '')
    || (select count(*) from pg_subscription u where u.subdbid = d.oid)
    || (select count(*) from pg_shseclabel l where l.objoid = d.oid and l.classoid = 'pg_database'::regclass)
"""

_ABOUT = f"prepare clonedb_about (oid) as select {_OUTSIDE} from pg_database d where d.oid = $1"  # noqa: S608

_MARK = f"""
select d.oid::bigint, (select t.oid::bigint from pg_database t where t.datname = %s), {_OUTSIDE},
       pg_current_wal_insert_lsn()::text, pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
       pg_stat_get_db_sessions(d.oid)
from pg_database d where d.datname = %s
"""  # noqa: S608 - all literals
