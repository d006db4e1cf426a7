"""Each fixture does what its docstring says, with xdist, without it, and when a project overrides it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.campaigns import VARIANT
from tests.projects import Project

EACH_FIXTURE = """
import psycopg, pytest, sqlalchemy as sa
from urllib.parse import urlsplit
from sqlalchemy.orm import Session
from clonedb import Config, Database, Template

def test_config(clonedb_config):
    assert isinstance(clonedb_config, Config)
    assert clonedb_config.source("prefix") == "CLONEDB_PREFIX"

def test_template(clonedb_template):
    assert isinstance(clonedb_template, Template)
    assert clonedb_template.heads == ("two",)
    with clonedb_template.clone() as clone, clone.connect() as connection:
        assert connection.execute("select name from item").fetchall() == [("seeded",)]
        connection.close()

def test_clone(clonedb):
    assert isinstance(clonedb, Database)
    assert urlsplit(clonedb.dsn).path == f"/{clonedb.name}"
    with clonedb.connect(autocommit=True) as connection:
        assert connection.info.dbname == clonedb.name
        password = connection.info.password
    assert len(password) > 20 and password not in repr(clonedb)

def test_url(clonedb, clonedb_url):
    assert clonedb_url == clonedb.url
    assert clonedb_url.startswith("postgresql+psycopg://postgres:")
    engine = sa.create_engine(clonedb_url)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("select current_database()")) == clonedb.name
    engine.dispose()

def test_dsn(clonedb, clonedb_dsn):
    assert clonedb_dsn == clonedb.dsn
    with psycopg.connect(clonedb_dsn) as connection:
        assert connection.info.dbname == clonedb.name

def test_connection(clonedb, clonedb_connection):
    assert isinstance(clonedb_connection, psycopg.Connection)
    assert clonedb_connection.info.dbname == clonedb.name
    clonedb_connection.execute("insert into item (name) values ('not committed')")
    with clonedb.connect() as other:
        assert other.execute("select count(*) from item").fetchone() == (1,)

def test_engine(clonedb, clonedb_engine):
    assert isinstance(clonedb_engine, sa.Engine)
    with clonedb_engine.begin() as connection:
        connection.execute(sa.text("insert into item (name) values ('committed')"))
    with clonedb.connect() as other:
        assert other.execute("select count(*) from item").fetchone() == (2,)

def test_sessionmaker(clonedb_engine, clonedb_sessionmaker):
    with clonedb_sessionmaker.begin() as one, clonedb_sessionmaker() as other:
        assert one.get_bind() is clonedb_engine
        one.execute(sa.text("insert into item (name) values ('of one')"))
        assert other.scalar(sa.text("select count(*) from item")) == 1

def test_session(clonedb, clonedb_session):
    assert isinstance(clonedb_session, Session)
    clonedb_session.execute(sa.text("insert into item (name) values ('committed')"))
    clonedb_session.commit()
    with clonedb.connect() as other:
        assert other.execute("select count(*) from item").fetchone() == (2,)

def test_factory(clonedb, clonedb_factory):
    made = [clonedb_factory() for _ in range(2)]
    assert len({clonedb.name, *(clone.name for clone in made)}) == 3
    for clone in made:
        with clone.connect() as connection:
            connection.execute("delete from item")
    with clonedb.connect() as connection:
        assert connection.execute("select count(*) from item").fetchone() == (1,)

HAVOC = [
    "insert into item (name) values ('more'); select nextval('item_id_seq') from generate_series(1, 50)",
    "drop table item; create table other (x int)",
    "truncate item restart identity",
    "alter table item add column extra int; update item set name = 'changed'",
]

@pytest.mark.parametrize("havoc", HAVOC * 2, ids=range(8))
def test_fresh(clonedb_connection, havoc):
    rows = clonedb_connection.execute("select id, name, nextval('item_id_seq') from item").fetchall()
    assert rows == [(1, "seeded", 2)]
    tables = clonedb_connection.execute("select tablename from pg_tables where schemaname = 'public' order by 1")
    assert tables.fetchall() == [("alembic_version",), ("item",)]
    clonedb_connection.execute(havoc)
    clonedb_connection.commit()
"""


@pytest.mark.parametrize(
    "arguments",
    [pytest.param(("-n", "0"), marks=VARIANT), ("-n", "2"), ("-p", "no:xdist")],
    ids=["n0", "n2", "no-xdist"],
)
def test_each_fixture_keeps_its_word(
    items: Project, clones: Callable[[], list[str]], arguments: tuple[str]
) -> None:
    """Every test is given the migrated state, by each fixture, whatever the tests before it committed."""
    items.write("test_it.py", EACH_FIXTURE)
    outcome = items.pytest(
        "-W", "error", "-q", "--clonedb-isolation=clone", *arguments
    ).demand()
    assert "18 passed" in outcome.out
    assert "; 18 clones; a test paid" in outcome.out
    assert clones() == []
    outcome = items.pytest("-W", "error", "-q", "--clonedb-report", *arguments).demand()
    assert "18 passed" in outcome.out
    assert "4 not rewound: a catalog was written (DDL)" in outcome.out
    assert "a test paid" in outcome.out
    assert clones() == []


def test_a_conftest_overrides_the_configuration(items: Project) -> None:
    """`clonedb_config` in a conftest sets keys in code, and they win over every other place."""
    items.write(
        "conftest.py",
        """
        import pytest

        @pytest.fixture(scope="session")
        def clonedb_config(clonedb_config):
            return clonedb_config.replace("conftest.py", target="one", driver="psycopg2", isolation="worker")
        """,
    )
    items.write(
        "test_it.py",
        """
        names = set()

        def test_one(clonedb_config, clonedb_template, clonedb, clonedb_connection):
            assert clonedb_config.source("target") == "conftest.py"
            assert clonedb_template.heads == ("one",)
            assert clonedb.url.startswith("postgresql+psycopg2://") and clonedb.dsn.startswith("postgresql://")
            assert clonedb_connection.execute("select count(*) from item").fetchone() == (0,)
            names.add(clonedb.name)

        def test_two(clonedb, clonedb_engine):
            assert clonedb_engine.dialect.driver == "psycopg2"
            assert names == {clonedb.name}
        """,
    )
    items.pytest("--clonedb-isolation", "clone", CLONEDB_TARGET="two").demand()


def test_directories_with_configurations_of_their_own(
    items: Project, clones: Callable[[], list[str]]
) -> None:
    """pytest makes one `clonedb_template` for all directories: a second configuration is refused, with the remedy."""
    override = """
        import pytest
        {imports}
        @pytest.fixture(scope="session")
        def clonedb_config(clonedb_config):
            return clonedb_config.replace("conftest.py", target="{target}")
        """
    for target, count in {"one": 0, "two": 1}.items():
        items.write(f"{target}/conftest.py", override.format(target=target, imports=""))
        items.write(
            f"{target}/test_{target}.py",
            f"""
            import pytest

            def test_count(clonedb_connection):
                assert clonedb_connection.execute("select count(*) from item").fetchone() == ({count},)

            @pytest.mark.clonedb(isolation="worker")
            def test_worker(clonedb_connection):
                assert clonedb_connection.execute("select count(*) from item").fetchone() == ({count},)
            """,
        )
    refused = items.pytest().demand(1)
    assert "2 passed, 2 errors" in refused.out
    assert (
        "write `from clonedb.pytest_plugin import clonedb_template` in each of them"
        in refused.out
    )
    assert clones() == []
    for target in ("one", "two"):
        imports = "from clonedb.pytest_plugin import clonedb_template"
        items.write(f"{target}/conftest.py", override.format(target=target, imports=imports))
    outcome = items.pytest().demand()
    assert outcome.out.count("clonedb: template ") == 1
    assert "; 4 clones; " in outcome.out
    assert clones() == []


def test_a_template_of_the_projects_own_making(
    items: Project, clones: Callable[[], list[str]]
) -> None:
    """`clonedb_template` can be overridden too; its clones are counted, kept and dropped like all others."""
    items.write(
        "conftest.py",
        """
        import clonedb, pytest

        @pytest.fixture(scope="session")
        def clonedb_template():
            with clonedb.template(target="one") as template:
                yield template
        """,
    )
    items.write(
        "test_it.py",
        """
        import pytest

        @pytest.mark.parametrize("isolation", [pytest.param(n, marks=pytest.mark.clonedb(isolation=n)) for n in ("clone", "worker")])
        def test_count(clonedb_connection, isolation):
            assert clonedb_connection.execute("select count(*) from item").fetchone() == (0,)

        def test_fails(clonedb):
            assert not clonedb
        """,
    )
    outcome = items.pytest().demand(1)
    assert "2 passed" in outcome.out.splitlines()[-1]
    assert "on embedded server" in outcome.out
    assert "; 3 clones; " in outcome.out
    (kept,) = clones()
    assert f"database kept: clonedb psql {kept}" in outcome.out


def test_a_parametrized_configuration(items: Project, clones: Callable[[], list[str]]) -> None:
    """A project may run its tests against several targets or servers: `clonedb_config` with params."""
    items.write(
        "conftest.py",
        """
        import pytest

        @pytest.fixture(scope="session", params=["one", "two"])
        def clonedb_config(clonedb_config, request):
            return clonedb_config.replace("conftest.py", target=request.param, isolation="worker")
        """,
    )
    items.write(
        "test_it.py", "def test_heads(clonedb, clonedb_template): assert clonedb_template.heads"
    )
    outcome = items.pytest().demand()
    assert "2 passed" in outcome.out
    assert "; 2 clones; " in outcome.out
    assert clones() == []
