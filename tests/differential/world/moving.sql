-- Small tables all of whose rows are written again and again, most without a key that would notice one put back twice.

create table line (a int, b text);
insert into line select n, 'same' from generate_series(1, 20) n;
create table twins (a int, b text);
insert into twins select n % 4, 'twin' from generate_series(1, 24) n;
create table pages (a int, b text);
insert into pages select n, repeat('page', 60) from generate_series(1, 200) n;
create table keyed (id int primary key, b text);
insert into keyed select n, 'keyed' from generate_series(1, 30) n;
create index on keyed (b);
