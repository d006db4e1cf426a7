"""What the WAL between two positions says was written in one database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from clonedb.postgres.message import Row, number, text
from clonedb.rewind.facts import Facts, Sequence, Table
from clonedb.rewind.relations import File

__all__ = ["Written", "read_statement", "sort_out", "writers_statement"]

# Records that change no contents: index pages (the rows decide), hint bits, pruning,
# visibility, freezing, row locks.
_COUNTS = """not (
    {0}.resource_manager in ('Btree', 'Hash', 'Gin', 'Gist', 'SPGist', 'BRIN')
    or {0}.resource_manager = 'XLOG' and {0}.record_type = 'FPI_FOR_HINT'
    or {0}.resource_manager = 'Heap' and {0}.record_type = 'LOCK'
    or {0}.resource_manager = 'Heap2'
       and ({0}.record_type ^@ 'PRUNE' or {0}.record_type in ('VACUUM', 'FREEZE_PAGE', 'VISIBLE', 'LOCK_UPDATED')))
"""

# The lateral join keeps a window that is too long from being read.
# relforknumber 0 is the main fork, database 0 the shared catalogs; `false` leaves out the
# contents of the blocks.
_BLOCKS = """
select b.reltablespace::bigint, b.reldatabase <> 0, b.relfilenode::bigint, b.resource_manager, b.record_type,
       pg_catalog.array_agg(distinct b.relblocknumber){writers}
from (select $1 as start, $2 as stop where $2 > $1 and $2 - $1 <= $4) w,
     lateral pg_get_wal_block_info(w.start, w.stop, false) b
where b.reldatabase in ($3, 0) and b.relforknumber = 0 and b.xid <> all ($5) and {counts}
group by 1, 2, 3, 4, 5
"""

# PostgreSQL 15 has the blocks as text only: `blkref #0: rel 1663/16390/16392 fork main blk 0;
# blkref #1: ...`
_RECORDS = """
select m[1]::bigint, m[2] <> '0', m[3]::bigint, r.resource_manager, r.record_type,
       pg_catalog.array_agg(distinct m[4]::bigint){writers}
from (select $1 as start, $2 as stop where $2 > $1 and $2 - $1 <= $4) w,
     lateral pg_get_wal_records_info(w.start, w.stop) r,
     lateral pg_catalog.regexp_matches(r.block_ref, 'rel (\\d+)/(\\d+)/(\\d+) fork main blk (\\d+)', 'g') m
where (r.block_ref like '%/' || $3 || '/%' or r.block_ref like '%/0/%') and m[2] in ($3::text, '0')
      and r.xid <> all ($5) and {counts}
group by 1, 2, 3, 4, 5
"""

# Transactions that wrote to shared catalogs, but for some files of them, and committed: all
# numbers of each, whether it deleted a row, the beginning of its commit's record, where that is
# in its file, and the size of a page. The header of a page may lie in the middle of it; of one
# that goes on in the next file only a part is read.
_WRITERS = """
with writer as materialized ({writers}),
ended as (
    select r.start_lsn, r.xid::text::bigint as xid,
           coalesce(pg_catalog.string_to_array(pg_catalog.substring(r.description, 'subxacts: ([0-9 ]*[0-9])'), ' ')
                        ::bigint[], '{{}}') as below
    from pg_get_wal_records_info(%(start)s, %(stop)s) r
    where r.resource_manager = 'Transaction' and r.record_type = 'COMMIT' and exists (select from writer)
)
select e.xid || e.below,
       exists (select from writer w where w.xid = any(e.xid || e.below) and w.deletes),
       pg_catalog.pg_read_binary_file('pg_wal/' || f.file_name, f.file_offset, 128),
       f.file_offset, pg_catalog.current_setting('wal_block_size')::int
from ended e, lateral pg_catalog.pg_walfile_name_offset(e.start_lsn) f
where (e.xid || e.below) && (select pg_catalog.array_agg(xid) from writer)
"""

_WRITERS_OF_BLOCKS = """
    select b.xid::text::bigint as xid, pg_catalog.bool_or(b.record_type = 'DELETE') as deletes
    from pg_get_wal_block_info(%(start)s, %(stop)s, false) b
    where b.reldatabase = 0 and b.relfilenode::bigint <> all(%(others)s) and {counts} group by 1
"""
_WRITERS_OF_RECORDS = """
    select r.xid::text::bigint as xid, pg_catalog.bool_or(r.record_type = 'DELETE') as deletes
    from pg_get_wal_records_info(%(start)s, %(stop)s) r,
         lateral pg_catalog.regexp_matches(r.block_ref, 'rel \\d+/0/(\\d+) fork main', 'g') m
    where m[1]::bigint <> all(%(others)s) and {counts} group by 1
"""

# HEAP_CONFIRM: an INSERT ... ON CONFLICT that came through.
# +INIT: the first row of a page that is new or was empty
_INSERTING = frozenset(
    {
        *(("Heap", kind) for kind in ("INSERT", "INSERT+INIT", "HEAP_CONFIRM")),
        *(("Heap2", kind) for kind in ("MULTI_INSERT", "MULTI_INSERT+INIT")),
    }
)
_CHANGING = frozenset(
    {
        *(
            ("Heap", kind)
            for kind in ("DELETE", "UPDATE", "UPDATE+INIT", "HOT_UPDATE", "HOT_UPDATE+INIT")
        ),
        # a whole page, whatever was on it before
        ("XLOG", "FPI"),
    }
)


def read_statement(major: int, *, writers: bool) -> str:
    """The query of (start, end, database, most bytes, transactions) for files, kinds of records and blocks.

    What those transactions wrote is left out. `writers` adds the transactions to each row,
    which costs time for every record.
    """
    one, statement = ("b", _BLOCKS) if major >= 16 else ("r", _RECORDS)
    numbers = f"pg_catalog.array_agg(distinct {one}.xid::text::bigint)"
    return statement.format(
        counts=_COUNTS.format(one),
        writers=f", {numbers}" if writers else "",
    )


def writers_statement(major: int) -> str:
    """The query of `start`, `stop` and `others` (files) for the commits that changed other shared catalogs."""
    if major >= 16:
        writers = _WRITERS_OF_BLOCKS.format(counts=_COUNTS.format("b"))
    else:
        writers = _WRITERS_OF_RECORDS.format(counts=_COUNTS.format("r"))
    return _WRITERS.format(writers=writers)


@dataclass(slots=True)
class Written:
    """What was written: blocks that only got rows, blocks that may have lost some, and sequences.

    `whole` are the tables of which every row has to be put back. `catalogs` are the names of
    the catalogs that were written to, `files` says that a file was that is no relation's of the
    template, and `large_objects` that the catalogs of those were: what is left of all this has
    to be looked at in the database. `refusal` is the reason why it cannot be undone; `shared`
    are the files of catalogs common to all databases that were written, from whichever, and
    `about` what is said there of this one, if that was asked. `writers` are the transactions,
    of which the WAL has 32 bits, if they were asked for.
    """

    gained: dict[Table, set[int]] = field(default_factory=dict)
    lost: dict[Table, set[int]] = field(default_factory=dict)
    whole: set[Table] = field(default_factory=set)
    sequences: set[Sequence] = field(default_factory=set)
    catalogs: set[str] = field(default_factory=set)
    files: bool = False
    large_objects: bool = False
    refusal: str | None = None
    shared: set[int] = field(default_factory=set)
    about: str | None = None
    writers: set[int] = field(default_factory=set)

    def __bool__(self) -> bool:
        """Whether there is anything to undo."""
        # `shared` and `catalogs` are not: they are to be looked at first
        return bool(
            self.gained or self.lost or self.whole or self.sequences or self.large_objects
        )

    @property
    def ddl(self) -> bool:
        """Whether the catalogs have to be looked at."""
        return bool(self.catalogs) or self.files


def sort_out(rows: Iterable[Row], facts: Facts, early: int | None = None) -> Written:
    """Tell from the rows of `read_statement` what was written; an unknown kind of record is refused.

    Rows that are of the transaction `early` alone are left out.
    """
    written = Written()
    for tablespace, ours, node, manager, kind, blocks, *writers in rows:
        numbers = {int(one) for array in writers for one in text(array)[1:-1].split(",")}
        if early is not None and numbers == {early % 2**32}:
            continue
        if ours == b"t":
            written.writers |= numbers
        file, record = (number(tablespace), number(node)), (text(manager), text(kind))
        if ours != b"t":
            written.shared.add(file[1])
        elif table := facts.tables.get(file):
            # an array as text: `{1,2}`
            _sort_out_table(written, table, record, map(int, text(blocks)[1:-1].split(",")))
        elif sequence := facts.sequences.get(file):
            written.sequences.add(sequence)
            if record != ("Sequence", "LOG"):
                _refuse(written, f"a sequence has an unknown WAL record ({' '.join(record)})")
        elif file in facts.large_objects:
            written.large_objects = True
        elif file not in facts.ignored:
            _sort_out_other(written, facts, file, record)

    return written


def _sort_out_other(
    written: Written, facts: Facts, file: File, record: tuple[str, str]
) -> None:
    if file in facts.others:
        _refuse(written, facts.others[file])
    elif file not in facts.catalogs:
        written.files = True
    elif record != ("Heap", "INPLACE"):  # VACUUM's and ANALYZE's sizes and counts, and hints
        written.catalogs.add(facts.catalogs[file])


def _sort_out_table(
    written: Written, table: Table, record: tuple[str, str], blocks: Iterable[int]
) -> None:
    if table.refusal:
        _refuse(written, table.refusal)
    elif record in _INSERTING:
        written.gained.setdefault(table, set()).update(blocks)
    elif record in _CHANGING:
        written.lost.setdefault(table, set()).update(blocks)
    else:
        _refuse(written, f"a table has an unknown WAL record ({' '.join(record)})")


def _refuse(written: Written, reason: str) -> None:
    """Keep the first reason."""
    written.refusal = written.refusal or reason
