"""What a revision leaves in its session, which those after it would not find if they were built upon a layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clonedb.settings.config import Config
from tests.projects import ENV_PY, Project
from tests.templates.conftest import opened

Configured = Callable[..., Config]

LEFT = {
    "custom": ("set app.tenant = 'one'", "app.tenant"),
    "custom, by a function": ("select set_config('app.tenant', 'one', false)", "app.tenant"),
    "computed": (
        "select set_config('app.' || 'tenant', 'one', false)",
        "one whose name is computed, or a library",
    ),
    "role": ("grant all on alembic_version to pg_monitor; set role pg_monitor", "role"),
    "session authorization": (
        "grant all on alembic_version to pg_monitor; set session authorization pg_monitor",
        "session_authorization",
    ),
}


@pytest.mark.parametrize("left", LEFT)
def test_what_is_left_in_the_session_is_a_reason_against_a_layer(
    project: Project, configured: Configured, left: str
) -> None:
    """A revision after it finds what pg_settings does not show, too, as from nothing; the reason names it."""
    statement, name = LEFT[left]
    project.revision("r1", 'op.execute("create table seen (tenant text, as_role text)")')
    project.revision("r2", f"op.get_bind().exec_driver_sql({statement!r})")
    opened(configured())[0].close()
    project.revision("r3", "pass")
    template, heard = opened(configured())
    template.close()
    assert heard.built() == "from zero"
    assert any(f"in their session ({name})" in line for line in heard.lines), heard.lines


def test_a_setting_that_an_earlier_revisions_function_leaves(
    project: Project, configured: Configured
) -> None:
    """Its name is in no statement of the build upon the layer, and found in the function."""
    body = "select set_config('app.tenant', 'one', false)"
    project.revision(
        "r1", f'op.execute("create function choose() returns text begin atomic {body}; end")'
    )
    opened(configured())[0].close()
    project.revision("r2", 'op.execute("select choose()")')
    opened(configured())[0].close()
    project.revision("r3", "pass")
    template, heard = opened(configured())
    template.close()
    assert heard.built() == "2 of 3", heard.lines


def test_custom_settings_that_are_over_are_no_reason(
    project: Project, configured: Configured
) -> None:
    """What a revision only reads, or what env.py sets each time, keeps no layer from being built upon."""
    project.write(
        "migrations/env.py",
        ENV_PY.replace(
            "        context.configure(",
            "        connection.exec_driver_sql(\"set app.x = 'y'\")\n        connection.commit()\n        context.configure(",
        ),
    )
    project.revision(
        "r1",
        "op.execute(\"select current_setting('app.tenant', true), current_setting('app.x')\")",
    )
    opened(configured())[0].close()
    project.revision("r2", "pass")
    template, heard = opened(configured())
    template.close()
    assert heard.built() == "1 of 2", heard.lines


ASYNC_ENV_PY = """
import asyncio
from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine

def migrate(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()

async def run():
    async with create_async_engine("postgresql+asyncpg://nobody@localhost:1/never").connect() as connection:
        await connection.run_sync(migrate)

asyncio.run(run())
"""
RAW = {
    "psycopg": "op.get_bind().connection.cursor().execute(\"set app.tenant = 'one'\")",
    "psycopg, bytes": "op.get_bind().connection.driver_connection.execute(b\"set app.tenant = 'one'\")",
    "psycopg2": "op.get_bind().connection.cursor().execute(\"set app.tenant = 'one'\")",
    "psycopg2, composed": (
        "from psycopg2 import sql\n"
        'op.get_bind().connection.cursor().execute(sql.SQL("set app.tenant = {}").format(sql.Literal("one")))'
    ),
    "asyncpg": (
        "from sqlalchemy.util import await_only\n"
        "await_only(op.get_bind().connection.driver_connection.execute(\"set app.tenant = 'one'\"))"
    ),
    "a role, by psycopg": 'op.get_bind().connection.cursor().execute("set role pg_monitor")',
}


@pytest.mark.parametrize("way", RAW)
def test_what_a_drivers_own_cursor_leaves(
    project: Project, configured: Configured, way: str
) -> None:
    """It is heard below SQLAlchemy, of whose events there is none."""
    driver = way.rpartition(" ")[2] if way.startswith("a role") else way.partition(",")[0]
    if driver == "asyncpg":
        project.write("migrations/env.py", ASYNC_ENV_PY)
    else:
        ini = project.directory / "alembic.ini"
        ini.write_text(ini.read_text().replace("postgresql+psycopg:", f"postgresql+{driver}:"))
    project.revision("r1", 'op.execute("grant all on alembic_version to pg_monitor")')
    project.revision("r2", RAW[way])
    opened(configured())[0].close()
    project.revision("r3", "pass")
    template, heard = opened(configured())
    template.close()
    assert heard.built() == "from zero"
    name = "role" if way.startswith("a role") else "app.tenant"
    assert any(f"in their session ({name})" in line for line in heard.lines), heard.lines
