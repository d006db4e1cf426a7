"""An application with several databases: each of its URLs leads to the clone of a template."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.applications.shops import SOMEBODYS
from tests.campaigns import VARIANT
from tests.projects import ALEMBIC_INI, ENV_PY, Project
from tests.pytest_plugin.plugins import XDIST, run

SHOP = SOMEBODYS.format(driver="psycopg")
TEMPLATES = {"reports": {"alembic_ini": "reports.ini", "seed": []}}
ROUTE = {"SHOP_URL": "default", "REPORTS_URL": "reports", "REPLICA_URL": "default"}

APP = """
import os
import psycopg
from sqlalchemy import create_engine, text

shop = create_engine(os.environ["SHOP_URL"])
replica = create_engine(os.environ["REPLICA_URL"])
reports = create_engine(os.environ["REPORTS_URL"])
reports_dsn = os.environ["REPORTS_URL"].replace("+psycopg", "")

def tables(engine):
    query = text("select string_agg(relname, ' ' order by relname) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace")
    with engine.connect() as connection:
        return connection.scalar(query)

def report():
    with psycopg.connect(reports_dsn) as connection:
        connection.execute("insert into report default values")
        return connection.execute("select count(*) from report").fetchone()[0]
"""

SHOPS, REPORTS = "alembic_version item", "report reports_version"


@pytest.fixture
def two(items: Project) -> Project:
    """A project whose application has a shop's database with a replica, and one of reports."""
    items.settings(route=ROUTE, templates=TEMPLATES)
    items.write("reports.ini", ALEMBIC_INI.replace("/migrations", "/reports"))
    version = "connection=connection, version_table='reports_version',"
    items.write("reports/env.py", ENV_PY.replace("connection=connection,", version))
    items.write(
        "reports/versions/r1.py",
        """
        from alembic import op
        revision, down_revision = "r1", None
        def upgrade(): op.execute("create table report (id serial primary key)")
        def downgrade(): op.execute("drop table report")
        """,
    )
    items.write("app.py", APP)
    items.environment |= {
        "SHOP_URL": SHOP,
        "REPLICA_URL": SHOP.replace("db.", "replica."),
        "REPORTS_URL": SHOP.replace("/shop", "/reports"),
    }
    return items


AUTOUSE = f"""
import os
import pytest
from app import replica, report, reports, shop, tables

@pytest.fixture(scope="session", autouse=True)
def between_tests():
    assert (tables(shop), tables(replica), tables(reports)) == ({SHOPS!r}, {SHOPS!r}, {REPORTS!r})

@pytest.mark.parametrize("n", range(3))
def test_each_to_its_own(n, clonedb):
    assert (tables(shop), tables(replica), tables(reports)) == ({SHOPS!r}, {SHOPS!r}, {REPORTS!r})
    assert report() == 1
    assert os.environ["SHOP_URL"].partition("?")[0].endswith(clonedb.name)
    assert os.environ["SHOP_URL"] == os.environ["REPLICA_URL"] != os.environ["REPORTS_URL"]

@pytest.mark.clonedb(template="reports")
def test_of_the_other_template(clonedb):
    assert (tables(shop), tables(clonedb.engine())) == ({SHOPS!r}, {REPORTS!r})
    assert report() == 1
    assert os.environ["REPORTS_URL"].partition("?")[0].endswith(clonedb.name)
"""


@pytest.mark.parametrize(
    "options", [(), pytest.param(XDIST, marks=VARIANT)], ids=["alone", "n2"]
)
def test_every_test_has_all_of_them(
    two: Project, clones: Callable[[], list[str]], options: tuple[str, ...]
) -> None:
    """With `autouse` a test has a clone of each template that `route` names."""
    two.settings(route=ROUTE, templates=TEMPLATES, autouse=True)
    two.write("test_it.py", AUTOUSE)
    assert "4 passed" in run(two, *options).demand().out
    assert clones() == []


ASKED = f"""
import clonedb, pytest
from app import replica, report, reports, shop, tables

with_reports = clonedb.fixture(template="reports")

def test_one(clonedb):
    assert (tables(shop), tables(replica)) == ({SHOPS!r}, {SHOPS!r})
    with pytest.raises(Exception, match=r"clonedb.fixture\\(template='reports'\\)"):
        tables(reports)
    with pytest.raises(Exception, match=r"clonedb.fixture\\(template='reports'\\)"):
        report()

def test_both(clonedb, with_reports):
    assert (tables(shop), tables(reports), report()) == ({SHOPS!r}, {REPORTS!r}, 1)

def test_in_the_other_order(with_reports, clonedb):
    assert (tables(shop), tables(reports), report()) == ({SHOPS!r}, {REPORTS!r}, 1)

def test_the_other(with_reports):
    assert tables(reports) == {REPORTS!r}
    with pytest.raises(Exception, match="ask for the fixture `clonedb`"):
        tables(shop)
"""


def test_a_test_has_those_that_it_asks_for(two: Project) -> None:
    """In whatever order; without one the error names the fixture that gives it."""
    two.write("test_it.py", ASKED)
    assert "4 passed" in run(two).demand().out


def test_a_template_that_is_not_there(two: Project) -> None:
    """One line, before any test is run."""
    two.settings(route={**ROUTE, "REPORTS_URL": "repots"}, templates=TEMPLATES)
    two.write("test_it.py", "def test_one(): pass\n")
    outcome = run(two).demand(4)
    assert (
        "route: template 'repots' is not configured (did you mean 'reports'?)" in outcome.text
    )
    assert "Traceback" not in outcome.text


def test_a_command_with_all_of_them(two: Project, clones: Callable[[], list[str]]) -> None:
    """`clonedb run` makes a clone of each template, and puts each URL where `route` says."""
    program = (
        "import app; print(*map(app.tables, (app.shop, app.replica, app.reports)), sep='; ')"
    )
    outcome = two.clonedb("run", "--", sys.executable, "-c", program).demand()
    assert outcome.out.splitlines()[-1] == f"{SHOPS}; {SHOPS}; {REPORTS}"
    assert clones() == []
