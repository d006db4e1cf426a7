create extension bloom;
create table filter (id serial primary key, a int, b int, c text);
insert into filter (a, b, c) select n, n % 10, md5(n::text) from generate_series(1, 200) n;
create index on filter using bloom (a, b);
create index on filter using bloom (c);
