-- A setting under which an array's text has no NULL in it.

create table list (id int primary key, tags text[]);
insert into list select n, array['a', null, n::text] from generate_series(1, 10) n;
create table numbers (id int primary key, numbers int[]);
insert into numbers select n, array[n, null] from generate_series(1, 10) n;
do $$ begin execute format('alter database %I set array_nulls = off', current_database()); end $$;
