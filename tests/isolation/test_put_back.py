"""`truncate`: which tables get their rows back, and what costs a new clone."""

from __future__ import annotations

import psycopg
import pytest

from tests.projects import Project

ODD = """
op.execute('''
    create table counted (id int);
    create table counts (id int);
    create function count_it() returns trigger language plpgsql as $$ begin insert into counts values (1); return new; end $$;
    create trigger counted after insert on counted for each row execute function count_it();
    alter table counted enable always trigger counted;
    insert into counted values (1);

    create table ruled (id int);
    create rule counts as on delete to ruled do also insert into counts values (2);
    alter table ruled enable replica rule counts;
    insert into ruled values (1);

    create function costly(i int) returns bool language plpgsql as $$ begin insert into counts values (3); return true; end $$;
    create table checked (id int check (costly(id)));
    insert into checked values (1);

    create function zone(t timestamptz) returns text language sql immutable as $$ select t::text $$;
    create table indexed (t timestamptz);
    set timezone = 'Asia/Tokyo';
    insert into indexed values ('2020-01-01');
    create index on indexed (zone(t));
    create table generated (t timestamptz, local text generated always as (zone(t)) stored);
    insert into generated values ('2020-01-01');

    create domain positive as int check (value > 0);
    create type pair as (one int, two text);
    create table typed (id serial primary key, p pair, n text[], d positive, f float8, j json, e date);
    insert into typed (p, n, d, f, j, e) values ((1, 'a "b'), array['NULL', null], 1, 0.1::float8 + 0.2, '{"a":  1}', '2020-02-03');

    create table parent (id serial primary key, name text);
    create table child (parent int references parent);
    insert into parent (name) values ('one'), ('two');
    insert into child values (1);
    create table large (id int);
    create view names as select name from parent;
    create statistics of_names on id, name from parent;
''')
"""

KINDS = """
import pytest

names = {{}}

STATE = '''
    select (select count(*) from counts),
           (select array_agg(c) from counted c)::text, (select array_agg(r) from ruled r)::text,
           (select array_agg(c) from checked c)::text, (select array_agg(g) from generated g)::text,
           (select array_agg(t) from typed t)::text, (select array_agg(p order by id) from parent p)::text,
           (select array_agg(c) from child c)::text, (select array_agg(v) from alembic_version v)::text,
           (select increment_by from pg_sequences where sequencename = 'parent_id_seq'),
           obj_description('parent'::regclass), has_table_privilege('public', 'parent', 'select'),
           (select last_value from parent_id_seq)
'''
first = []

@pytest.mark.parametrize("part", ["changes", "looks"])
@pytest.mark.parametrize("statement", {statements!r})
def test_kind(clonedb, clonedb_connection, statement, part):
    state = clonedb_connection.execute(STATE).fetchone()
    first.append(state)
    assert state == first[0]
    if part == "changes":
        clonedb_connection.rollback()
        clonedb_connection.autocommit = True
        for one in statement.split("; "):
            clonedb_connection.execute(one)
        names[statement] = clonedb.name
    else:
        assert (clonedb.name == names[statement]) is {same}
"""

PUT_BACK = (
    "insert into parent (name) values ('three')",
    "update parent set name = 'changed' where id = 1",
    "delete from child; delete from parent",
    "truncate parent, child restart identity",
    "select setval('parent_id_seq', 50)",
    "insert into checked values (2); insert into generated values ('2021-01-01')",
    "insert into typed (d) values (7); delete from typed where d = 1",
    "update alembic_version set version_num = 'other'",
    "vacuum full parent",
    "analyze",
    "create table made (id int); drop table made",
    "insert into large select generate_series(1, 50000); delete from large",
)

NOT_PUT_BACK = (
    "insert into counted values (2)",
    "insert into ruled values (2)",
    "update checked set id = 2",
    "update indexed set t = '2021-01-01'",
    "update generated set t = '2021-01-01'",
    "alter sequence parent_id_seq increment by 7",
    "alter sequence parent_id_seq restart with 50",
    "comment on table parent is 'mine'",
    "grant select on parent to public",
    "alter table parent disable trigger all",
    "create or replace view names as select name from parent where id > 1",
    "drop statistics of_names",
    "create publication all_of_it for all tables",
    "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()",
)


@pytest.mark.parametrize(
    ("statements", "same"), [(PUT_BACK, True), (NOT_PUT_BACK, False)], ids=["can", "cannot"]
)
def test_what_is_put_back_and_what_costs_a_new_clone(
    project: Project, statements: tuple[str, ...], *, same: bool
) -> None:
    """The next test finds all as it was; rows that only exact circumstances would bring back are not tried."""
    project.revision("one", ODD)
    project.write("test_it.py", KINDS.format(statements=statements, same=same))
    project.pytest(
        "--clonedb-isolation=truncate",
        "--clonedb-report",
        "-W",
        "ignore::clonedb.LeakedConnectionWarning",
    ).demand()


def test_the_report_says_why_a_clone_was_new(items: Project) -> None:
    """What cost it is named."""
    items.write(
        "test_it.py",
        """
        def test_creates(clonedb_connection):
            clonedb_connection.execute("create function f() returns int language sql as 'select 1'")
            clonedb_connection.commit()

        def test_other(clonedb_connection): pass
        """,
    )
    outcome = items.pytest("--clonedb-isolation=truncate", "--clonedb-report").demand()
    assert "the schema was changed (pg_" in outcome.out


XML = """
import psycopg

QUERY = "select x::text from documents"

def test_writes(clonedb_connection):
    clonedb_connection.execute("delete from documents")
    clonedb_connection.commit()

def test_finds_the_declaration(clonedb_connection):
    assert clonedb_connection.execute(QUERY).fetchone() == ('<?xml version="1.0" encoding="UTF-8"?><a/>',)
"""


def test_rows_whose_text_loses_something(project: Project, admin_dsn: str) -> None:
    """That is tried once, in a transaction that is undone; such a table costs a new clone."""
    with psycopg.connect(admin_dsn) as connection:
        try:
            connection.execute("select '<a/>'::xml")
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("this server has no xml")
    project.revision(
        "one",
        """
        op.execute("create table documents (x xml)")
        document = '<?xml version="1.0" encoding="UTF-8"?><a/>'
        op.get_bind().exec_driver_sql(f"insert into documents values (xmlparse(document '{document}'))")
        """,
    )
    project.write("test_it.py", XML)
    assert "2 clones" in project.pytest("--clonedb-isolation=truncate").demand().out


NEAREST = """
def test_writes(clonedb_connection):
    clonedb_connection.execute("insert into near values ('[1,1]')")
    clonedb_connection.commit()

def test_other(clonedb_connection): pass
"""


def test_an_index_in_which_deleted_rows_leave_traces(project: Project, admin_dsn: str) -> None:
    """After many deleted rows pgvector's hnsw finds fewer of those that are there, so that the clone is a new one."""
    with psycopg.connect(admin_dsn) as connection:
        if not connection.execute(
            "select 1 from pg_available_extensions where name = 'vector'"
        ).fetchone():
            pytest.skip("this server has no extension vector")
    project.revision(
        "one",
        """
        op.execute("create extension vector; create table near (place vector(2))")
        op.execute("create index on near using hnsw (place vector_l2_ops)")
        """,
    )
    project.write("test_it.py", NEAREST)
    assert "2 clones" in project.pytest("--clonedb-isolation=truncate").demand().out
