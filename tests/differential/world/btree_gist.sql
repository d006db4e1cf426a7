create extension btree_gist;
create table hotel (id serial primary key, room int, during daterange, price numeric, exclude using gist (room with =, during with &&));
insert into hotel (room, during, price) select n % 10, daterange('2024-01-01'::date + n, '2024-01-02'::date + n), n from generate_series(1, 100) n;
create index on hotel using gist (price);
