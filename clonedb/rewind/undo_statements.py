"""The statements of the session that undoes, and what stands in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import LiteralString

__all__ = ["BEGIN", "FINISH", "STATEMENTS", "array_literal", "pids_literal"]


def pids_literal(pids: Iterable[int]) -> str:
    """Backends as the literal of an array."""
    return "'{" + ",".join(str(int(pid)) for pid in pids) + "}'"


def array_literal(rows: Iterable[str]) -> str:
    """Rows as the literal of an array of their table's type."""
    # backslashes first: those that quote quotes must not be doubled
    quoted = (row.replace("\\", "\\\\").replace('"', '\\"') for row in rows)
    return "'{" + ",".join(f'"{row}"' for row in quoted).replace("'", "''") + "}'"


# age() counts as transaction numbers do, round and round, and without a comparison operator for
# xid.
# A name such as age() may be a project's function, too, in a schema before pg_catalog: each is
# written with its schema. OVERRIDING SYSTEM VALUE lets GENERATED ALWAYS AS IDENTITY columns be
# given. `n` pairs each row that was inserted with its text, and `*=` compares their images.
STATEMENTS: Mapping[str, LiteralString] = MappingProxyType(
    {
        "delete": "prepare {statement} (tid, tid, xid, xid) as delete from only {relation}"
        " where ctid >= $1 and ctid < $2 and pg_catalog.age(xmin) between 0 and pg_catalog.age($3) and xmin <> $4",
        "places": "prepare {statement} (tid, tid) as select ctid from only {relation} where ctid >= $1 and ctid < $2",
        "empty": "prepare {statement} as delete from only {relation}",
        "insert": "prepare {statement} ({relation}[]) as"
        " with given as materialized"
        " (select (u.*)::{relation} as r, row_number() over () as n from pg_catalog.unnest($1) u),"
        " made as (insert into {relation} as t ({columns}) overriding system value"
        " select {values} from given order by given.n returning t.ctid as place, row({stored}) as image)"
        " select place, image operator(pg_catalog.*=) row({given})"
        " from (select place, image, row_number() over () as n from made) m join given using (n) order by m.n",
        # as `insert`, of those rows only that are not at their places, which come before them
        "restore": "prepare {statement} (tid[], {relation}[]) as"
        " with given as materialized"
        " (select (u.*)::{relation} as r, row_number() over () as n from pg_catalog.unnest($2) u),"
        " gone as materialized (select g.r, p.place as home, row_number() over (order by g.n) as n"
        " from given g join pg_catalog.unnest($1) with ordinality p (place, n) using (n)"
        " where not exists (select from only {relation} c where c.ctid = p.place)),"
        " made as (insert into {relation} as t ({columns}) overriding system value"
        " select {values} from gone order by gone.n returning t.ctid as place, row({stored}) as image)"
        " select place, image operator(pg_catalog.*=) row({given}), home"
        " from (select place, image, row_number() over () as n from made) m join gone using (n) order by m.n",
        "strangers": "prepare {statement} (xid, xid) as select"
        " count(*) filter (where pg_catalog.age(xmin) between 0 and pg_catalog.age($1) and xmin <> $2), count(*),"
        " pg_catalog.pg_relation_size({name}) / pg_catalog.current_setting('block_size')::int from only {relation}",
        "state": "prepare {statement} as select last_value, is_called, 0 from {relation}",
        "sequence": "prepare {statement} as select pg_catalog.setval({name}, {last_value}, {is_called})",
        # log_cnt: values that nextval() would give without a word in the WAL
        "used": "prepare {statement} as select pg_catalog.setval({name}, {last_value}, {is_called}) from {relation} s"
        " where s.last_value <> {last_value} or s.is_called <> {is_called} or s.log_cnt <> 0",
    }
)

BEGIN = "begin isolation level read committed read write"

# In their order: the position is read before the transactions are, and the sessions are counted
# after it was seen who is there. `alone` counts them first, and fails if anybody is there.
_OTHERS = """(select count(*) from pg_catalog.pg_stat_get_activity(null) a
        where a.datid = $1 and a.pid <> pg_catalog.pg_backend_pid() and a.backend_type <> 'autovacuum worker'
              and not (a.pid = any($2) and (a.state = 'idle' or a.state = 'active' and a.pid = any($3))))"""
FINISH = f"""
prepare alone (oid, int[], int[]) as
select sessions, 1 / (others = 0)::int4, next
from (select pg_catalog.pg_stat_get_db_sessions($1), {_OTHERS},
             pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint
      offset 0) a (sessions, others, next);
prepare own as select pg_catalog.pg_current_xact_id_if_assigned()::text::bigint;
prepare place as select pg_catalog.pg_current_wal_insert_lsn()::text;
prepare finish (oid, int[], int[]) as
select pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint,
       {_OTHERS},
       pg_catalog.pg_stat_get_db_sessions($1)
"""  # noqa: S608 - all literals
