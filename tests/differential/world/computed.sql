-- Values that depend on the session that computes them, or on a function that has been another one since.

create schema early;
create schema late;
create function early.word() returns text language sql as $$ select 'early'::text $$;
create function late.word() returns text language sql as $$ select 'late'::text $$;
create function day_of(at timestamptz) returns date language sql immutable as $$ select at::date $$;
create function said(at timestamptz) returns text language plpgsql immutable as $$ begin return at::text; end $$;
create function day_said(day date) returns text language plpgsql immutable as $$ begin return day::text; end $$;
create function here(name text) returns text language plpgsql immutable as $$ begin return name || ' ' || word(); end $$;
create function norm(name text) returns text language sql immutable as $$ select upper(name) $$;
create function halved(n int) returns int language plpgsql immutable as $$ begin return n / 2; end $$;

set timezone = 'Asia/Kolkata';
set datestyle = 'SQL, DMY';
set search_path = public, late;
create table visit (
    id int primary key, at timestamptz, on_day date, name text, day date generated always as (day_of(at)) stored,
    at_said text generated always as (said(at)) stored
);
create table spoken (id int primary key, on_day date, name text, day text generated always as (day_said(on_day)) stored);
create table placed (id int primary key, name text, place text generated always as (here(name)) stored);
create table tag (id int primary key, name text, key text generated always as (norm(name)) stored);
create table stay (id int primary key, at timestamptz, name text, n int);
create index stay_day on stay (day_of(at));
create index stay_said on stay using hash (said(at));
do $$ begin
    -- from 17 on nobody's schemas are searched while a table is vacuumed, analyzed, or gets an index
    if current_setting('server_version_num')::int < 170000 then execute 'create index stay_here on stay (here(name))'; end if;
end $$;
create index stay_norm on stay (norm(name)) where halved(n) < 10;

insert into visit (id, at, on_day) select n, timestamptz '2024-01-01 20:00+00' + n * interval '1 day 1 hour', '2024-01-02' from generate_series(1, 40) n;
insert into spoken select n, date '2024-02-01' + n, 'spoken' from generate_series(1, 20) n;
insert into placed select n, 'placed ' || n from generate_series(1, 20) n;
insert into tag select n, 'Tag ' || n from generate_series(1, 20) n;
insert into stay select n, timestamptz '2024-01-01 20:00+00' + n * interval '1 day', 'Stay ' || n, n from generate_series(1, 40) n;

create or replace function norm(name text) returns text language sql immutable as $$ select lower(name) $$;

do $$ begin
    execute format('alter database %I set search_path = public, app, early', current_database());
end $$;
reset all;
