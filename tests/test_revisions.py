"""Clones at a revision: found by any of its names, built once, taken up and down with what is in them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from clonedb.api import Template
from clonedb.errors import ConfigError, MigrationError
from clonedb.migrate.recipes import require_revisions
from clonedb.project.find import find_project
from clonedb.revisions import RevisionDatabase, at, config_at, resolve
from clonedb.settings.config import Config
from clonedb.settings.load import load
from tests.migrate.test_env_py import ASYNC_ENV_PY
from tests.projects import Project, databases, one

pytestmark = pytest.mark.usefixtures("variables")


@pytest.fixture
def people(project: Project) -> Project:
    """A table of people, whose names the second revision splits and its downgrade joins."""
    project.revision(
        "1a2b_people",
        'op.execute("create table person (name text)")',
        'op.execute("drop table person")',
    )
    project.revision(
        "1a3c_split",
        """
        op.execute("alter table person add first text, add last text")
        op.execute("update person set first = split_part(name, ' ', 1), last = split_part(name, ' ', 2)")
        op.execute("alter table person drop name")
        """,
        """
        op.execute("alter table person add name text")
        op.execute("update person set name = first || ' ' || last")
        op.execute("alter table person drop first, drop last")
        """,
    )
    return project


@pytest.fixture
def settings(people: Project) -> Config:
    """The configuration of that project."""
    return load(people.directory)


@contextlib.contextmanager
def movable(template: Template) -> Iterator[RevisionDatabase]:
    """A clone of a template that can be taken up and down."""
    with (
        template.clone() as clone,
        contextlib.closing(
            RevisionDatabase(clone, require_revisions(template.recipe, "a test"))
        ) as db,
    ):
        yield db


def test_a_clone_goes_up_and_down_with_what_is_in_it(
    settings: Config, admin_dsn: str, prefix: str
) -> None:
    """What a migration does to rows is what such a test is about; a dropped clone leaves nothing running."""
    with at(settings, "1a2b") as template:
        assert template.heads == ("1a2b_people",)
        with movable(template) as db:
            engine = db.engine()
            with engine.begin() as connection:
                connection.execute(text("insert into person values ('Ada Lovelace')"))
            assert db.current() == ("1a2b_people",)
            assert db.upgrade().revisions == ("1a3c_split",)
            with engine.begin() as connection:
                assert connection.execute(text("select first, last from person")).one() == (
                    "Ada",
                    "Lovelace",
                )
            assert db.downgrade("-1").heads == ("1a2b_people",)
            assert one(db, "select name from person") == ("Ada Lovelace",)
            assert db.downgrade("base").heads == ()
            assert db.upgrade("+1").heads == ("1a2b_people",)
            assert one(db, "select count(*) from person") == (0,)
            name = db.name
        assert name not in databases(admin_dsn, prefix)


def test_the_second_use_is_a_clone(settings: Config) -> None:
    """By whatever name: both lead to one template, and it is not that of the heads."""
    with (
        at(settings, "1a2b") as first,
        at(settings, "1a2b_people") as second,
        at(settings, "heads") as heads,
    ):
        assert first.record.built
        assert not second.record.built
        assert first.name == second.name != heads.name


def test_seeds_are_left_out(people: Project) -> None:
    """They are written for the last revision."""
    people.settings(seed=["seed.sql"])
    people.write("seed.sql", "insert into person (first, last) values ('Grace', 'Hopper')")
    with at(load(people.directory), "1a2b") as template, template.clone() as db:
        assert one(db, "select count(*) from person") == (0,)


def test_base_is_an_empty_database(settings: Config) -> None:
    """From which everything can be tried."""
    with at(settings, "base") as template, movable(template) as db:
        assert db.current() == ()
        assert one(db, "select count(*) from pg_tables where tablename = 'person'") == (0,)
        assert db.upgrade("1a2b").heads == ("1a2b_people",)


def test_an_idle_pool_does_not_block_a_migration(settings: Config) -> None:
    """Connections that went back to the pool are closed before DDL wants its locks."""
    with at(settings, "1a2b") as template, movable(template) as db:
        engine = db.engine(pool_reset_on_return=None)
        with engine.connect() as connection:
            connection.execute(text("select * from person"))
        for _ in range(2):
            db.upgrade()
            with engine.connect() as connection:
                connection.execute(text("select * from person"))
            db.downgrade("-1")


@pytest.mark.campaign("long")
def test_an_open_transaction_is_told_of(settings: Config) -> None:
    """A test that waits for itself would wait for ever; it is told which statement to look for, and can go on."""
    with at(settings, "1a2b") as template, movable(template) as db:
        with db.connect(application_name="forgotten") as connection:
            connection.execute("select * from person")
            with pytest.raises(
                MigrationError,
                match=r"waits for a transaction that is left open.*'forgotten'.*person",
            ):
                db.upgrade()
            with db.connect(
                options="-c lock_timeout=5000"
            ) as other:  # nobody waits behind the migration that gave up
                other.execute("select * from person")
        assert db.upgrade().heads == ("1a3c_split",)


def test_a_failing_migration_is_that_error(people: Project) -> None:
    """Revision, direction, file and statement; the clone can still be looked at."""
    people.revision("1a4d_broken", "pass", 'op.execute("drop table never")')
    with at(load(people.directory), "heads") as template, movable(template) as db:
        with pytest.raises(
            MigrationError,
            match=r"downgrade of revision '1a4d_broken' \(migrations/versions/1a4d_brok",
        ):
            db.downgrade("base")
        assert db.current() == ("1a4d_broken",)
        with pytest.raises(
            ConfigError,
            match=r"downgrade\(\): there is no revision '1a2b_poeple' \(did you mean",
        ):
            db.downgrade("1a2b_poeple")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            "1a3c_splat",
            r"clonedb_at\('1a3c_splat'\): there is no revision '1a3c_splat' \(did you mean '1a3c_split'\?\) among the 2",
        ),
        (
            "1a",
            r"several revisions begin with '1a': 1a2b_people, 1a3c_split; write one of them out",
        ),
        ("", r"there is no revision ''"),
    ],
    ids=["nearest", "ambiguous", "nothing"],
)
def test_an_unknown_revision_is_one_message(settings: Config, asked: str, message: str) -> None:
    """The nearest name, or those that it may stand for, before any database is made."""
    with pytest.raises(ConfigError, match=message):
        at(settings, asked)


def test_what_only_alembic_knows_is_left_to_it(people: Project) -> None:
    """Relative revisions, branch labels, and names that a file works out."""
    settings = load(people.directory)
    project = find_project(settings)
    for revision in ("heads", "head", "base", "+1", "-1", "1a2b+1", "shop@head"):
        assert resolve(project, revision, "here") == revision
    path = people.revision("2a_label", "pass")
    path.write_text(
        re.sub(
            "(?m)^down_revision", "branch_labels = ('shop',)\ndown_revision", path.read_text()
        )
    )
    assert config_at(settings, "shop").target == "shop"
    path = people.revision("3a_counted", "pass")
    path.write_text(path.read_text().replace("'3a_counted'", "'3a_' + 'counted'"))
    assert config_at(settings, "3a_counted").target == "3a_counted"


@pytest.mark.parametrize(
    "line", ["revision: str = '9f'", 'revision = "9f"', "revision: Final[str] = '9f'"]
)
def test_revisions_are_read_as_alembic_writes_them(people: Project, line: str) -> None:
    """Its templates have had all of these."""
    path = people.revision("9f", "pass")
    path.write_text(path.read_text().replace("revision = '9f'", line, 1))
    assert resolve(find_project(load(people.directory)), "9", "here") == "9f"


def test_an_asynchronous_env_py_serves_clones(people: Project) -> None:
    """As it serves templates."""
    people.write("migrations/env.py", ASYNC_ENV_PY)
    ini = people.directory / "alembic.ini"
    ini.write_text(ini.read_text().replace("+psycopg", "+asyncpg"))
    with at(load(people.directory), "1a2b") as template, movable(template) as db:
        assert db.upgrade().heads == ("1a3c_split",)
        assert db.downgrade("-1").heads == ("1a2b_people",)
