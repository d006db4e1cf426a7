"""Projects that published tools began, made by their own commands, also where Alembic is below these."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.projects import Project

PROGRAMS = Path(sys.executable).parent

TESTS = """
def test_rows(clonedb_connection):
    clonedb_connection.execute("insert into item (name) values ('mine')")

def test_none(clonedb_connection):
    assert clonedb_connection.execute("select name from item where name = 'mine'").fetchall() == []
"""

FLASK = """
import os
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

db, migrate = SQLAlchemy(), Migrate()

class Item(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String, nullable=False)

def create_app():
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ.get("SHOP_URL", "postgresql+psycopg://app@db.invalid/app")
    db.init_app(app)
    migrate.init_app(app, db)
    return app
"""

ALCHEMY = """
import os
from advanced_alchemy.config import AlembicAsyncConfig, SQLAlchemyAsyncConfig
from advanced_alchemy.base import BigIntBase
from sqlalchemy.orm import Mapped

class Item(BigIntBase):
    name: Mapped[str]

config = SQLAlchemyAsyncConfig(
    connection_string=os.environ.get("SHOP_URL", "postgresql+asyncpg://app@db.invalid/app"),
    alembic_config=AlembicAsyncConfig(script_location="migrations"),
)
"""


@pytest.fixture
def bare(project: Project) -> Project:
    """A directory with nothing of Alembic's."""
    (project.directory / "alembic.ini").unlink()
    shutil.rmtree(project.directory / "migrations")
    project.write("conftest.py", "")
    project.write("test_it.py", TESTS)
    return project


@pytest.fixture
def flask(bare: Project) -> Project:
    """`flask db init` and `flask db migrate`."""
    bare.write("shop/__init__.py", FLASK)
    command = (sys.executable, "-m", "flask", "--app", "shop", "db")
    bare.run(*command, "init").demand()
    bare.run(*command, "migrate", "-m", "first", SHOP_URL="sqlite://").demand()
    return bare


@pytest.fixture
def alchemy(bare: Project) -> Project:
    """`alchemy init`, and a revision that `clonedb alembic` makes, as the tool's own wants a server."""
    bare.write("shop/__init__.py", ALCHEMY)
    command = (str(PROGRAMS / "alchemy"), "--config", "shop.config")
    bare.run(*command, "init", "--no-prompt", "migrations").demand()
    bare.clonedb("alembic", "revision", "--autogenerate", "-m", "first").demand()
    return bare


def as_a_command(project: Project) -> None:
    """A template without revisions; a file of theirs that is another builds it anew."""
    assert "2 passed" in project.pytest().demand().out
    assert "and the template is made by '" in project.clonedb("check").text
    (revision,) = (project.directory / "migrations/versions").glob("*first*.py")
    revision.write_text(revision.read_text() + "\n# edited\n")
    assert "building template" in project.clonedb("build").demand().text


@pytest.mark.campaign("applications")
def test_flask_migrate_as_a_command(flask: Project) -> None:
    """Its engine is aimed at a server that does not exist."""
    flask.settings(migrate="flask --app shop db upgrade")
    as_a_command(flask)


@pytest.mark.campaign("applications")
def test_advanced_alchemy_as_a_command(alchemy: Project) -> None:
    """Its engine is asyncpg's, and aimed at a server that does not exist."""
    alchemy.settings(migrate="alchemy --config shop.config upgrade --no-prompt")
    as_a_command(alchemy)


@pytest.mark.campaign("applications")
def test_yoyo(bare: Project) -> None:
    """`yoyo init`, and SQL in its directory, which a build names with the line that watches it, a new file too."""
    bare.run(
        str(PROGRAMS / "yoyo"),
        "init",
        "--batch",
        "--database",
        "postgresql://a@db.invalid/a",
        "steps",
    ).demand()
    bare.write("steps/1.item.sql", "create table item (name text)\n")
    bare.write("steps/2.more.sql", "-- depends: 1.item\ninsert into item values ('one')\n")
    bare.settings(migrate="yoyo apply --batch")
    first = bare.pytest().demand()
    assert "2 passed" in first.out
    assert 'add watch = ["steps/*.sql", "yoyo.ini"] to' in first.text
    bare.settings(migrate="yoyo apply --batch", watch=["steps/*.sql", "yoyo.ini"])
    assert "not in the fingerprint" not in bare.clonedb("build").demand().text
    bare.write("steps/3.sql", "-- depends: 2.more\nselect 1 / 0\n")
    failed = bare.clonedb("build").demand(1).text
    assert "the command 'yoyo apply --batch' failed: exit status 1" in failed
    assert "division by zero" in failed
