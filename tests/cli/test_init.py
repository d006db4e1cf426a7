"""`clonedb init`: what it finds in a project, what it writes, and that it does so once."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import tomllib

import pytest

from tests.projects import CLONEDB, ENV_PY, Project

SETTINGS = """
from pydantic_settings import BaseSettings, SettingsConfigDict

class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SHOP_")
    database_url: str = "postgresql+asyncpg://shop@localhost/shop"
    debug: bool = False
"""

ENGINE = """
import os
from sqlalchemy.ext.asyncio import create_async_engine

engine = create_async_engine(os.environ["POSTGRES_DSN"])
"""


def table(project: Project) -> dict[str, object]:
    """What pyproject.toml says of clonedb."""
    document = tomllib.loads((project.directory / "pyproject.toml").read_text())
    found = document["tool"]["clonedb"]
    assert isinstance(found, dict)
    return found


@pytest.fixture
def empty(project: Project) -> Project:
    """A project without migrations."""
    (project.directory / "alembic.ini").unlink()
    shutil.rmtree(project.directory / "migrations")
    return project


def test_an_asynchronous_application(items: Project) -> None:
    """The variable that is set, the driver of its URL, and the fixture to ask for."""
    items.write("shop/settings.py", SETTINGS)
    items.write("shop/database.py", ENGINE)
    items.write("tests/conftest.py", "import os\nurl = os.environ['TEST_DB_URL']\n")
    outcome = items.clonedb(
        "init", "--yes", POSTGRES_DSN="postgresql://shop@localhost/shop"
    ).demand()
    assert table(items) == {"driver": "asyncpg", "route": ["POSTGRES_DSN"]}
    assert "POSTGRES_DSN, SHOP_DATABASE_URL, TEST_DB_URL" in outcome.out
    assert "ask for clonedb_async_session in a test" in outcome.out
    assert items.clonedb("config").demand().out.count("[tool.clonedb]") == 2


def test_a_variable_that_is_not_set(items: Project) -> None:
    """A settings class reads it from a file of its own perhaps: then every engine is led to the test's database."""
    items.write("shop/settings.py", SETTINGS)
    outcome = items.clonedb("init", "--yes").demand()
    assert table(items)["route"] == ["*"]
    assert "SHOP_DATABASE_URL is not set here" in outcome.out


def test_a_synchronous_project_keeps_its_file(items: Project) -> None:
    """The lines come after what is there; a driver among the dependencies is enough."""
    before = '[project]\nname = "shop"\nversion = "1"\ndependencies = ["psycopg2-binary>=2.9", "flask"]'
    items.write("pyproject.toml", before)
    items.clonedb("init", "--yes").demand()
    assert (
        (items.directory / "pyproject.toml")
        .read_text()
        .startswith(before + "\n\n[tool.clonedb]\n")
    )
    assert table(items) == {"driver": "psycopg2"}


def test_an_alembic_configuration_below(items: Project) -> None:
    """One that is not where clonedb looks is named."""
    (items.directory / "services").mkdir()
    (items.directory / "alembic.ini").rename(items.directory / "services" / "alembic.ini")
    (items.directory / "migrations").rename(items.directory / "services" / "migrations")
    items.clonedb("init", "--yes").demand()
    assert table(items) == {"alembic_ini": "services/alembic.ini"}
    items.clonedb("build").demand()


DRIVER = '[project]\nname = "shop"\nversion = "1"\ndependencies = ["psycopg2-binary"]\n'


def test_nothing_to_write(items: Project) -> None:
    """A project that needs no line is told so, and gets none; in a script that is no failure."""
    outcome = items.clonedb("init").demand()
    assert "the project needs no line of configuration" in outcome.out
    assert not (items.directory / "pyproject.toml").exists()


def test_a_file_that_cannot_be_written(items: Project) -> None:
    """In words, beside the lines; a directory of that name is told as one."""
    items.write("requirements.txt", "psycopg2-binary\n")
    path = items.directory / "pyproject.toml"
    path.symlink_to("/nowhere/pyproject.toml")  # where not even root may write
    outcome = items.clonedb("init", "--yes").demand(1)
    assert "cannot be written" in outcome.err
    assert "Traceback" not in outcome.err
    path.unlink()
    path.mkdir()
    assert "pyproject.toml is a directory" in items.clonedb("init", "--yes").demand(1).err
    items.clonedb("fingerprint").demand()


def test_flask_migrates_layout(items: Project) -> None:
    """Its alembic.ini says nothing of where the migrations are, and its env.py wants the application: both are said."""
    (items.directory / "alembic.ini").unlink()
    items.write("migrations/alembic.ini", "[alembic]\n[loggers]\nkeys = root\n")
    wants = "raise RuntimeError('Working outside of application context.')  # as flask.current_app does\n"
    items.write("migrations/env.py", wants + ENV_PY)
    outcome = items.clonedb("init", "--yes").demand(1)
    assert '# prepare = "package.module:name"  # env.py expects its application' in outcome.out
    assert "nothing was written, because the template could not be built" in outcome.err
    assert "hint: env.py expects what its application" in outcome.err
    assert not (items.directory / "pyproject.toml").exists()
    items.clonedb("init", "--yes", "--no-build").demand()
    assert table(items) == {
        "alembic_ini": "migrations/alembic.ini",
        "alembic": {"script_location": "migrations"},
    }
    items.write("migrations/env.py", ENV_PY)
    items.clonedb("build").demand()


MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
class Base(DeclarativeBase): pass
class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
"""


def test_models_or_files_without_migrations(empty: Project) -> None:
    """The line that makes the schema; of two it cannot tell which, and says the lines."""
    empty.write("conftest.py", "")
    empty.write("schema.sql", "create table item (id int)")
    assert "schema         SQL files: schema.sql" in empty.clonedb("init").demand(1).out
    empty.write("shop/models.py", MODELS)
    empty.clonedb("init", "--yes").demand()
    assert table(empty) == {"metadata": "shop.models:Base.metadata"}
    assert "already there" in empty.clonedb("build").demand().out
    (empty.directory / "pyproject.toml").unlink()
    empty.write("shop/other.py", MODELS)
    outcome = empty.clonedb("init", "--yes").demand(1)
    assert 'write one of these:\n  metadata = "shop.models:Base.metadata"\n' in outcome.err
    assert not (empty.directory / "pyproject.toml").exists()


def test_an_env_py_alone(items: Project) -> None:
    """A project that makes its Alembic Config in Python."""
    (items.directory / "alembic.ini").unlink()
    (items.directory / "migrations").rename(items.directory / "shop")
    items.clonedb("init", "--yes").demand()
    assert table(items) == {"alembic": {"script_location": "shop"}}
    items.clonedb("build").demand()


def test_nothing_is_written_that_is_refused(items: Project) -> None:
    """Where there are no migrations, the places looked at are said, and no line is left."""
    (items.directory / "alembic.ini").unlink()
    (items.directory / "migrations/env.py").unlink()
    assert (
        "no Alembic migrations were found; looked at"
        in items.clonedb("init", "--yes").demand(1).err
    )
    assert not (items.directory / "pyproject.toml").exists()


def test_nothing_is_changed_twice(items: Project) -> None:
    """A second run says that the table is there."""
    items.write("pyproject.toml", DRIVER)
    items.clonedb("init", "--yes").demand()
    before = (items.directory / "pyproject.toml").read_bytes()
    outcome = items.clonedb("init", "--yes").demand()
    assert "has a [tool.clonedb] table already; nothing was changed" in outcome.out
    assert (items.directory / "pyproject.toml").read_bytes() == before


def test_a_table_that_is_only_spoken_of(items: Project) -> None:
    """A comment is no table."""
    items.write("pyproject.toml", f"# without [tool.clonedb]\n{DRIVER}")
    items.clonedb("init", "--yes", "--no-build").demand()
    assert table(items) != {}


def test_a_file_that_takes_no_table(items: Project) -> None:
    """One whose `tool` is written inline would be no TOML any more: it is left as it is."""
    text = f"tool = {{ other = 1 }}\n{DRIVER}"
    items.write("pyproject.toml", text)
    outcome = items.clonedb("init", "--yes", "--no-build").demand(1)
    assert "pyproject.toml takes no table at its end" in outcome.err
    assert "write these lines yourself" in outcome.err
    assert (items.directory / "pyproject.toml").read_text() == text


def test_without_a_person_it_only_shows(items: Project) -> None:
    """In a script the lines are shown, and the option that would write them."""
    items.write("pyproject.toml", DRIVER)
    outcome = items.clonedb("init").demand(1)
    assert "[tool.clonedb]" in outcome.out
    assert outcome.err == "nothing was written; run `clonedb init --yes` to write these lines\n"
    assert (items.directory / "pyproject.toml").read_text() == DRIVER


@pytest.mark.parametrize(("answer", "written"), [(b"\n", True), (b"n\n", False)])
def test_a_person_is_asked(items: Project, answer: bytes, *, written: bool) -> None:
    """Enter writes, n does not."""
    items.write("pyproject.toml", DRIVER)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*CLONEDB, "init"],
        cwd=items.directory,
        env=items.environment,
        stdin=slave,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.write(master, answer)
    out, _ = process.communicate(timeout=30)
    os.close(slave)
    os.close(master)
    assert process.returncode == 0
    assert "write them? [Y/n]" in out
    assert ("[tool.clonedb]" in (items.directory / "pyproject.toml").read_text()) == written
