"""Named templates: each with settings of its own, and one built upon another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from clonedb.errors import ConfigError
from clonedb.settings.config import Config
from tests.campaigns import VARIANT
from tests.projects import ALEMBIC_INI, ENV_PY, Project

TESTS = """
import pytest, psycopg

def count(dsn, table):
    with psycopg.connect(dsn) as connection:
        return connection.execute(f"select count(*) from {table}").fetchone()[0]

def test_default(clonedb_dsn):
    assert count(clonedb_dsn, "item") == 1

@pytest.mark.clonedb(template="early")
def test_target(clonedb_dsn):
    assert count(clonedb_dsn, "item") == 0

@pytest.mark.clonedb(template="filled")
def test_upon_the_default(clonedb_dsn):
    assert count(clonedb_dsn, "item") == 3

MODES = ["auto", "truncate", "migrate", "rollback", "readonly", "worker"]

@pytest.mark.clonedb(template="reports")
@pytest.mark.parametrize("mode", [pytest.param(mode, marks=pytest.mark.clonedb(isolation=mode)) for mode in MODES])
def test_another_alembic_upon_that_in_every_mode(clonedb_session, mode):
    connection = clonedb_session.connection()
    assert connection.exec_driver_sql("select count(*) from item").scalar() == 3
    assert connection.exec_driver_sql("select count(*) from report").scalar() == 0

@pytest.mark.clonedb(template="reports")
def test_both_schemas(clonedb_dsn):
    assert (count(clonedb_dsn, "item"), count(clonedb_dsn, "report")) == (3, 0)

@pytest.mark.clonedb(template="reports", isolation="truncate")
@pytest.mark.parametrize("number", range(2))
def test_truncate_leaves_both_version_tables(clonedb_dsn, number):
    assert (count(clonedb_dsn, "item"), count(clonedb_dsn, "report")) == (3, 0)
    assert (count(clonedb_dsn, "alembic_version"), count(clonedb_dsn, "reports_version")) == (1, 1)
    with psycopg.connect(clonedb_dsn) as connection:
        connection.execute("insert into report default values; insert into item (name) values ('x')")
"""

SETTINGS = {
    "templates": {
        "early": {"target": "one"},
        "filled": {"base": "default", "seed": ["two.sql"]},
        "reports": {"base": "filled", "alembic_ini": "reports.ini", "seed": []},
    }
}


@pytest.fixture
def named(items: Project) -> Project:
    """A project with three named templates: an early one, a filled one, and one of another Alembic configuration."""
    items.settings(**SETTINGS)
    items.write("two.sql", "insert into item (name) values ('a'), ('b')")
    items.write("reports.ini", ALEMBIC_INI.replace("/migrations", "/reports"))
    items.write(
        "reports/env.py",
        ENV_PY.replace(
            "connection=connection,", "connection=connection, version_table='reports_version',"
        ),
    )
    items.write(
        "reports/versions/r1.py",
        """
        from alembic import op
        revision = "r1"
        down_revision = None
        def upgrade(): op.execute("create table report (id serial primary key)")
        def downgrade(): op.execute("drop table report")
        """,
    )
    return items


@pytest.mark.parametrize(
    "arguments", [(), pytest.param(("-n", "2"), marks=VARIANT)], ids=["alone", "xdist"]
)
def test_each_name_is_a_template(named: Project, arguments: tuple[str, ...]) -> None:
    """Markers choose; what is built upon another holds all of it, and only the rest was migrated."""
    named.write("test_it.py", TESTS)
    outcome = named.pytest("-W", "error", *arguments).demand()
    assert "12 passed" in outcome.out
    assert outcome.err.count("is ready: 1 revision in") == 2  # early and reports
    assert outcome.err.count("is ready: 0 revisions") == 1  # filled
    again = named.pytest(*arguments).demand()
    assert "building" not in again.err


def test_a_change_below_rebuilds_what_is_above(named: Project) -> None:
    """The fingerprint of the base is part of the fingerprint of what is built upon it."""
    before = named.clonedb("--template", "reports", "fingerprint").demand().out
    default = named.clonedb("fingerprint").demand().out
    early = named.clonedb("--template", "early", "fingerprint").demand().out
    assert len({before, default, early}) == 3
    named.write("two.sql", "insert into item (name) values ('changed')")
    assert named.clonedb("fingerprint").demand().out == default
    assert named.clonedb("--template", "reports", "fingerprint").demand().out != before


@pytest.mark.campaign("long")
def test_a_template_for_the_whole_run(named: Project) -> None:
    """An option, a variable or the file may choose for all tests that do not choose themselves."""
    named.write(
        "test_it.py",
        "def test_it(clonedb_connection):\n    assert clonedb_connection.execute('select count(*) from item').fetchone() == (3,)\n",
    )
    named.pytest("--clonedb-template=filled").demand()
    named.pytest(CLONEDB_TEMPLATE="filled").demand()
    named.pytest().demand(1)
    named.write(
        "test_it.py",
        """
        import pytest

        @pytest.mark.clonedb(template="default")
        def test_default(clonedb_connection):
            assert clonedb_connection.execute("select count(*) from item").fetchone() == (1,)

        @pytest.mark.clonedb(seed="two.sql")
        def test_chosen_and_seeded(clonedb_connection):
            assert clonedb_connection.execute("select count(*) from item").fetchone() == (5,)
        """,
    )
    named.pytest("--clonedb-template=filled").demand()
    named.clonedb("drop", "--all").demand()


def test_marker_with_a_name_that_is_not_there(named: Project) -> None:
    """One message, with the nearest."""
    named.write(
        "test_it.py",
        "import pytest\n@pytest.mark.clonedb(template='report')\ndef test_it(clonedb): pass\n",
    )
    outcome = named.pytest().demand(1)
    assert (
        "template 'report' is not configured (did you mean 'reports'?); there is default, early, filled, reports"
        in outcome.out
    )
    outcome = named.clonedb("--template", "report", "build").demand(1)
    assert outcome.err.startswith(
        "clonedb: --template: template 'report' is not configured (did you mean 'reports'?)"
    )


@pytest.mark.campaign("long")
def test_frozen_names_the_command(named: Project) -> None:
    """Nothing is built; the command that would is in the message, and after it the tests run."""
    named.write(
        "test_it.py",
        "import pytest\n@pytest.mark.clonedb(template='filled')\ndef test_it(clonedb): pass\n",
    )
    named.environment["CLONEDB_SALT"] = "frozen"
    outcome = named.pytest("--clonedb-frozen").demand(1)
    assert (
        "it is not built here because frozen is set (--clonedb-frozen); run `clonedb build` first"
        in outcome.out
    )
    named.clonedb("build").demand()
    outcome = named.pytest("--clonedb-frozen").demand(1)
    assert "run `clonedb --template filled build` first" in outcome.out
    named.clonedb("--template", "filled", "build").demand()
    named.pytest("--clonedb-frozen").demand()
    contradictory = named.pytest("--clonedb-frozen", "--clonedb-rebuild").demand(1)
    assert (
        "is to be built anew, and nothing is built here because frozen is set (--clonedb-frozen)"
        in contradictory.out
    )


@pytest.mark.campaign("long")
def test_what_is_built_upon_another_is_restored_alone(named: Project) -> None:
    """An imported template is used, frozen or not, where its base is not: that is opened for what needs it only."""
    named.write(
        "test_it.py",
        "import pytest\n@pytest.mark.clonedb(template='filled')\ndef test_it(clonedb): pass\n",
    )
    named.environment["CLONEDB_SALT"] = "restored"
    named.environment["CLONEDB_TEMPLATE"] = "filled"
    named.clonedb("export", "filled.clonedb").demand()
    named.clonedb("drop", "--all").demand()
    named.clonedb("import", "filled.clonedb").demand()
    named.pytest("--clonedb-frozen").demand()
    outcome = named.pytest("--clonedb-frozen", "--clonedb-isolation=migrate").demand(1)
    assert "run `clonedb build` first" in outcome.out
    assert " template " not in named.clonedb("build").demand().err  # nothing is built


@pytest.mark.parametrize(
    ("templates", "complaint"),
    [
        (
            {"a": {"base": "b"}, "b": {"base": "a"}},
            "base leads round in a circle: a -> b -> a; take one away",
        ),
        ({"a": {"base": "a"}}, "base leads round in a circle: a -> a; take one away"),
        ({"a": {"base": "c"}, "c": {"target": "x"}, "b": {"base": "cc"}}, None),
    ],
)
def test_circles(templates: Any, complaint: str | None) -> None:
    """A template that would be built upon itself is told of, with the way round."""
    config = Config(rootdir=Path("/")).replace("here", templates=templates)
    if complaint:
        with pytest.raises(ConfigError, match=re.escape(complaint)):
            config.of_template("a", "test")
        return
    base = config.of_template("a", "test").of_base()
    assert base is not None
    assert base.target == "x"
    with pytest.raises(
        ConfigError,
        match=re.escape("base: template 'cc' is not configured (did you mean 'c'?)"),
    ):
        config.of_template("b", "test").of_base()


def test_the_projects_base_is_not_built_upon_itself() -> None:
    """What the project says of itself, its base included, is what a table does not say; but no circle comes of that."""
    tables: Any = {"old": {"target": "x"}, "other": {}, "plain": {"base": ""}}
    config = Config(rootdir=Path("/")).replace("here", base="old", templates=tables)
    chains: dict[str, list[str]] = {}
    for name in ("default", *tables):
        each: Config | None = config.of_template(name, "test")
        while each is not None and len(chains.setdefault(name, [])) < 5:
            chains[name].append(each.template)
            each = each.of_base()
    expected = {
        "default": ["default", "old"],
        "old": ["old"],
        "other": ["other", "old"],
        "plain": ["plain"],
    }
    assert chains == expected
    circle = config.replace("here", templates={"old": {"base": "older"}, "older": {}})
    with pytest.raises(ConfigError, match="base leads round in a circle: old -> older -> old"):
        circle.of_template("old", "test")


@pytest.mark.parametrize(
    ("templates", "complaint"),
    [
        (
            {"a": {"targt": "x"}},
            "templates.a: a template has no setting 'targt' (did you mean 'target'?); it takes",
        ),
        ({"a": {"url": "x"}}, "templates.a: a template has no setting 'url'"),
        ({"a": "x"}, "templates.a: a named template is 'x'; it takes a table of settings"),
        ({"a": {"seed": "x.sql"}}, "templates.a: seed is 'x.sql'; it takes a list of strings"),
        ({"default": {}}, "templates.default: 'default' is a template of clonedb's own making"),
    ],
)
def test_mistakes_in_a_table(templates: Any, complaint: str) -> None:
    """The table is named, and the nearest right word."""
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        Config(rootdir=Path("/")).replace("here", templates=templates)
