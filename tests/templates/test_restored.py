"""A template restored from an archive is the one that was built: what is in it, what its clones cost, what reading writes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from clonedb.api import Template, fingerprint_of
from clonedb.archive.dump import export
from clonedb.archive.restore import restore
from clonedb.progress import Silence
from clonedb.settings.config import Config
from tests.projects import Project
from tests.templates.conftest import contents, opened

Configured = Callable[..., Config]

# What pg_dump must put in an order: tables that need tables, functions, types, indexes, and what only looks like them.
TANGLED = r"""
create schema "odd; Type: TABLE; Schema: public";
create table "odd; Type: TABLE; Schema: public"."a
b" (id int primary key, "c
d" text unique);
create table "odd; Type: TABLE; Schema: public"."a b" (id serial primary key);
create type state as enum ('new', 'old');
create domain short as text check (length(value) < 100);
create table kind (id int primary key, name short not null, state state default 'new');
insert into kind values (1, 'one'), (2, 'two');
create function allowed(int) returns bool language sql stable as
    $$ select exists (select from public.kind where id = $1) $$;
create table z_checked (kind int check (allowed(kind)), note text);
insert into z_checked values (1, 'x'), (2, null);
create sequence shared start 7;
create table numbered (id int default nextval('shared'), other bigint generated always as identity (start 30));
insert into numbered default values;
insert into numbered default values;
create table parent (id serial primary key, note text);
create table child (more text) inherits (parent);
insert into child (note, more) values ('a', 'b');
create table measured (at date not null, value int, primary key (at, value)) partition by range (at);
create table measured_1 partition of measured for values from ('2020-01-01') to ('2021-01-01');
create table measured_2 partition of measured default;
create index on measured (value);
insert into measured values ('2020-05-05', 1), ('2022-01-01', 2);
create table refers (at date, value int, foreign key (at, value) references measured);
insert into refers values ('2020-05-05', 1);
create table hen (id int primary key, egg int);
create table egg (id int primary key, hen int references hen);
insert into hen values (1, 1);
insert into egg values (1, 1);
alter table hen add foreign key (egg) references egg deferrable initially deferred;
create table by_index (code text, valid bool);
create unique index by_code on by_index (code);
insert into by_index values ('x', true);
create table to_index (code text references by_index (code));
insert into to_index values ('x');
create table unproven (hen int);
insert into unproven values (99);
alter table unproven add foreign key (hen) references hen not valid;
create function doubled(kind) returns int language sql immutable return $1.id * 2;
create index on kind (doubled(kind));
create table of_rows (one kind, many kind[]);
insert into of_rows select k, array[k] from kind k;
create view counted as select id, name, count(*) from kind group by id;
create function totals() returns bigint language sql stable begin atomic; select sum(count) from counted; end;
create table defaulted (n bigint default totals());
insert into defaulted default values;
create materialized view seen as select * from counted;
create unique index on seen (id);
create rule quiet as on delete to of_rows do instead nothing;
create table guarded (owner name default current_user, x int);
insert into guarded (x) values (1);
alter table guarded enable row level security;
create policy own on guarded using (owner = current_user);
create unlogged table fleeting (x int);
insert into fleeting values (1);
create statistics together on at, value from refers;
comment on constraint kind_pkey on kind is 'key';
comment on column kind.name is 'name';
create index kind_state on kind (state);
comment on index kind_state is 'index';
alter table kind cluster on kind_state;
alter table kind replica identity using index kind_pkey;
create table excluded (during int4range, exclude using gist (during with &&));
insert into excluded values ('[1,3)');
create table tracked (x int);
create function touched() returns trigger language plpgsql as $$ begin
--
-- Name: kind; Type: TABLE; Schema: public; Owner: postgres
--
    raise exception 'no'; end $$;
create trigger no_writes before insert on tracked for each row execute function touched();
create table escaped (a text primary key, b bytea, "c (d) e" text[], f float8, g timestamptz, h varchar(3), i bit(3));
insert into escaped values ('', '\x00ff', null, 'NaN', 'infinity', 'a  ', '101');
insert into escaped values (E'a\tb\nc\\d\\N''e"\b\f\r\v\\x41', '', array[E'\\', '''', null, ''], 1e-300, now(), '', null);
insert into escaped values (E'\\N', null, '{}', '-0', '0044-03-15 12:00+01 BC', null, null), (E'\\.', null, null, 0.1, null, null, null);
create table nothing ();
insert into nothing default values;
create table empty (id bigint generated always as identity primary key, refers int references kind);
create table wide (id int primary key, big text);
insert into wide select n, repeat(md5(n::text), 500) from generate_series(1, 40) n;
create table keyless as select n, repeat('x', 500) as x from generate_series(1, 20000) n;
select lo_from_bytea(4711, 'large');
"""


@pytest.fixture
def both(
    project: Project, configured: Configured, prefix: str, tmp_path: Path
) -> Iterator[list[Template]]:
    """A template that was built, and the same restored from an archive."""
    project.revision("tangled", f"op.get_bind().exec_driver_sql({TANGLED!r})")
    for number in range(25):
        statements = (
            f"create table t{number} (id int primary key, up int, note text, unique (note));"
        )
        statements += f"create index on t{number} (lower(note)); insert into t{number} values (1, 1, 'x');"
        statements += (
            f"alter table t{number} add foreign key (up) references t{number - 1};"
            if number
            else ""
        )
        project.revision(f"r{number}", f"op.get_bind().exec_driver_sql({statements!r})")
    with contextlib.ExitStack() as stack:
        built = stack.enter_context(opened(configured())[0])
        clone = stack.enter_context(built.clone())
        export(built.server, built.record, clone.name, tmp_path / "archive")
        config = configured(prefix=f"{prefix}_r")
        server, _, wanted = fingerprint_of(config)
        found = restore(
            server,
            config,
            wanted,
            tmp_path / "archive",
            require=lambda _: None,
            run="x",
            progress=Silence(),
        )
        assert found.built
        server.close()
        restored = stack.enter_context(opened(config)[0])
        assert not restored.record.built
        yield [built, restored]


@pytest.mark.campaign("long")
def test_it_has_what_was_built(both: list[Template]) -> None:
    """pg_dump finds no difference, whatever order things had to be made in, and the planner knows as much."""
    built, restored = both
    assert contents(restored) == contents(built)
    known = []
    for template in both:
        with template.clone() as clone, clone.connect() as connection:
            query = """
                select schemaname, tablename, attname, n_distinct from pg_stats
                where schemaname <> 'pg_catalog' and schemaname <> 'information_schema' order by 1, 2, 3
            """
            known.append(connection.execute(query).fetchall())
            # VACUUM FULL keeps old versions of a row while a transaction of a neighbour is open
            rows = connection.execute(
                "select oid::regclass::text, reltuples from pg_class"
                " where relkind in ('r', 'm') and relname <> 'alembic_version'"
            )
            known[-1] += sorted(
                row
                for row in rows.fetchall()
                if not row[0].startswith(("pg_", "information_schema"))
            )
    assert known[0] == known[1]


def test_its_clones_cost_no_more(both: list[Template]) -> None:
    """A clone has no more files, and no more bytes: that is what making it costs."""
    found = []
    for template in both:
        with template.clone() as clone, clone.connect() as connection:
            query = """
                select count(*), sum(size)::bigint from (select oid from pg_database where datname = current_database()) d,
                       pg_ls_dir('base/' || oid) as name, pg_stat_file('base/' || oid || '/' || name)
            """
            found += connection.execute(query).fetchall()
    (files, size), (more_files, more_size) = found
    assert more_files <= files * 1.02
    assert more_size <= size * 1.02


def test_reading_its_clones_changes_nothing(both: list[Template]) -> None:
    """The first to read a table or a catalog finds nothing to note on its pages: with checksums that would be WAL."""
    for template in both:
        with template.clone() as clone, clone.connect() as connection:
            tables = connection.execute(
                "select oid::regclass::text from pg_class where relkind in ('r', 'm') and not relisshared order by 1"
            ).fetchall()
            assert {"keyless", "wide", "pg_attribute"} <= {table for (table,) in tables}
            dirtied = [table for (table,) in tables if _dirtied(connection, table)]
            assert dirtied == []


def _dirtied(connection: psycopg.Connection, table: str) -> bool:
    plan = connection.execute(
        f"explain (analyze, buffers) select * from {table}".encode()
    ).fetchall()
    return "dirtied" in str(plan)
