-- A variant of the template: WAL says nothing of what is written to an unlogged table.

create unlogged table scratch (id serial primary key, n int);
insert into scratch (n) select n from generate_series(1, 10) n;
