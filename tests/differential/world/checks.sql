-- Conditions with side effects: whatever puts a row back and has it checked leaves something behind.

create table seen (name text);
create sequence checked;
create function known(name text) returns boolean language plpgsql as $$
begin
    insert into public.seen values (name);
    perform nextval('public.checked');
    return true;
end $$;
create domain known_name as text check (known(value));
create function counted(n int) returns boolean language plpgsql as $$ begin perform nextval('public.checked'); return n >= 0; end $$;
create table item (id int primary key, name text, check (known(name)));
create table labelled (id int primary key, name known_name);
create table metered (id int primary key, n int, check (counted(n)));
insert into item select n, 'item ' || n from generate_series(1, 10) n;
insert into labelled select n, 'label ' || n from generate_series(1, 10) n;
insert into metered select n, n from generate_series(1, 10) n;
