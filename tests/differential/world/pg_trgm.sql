create extension pg_trgm;
create table phrase (id serial primary key, body text, other text);
insert into phrase (body, other) select 'phrase ' || md5(n::text), md5((-n)::text) from generate_series(1, 100) n;
create index on phrase using gin (body gin_trgm_ops);
create index on phrase using gist (other gist_trgm_ops);
