"""Projects that their frameworks' own tools made: clonedb builds them as they are, and `clonedb init` says so."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.campaigns import VARIANT
from tests.projects import Project

FLASK = """
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

db = SQLAlchemy()

class User(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String(128), nullable=False)

def create_app():
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = "{url}"
    db.init_app(app)
    Migrate(app, db)
    return app
"""
FLASK_TESTS = """
import pytest
from {module} import User, create_app, db

@pytest.fixture
def app():
    app = create_app()
    with app.app_context():
        yield app

@pytest.mark.parametrize("number", range(3))
def test_rows(app, number):
    assert User.query.count() == 0
    db.session.add(User(name="somebody"))
    db.session.commit()
"""
ALCHEMY = """
from advanced_alchemy.base import UUIDBase
from advanced_alchemy.config import {kind}
from sqlalchemy.orm import Mapped

class Author(UUIDBase):
    name: Mapped[str]

config = {kind}(connection_string="{url}")
"""
ALCHEMY_TESTS = """
import sqlalchemy as sa
from shop.db import Author

def test_rows(clonedb_session):
    assert clonedb_session.scalar(sa.select(sa.func.count()).select_from(Author)) == 0
    clonedb_session.add(Author(name="somebody"))
    clonedb_session.commit()

def test_rows_again(clonedb_session):
    test_rows(clonedb_session)
"""


def tool(name: str) -> str:
    """A program that a framework installed."""
    return str(Path(sys.executable).with_name(name))


@pytest.fixture
def empty(project: Project) -> Project:
    """A directory in which no framework's tool was run yet."""
    (project.directory / "alembic.ini").unlink()
    shutil.rmtree(project.directory / "migrations")
    project.write("conftest.py", "")
    return project


@pytest.fixture
def url(empty_database_url: str) -> str:
    """The database with which a tool compares models, and that a project names until clonedb routes it."""
    return empty_database_url.partition("://")[2]


@pytest.mark.campaign("applications")
@pytest.mark.parametrize("place", ["app.py", "shop/factory.py"], ids=["app", "factory"])
def test_flask_migrate(empty: Project, url: str, place: str) -> None:
    """`flask db init` and `flask db migrate`: found without a line, in a module that Flask's command finds or not."""
    module = place.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    empty.write(place, FLASK.format(url=f"postgresql+psycopg://{url}"))
    flask = [tool("flask"), "--app", module, "db"]
    empty.run(*flask, "init", PYTHONPATH=".").demand()
    empty.run(*flask, "migrate", "-m", "users", PYTHONPATH=".").demand()
    assert "is what was found in the project" in empty.clonedb("build").demand().text
    written = empty.clonedb("init", "--yes").demand()
    assert f'prepare = "{module}:create_app"' in written.out
    assert "already there" in empty.clonedb("build").demand().text
    if place != "app.py":
        return  # the rest does not depend on it

    assert "1 revision up, down and up again" in empty.clonedb("check").demand().text
    empty.write("test_it.py", FLASK_TESTS.format(module=module))
    text = (empty.directory / "pyproject.toml").read_text()
    added = text.replace("[tool.clonedb]", '[tool.clonedb]\nroute = ["*"]\nautouse = true', 1)
    empty.write("pyproject.toml", added)
    assert "3 passed" in empty.pytest().demand().out


@pytest.mark.campaign("applications")
@pytest.mark.parametrize(
    "kind", ["SQLAlchemyAsyncConfig", pytest.param("SQLAlchemySyncConfig", marks=VARIANT)]
)
def test_advanced_alchemy(empty: Project, url: str, kind: str) -> None:
    """`alchemy init` and `alchemy make-migrations`."""
    driver = "asyncpg" if kind == "SQLAlchemyAsyncConfig" else "psycopg"
    empty.write("shop/__init__.py", "")
    empty.write("shop/db.py", ALCHEMY.format(kind=kind, url=f"postgresql+{driver}://{url}"))
    alchemy = [tool("alchemy"), "--config", "shop.db.config"]
    empty.run(*alchemy, "init", "--no-prompt", "migrations", PYTHONPATH=".").demand()
    empty.run(*alchemy, "make-migrations", "--no-prompt", "-m", "x", PYTHONPATH=".").demand()
    assert "built in" in empty.clonedb("build").demand().text
    assert 'prepare = "shop.db:config"' in empty.clonedb("init", "--yes").demand().out
    empty.write("test_it.py", ALCHEMY_TESTS)
    assert "2 passed" in empty.pytest().demand().out


@pytest.mark.campaign("applications")
def test_django(empty: Project) -> None:
    """`django-admin startproject` with a database of PostgreSQL's in its settings."""
    empty.run(tool("django-admin"), "startproject", "shop", ".").demand()
    settings = empty.directory / "shop/settings.py"
    text = settings.read_text()
    before, _, after = text.partition("DATABASES = {")
    ours = """DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "shop"}}\n"""
    settings.write_text(before + ours + after.partition("\n}\n")[2])
    written = empty.clonedb("init", "--yes").demand()
    assert 'migrate = "python manage.py migrate"' in written.out
    assert "already there" in empty.clonedb("build").demand().text


@pytest.mark.campaign("applications")
def test_yoyo(empty: Project, url: str) -> None:
    """`yoyo init`, and a step of SQL."""
    database = ["--database", f"postgresql://{url}"]
    empty.run(tool("yoyo"), "init", "--batch", *database, "steps").demand()
    empty.write("steps/1.item.sql", "create table item (name text)")
    written = empty.clonedb("init", "--yes").demand()
    assert 'migrate = "yoyo apply --batch"' in written.out
    built = empty.clonedb("build").demand().text
    assert "already there" in built
    assert "not in the fingerprint" not in built


SQLMODEL = """
from sqlmodel import Field, SQLModel

class Hero(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str
"""


@pytest.mark.campaign("applications")
def test_sqlmodel(empty: Project) -> None:
    """Models as SQLModel's documentation has them."""
    empty.write("app/models.py", SQLMODEL)
    written = empty.clonedb("init", "--yes").demand()
    assert 'metadata = "app.models:SQLModel.metadata"' in written.out
    assert "already there" in empty.clonedb("build").demand().text


@pytest.mark.campaign("applications")
def test_an_env_py_that_finds_its_application_itself(empty: Project, url: str) -> None:
    """It goes on working where nothing is found, or what is found fails."""
    empty.write("app.py", FLASK.format(url=f"postgresql+psycopg://{url}"))
    flask = [tool("flask"), "db"]
    empty.run(*flask, "init").demand()
    empty.run(*flask, "migrate", "-m", "users").demand()
    env_py = empty.directory / "migrations" / "env.py"
    own = "import app as module\nmodule.create_app().app_context().push()\n"
    env_py.write_text(own + env_py.read_text())
    empty.clonedb("build").demand()
    empty.clonedb("build", "--force", FLASK_APP="nowhere").demand()
