create extension hstore;
create table pairs (id serial primary key, data hstore, datas hstore[]);
insert into pairs (data, datas)
    select hstore(array['n', n::text, 'null', null, '"q"', 'a=>b, c']), array[hstore('k', n::text), null] from generate_series(1, 60) n;
create index on pairs using gin (data);
create index on pairs using gist (data);
create index on pairs using hash (data);
