"""What the migrations, seeds and settings made of the template is what its clones have."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import psycopg
import pytest

import clonedb
from clonedb.clones.clone import create_empty
from clonedb.errors import ConfigError, SeedError
from clonedb.url import DatabaseURL
from tests.projects import Project, one

pytestmark = pytest.mark.usefixtures("variables")


SETTINGS = """
do $do$
begin
  execute format('alter database %I set search_path = "My App", "odd, name", public', current_database());
  execute format($q$alter database %I set app.tenant = 'it''s "one", really'$q$, current_database());
  execute format($q$alter database %I set statement_timeout = '90s'$q$, current_database());
  execute format('alter database %I set default_transaction_read_only = on', current_database());
  execute format($q$alter database %I set datestyle = 'SQL, DMY'$q$, current_database());
  execute format('alter role ROLE in database %I set search_path = own, "My App"', current_database());
  execute format($q$alter role ROLE in database %I set role = 'ROLE'$q$, current_database());
  execute format($q$alter role ROLE in database %I set work_mem = '7MB'$q$, current_database());
  execute format('revoke all on database %I from public', current_database());
  execute format('grant connect on database %I to ROLE', current_database());
  execute format('grant create on database %I to ROLE with grant option', current_database());
  execute format($q$comment on database %I is 'the shop''s'$q$, current_database());
end
$do$
"""
OWN = """
select (select array_agg(c order by c collate "C") from pg_db_role_setting s, unnest(setconfig) c
        where setdatabase = d.oid and setrole = 0),
       (select array_agg(c order by c collate "C") from pg_db_role_setting s, unnest(setconfig) c
        where setdatabase = d.oid and setrole <> 0),
       (select array_agg(a::text) from unnest(datacl) a where a::text !~ '^postgres='),
       shobj_description(oid, 'pg_database')
from pg_database d where datname = current_database()
"""


def test_what_belongs_to_the_database_is_on_the_clones(project: Project, prefix: str) -> None:
    """ALTER DATABASE SET, ALTER ROLE IN DATABASE SET, grants and comment, which CREATE DATABASE does not copy."""
    role = f"{prefix}_app"
    project.revision("one", f"op.execute({SETTINGS.replace('ROLE', role)!r})")
    project.settings(roles=[role])
    for built in (True, False):
        with clonedb.template(project.directory) as template, template.clone() as clone:
            assert template.record.built is built
            for_all, for_role, grants, comment = one(clone, OWN)
            assert for_all == [
                "DateStyle=SQL, DMY",
                'app.tenant=it\'s "one", really',
                "default_transaction_read_only=on",
                'search_path="My App", "odd, name", public',
                "statement_timeout=90s",
            ]
            assert for_role == [f"role={role}", 'search_path=own, "My App"', "work_mem=7MB"]
            assert grants == [f"{role}=C*c/postgres"]
            assert comment == "the shop's"
            current = "select current_setting('app.tenant'), current_setting('search_path'), now()::date::text ~ '/'"
            assert one(clone, current) == (
                'it\'s "one", really',
                '"My App", "odd, name", public',
                True,
            )


def test_a_role_may_not_connect_where_the_migrations_forbid_it(
    project: Project, prefix: str, admin_dsn: str
) -> None:
    """REVOKE CONNECT FROM PUBLIC and GRANT ... TO a role hold for real connections to a clone."""
    allowed, refused = f"{prefix}_in", f"{prefix}_out"
    project.revision(
        "one",
        "name = op.get_bind().exec_driver_sql('select current_database()').scalar()\n"
        "op.execute(f'revoke connect on database \"{name}\" from public')\n"
        f"op.execute(f'grant connect on database \"{{name}}\" to {allowed}')",
    )
    project.settings(roles=[allowed, refused])
    with clonedb.template(project.directory) as template, template.clone() as clone:
        with psycopg.connect(admin_dsn, autocommit=True) as connection:
            for role in (allowed, refused):
                connection.execute(f"alter role {role} login password 'x'".encode())
        url = DatabaseURL.parse(clone.dsn)
        with psycopg.connect(url.replace(user=allowed, password="x").render()) as connection:
            assert connection.info.user == allowed
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(url.replace(user=refused, password="x").render())


def test_roles_are_created_when_they_are_missing(project: Project, prefix: str) -> None:
    """`roles` are there before the migrations grant them anything, and one that is there already does not matter."""
    role = f"{prefix}_Reader"
    grants = f"op.execute('create table item (x int)')\nop.execute('grant select on item to \"{role}\"')"
    project.revision("one", grants)
    project.settings(roles=[role])
    for salt in ("first", "second"):
        with (
            clonedb.template(project.directory, salt=salt) as template,
            template.clone() as clone,
        ):
            assert one(clone, f"select has_table_privilege('{role}', 'item', 'select')") == (
                True,
            )
            assert one(clone, f"select rolcanlogin from pg_roles where rolname = '{role}'") == (
                False,
            )


def test_seeds(items: Project) -> None:
    """SQL files of several statements, and functions that get a SQLAlchemy connection, in the order given."""
    items.write(
        "seeds/first.sql",  # with a byte order mark, as some editors write it
        "\N{ZERO WIDTH NO-BREAK SPACE}create table log (id serial, what text);\ninsert into log (what) values ('100 %; $1');",
    )
    items.write(
        "shop/seeds.py",
        """
        import sqlalchemy as sa

        def leaves_it_to_clonedb(connection):
            assert isinstance(connection, sa.Connection)
            connection.execute(sa.text("insert into log (what) values ('without commit')"))

        class Fill:
            @staticmethod
            def commits(connection):
                connection.execute(sa.text("insert into log (what) values ('with commit')"))
                connection.commit()
                connection.execute(sa.text("insert into log (what) values ('rolled back')"))
                connection.rollback()
        """,
    )
    items.settings(
        seed=["seeds/first.sql", "shop.seeds:leaves_it_to_clonedb", "shop.seeds:Fill.commits"]
    )
    expected = (["100 %; $1", "without commit", "with commit"],)
    with clonedb.template(items.directory) as template, template.clone() as clone:
        assert one(clone, "select array_agg(what order by id) from log") == expected
    items.write("seeds/first.sql", "create table log (id serial, what text);")
    with clonedb.template(items.directory) as again:
        assert again.name != template.name
    items.write("shop/later.py", "async def seed(connection):\n    raise AssertionError\n")
    items.settings(seed=["shop.later:seed"])
    with pytest.raises(
        SeedError,
        match=r"seed 'shop.later:seed' failed: TypeError: this seed is a coroutine function",
    ):
        clonedb.template(items.directory)
    items.settings(seed=["seeds/first.sql"])
    items.write("seeds/first.sql", "insert into nowhere values (1);")
    with pytest.raises(
        SeedError, match=r"seed 'seeds/first.sql' \(seeds/first.sql:1\) failed: UndefinedTable"
    ):
        clonedb.template(items.directory)


def test_extensions_are_there_before_the_migrations(project: Project) -> None:
    """`extensions` are created first, and once."""
    project.revision("one", 'op.execute("create table item (name citext)")')
    project.settings(extensions=["citext"])
    with clonedb.template(project.directory) as template, template.clone() as clone:
        assert one(clone, "select 'A'::citext = 'a'::citext, count(*) from pg_extension") == (
            True,
            2,
        )


@pytest.mark.parametrize("strategy", ["auto", "wal_log", "file_copy"])
def test_the_strategy_is_chosen(items: Project, strategy: Any, admin_dsn: str) -> None:
    """`strategy` decides how CREATE DATABASE copies; by itself it is by file where nothing is flushed."""
    query = """
        select record_type from pg_get_wal_records_info(%s, pg_current_wal_insert_lsn())
        where resource_manager = 'Database' and description ~ ('/' || (select oid from pg_database where datname = current_database()) || '$')
    """
    with clonedb.template(items.directory, strategy=strategy) as template:
        with psycopg.connect(admin_dsn) as admin:
            before = admin.execute("select pg_current_wal_insert_lsn()").fetchone()
        with template.clone() as clone, clone.connect() as connection:
            connection.execute("create extension pg_walinspect")
            expected = "FILE_COPY" if strategy == "auto" else strategy.upper()
            assert connection.execute(query.encode(), before).fetchall() == [
                (f"CREATE_{expected}",)
            ]
            assert connection.execute("select count(*) from item").fetchone() == (1,)


def test_sequences_go_on_where_the_migrations_left_them(project: Project) -> None:
    """The next value of each sequence is what it would be in the migrated database itself."""
    project.revision(
        "one",
        """
        for name in ("untouched start 7", "used", "cycled maxvalue 3 cycle", '"Odd name" increment -2 start 5'):
            op.execute(f"create sequence {name} " + ("minvalue -9 maxvalue 9" if "-2" in name else ""))
        op.execute("select nextval('used') from generate_series(1, 40)")
        op.execute("select setval('cycled', 3)")
        op.execute('''select nextval('"Odd name"'), nextval('"Odd name"')''')
        op.execute("create table item (id int generated always as identity)")
        """,
    )
    query = """select nextval('untouched'), nextval('used'), nextval('cycled'), nextval('"Odd name"')"""
    with clonedb.template(project.directory) as template:
        for _ in range(2):
            with template.clone() as clone:
                assert one(clone, query) == (7, 41, 1, 1)
                assert one(clone, "insert into item default values returning id") == (1,)


@pytest.mark.campaign("long")
def test_a_data_file_that_no_watch_names_is_warned_about(items: Project) -> None:
    """A change in it would go unseen; the warning says what to write, and is gone when that is written."""
    items.write("data/countries.csv", "de\nfr\n")
    items.revision("three", "open('data/countries.csv').close()\nopen('/etc/hostname').close()")
    with contextlib.chdir(items.directory):
        with pytest.warns(UserWarning, match="clonedb: the build read files") as caught:
            clonedb.template().close()
        assert 'add watch = ["data/countries.csv"] to [tool.clonedb]' in str(caught[0].message)
        assert caught[0].filename == __file__
        with warnings.catch_warnings(action="error"):
            clonedb.template().close()
        with pytest.raises(UserWarning, match="watch"):
            clonedb.template(salt="another").close()
        items.settings(watch=["data/*.csv"])
        clonedb.template().close()
        outcome = items.clonedb("build", "--force", CLONEDB_WATCH="[]").demand()
    assert "clonedb: the build read files that are not in the fingerprint" in outcome.err


def test_bytecode_that_a_build_writes_is_no_file_it_reads(items: Project) -> None:
    """The first build of a checkout writes __pycache__ beside the revisions, and warns of nothing."""
    outcome = items.clonedb("build", PYTHONDONTWRITEBYTECODE="").demand()
    assert list(items.directory.glob("migrations/versions/__pycache__/one.*.pyc"))
    assert "not in the fingerprint" not in outcome.err


LOCALE = "select datcollate, (select min(x) from unnest(array['b', 'A', 'a']) x) from pg_database where datname = current_database()"


def test_the_locale_of_the_template(items: Project, admin_dsn: str) -> None:
    """Clones have it, and databases that no migration has run in; it is part of the fingerprint, and may be missing."""
    items.settings()
    with (
        clonedb.template(items.directory) as server_s,
        clonedb.template(items.directory, locale="C") as template,
    ):
        assert template.fingerprint != server_s.fingerprint
        with (
            template.clone() as clone,
            create_empty(template.server, template.recipe.config) as empty,
        ):
            assert one(clone, LOCALE) == one(empty, LOCALE) == ("C", "A")
    with pytest.raises(
        ConfigError, match=r"cannot make a database with locale 'xx_YY': .*`locale -a` lists"
    ):
        clonedb.template(items.directory, locale="xx_YY")
    with psycopg.connect(admin_dsn) as connection:
        icu = connection.execute(
            "select exists (select from pg_collation where collname = 'und-x-icu')"
        ).fetchone()
    if icu == (True,):
        with (
            clonedb.template(items.directory, locale="icu:en-US") as template,
            template.clone() as clone,
        ):
            assert one(clone, LOCALE)[1] == "a"
