-- a function whose plan holds what a literal meant under the settings it was made under; programs make those that set
create function moment() returns text language plpgsql as $$
begin
    return extract(epoch from timestamptz '2024-01-01 00:00')::text;
end $$;
