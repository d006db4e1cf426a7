create extension ltree;
create table tree (id serial primary key, path ltree, paths ltree[]);
insert into tree (path, paths) select ('top.n' || n % 7 || '.leaf' || n)::ltree, array['a.b'::ltree] from generate_series(1, 60) n;
create index on tree using gist (path);
create index on tree (path);
create index on tree using gist (paths);
