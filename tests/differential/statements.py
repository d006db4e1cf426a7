"""The statements of random programs, by group; `<n>` and its like are drawn anew wherever they stand (see grammar.py)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tests.differential.unusual import (
    AUTOVACUUM,
    DDL,
    LARGE_OBJECTS,
    MAINTENANCE,
    OTHER,
    REFRESHING,
    STATISTICS,
    TEMPORARY,
    UNDONE_DDL,
)
from tests.differential.world import PARTS

__all__ = ["GROUPS", "Statement"]

Statement = str | tuple[str, str]
"""A statement, or a COPY FROM STDIN and its data."""

_WEIRD = '"Odd ""Schema"."Weird table; -- \'%s\' {}"'
_SEQ = '"Odd ""Schema"."Seq ""x""; --"'

_READ: tuple[Statement, ...] = (
    "select * from account where id = <i>",
    "select count(*) from invoice where data @> '{\"n\": <s>}'",
    "select a.name, sum(i.total) from account a left join invoice i on i.account_id = a.id group by a.name",
    "select * from large where n = <l>",
    "select count(*), sum(length(body)) from large",
    "select * from large_odd where a = <i> limit 10",
    "select * from measure where day > <d>",
    "select * from animal",
    "select * from keyless order by a, b",
    "select length(body), plain from letter",
    f"select * from {_WEIRD}",
    "select * from summary",
    "select * from standalone",
    "select * from pg_sequences",
    "select lo_get(4242)",
    "select * from booking where during @> timestamp '2020-01-05'",
    "copy invoice to stdout",
    "copy (select * from large where id < 50) to stdout (format binary)",
    "explain analyze select * from node n join node p on p.id = n.parent_id",
    "select relname from pg_class where relkind = 'r' order by random() limit 3",
)

_DML: tuple[Statement, ...] = (
    "insert into account (email, name, balance) values ('<n>@x.org', <t>, <i>)",
    "insert into account (email, name) select 'e<n>' || g, <t> from generate_series(1, <s>) g",
    "insert into account (id, email, name) values (<i>, '<n>', 'x') on conflict (id) do update set name = excluded.name",
    "insert into account (email, name) values ('user<i>@example.org', <t>) on conflict (email) do nothing",
    "update account set name = <t> where id = <i>",
    "update account set balance = balance + <s>, email = 'new<n>' where id <= <s>",
    "update account set id = id + 1000000 where id = <i>",
    "delete from account where id = <i>",
    "delete from account",
    (
        "merge into account a using (values (<i>, <t>), (<n>, <t>)) v (id, name) on a.id = v.id"
        " when matched and a.id < 5 then delete when matched then update set name = v.name"
        " when not matched then insert (email, name) values ('m<n>', v.name)"
    ),
    (
        "with gone as (delete from invoice where id % 7 = <s> returning *)"
        " insert into account (email, name) select 'cte<n>' || id, title from gone"
    ),
    "update account_names set name = <t> where id = <i>",
    "insert into account_names (name, balance) values (<t>, <s>)",
    (
        "insert into invoice (account_id, total, state, tags, data, period, blob, spot, spots, ratio, at, every)"
        " values (<a>, <s>, <m>, array[<t>, null], jsonb_build_object('k', <t>::text), int4range(<s>, <i> + 10), '\\x00ff',"
        " (<s>, <t>)::pair, array[(<s>, null)::pair], <f>, '2024-02-29 12:00+05', interval '<s> days -1 hour')"
    ),
    "insert into invoice (id, account_id, total) overriding system value values (<n>, <a>, <n> % 1000)",
    "update invoice set data = data || '{\"new\": <n>}', tags = tags || <t>::text, ratio = <f> where id % 5 = <s>",
    "update invoice i set total = a.balance::int from account a where a.id = i.account_id and a.id = <i>",
    "update invoice set blob = repeat('x', <n> % 100000)::bytea, spot.b = <t> where id = 100 + 5 * <s>",
    "delete from invoice i using account a where a.id = i.account_id and a.id = <i>",
    "insert into node (parent_id, twin_id) values (<s>, <s>)",
    "update node set parent_id = id, twin_id = null where id = <s>",
    "delete from node where id not in (select parent_id from node where parent_id is not null)",
    "with e as (insert into egg (chicken_id) values (<s>) returning id) insert into chicken (egg_id) select id from e",
    "update egg set chicken_id = <s> where id = <s>",
    "delete from egg where id = <s>",
    "delete from chicken where id = <s>",
    "insert into booking (room, during) values (<n>, tsrange('2020-01-01', '2020-01-0<s>', '[]'))",
    "update booking set during = tsrange(lower(during), upper(during), '[]') where room = 2",
    "delete from booking where room = <s>",
    "insert into letter (body, plain) values (repeat(md5(random()::text), <n> % 3000), <t>)",
    "update letter set body = body || <t> where id = <s>",
    "update letter set plain = <t> where id = <s>",
    "delete from letter where id = <s>",
    "insert into keyless values (<s>, <t>, <f>), (null, null, null), (<s>, <t>, 'NaN')",
    "update keyless set c = <f> where a = <s>",
    "delete from keyless where a is null or a = <s>",
    "insert into dropped (a, b) values (<n>, <t>)",
    "update dropped set b = <t>, d = null where a = <i>",
    "delete from dropped where c = <s>",
    "insert into typed values (<n>, <t>)",
    "update typed set b = <t>",
    f'insert into {_WEIRD} ("Ünï çode", "column ""q"".x") values (<t>, <t>)',
    f'update {_WEIRD} set "Ünï çode" = <t>, "%(a)s" = <n> where "select" <= <s>',
    f'delete from {_WEIRD} where "select" = <s>',
    "insert into measure (day, kind, value) values (<d>, 'a', <n>), (<d>, 'z', null)",
    "update measure set day = day + 400 where value = <i>",
    "update measure set value = -value where kind = 'b'",
    "delete from measure where value % 5 = <s>",
    "insert into measure_odd (value, day, id) values (<s>, '2021-05-05', <n>)",
    "insert into app.measure_new_rest (day, kind) values ('2020-06-0<s>', 'q')",
    "insert into animal (name) values (<t>)",
    "insert into cat (name, lives) values (<t>, <s>)",
    "update animal set name = <t> where id = <i>",
    "update only animal set name = <t>",
    "delete from animal where id = <i>",
    "delete from app.kitten",
    "update odd_types set short = 'other' where id % 5 = <s>",
    "insert into odd_types (id, price, nested, empty) values (<n>, 1, array[array[<t>]], (1, <t>)::pair)",
    "delete from odd_types where id > <s>",
    "insert into spaced (body) values (<t>)",
    "update spaced set body = <t> where id = <s>",
    "delete from spaced where id = <i>",
    "insert into watched (n) values (<n>)",
    "update watched set n = n + 1 where id = <s>",
    "delete from watched where id = <i>",
    "insert into audit (what) values (<t>)",
    "insert into ruled (n) values (<n>)",
    "update ruled_view set n = <n> where id = <s>",
    "insert into secret (value) values (<t>)",
    "update secret set value = <t> where id = <s>",
    "insert into sharing_one (n) values (<n>)",
    "insert into sharing_two default values",
    "update sharing_one set n = <n>",
    "insert into large (name, n, note) values (<t>, <n>, <t>)",
    "insert into large (name, n, body) values (<t>, <n>, repeat(md5(random()::text), 2000))",
    "update large set note = <t> where id = <l>",
    "update large set note = <t> where id % 41 = <s>",
    "update large set body = repeat(md5('<n>'), <n> % 500), n = -n where id % 1000 = <s>",
    "update large set name = name where id between <l> and <l>",
    "delete from large where id = <l>",
    "delete from large where id between <l> and <l> and id % 100 = <s>",
    "insert into large (id, name) values (<l>, 'x') on conflict (id) do update set name = excluded.name || <t>",
    "insert into large_odd (a, b, p, d, e) values (<s>, <t>, (<n>, <t>)::pair, array[<s>, null], <f>)",
    "update large_odd set a = a + 1, p.b = <t> where b = repeat(md5((<l> / 2)::text), 3)",
    "delete from large_odd where b = repeat(md5((<l> / 2)::text), 3)",
    ("copy account (email, name) from stdin", "<n>\tcopied\n<n>\ta\\\\b\n"),
    ("copy keyless from stdin", "<s>\t\\N\t<n>\n<s>\tx\t-0\n"),
    ("copy measure (day, value) from stdin (format csv)", "2020-03-0<s>,<n>\n2030-01-01,\n"),
    ("copy large (name, n) from stdin", "a\t<n>\nb\t\\N\n"),
)

_RARE: tuple[Statement, ...] = (
    "insert into published values (<n>, <t>)",
    "delete from nothing_in_it",
    "insert into nothing_in_it default values",
    "insert into always_watched (n) values (<n>)",
    "update always_watched set n = <n> where id = <s>",
    "delete from always_watched where id = <s>",
    "insert into stubborn (n) values (<n>)",
    "update stubborn set n = <n> where id = <s>",
    "insert into always_ruled (n) values (<n>)",
    "update always_ruled set n = <n> where id = <s>",
    "insert into outdated (n) values (<n>)",
    "update outdated set n = -n",
)

_BULK: tuple[Statement, ...] = (
    "begin; update large set n = n + 100000000; savepoint a; delete from large where id < 100; rollback to a; commit",
    "insert into large (name, n) select 'bulk', <n> + g from generate_series(1, 600) g",
    "insert into large_odd (a, b) select g, <t> from generate_series(1, 600) g",
    "delete from large where id % 7 = <s>",
    "update large set note = null where id % 11 = <s>",
    "update large_odd set e = <f> where a = <i>",
    "update large_odd set d = null",
    "delete from large_odd",
    "delete from large where id > <l>",
    "insert into account (email, name) select <n> || '-' || g, repeat('x', 500) from generate_series(1, 300) g",
    "delete from invoice",
    "update letter set body = repeat(body, 3)",
    (
        "do $$ begin for i in 1..40 loop begin insert into account (email, name) values (i % 3, 'x');"
        " exception when unique_violation then insert into audit (what) values ('again'); end; end loop; end $$"
    ),
)

_SEQUENCES: tuple[Statement, ...] = (
    "select nextval('standalone')",
    "select nextval('cycling'), nextval('cycling')",
    "select nextval('descending')",
    "select nextval('cached')",
    "select nextval('app.shared')",
    f"select nextval('{_SEQ}')",
    "select nextval('account_id_seq'), currval('account_id_seq'), lastval()",
    "select nextval('large_id_seq') from generate_series(1, 100)",
    "select setval('standalone', <n>)",
    "select setval('descending', -<s>, false)",
    "select setval('cycling', <s>)",
    f"select setval('{_SEQ}', <n>, true)",
    "select setval('invoice_id_seq', <n>)",
    "select setval('account_id_seq', 1, false)",
)

_TRANSACTIONS: tuple[Statement, ...] = (
    "begin",
    "begin isolation level serializable",
    "begin isolation level repeatable read",
    "commit",
    "commit",
    "commit",
    "commit",
    "rollback",
    "savepoint one",
    "savepoint two",
    "rollback to one",
    "release one",
    "set constraints all deferred",
    "set constraints all immediate",
)

_ERRORS: tuple[Statement, ...] = (
    "insert into account (id, name) values (<s>, 'twice')",
    "insert into account (name) values (null)",
    "insert into invoice (account_id, total) values (<n>, 1)",
    "insert into invoice (account_id, total) values (1, -2000000)",
    "insert into booking (room, during) values (1, tsrange('2020-01-01', '2020-02-01'))",
    "update account set balance = -2000000",
    "delete from published",
    "insert into large (name, n) select 'x', case when g = 300 then 10 else <n> + g end from generate_series(1, 300) g",
    "select 1 / 0 from account",
    "select nextval('standalone') / 0",
    "insert into measure_old (day) values ('2030-01-01')",
    "not a statement",
    "delete from no_such_table",
    ("copy account (email, name) from stdin", "<n>\tok\n<n>\ttoo\tmany\n"),
)

_SESSION: tuple[Statement, ...] = (
    "set session_replication_role = replica",
    "set session_replication_role = origin",
    "set synchronous_commit = off",
    "set synchronous_commit = on",
    "set local lock_timeout = '30ms'",
    "set search_path = app, public",
    "reset all",
    "set role differential_reader",
    "reset role",
    "set row_security = off",
    "set default_transaction_isolation = 'repeatable read'",
    "listen here",
    "notify here, 'x'",
    "declare first cursor with hold for select * from large order by id",
    "declare second cursor for select * from account for update",
    "fetch 5 from first",
    "fetch 1 from second",
    "update account set name = <t> where current of second",
    "prepare one as insert into account (email, name) values ($1, 'prepared')",
    "execute one('<n>')",
    "deallocate all",
    "select pg_advisory_lock(<s>)",
    "select pg_try_advisory_xact_lock(<s>)",
    "lock table account in share row exclusive mode nowait",
    "lock table large in access exclusive mode nowait",
    "select * from account where id <= <s> for update",
    "select * from large where id <= <s> for key share",
    "select * from invoice for share skip locked",
    "select pg_backend_pid(), txid_current()",
    "select pg_terminate_backend(pg_backend_pid())",
)

_HARMLESS: tuple[Statement, ...] = (
    "checkpoint",
    "select pg_switch_wal()",
    "select pg_logical_emit_message(false, 'program', 'x')",
    "select pg_logical_emit_message(true, 'program', repeat('x', 10000))",
    "select pg_stat_reset()",
    "select gin_clean_pending_list('invoice_data_idx')",
    "select brin_summarize_new_values('large_at_idx')",
    "select pg_notify('there', 'y')",
)

_INSERTS = tuple(
    one
    for one in _DML
    if isinstance(one, str) and one.startswith("insert into ") and "do update" not in one
)

GROUPS: Mapping[str, tuple[Statement, ...]] = MappingProxyType(
    {
        "read": _READ,
        "dml": _DML,
        "inserts": _INSERTS,
        "rare": _RARE,
        "bulk": _BULK,
        "sequences": _SEQUENCES,
        "transactions": _TRANSACTIONS,
        "errors": _ERRORS,
        "session": _SESSION,
        "harmless": _HARMLESS,
        "maintenance": MAINTENANCE,
        "other": OTHER,
        "ddl": DDL,
        "autovacuum": AUTOVACUUM,
        "waiting": ("select pg_sleep(1.5)",),
        "temporary": TEMPORARY,
        "undone_ddl": UNDONE_DDL,
        "refreshing": REFRESHING,
        "statistics": STATISTICS,
        "large_objects": LARGE_OBJECTS,
        **{name: part.statements for name, part in PARTS.items()},
    }
)
