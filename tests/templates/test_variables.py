"""Environment variables that migrations and seeds read: named by a build, and part of the template with `watch_env`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clonedb.settings.config import Config
from tests.projects import ENV_PY, Project, one
from tests.templates.conftest import opened

Configured = Callable[..., Config]

TENANTS = """
import os
for tenant in os.environ.get("TENANTS", "none").split():
    op.execute(f"create table of_{tenant} ()")
"""
TABLES = (
    "select string_agg(relname, ' ' order by relname) from pg_class where relname like 'of_%%'"
)


def tables(config: Config) -> tuple[object, str | None]:
    """The tenants' tables of a clone, and how its template was begun."""
    template, heard = opened(config)
    with template, template.clone() as clone:
        return one(clone, TABLES)[0], heard.built()


def test_another_value_is_another_template(
    project: Project, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is a variable that is not set; a value that was there before has its template still."""
    project.revision("r1", TENANTS)
    config = configured(watch_env=["TENANTS"])
    monkeypatch.delenv("TENANTS", raising=False)
    assert tables(config) == ("of_none", "from zero")
    monkeypatch.setenv("TENANTS", "")
    assert tables(config) == (None, "from zero")
    monkeypatch.setenv("TENANTS", "north south")
    assert tables(config) == ("of_north of_south", "from zero")
    monkeypatch.delenv("TENANTS")
    assert tables(config) == ("of_none", None)


def test_no_layer_survives_another_value(
    project: Project, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any revision may have read it, also one of those that a layer has."""
    project.revision("r1", TENANTS)
    config = configured(watch_env=["TENANTS"])
    monkeypatch.setenv("TENANTS", "north")
    tables(config)
    project.revision("r2", "pass", down="r1")
    assert tables(config) == ("of_north", "1 of 2")
    monkeypatch.setenv("TENANTS", "south")
    project.revision("r3", "pass", down="r2")
    assert tables(config) == ("of_south", "from zero")


def test_what_a_build_reads_is_named(
    project: Project, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By env.py, a revision, a module of the project and a seed, set or not; what leads to a database is no input."""
    monkeypatch.setenv("SHOP_STORE", "postgresql://localhost/shop")
    project.write("shop/__init__.py", "import os\nCOLOUR = os.getenv('SHOP_COLOUR')\n")
    ours = "import os, shop\nfor name in ('DATABASE_URL', 'PGHOST', 'SHOP_STORE', 'ENV_PY'): os.environ.get(name)\n"
    project.write("migrations/env.py", ours + ENV_PY)
    project.revision("r1", TENANTS)
    project.write(
        "seeds.py",
        "import os\ndef fill(connection): 'SEED' in os.environ or os.environ['PATH']\n",
    )
    template, heard = opened(configured(seed=["seeds:fill"], watch_env=["ENV_PY"]))
    template.close()
    told = [line for line in heard.lines if "watch_env" in line]
    assert [line.partition("add ")[2] for line in told] == [
        'watch_env = ["SHOP_COLOUR", "TENANTS"] to [tool.clonedb]',
        'watch_env = ["PATH", "SEED", "SHOP_COLOUR"] to [tool.clonedb]',
    ]


def test_what_libraries_read_is_not_named(project: Project, configured: Configured) -> None:
    """Alembic, SQLAlchemy and Python's own modules ask for plenty."""
    project.revision("r1", "import tempfile, webbrowser; tempfile.gettempdir(); webbrowser.get")
    template, heard = opened(configured())
    template.close()
    assert not [line for line in heard.lines if "watch_env" in line]
