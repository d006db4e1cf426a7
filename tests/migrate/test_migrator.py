"""The migrator: a database goes up and down as under the alembic command, and says where it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clonedb.errors import MigrationError, SeedError, VerificationError
from clonedb.project.find import find_project
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL
from tests.migrate.conftest import Ask
from tests.migrate.test_env_py import ASYNC_ENV_PY
from tests.migrators import Migrator, Migrators
from tests.projects import ALEMBIC_INI, ENV_PY, Project


@pytest.fixture
def three(project: Project) -> Project:
    """Three revisions, each of which makes a table of its name and drops it again."""
    for name in ("one", "two", "three"):
        project.revision(
            name,
            f'op.execute("create table {name} (id int)")',
            f'op.execute("drop table {name}")',
        )
    return project


def test_up_and_down(three: Project, migrator: Migrators, url: DatabaseURL, ask: Ask) -> None:
    """To a revision, to the heads, down to a revision and to base; each says what ran and where that led."""
    migrations = migrator()
    assert migrations.current(url) == ()
    assert ask("select count(*) from pg_tables where tablename = 'alembic_version'") == [(0,)]
    up = migrations.upgrade(url, "two")
    assert (up.heads, up.revisions, up.version_tables) == (
        ("two",),
        ("one", "two"),
        (("alembic_version", None),),
    )
    assert migrations.current(url) == ("two",)
    assert migrations.upgrade(url).revisions == ("three",)
    down = migrations.downgrade(url, "one")
    assert (down.heads, down.revisions) == (("one",), ("three", "two"))
    assert [path.name for path in down.scripts] == ["three.py", "two.py"]
    assert ask("select tablename from pg_tables where schemaname = 'public' order by 1") == [
        ("alembic_version",),
        ("one",),
    ]
    assert migrations.downgrade(url).heads == ()
    assert migrations.downgrade(url).revisions == ()


def test_relative_revisions(three: Project, migrator: Migrators, url: DatabaseURL) -> None:
    """+1 and -1 count from where the database is."""
    with migrator().session(url) as session:
        assert session.upgrade("+1").heads == ("one",)
        assert session.upgrade("+2").heads == ("three",)
        assert session.downgrade("-1").heads == ("two",)
        assert session.downgrade("-2").heads == ()
        assert session.upgrade("base").revisions == ()
        with pytest.raises(
            MigrationError, match="Relative revision -1 didn't produce 1 migrations"
        ):
            session.downgrade("-1")


def test_an_asynchronous_env_py_goes_up_and_down(
    three: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """asyncio.run() in env.py, several times in one interpreter."""
    three.write("migrations/env.py", ASYNC_ENV_PY)
    three.write("alembic.ini", ALEMBIC_INI.replace("+psycopg", "+asyncpg"))
    with migrator().session(url) as session:
        assert session.upgrade().heads == ("three",)
        assert session.downgrade("-1").heads == ("two",)
        assert session.current() == ("two",)


def test_several_heads_and_a_merge_point(
    three: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """A merge point's parents come back when it is undone."""
    three.revision(
        "side",
        'op.execute("create table side (id int)")',
        'op.execute("drop table side")',
        down="one",
    )
    three.revision("merged", "pass", down=("three", "side"))
    with migrator().session(url) as session:
        assert session.upgrade().heads == ("merged",)
        assert set(session.downgrade("three").heads) == {"three", "side"}
        assert set(session.current()) == {"three", "side"}
        assert session.downgrade().heads == ()


def test_env_py_that_does_not_commit_is_found_out(
    three: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """Down and by relative revisions too, where no target says what should be left."""
    migrations = migrator()
    migrations.upgrade(url)
    three.write(
        "migrations/env.py",
        ENV_PY.replace("with context.begin_transaction():", "if True:").replace(
            "context.configure(", "connection.exec_driver_sql('select 1'); context.configure("
        ),
    )
    for target in ("two", "-1"):
        with pytest.raises(
            VerificationError,
            match=r"'alembic_version' holds three and not two; does env.py commit",
        ):
            migrations.downgrade(url, target)


def test_a_failing_downgrade_is_shown_as_one(
    three: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """Revision, direction, file, line and statement; the interpreter goes on."""
    three.revision("four", "pass", 'op.execute("drop table never")')
    with migrator().session(url) as session:
        session.upgrade()
        with pytest.raises(MigrationError) as caught:
            session.downgrade()
        assert session.current() == ("four",)
        assert session.downgrade("four").revisions == ()
    first, *details = str(caught.value).splitlines()
    assert first.startswith(
        "downgrade of revision 'four' (migrations/versions/four.py:14) failed: UndefinedTable:"
    )
    assert "statement: drop table never" in details
    assert any("four.py" in line for line in details)


def test_a_database_that_others_migrated_is_taken_further(
    three: Project,
    migrator: Migrators,
    make_project: Callable[[str], Project],
    url: DatabaseURL,
    ask: Ask,
) -> None:
    """Other migrations with a version table of their own were there first: only the rest is run, and only its seeds."""
    base = make_project("base")
    base.items()
    base.write(
        "migrations/env.py",
        ENV_PY.replace(
            "target_metadata=target_metadata",
            "target_metadata=target_metadata, version_table='base_version'",
        ),
    )
    base.write("seed.sql", "insert into item (name) values ('base');")
    three.write(
        "seed.sql", "insert into item (name) values ('rest'); insert into three values (3);"
    )
    config = Config(rootdir=base.directory).replace("tests", seed=["seed.sql"])
    first = Migrator(config, find_project(config)).migrate(url)
    assert (first.heads, first.version_tables) == (("two",), (("base_version", None),))

    partly = migrator(target="two").migrate(url)
    assert partly.revisions == ("one", "two")
    rest = migrator(seed=["seed.sql"]).migrate(url)
    assert (rest.revisions, rest.heads) == (("three",), ("three",))
    assert rest.version_tables == (("alembic_version", None),)
    assert ask(
        "select string_agg(name, ' ' order by id), (select count(*) from three) from item"
    ) == [("seeded base rest", 1)]
    assert ask("select version_num from base_version") == [("two",)]


def test_a_version_table_with_others_revisions_is_explained(
    three: Project, migrator: Migrators, url: DatabaseURL, ask: Ask
) -> None:
    """Two histories in one version table: Alembic's message, and what to do."""
    migrations = migrator()
    migrations.upgrade(url)
    for path in (three.directory / "migrations/versions").glob("t*.py"):
        path.unlink()
    with pytest.raises(
        MigrationError,
        match=r"Can't locate revision identified by 'three'[^~]*version_table of their",
    ):
        migrations.upgrade(url)


def test_seeds_alone(three: Project, migrator: Migrators, url: DatabaseURL, ask: Ask) -> None:
    """A migrated database is filled, by a file and by a function; no revision is run."""
    three.write("seed.sql", "insert into one values (1)")
    three.write(
        "seeds.py",
        """
        import sqlalchemy
        from pathlib import Path

        def two(connection):
            Path(__file__).with_name("data.txt").read_text()
            connection.execute(sqlalchemy.text("insert into one values (2)"))
        """,
    )
    data = three.write("data.txt", "data")
    migrations = migrator()
    migrations.upgrade(url, "one")
    assert migrations.seed(url, ["seed.sql", "seeds:two"]) == (Path(data),)
    assert ask("select id from one order by 1") == [(1,), (2,)]
    assert migrations.current(url) == ("one",)
    three.write("wrong.sql", "insert into never values (1)")
    with pytest.raises(
        SeedError, match=r"seed 'wrong.sql' \(wrong.sql:1\) failed: UndefinedTable"
    ):
        migrations.seed(url, ["wrong.sql"])
