"""A template with a table of every shape, made without migrations, and what a database of it holds."""

from __future__ import annotations

import time

from psycopg import sql as compose

from clonedb.clones.clone import Clone
from clonedb.names import template_name
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from clonedb.templates.ensure import TemplateRecord
from clonedb.templates.metadata import Metadata
from clonedb.templates.prepare import prepare

SCHEMA = """
create table plain (id serial primary key, name text unique, n int default 7);
insert into plain (name) select 'plain ' || g from generate_series(1, 20) g;

create table keyless (a int, b text);
insert into keyless values (1, 'x'), (1, 'x'), (null, null), (2, '');

create table identities (id bigint generated always as identity, name text);
insert into identities (name) values ('a'), ('b');

create table generated (id int primary key, twice int generated always as (id * 2) stored, note text);
insert into generated (id, note) select g, 'note' from generate_series(1, 5) g;

create table dropped (id int primary key, gone text, stays text, also_gone int, "select" text);
insert into dropped values (1, 'x', 'y', 2, 'z'), (2, null, '', null, '"');
alter table dropped drop column gone, drop column also_gone;

create schema "Odd ""schema";
create table "Odd ""schema"."Odd 'table %s" ("Odd ""column %" int primary key, ctids text, r text, c text);
insert into "Odd ""schema"."Odd 'table %s" values (1, 'a', 'b', 'c\\d"e''f,(g)'), (2, null, '', ' ');
create sequence "Odd ""schema"."Odd 'sequence" increment 3 start 10;

create table parent (id int primary key, name text);
create table child (extra text) inherits (parent);
insert into parent values (1, 'parent');
insert into child values (2, 'child', 'x'), (3, 'child', null);

create table parts (id int, region text, primary key (id, region)) partition by list (region);
create table parts_north partition of parts for values in ('north');
create table parts_rest (region text, filler int, id int not null);
alter table parts_rest drop column filler, alter column region set not null;
alter table parts attach partition parts_rest default;
insert into parts select g, case g % 2 when 0 then 'north' else 'south' end from generate_series(1, 10) g;

create table eggs (id int primary key, hen int);
create table hens (id int primary key, egg int not null references eggs deferrable initially deferred);
insert into eggs values (1, null), (2, null);
insert into hens values (1, 1), (2, 2);
update eggs set hen = id;
alter table eggs add foreign key (hen) references hens on delete cascade;

create table ordered (id int primary key, position int unique deferrable initially deferred);
insert into ordered select g, g from generate_series(1, 5) g;

create extension btree_gist;
create table bookings (room int, during tstzrange, exclude using gist (room with =, during with &&));
insert into bookings values (1, '[2024-01-01, 2024-01-02)'), (1, '[2024-01-02, infinity)'), (2, 'empty');

create table secrets (id int primary key, owner text);
alter table secrets enable row level security, force row level security;
create policy nobody on secrets using (false);
insert into secrets values (1, 'a'), (2, 'b');

create table ruled (id int primary key, name text);
insert into ruled values (1, 'a'), (2, 'b');
create rule no_delete as on delete to ruled do instead nothing;
create rule also_plain as on insert to ruled do also insert into plain (name) values ('by the rule');

create table log (what text);
create table triggered (id int primary key, changed timestamptz);
insert into triggered values (1, null), (2, null);
create function note() returns trigger language plpgsql as $$ begin
    insert into log values (tg_op);
    if tg_op = 'DELETE' then return null; end if;
    new.changed = clock_timestamp();
    return new;
end $$;
create trigger note before insert or update or delete on triggered for each row execute function note();

create table watched (id int);
create function watch() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger watch after insert on watched execute function watch();
alter table watched enable always trigger watch;

create type mood as enum ('sad', 'happy');
create type pair as (a int, b text);
create type trio as (a int, gone int, b text);
alter type trio drop attribute gone;
create domain positive as int check (value > 0);
create domain pairs as pair[];
create table types (
    id int primary key, m mood, ms mood[], p pair, ps pairs, d positive, ds positive[], j json, jb jsonb, bytes bytea,
    r int4range, rs int4multirange, grid int[][], t timestamptz, i interval, f float8, f4 float4, num numeric, mon money,
    u uuid, ip inet, bits bit varying, ch char(5), ts tsvector, kind regclass, pt point, bounds int[], tri trio[], big text
);
insert into types values (
    1, 'sad', '{happy,sad}', row(1, 'a,"b"\\'), array[row(1, null), row(null, '')]::pair[], 5, '{1,2}', '{"a":  [1,2]}',
    '{"b": null}', '\\x00ff27', '[1,5)', '{[1,2),[4,9)}', '{{1,2},{3,4}}', '2024-05-06 07:08:09.123456+02',
    '1 year -2 days 03:04:05.6', 0.1::float8 + 0.2, 1.1, 'NaN', 12.5, gen_random_uuid(), '::1/64', B'0101',
    'ab', 'a:1 b:2', 'plain', '(1,2)',
    '[0:1]={3,4}', array[row(1, '"')::trio], (select string_agg(md5(g::text), '') from generate_series(1, 900) g)
), (2, null, null, null, null, null, null, null, null, '', 'empty', '{}', '{}', '-infinity', '-1 s', '-0', 'infinity', 1e-30,
    null, null, null, B'', '', '', null, null, null, null, repeat('z', 100000));

create table big (id int primary key, name text, n int);
insert into big select g, md5(g::text), g from generate_series(1, 20000) g;
create index on big (n);

create sequence cycling minvalue 1 maxvalue 3 cycle;
create sequence descending increment -2 start 100 minvalue -100 maxvalue 100;
create sequence cached cache 20;
create sequence used;
select nextval('used'), nextval('used');
create table sharing_a (id int default nextval('used'));
create table sharing_b (id int default nextval('used'));

create materialized view seen as select count(*) from plain;
create table unseen ();
"""


def make_template(server: Server, schema: str, digest: str) -> TemplateRecord:
    """A sealed template of this schema; the digest names it."""
    name = template_name(server.config.prefix, digest)
    server.run(sql.create_database, name)
    with server.connect(name) as connection:
        connection.execute(schema.encode())
        prepare(connection)
    server.connect(name).close()
    metadata = Metadata(
        project="",
        fingerprint=digest,
        heads=(),
        revisions=0,
        made=time.time(),
        used=time.time(),
        by="",
        run="",
        seconds=0,
        size=0,
    )
    server.run(sql.comment, name, metadata.to_json())
    server.run(sql.seal, name)
    return TemplateRecord(name, metadata)


def contents(clone: Clone) -> dict[str, list[str]]:
    """Every row of every table as text, sorted, and the whole state of every sequence."""
    found: dict[str, list[str]] = {}
    with clone.server.connect(clone.name, options="-c row_security=off") as connection:
        relations = connection.execute(
            "select relkind = 'S', nspname, relname from pg_class c join pg_namespace n on n.oid = relnamespace"
            " where relkind in ('r', 'S', 'm') and c.oid >= 16384"
        ).fetchall()
        for is_sequence, *names in relations:
            what = compose.SQL("(last_value, log_cnt, is_called)" if is_sequence else "(r.*)")
            query = compose.SQL("select {}::text from only {} r").format(
                what, compose.Identifier(*names)
            )
            found[".".join(names)] = sorted(row[0] for row in connection.execute(query))
    return found
