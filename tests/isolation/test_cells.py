"""The README's table of what each isolation resets: every cell is measured, one test dirtying what the next looks at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from tests.projects import Project

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

# subject: what a test does, and a query that is true for whoever finds nothing of it
SUBJECTS = {
    "rows": ("insert into item (name) values ('new'); delete from item where name = 'also'", "(select array_agg(name order by id) = '{seeded,also}' from item)"),
    "rows of unlogged tables": ("insert into scratch values (2)", "(select count(*) = 1 from scratch)"),
    "sequences": ("select nextval('numbers'), nextval('item_id_seq')", "(select last_value = 100 and not is_called from numbers) and (select last_value = 2 from item_id_seq)"),
    "tables": ("create table made (id int)", "to_regclass('made') is null"),
    "types": ("create type made_type as enum ('a')", "to_regtype('made_type') is null"),
    "functions": ("create function made() returns int language sql as 'select 1'", "to_regproc('made') is null"),
    "schemas": ("create schema made_schema", "to_regnamespace('made_schema') is null"),
    "extensions": ("create extension hstore", "to_regtype('hstore') is null"),
    "large objects": ("select lo_create(5)", "not exists (select from pg_largeobject_metadata where oid = 5)"),
    "materialized views": ("set session_replication_role = replica; delete from source; refresh materialized view names; insert into source values ('seeded'), ('also'); reset session_replication_role", "(select count(*) = 2 from names)"),
    "settings of the database (`ALTER DATABASE ... SET`)": ("do $$ begin execute format('alter database %I set work_mem = ''3MB''', current_database()); end $$", "not exists (select from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase where datname = current_database() and setconfig::text ~ 'work_mem')"),
    "settings of the session": ("set work_mem = '5MB'", "current_setting('work_mem') <> '5MB'"),
    "advisory locks": ("select pg_advisory_lock(42)", "not exists (select from pg_locks l join pg_database d on d.oid = l.database where datname = current_database() and locktype = 'advisory')"),
    "prepared statements": ("prepare made_statement as select 1", "not exists (select from pg_prepared_statements where from_sql)"),
    "LISTEN": ("listen made_channel", "not exists (select from pg_listening_channels())"),
    "temporary tables": ("create temporary table made_temporarily (id int)", "to_regclass('pg_temp.made_temporarily') is null"),
    "roles": ("create role {role}", "not exists (select from pg_roles where rolname = '{role}')"),
}  # fmt: skip

SCHEMA = """
op.execute('''
    create table item (id serial primary key, name text not null);
    insert into item (name) values ('seeded'), ('also');
    create unlogged table scratch (id int);
    insert into scratch values (1);
    create sequence numbers start 100;
    create table source (name text);
    insert into source values ('seeded'), ('also');
    create materialized view names as select name from source;
''')
"""
DOWN = 'op.execute("drop materialized view names; drop table item, scratch, source; drop sequence numbers")'

TESTS = """
import pytest, sqlalchemy as sa

SUBJECTS = {subjects!r}
MEASURED = {{}}
CASES = [  # what the test before dirtied, and what this one dirties
    pytest.param(isolation, before, numbers, marks=pytest.mark.clonedb(isolation=isolation))
    for isolation, batches in {batches!r}.items() for before, numbers in zip([[], *batches], [*batches, []])
]

@pytest.fixture(scope="session", autouse=True)
def write_down():
    yield
    import json, pathlib
    pathlib.Path("measured.json").write_text(json.dumps([[*key, cell] for key, cell in MEASURED.items()]))

@pytest.mark.filterwarnings("ignore::clonedb.ReadonlyWarning")
@pytest.mark.parametrize("isolation, before, numbers", CASES)
def test_cells(clonedb, clonedb_session, isolation, before, numbers):
    for number in before:
        if MEASURED[isolation, number] != "refused":
            if not is_clean(clonedb_session, isolation, number):
                MEASURED[isolation, number] = "no"
            elif MEASURED[isolation, number] != clonedb.name:
                MEASURED[isolation, number] = "new clone"
            else:
                MEASURED[isolation, number] = "yes"
            clonedb_session.rollback()
    assert all(is_clean(clonedb_session, isolation, number) for number in numbers)
    clonedb_session.commit()
    for number in numbers:
        MEASURED[isolation, number] = dirty(clonedb_session, isolation, number) or clonedb.name

def is_clean(session, isolation, number):
    return session.scalar(sa.text("select " + SUBJECTS[number][1].replace("{{role}}", f"{role}_{{isolation}}")))

def dirty(session, isolation, number):
    statement = SUBJECTS[number][0].replace("{{role}}", f"{role}_{{isolation}}")
    try:
        for one in [statement] if statement.startswith("do ") else statement.split("; "):
            session.execute(sa.text(one))
        session.commit()
    except sa.exc.DBAPIError:
        assert isolation == "readonly"
        session.rollback()
        return "refused"
"""


def cells() -> Iterator[tuple[str, str, str]]:
    """Isolation, subject and cell of the README's table, footnotes left out."""
    table = (
        README.partition("<!-- cells -->\n")[2]
        .partition("<!-- end -->")[0]
        .strip()
        .splitlines()
    )
    head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    for subject, *row in lines:
        for isolation, cell in zip(head[1:], row, strict=True):
            yield isolation.strip("`"), subject, re.sub(r" \[\d\]$", "", cell)


def batches(said: dict[tuple[str, str], str], isolation: str) -> list[list[int]]:
    """The numbers of the subjects that one test dirties and the next looks at.

    Those that cost no new clone go together. One that does would hide the others, and so might any under `auto`, whose
    clones are not told apart in the table.
    """
    alone, together = [], []
    for number, subject in enumerate(SUBJECTS):
        if isolation == "auto" or said[isolation, subject] == "new clone":
            alone.append([number])
        else:
            together.append(number)
    return [*alone, together] if together else alone


@pytest.fixture
def server_major(admin_dsn: str) -> int:
    """The server's major version."""
    with psycopg.connect(admin_dsn) as connection:
        return connection.info.server_version // 10000


def test_every_subject_is_measured() -> None:
    """The table's rows are what is measured here."""
    assert list(dict.fromkeys(subject for _, subject, _ in cells())) == list(SUBJECTS)


def test_every_cell_holds(
    project: Project, prefix: str, admin_dsn: str, server_major: int
) -> None:
    """What is found out about each isolation and each subject is what the README says."""
    project.revision("one", SCHEMA, DOWN)
    said = {(isolation, subject): cell for isolation, subject, cell in cells()}
    if server_major < 16:
        said["readonly", "large objects"] = "new clone"
    project.write(
        "test_it.py",
        TESTS.format(
            batches={isolation: batches(said, isolation) for isolation, _ in said},
            subjects=[*SUBJECTS.values()],
            role=f"{prefix}_role",
        ),
    )
    try:
        project.pytest("-x").demand()
    finally:
        with psycopg.connect(admin_dsn, autocommit=True) as connection:
            roles = connection.execute(
                "select rolname from pg_roles where starts_with(rolname, %s)",
                [f"{prefix}_role"],
            )
            for (name,) in roles.fetchall():
                connection.execute(SQL("drop role {}").format(Identifier(name)))
    names = list(SUBJECTS)
    found = {
        (isolation, names[number]): cell
        for isolation, number, cell in json.loads(
            (project.directory / "measured.json").read_text()
        )
    }
    for key, cell in found.items():
        if key[0] in ("auto", "clone") and cell == "new clone":  # there it is no news
            found[key] = "yes"
    assert found == said
