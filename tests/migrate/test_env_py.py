"""env.py as projects really write it: each of these builds, whatever URL it reads and however it connects."""

from __future__ import annotations

import re

import pytest

from tests.projects import ALEMBIC_INI, ENV_PY, Project

ASYNC_ENV_PY = """
import asyncio
from alembic import context
from sqlalchemy import pool
from sqlalchemy.ext.asyncio import async_engine_from_config

config = context.config

def run(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()

async def main():
    engine = async_engine_from_config(config.get_section(config.config_ini_section, {}), prefix="sqlalchemy.", poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()

asyncio.run(main())
"""

OWN_ENGINE = """
from alembic import context
from sqlalchemy import create_engine

{before}
engine = create_engine({url})
with engine.connect() as connection:
    context.configure(connection=connection{options})
    with context.begin_transaction():
        context.run_migrations()
"""


def ask(project: Project, query: str) -> str:
    """The answer to a query on a fresh clone of the project's template, as psql prints it."""
    return project.clonedb("psql", "--", "-Atc", query).demand().out.strip()


def test_the_env_py_of_alembic_init_builds(items: Project) -> None:
    """The generic template: engine_from_config with the URL of alembic.ini, which leads nowhere."""
    assert ask(items, "select count(*), min(name) from item") == "1|seeded"


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_an_asynchronous_env_py_builds(items: Project, driver: str) -> None:
    """asyncio.run() in env.py, with the driver that alembic.ini names."""
    items.write("migrations/env.py", ASYNC_ENV_PY)
    items.write("alembic.ini", ALEMBIC_INI.replace("+psycopg", f"+{driver}"))
    assert ask(items, "select count(*) from item") == "1"


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
def test_every_driver_is_routed(items: Project, driver: str) -> None:
    """An engine that env.py makes of a hard-coded URL reaches the database being built, by each driver."""
    if driver == "asyncpg":
        env_py = ASYNC_ENV_PY.replace(
            'async_engine_from_config(config.get_section(config.config_ini_section, {}), prefix="sqlalchemy.", poolclass=pool.NullPool)',
            "create_async_engine('postgresql+asyncpg://app:wrong@db.invalid:1/production?ssl=require')",
        ).replace("async_engine_from_config", "create_async_engine")
    else:
        url = f"'postgresql+{driver}://app:wrong@db.invalid:1/production?sslmode=verify-full'"
        env_py = OWN_ENGINE.format(before="", url=url, options="")
    items.write("migrations/env.py", env_py)
    assert ask(items, "select count(*) from item") == "1"


def test_an_engine_with_a_creator_of_its_own_is_refused(
    items: Project, server_url: str
) -> None:
    """creator= escapes routing: it is refused when it reaches another database, and nothing is migrated there."""
    before = f"import psycopg\nmake = lambda: psycopg.connect({server_url.replace('+psycopg', '') + '/postgres'!r})"
    items.write(
        "migrations/env.py",
        OWN_ENGINE.format(
            before=before, url="'postgresql+psycopg://', creator=make", options=""
        ),
    )
    outcome = items.clonedb("build")
    assert outcome.code == 1
    assert re.search(
        r"a connection to database 'postgres' at \S+ was refused: it is not the one being built",
        outcome.text,
    )


def test_a_url_from_an_unset_environment_variable(items: Project) -> None:
    """`os.environ["DATABASE_URL"]` works without the variable being set, and with it leading elsewhere."""
    items.write(
        "migrations/env.py",
        OWN_ENGINE.format(before="import os", url="os.environ['DATABASE_URL']", options=""),
    )
    assert ask(items, "select count(*) from item") == "1"
    assert (
        items.clonedb(
            "build", "--force", DATABASE_URL="postgresql+psycopg2://app:x@db.invalid/production"
        ).code
        == 0
    )


def test_a_url_from_a_variable_that_route_names(items: Project) -> None:
    """Any other variable is named by `route`; without it, the error says so."""
    items.write(
        "migrations/env.py",
        OWN_ENGINE.format(before="import os", url="os.environ['SHOP_DB']", options=""),
    )
    outcome = items.clonedb("build")
    assert outcome.code == 1
    assert 'add route = ["SHOP_DB"] to [tool.clonedb]' in outcome.text
    items.settings(route=["SHOP_DB"])
    assert ask(items, "select count(*) from item") == "1"


def test_a_settings_class_that_checks_its_url(items: Project) -> None:
    """pydantic's PostgresDsn refuses a URL without a host, so it gets one with loopback TCP and a password."""
    items.write(
        "shop/settings.py",
        """
        from pydantic import PostgresDsn
        from pydantic_settings import BaseSettings

        class Settings(BaseSettings):
            database_url: PostgresDsn

        settings = Settings()
        """,
    )
    before = "from shop.settings import settings"
    items.write(
        "migrations/env.py",
        OWN_ENGINE.format(before=before, url="str(settings.database_url)", options=""),
    )
    assert ask(items, "select count(*) from item") == "1"


def test_an_env_py_that_insists_on_its_configuration_file(project: Project) -> None:
    """`assert config.config_file_name` and fileConfig() work in a project that has no alembic.ini at all."""
    project.items()
    (project.directory / "alembic.ini").unlink()
    project.settings(alembic={"script_location": "migrations", "url": "{url}"})
    before = "from logging.config import fileConfig\nassert context.config.config_file_name is not None\nfileConfig(context.config.config_file_name)"
    url = "context.config.get_main_option('url')"
    project.write("migrations/env.py", OWN_ENGINE.format(before=before, url=url, options=""))
    assert ask(project, "select count(*) from item") == "1"


def test_alembic_configured_in_pyproject_only(items: Project) -> None:
    """[tool.alembic] in pyproject.toml, as Alembic 1.16 and newer write it."""
    (items.directory / "alembic.ini").unlink()
    items.write(
        "pyproject.toml",
        '[tool.alembic]\nscript_location = "%(here)s/migrations"\nprepend_sys_path = ["."]\n',
    )
    before = "url = context.config.get_main_option('sqlalchemy.url')"
    items.write("migrations/env.py", OWN_ENGINE.format(before=before, url="url", options=""))
    assert ask(items, "select count(*) from item") == "1"


@pytest.mark.campaign("long")
def test_models_that_only_the_callers_sys_path_holds(items: Project) -> None:
    """env.py imports a package of the directory that pytest's `pythonpath` names, or PYTHONPATH."""
    items.write("lib/models.py", "metadata = None\n")
    items.write("migrations/env.py", "import models\n" + ENV_PY)
    assert "pytest's pythonpath" in items.clonedb("build").text
    items.write("pytest.ini", "[pytest]\npythonpath = lib\n")
    assert items.clonedb("build").code == 0
    (items.directory / "pytest.ini").unlink()
    assert items.clonedb("build", "--force", PYTHONPATH=str(items.directory / "lib")).code == 0


def test_timeouts_and_an_advisory_lock_of_its_own(items: Project) -> None:
    """An env.py that sets timeouts on its connection and takes an advisory lock while it migrates."""
    items.write(
        "migrations/env.py",
        """
        from alembic import context
        from sqlalchemy import engine_from_config, text

        engine = engine_from_config(context.config.get_section("alembic"), connect_args={"options": "-c lock_timeout=4s"})
        with engine.connect() as connection:
            connection.execute(text("set statement_timeout = '30s'"))
            connection.execute(text("select pg_advisory_lock(4711)"))
            connection.commit()
            context.configure(connection=connection, transaction_per_migration=True)
            with context.begin_transaction():
                context.run_migrations()
            connection.execute(text("select pg_advisory_unlock(4711)"))
        """,
    )
    assert (
        ask(items, "select count(*), current_setting('statement_timeout') from item") == "1|0"
    )


def test_an_env_py_that_demands_a_connection(items: Project) -> None:
    """`config.attributes["connection"]` finds an open one; `.get("connection")` none, as under the alembic command."""
    items.write(
        "migrations/env.py",
        """
        from alembic import context

        assert context.config.attributes.get("connection") is None
        connection = context.config.attributes["connection"]
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
        """,
    )
    assert ask(items, "select count(*) from item") == "1"


def test_x_arguments_reach_env_py(items: Project) -> None:
    """`x = [...]` is alembic's -x, and part of the fingerprint."""
    before = "assert context.get_x_argument(as_dictionary=True) == {'tenant': 'one', 'colour': 'red'}"
    items.write(
        "migrations/env.py",
        ENV_PY.replace("config = context.config", f"config = context.config\n{before}"),
    )
    assert items.clonedb("build").code == 1
    items.settings(x=["tenant=one", "colour=red"])
    assert ask(items, "select count(*) from item") == "1"


def test_several_heads(project: Project) -> None:
    """Two branches are both migrated, and both heads verified."""
    project.revision("root", 'op.execute("create table a (x int)")')
    project.revision("left", 'op.execute("create table l (x int)")', down="root")
    project.revision("right", 'op.execute("create table r (x int)")', down="root")
    outcome = project.clonedb("build")
    outcome.demand()
    assert "at left, right" in outcome.out or "at right, left" in outcome.out
    assert ask(project, "select count(*) from alembic_version") == "2"


def test_a_version_table_of_another_name_in_another_schema(items: Project) -> None:
    """version_table and version_table_schema are read from what env.py configured."""
    items.write(
        "migrations/env.py",
        OWN_ENGINE.format(
            before="from sqlalchemy import text\n",
            url="context.config.get_main_option('sqlalchemy.url')",
            options=", version_table='versions', version_table_schema='meta'",
        ).replace(
            "    context.configure",
            "    connection.execute(text('create schema if not exists meta'))\n    connection.commit()\n    context.configure",
            1,
        ),
    )
    assert ask(items, "select version_num from meta.versions") == "two"


def test_target_stops_where_it_says(items: Project) -> None:
    """`target` may be any revision."""
    items.settings(target="one")
    assert (
        ask(items, "select version_num, (select count(*) from item) from alembic_version")
        == "one|0"
    )


def test_concurrent_index_in_an_autocommit_block(items: Project) -> None:
    """autocommit_block() works: no transaction is put around the migrations."""
    items.revision(
        "three",
        'with op.get_context().autocommit_block():\n    op.execute("create index concurrently on item (name)")',
    )
    items.write(
        "migrations/env.py",
        ENV_PY.replace(
            "target_metadata=target_metadata",
            "target_metadata=target_metadata, transaction_per_migration=True",
        ),
    )
    assert ask(items, "select count(*) from pg_indexes where tablename = 'item'") == "2"


@pytest.mark.campaign("long")
def test_env_py_that_waits_for_its_own_other_session(project: Project) -> None:
    """One that migrates two databases in turn has two sessions with one here, and PostgreSQL sees no deadlock."""
    project.write(
        "migrations/env.py",
        """
        from alembic import context
        from sqlalchemy import create_engine
        connections = [create_engine(f"postgresql+psycopg://u@localhost/{name}").connect() for name in ("users", "orders")]
        for connection in connections:
            connection.begin()
            context.configure(connection=connection)
            context.run_migrations()
        for connection in connections:
            connection.commit()
        """,
    )
    project.revision("one", 'op.execute("create table item (id int)")')
    outcome = project.clonedb("build").demand(1)
    assert "waits for a transaction that is left open, and would do so for ever" in outcome.err
    assert (
        "an env.py or a command that migrates several needs a template for each" in outcome.err
    )
