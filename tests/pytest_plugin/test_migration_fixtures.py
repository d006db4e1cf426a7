"""The fixtures for tests of migrations: clones at revisions, and an empty database for pytest-alembic."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import clonedb.demo
from tests.campaigns import VARIANT
from tests.projects import ENV_PY, Project
from tests.pytest_plugin.plugins import XDIST, run

DEMO = Path(clonedb.demo.__file__).parent

needs_pytest_alembic = pytest.mark.skipif(
    importlib.util.find_spec("pytest_alembic") is None, reason="pytest-alembic is not installed"
)

AT_REVISIONS = """
import pytest

def test_two_revisions_in_one_test(clonedb_at):
    before, after = clonedb_at("one"), clonedb_at("two")
    assert before.name != after.name
    assert (before.current(), after.current()) == (("one",), ("two",))
    with before.connect() as connection:
        connection.execute("insert into item (name) values ('mine')")
    before.upgrade("+1")
    with before.connect() as connection:
        assert connection.execute("select name from item order by id").fetchall() == [("mine",), ("seeded",)]
    assert before.downgrade("one").revisions == ("two",)

@pytest.mark.parametrize("n", range(2))
def test_each_has_its_own(clonedb_at, n):
    engine = clonedb_at("one").engine()
    with engine.begin() as connection:
        assert connection.exec_driver_sql("select count(*) from item").scalar() == 0
        connection.exec_driver_sql("insert into item (name) values ('mine')")

def test_base(clonedb_at):
    db = clonedb_at("base")
    assert db.upgrade().heads == ("two",)
    assert db.downgrade("base").heads == ()
"""

ALEMBIC_CONFTEST = """
import pytest

@pytest.fixture
def alembic_engine(clonedb_empty):
    return clonedb_empty.engine()
"""

BUILT_IN = """
from pytest_alembic.tests import (
    test_model_definitions_match_ddl,
    test_single_head_revision,
    test_up_down_consistency,
    test_upgrade,
)
"""

PLUGIN = ("-p", "pytest_alembic.plugin")


@pytest.mark.campaign("long")
@pytest.mark.parametrize(
    "arguments", [(), pytest.param(XDIST, marks=VARIANT)], ids=["alone", "xdist"]
)
def test_clones_at_revisions(
    items: Project, clones: Callable[[], list[str]], arguments: tuple[str, ...]
) -> None:
    """Several in one test, each at its revision; a revision's template is built once, and no clone is left."""
    items.write("test_it.py", AT_REVISIONS)
    outcome = run(items, *arguments).demand()
    assert "4 passed" in outcome.out
    built = re.findall(r"building template '(.+?)'", outcome.text)
    assert len(built) == len(set(built)) <= 3
    assert clones() == []
    assert "building" not in run(items, *arguments).demand().text


def test_a_failed_tests_clone_at_a_revision_is_kept(
    items: Project, clones: Callable[[], list[str]]
) -> None:
    """With what the migration left in it."""
    items.write(
        "test_it.py",
        """
        def test_fails(clonedb_at):
            db = clonedb_at("one")
            db.upgrade()
            assert db.current() == ("three",)
        """,
    )
    outcome = run(items).demand(1)
    (command,) = re.findall(r"^database kept: clonedb (.+)$", outcome.out, re.MULTILINE)
    assert clones() == [command.split()[-1]]
    shown = items.clonedb(
        *command.split(), "--", "-Atc", "select version_num from alembic_version"
    ).demand()
    assert shown.out.strip() == "two"


def test_an_unknown_revision_is_one_message(items: Project) -> None:
    """With the nearest name, at the line of the test that asked for it."""
    items.write("test_it.py", "def test_it(clonedb_at):\n    clonedb_at('onne')\n")
    outcome = run(items).demand(1)
    assert (
        "clonedb_at('onne'): there is no revision 'onne' (did you mean 'one'?) among the 2 in"
        in outcome.out
    )
    assert "clonedb/revisions.py" not in outcome.out
    assert "building" not in outcome.text


def test_a_failing_migration_fails_the_test_that_ran_it(items: Project) -> None:
    """And no other one."""
    items.revision("three", 'op.execute("drop table never")')
    items.write(
        "test_it.py",
        """
        def test_up_to_two(clonedb_at):
            assert clonedb_at("two").current() == ("two",)

        def test_three(clonedb_at):
            clonedb_at("two").upgrade()
        """,
    )
    outcome = run(items).demand(1)
    assert "1 failed, 1 passed" in outcome.out
    assert (
        "upgrade of revision 'three' (migrations/versions/three.py:10) failed: UndefinedTable"
        in outcome.out
    )


def test_an_empty_database_has_the_extensions_and_nothing_else(
    items: Project, clones: Callable[[], list[str]]
) -> None:
    """Migrations that do not run keep no such test from starting."""
    items.settings(extensions=["pg_trgm"])
    items.revision("three", "raise ValueError('broken')")
    items.write(
        "test_it.py",
        """
        def test_it(clonedb_empty):
            with clonedb_empty.connect() as connection:
                assert connection.execute("select count(*) from pg_tables where schemaname = 'public'").fetchone() == (0,)
                assert connection.execute("select count(*) from pg_extension where extname = 'pg_trgm'").fetchone() == (1,)
                connection.execute("create table mine (id int)")

        test_again = test_it
        """,
    )
    outcome = run(items).demand()
    assert "2 passed" in outcome.out
    assert "building" not in outcome.text
    assert clones() == []


def test_a_named_template_is_meant_by_its_marker(
    items: Project, make_project: Callable[[str], Project], clones: Callable[[], list[str]]
) -> None:
    """Its migrations and its extensions, in place of the project's."""
    other = make_project("other")
    other.revision("first", 'op.execute("create table other (id int)")')
    table = {"alembic_ini": "../other/alembic.ini", "extensions": ["pg_trgm"]}
    lines = "\n".join(f"{name} = {value!r}" for name, value in table.items())
    items.write("pyproject.toml", f"[tool.clonedb.templates.other]\n{lines}\n")
    items.write(
        "test_it.py",
        """
        import pytest

        @pytest.mark.clonedb(template="other")
        def test_other(clonedb_at, clonedb_empty):
            assert clonedb_at("first").current() == ("first",)
            with clonedb_empty.connect() as connection:
                assert connection.execute("select count(*) from pg_extension where extname = 'pg_trgm'").fetchone() == (1,)

        def test_own(clonedb_at, clonedb_empty):
            assert clonedb_at("one").upgrade().heads == ("two",)
            with clonedb_empty.connect() as connection:
                assert connection.execute("select count(*) from pg_extension where extname = 'pg_trgm'").fetchone() == (0,)
        """,
    )
    assert "2 passed" in run(items, *XDIST).demand().out
    assert clones() == []


def test_routes_of_the_application_leave_these_databases_alone(items: Project) -> None:
    """An engine on one of them reaches it, also beside the clone that the application is sent to."""
    items.settings(route=["*"])
    items.write(
        "test_it.py",
        """
        def reached(one):
            with one.engine().connect() as connection:
                return connection.exec_driver_sql("select current_database()").scalar()

        def test_beside_a_clone(clonedb, clonedb_at, clonedb_empty):
            for one in (clonedb, clonedb_at("one"), clonedb_empty):
                assert reached(one) == one.name

        def test_alone(clonedb_empty):
            assert reached(clonedb_empty) == clonedb_empty.name
        """,
    )
    assert "2 passed" in run(items).demand().out


def test_without_a_database_both_are_skipped(items: Project) -> None:
    """As all that need one, when clonedb is off."""
    items.write(
        "test_it.py",
        "def test_one(clonedb_at): clonedb_at('one')\n\ndef test_two(clonedb_empty): pass\n",
    )
    assert "2 skipped" in run(items, "--clonedb-off").demand().out


@needs_pytest_alembic
@pytest.mark.parametrize(
    "arguments", [(), pytest.param(XDIST, marks=VARIANT)], ids=["alone", "xdist"]
)
def test_the_four_tests_of_pytest_alembic_pass_on_the_sample_shop(
    make_project: Callable[[str], Project],
    clones: Callable[[], list[str]],
    arguments: tuple[str, ...],
) -> None:
    """Its env.py takes the engine that pytest-alembic hands over."""
    project = make_project("shop")
    project.settings(alembic_ini=str(DEMO / "alembic.ini"))
    config = f"\n@pytest.fixture\ndef alembic_config():\n    return {{'file': {str(DEMO / 'alembic.ini')!r}}}\n"
    project.write("conftest.py", ALEMBIC_CONFTEST + config)
    project.write("test_migrations.py", BUILT_IN)
    assert "4 passed" in run(project, *PLUGIN, *arguments).demand().out
    assert clones() == []


@needs_pytest_alembic
@pytest.mark.parametrize(
    "arguments", [(), pytest.param(XDIST, marks=VARIANT)], ids=["alone", "xdist"]
)
def test_pytest_alembic_on_an_ordinary_project(
    items: Project, clones: Callable[[], list[str]], arguments: tuple[str, ...]
) -> None:
    """Alembic's own env.py with the change that pytest-alembic's documentation tells of."""
    documented = ENV_PY.replace(
        "    connectable = ", "    connectable = config.attributes.get('connection', None) or "
    )
    models = "sa.Table('item', m, sa.Column('id', sa.Integer, primary_key=True), sa.Column('name', sa.Text, nullable=False))"
    target = f"import sqlalchemy as sa\nm = sa.MetaData()\n{models}\ntarget_metadata = m\n"
    items.write("migrations/env.py", documented.replace("target_metadata = None\n", target))
    for name, undo in (("one", "drop table item"), ("two", "delete from item")):
        path = items.directory / f"migrations/versions/{name}.py"
        path.write_text(path.read_text().replace("    pass", f"    op.execute('{undo}')"))
    items.write("conftest.py", ALEMBIC_CONFTEST)
    items.write("test_migrations.py", BUILT_IN)
    assert "4 passed" in run(items, *PLUGIN, *arguments).demand().out
    assert clones() == []
    items.revision("side", "pass", down="one")
    found = run(items, *PLUGIN, *arguments).demand(1)
    assert "Expected 1 head revision, found 2" in found.out
