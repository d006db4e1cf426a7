-- Triggers that fire whatever session_replication_role says, with contents to notice it by.

create table log (id bigserial primary key, what text);
create function logged() returns trigger language plpgsql as $$
begin
    insert into public.log (what) values (tg_table_name || ' ' || tg_op);
    return coalesce(new, old);
end $$;
create table steady (id int primary key, n int);
insert into steady select n, n from generate_series(1, 20) n;
create trigger logged after insert or update or delete on steady for each row execute function logged();
alter table steady enable always trigger logged;
create table mirrored (id int primary key, n int);
insert into mirrored select n, n from generate_series(1, 20) n;
create trigger logged before insert or update or delete on mirrored for each row execute function logged();
alter table mirrored enable replica trigger logged;
