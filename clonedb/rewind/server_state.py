"""What belongs to the whole server and not to a database: roles, memberships, settings, privileges, tablespaces."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

from clonedb.rewind.wal import writers_statement

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["Change", "Kind", "ServerState", "read_changes", "read_state"]

Kind: TypeAlias = Literal["role", "membership", "setting", "privilege", "tablespace"]


class _Row(NamedTuple):
    """One of them: its definition as PostgreSQL has it (JSON), and the transaction that wrote it."""

    definition: str
    xmin: int


class Change(NamedTuple):
    """What one of them was and is, as columns by their names; None where it was not there or is gone.

    A role's columns hold its password as the server stores it, which no message may show.
    """

    kind: Kind
    before: Mapping[str, Any] | None
    now: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class ServerState:
    """All of them at one moment.

    `position` is the end of the WAL before that. `others` are the files of the shared catalogs
    that hold none of them, of which that of pg_database is written with each clone that is made
    or dropped.
    """

    position: str
    others: frozenset[int]
    rows: Mapping[tuple[Kind, str], _Row]

    @property
    def role_names(self) -> dict[str, str]:
        """The roles' names by number, which JSON has as text."""
        roles = (_columns(row) or {} for (kind, _), row in self.rows.items() if kind == "role")
        return {role["oid"]: role["rolname"] for role in roles}

    def may_differ(self, written: Collection[int]) -> bool:
        """Whether it may be another one after these files of shared catalogs were written."""
        return not self.others.issuperset(written)


def read_state(connection: Connection[Any]) -> ServerState:
    """Read it, as a superuser."""
    found = connection.execute(_STATE).fetchall()
    rows: dict[tuple[Kind, str], _Row] = {}
    position, others = "", list[int]()
    for kind, key, definition, xmin in found:
        if kind == "position":
            position = definition
        elif kind == "file":
            others.append(xmin)
        else:
            rows[cast("Kind", kind), key] = _Row(definition, xmin)
    return ServerState(position, frozenset(others), rows)


def read_changes(
    connection: Connection[Any],
    database: int,
    before: ServerState,
    now: ServerState,
    start: str,
) -> list[Change]:
    """What sessions with `database` changed between two states, of which the WAL from `start` on tells.

    What others changed meanwhile is left out: builds, other tests, people. A row that is there
    names the transaction that wrote it. One that is gone does not, so it counts only if no
    other session deleted any; `before` therefore has to be the state at `start`. Settings of
    the database itself are left out: they go with it. Raises psycopg's errors.
    """
    own = f"{database} "
    different = [
        key
        for key in before.rows.keys() | now.rows.keys()
        # a row that was written again with the same values is none that changed
        if (
            key not in before.rows
            or key not in now.rows
            or before.rows[key].definition != now.rows[key].definition
        )
        and not (key[0] == "setting" and key[1].startswith(own))
    ]
    if not different:
        return []
    ours, others_deleted = _writers(connection, database, start, now)
    return [
        Change(key[0], _columns(before.rows.get(key)), _columns(now.rows.get(key)))
        for key in sorted(different)
        if (
            # a dead row does not tell who deleted it
            now.rows[key].xmin in ours if key in now.rows else bool(ours) and not others_deleted
        )
    ]


def _columns(row: _Row | None) -> Mapping[str, Any] | None:
    import json

    return None if row is None else json.loads(row.definition)


def _writers(
    connection: Connection[Any], database: int, start: str, state: ServerState
) -> tuple[set[int], bool]:
    """The transactions of sessions with a database that wrote such catalogs, and whether any other one deleted a row.

    The record of a commit that changed catalogs names the database of its session
    (xl_xact_dbinfo in PostgreSQL's access/xact.h, the same in 15 to 18), because standbys have
    to invalidate their caches of that.
    """
    # its commit flushes the WAL up to here: pg_walinspect reads flushed WAL only
    with connection.transaction():
        connection.execute(
            "set local synchronous_commit = local; set local statement_timeout = '30s'"
        )
        row = connection.execute(
            "select pg_logical_emit_message(true, 'clonedb', '')::text"
        ).fetchone()

    stop = row[0] if row else start
    query = writers_statement(connection.info.server_version // 10000)
    ours: set[int] = set()
    others_deleted = False
    found = connection.execute(query, {"start": start, "stop": stop, "others": [*state.others]})
    for transactions, deletes, record, offset, page in found.fetchall():
        # subtransactions write under numbers of their own, all of which the commit lists
        if _database_of(record, offset % page, page) == database:
            ours.update(transactions)
        else:
            others_deleted = others_deleted or deletes

    return ours, others_deleted


_PAGE_HEADER = (
    24  # bytes at the beginning of each page of WAL but a file's first, which has 16 more
)
_RECORD_HEADER, _INFO = 24, 16  # bytes of a record's header, and where its kind is in that
# access/xlogrecord.h: XLR_BLOCK_ID_ORIGIN and XLR_BLOCK_ID_TOPLEVEL_XID,
_BEFORE_DATA = MappingProxyType(
    {0xFD: 3, 0xFC: 5}
)  # bytes that say of its origin and of the transaction above it
# XLR_BLOCK_ID_DATA_SHORT and XLR_BLOCK_ID_DATA_LONG
_DATA = MappingProxyType(
    {0xFF: 2, 0xFE: 5}
)  # bytes that say how long a short or a long record's data are
_TIME = 8  # bytes of the time of the commit, with which the data begin
# access/xact.h: XLOG_XACT_HAS_INFO, and XACT_XINFO_HAS_DBINFO in what follows the time
_HAS_FLAGS, _HAS_DATABASE = 0x80, 1


def _database_of(record: bytes, offset: int, page: int) -> int | None:
    """The database in a commit's record, which begins at `offset` in its page; None if it has none.

    It is in the server's byte order; of a server whose order is another one, no database is
    recognised.
    """
    room = page - offset
    # the header of the next page lies in the middle of the record
    if room < len(record):
        record = record[:room] + record[room + _PAGE_HEADER :]
    try:
        place = _RECORD_HEADER
        # a commit names no blocks, so nothing else comes before its data
        while record[place] in _BEFORE_DATA:
            place += _BEFORE_DATA[record[place]]
        place += _DATA[record[place]] + _TIME
        flags, database = struct.unpack_from("<II", record, place)
    except (IndexError, KeyError, struct.error):  # it goes on in the next file
        return None

    return int(database) if record[_INFO] & _HAS_FLAGS and flags & _HAS_DATABASE else None


def _parts() -> Iterator[str]:
    """The rows of each kind: kind, key, definition, and the transaction that wrote them."""
    yield """
        select 'role', a.oid::text, to_jsonb(a)::text, a.xmin::text::bigint from pg_authid a"""
    # since 16 these rows have an oid, another one after REVOKE and GRANT of the same
    yield """
        select 'membership', concat_ws(' ', m.roleid, m.member, m.grantor), (to_jsonb(m) - 'oid')::text,
               m.xmin::text::bigint
        from pg_auth_members m"""
    yield """
        select 'setting', concat_ws(' ', s.setdatabase, s.setrole),
               (to_jsonb(s) || jsonb_build_object('database', d.datname))::text, s.xmin::text::bigint
        from pg_db_role_setting s left join pg_database d on d.oid = s.setdatabase"""
    yield """
        select 'privilege', p.parname, jsonb_build_object('parameter', p.parname, 'grants', array(
                   select to_jsonb(a) from aclexplode(p.paracl) a where a.grantee <> 10 order by grantee, privilege_type
               ))::text, p.xmin::text::bigint
        from pg_parameter_acl p"""  # 10 is initdb's role, which may all
    yield """
        select 'tablespace', t.oid::text, to_jsonb(t)::text, t.xmin::text::bigint from pg_tablespace t"""


# The position comes with what is read in the same statement. The five catalogs below are those
# that `_parts` reads; each other shared one is known by its file.
_STATE = (
    """
    select 'position', '', pg_current_wal_insert_lsn()::text, 0::bigint
    union all select 'file', '', '', pg_relation_filenode(c.oid)::bigint from pg_class c
              where c.relisshared and c.relkind in ('r', 'i', 't') and c.relname not in
                  ('pg_authid', 'pg_auth_members', 'pg_db_role_setting', 'pg_parameter_acl', 'pg_tablespace')
    union all """  # noqa: S608 - all literals
    + " union all ".join(_parts())
)
