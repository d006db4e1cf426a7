-- WAL says nothing of what is written to an unlogged table or sequence.

create unlogged table scratch (id serial primary key, n int);
insert into scratch (n) select n from generate_series(1, 10) n;

-- several pages, no key, and rows that vacuum may cut off at the end
create unlogged table cache (a int, b text);
insert into cache select n, repeat('same', 20) from generate_series(1, 150) n;
create unlogged table doubled (a int, b text);
insert into doubled select n % 5, 'twice' from generate_series(1, 20) n;
create unlogged table counter (id int generated always as identity, n int unique);
insert into counter (n) select n from generate_series(1, 5) n;
create table parts (day date, n int) partition by range (day);
create unlogged table parts_old partition of parts for values from (minvalue) to ('2020-01-01');
create unlogged table parts_new partition of parts default;
insert into parts select date '2019-12-01' + n, n from generate_series(1, 60) n;
