"""env.py files that expect what an application's own launcher gives them, or that lead elsewhere."""

from __future__ import annotations

import re

import pytest

from clonedb.errors import MigrationError, VerificationError
from clonedb.url import DatabaseURL
from tests.migrate.conftest import Ask
from tests.migrators import Migrator, Migrators
from tests.projects import ENV_PY, Project

TABLE = 'op.execute("create table item (id int)")'
RUN = """
context.configure(connection=connection)
with context.begin_transaction():
    context.run_migrations()
"""


def migrated(migrator: Migrator, url: DatabaseURL) -> tuple[str, ...]:
    """The heads that a database is at after its migrations."""
    return migrator.migrate(url).heads


@pytest.mark.parametrize(
    "lines",
    [
        "connection = context.config.attributes.get('connection')\nif connection is None: raise RuntimeError('ours only')",
        "connection = context.config.attributes.get('connection')",
        "connection = context.config.attributes.get('connection').connect()",
        "connection = context.config.attributes['connection']",
    ],
)
def test_an_env_py_that_demands_a_connection(
    project: Project, migrator: Migrators, url: DatabaseURL, lines: str
) -> None:
    """However it asks its Config for one: it is there."""
    project.revision("one", TABLE, 'op.execute("drop table item")')
    project.write("migrations/env.py", f"from alembic import context\n{lines}\n{RUN}")
    with migrator().session(url) as session:
        assert session.upgrade().heads == ("one",)
        assert session.downgrade().heads == ()


def test_an_env_py_that_can_do_without_makes_its_own_engine(
    project: Project, migrator: Migrators, url: DatabaseURL, ask: Ask
) -> None:
    """As under the alembic command: some want an Engine there, some a Connection, some an AsyncEngine."""
    project.revision("one", TABLE)
    lines = "assert config.attributes.get('connection', None) is None\n"
    project.write(
        "migrations/env.py",
        ENV_PY.replace("target_metadata = None\n", f"target_metadata = None\n{lines}"),
    )
    assert migrated(migrator(), url) == ("one",)


def test_a_failure_without_a_connection_is_the_one_that_is_told(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """Not what became of the second try."""
    project.write(
        "migrations/env.py",
        "from alembic import context\nif context.config.attributes.get('connection') is None:\n"
        "    raise ValueError('the first')\nraise ValueError('the second')\n",
    )
    with pytest.raises(Exception, match="ValueError: the first"):
        migrated(migrator(), url)


PREPARE = """
import contextlib

class App:
    context = None

def configure(config):
    config.db_url = "postgresql://"
    config.set_main_option("prepared", "yes")

@contextlib.contextmanager
def context(config):
    App.context = config.get_main_option("script_location")
    yield
    App.context = None
"""


def test_prepare_is_called_before_env_py(
    project: Project, migrator: Migrators, url: DatabaseURL, ask: Ask
) -> None:
    """With Alembic's Config, each time; what it returns is a context around env.py, if it is one."""
    project.revision("one", TABLE, 'op.execute("drop table item")')
    project.write("app.py", PREPARE)
    needs = "assert config.db_url\nassert config.get_main_option('prepared') == 'yes'\n"
    project.write(
        "migrations/env.py",
        ENV_PY.replace("target_metadata = None\n", f"target_metadata = None\n{needs}"),
    )
    with migrator(prepare="app:configure").session(url) as session:
        assert session.upgrade().heads == ("one",)
        assert session.downgrade().heads == ()
    needs = "import app\nassert app.App.context.endswith('migrations')\n"
    project.write(
        "migrations/env.py",
        ENV_PY.replace("target_metadata = None\n", f"target_metadata = None\n{needs}"),
    )
    assert migrated(migrator(prepare="app:context"), url) == ("one",)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        ("app", "prepare is 'app'; it takes package.module:function"),
        (
            "nowhere:configure",
            "prepare = 'nowhere:configure' failed: ModuleNotFoundError: No module named 'nowhere'",
        ),
        (
            "app:nothing",
            "prepare = 'app:nothing' failed: AttributeError: module 'app' has no attribute 'nothing'",
        ),
        ("app:broken", "prepare = 'app:broken' failed: ValueError: no"),
    ],
)
def test_a_prepare_that_fails_is_named(
    project: Project, migrator: Migrators, url: DatabaseURL, prepare: str, message: str
) -> None:
    """It is not env.py that failed."""
    project.write("app.py", "def broken(config): raise ValueError('no')\n")
    with pytest.raises(Exception, match=re.escape(message)):
        migrated(migrator(prepare=prepare), url)


def test_the_options_of_the_alembic_command(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """`config.cmd_opts` is what Alembic parses from `alembic upgrade heads`, and from what else is done."""
    project.revision("one", TABLE, 'op.execute("drop table item")')
    seen = "options = config.cmd_opts\nprint(options.cmd[0].__name__, vars(options).get('revision'), options.x, options.name, options.config, file=open('seen', 'a'))\n"
    seen = seen.replace("'seen'", repr(str(project.directory / "seen")))
    project.write(
        "migrations/env.py",
        ENV_PY.replace("target_metadata = None\n", f"target_metadata = None\n{seen}"),
    )
    with migrator(x=["tenant=1"]).session(url) as session:
        session.migrate("heads", ())
        session.downgrade("-1")
        session.current()
    said = [
        line.split(maxsplit=2) for line in (project.directory / "seen").read_text().splitlines()
    ]
    assert [line[:2] for line in said] == [
        ["upgrade", "heads"],
        ["downgrade", "-1"],
        ["current", "None"],
    ]
    assert all(
        line[2].startswith("['tenant=1'] alembic ") and "alembic.ini" in line[2]
        for line in said
    )


def test_another_database_system_is_refused_before_anything_is_written(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """The developer's own SQLite file stays as it is, and the variable to name is named."""
    project.revision("one", TABLE)
    file = project.write("app.db", "")
    project.write(
        "migrations/env.py",
        f"import os\nfrom alembic import context\nfrom sqlalchemy import create_engine\nos.environ.get('HOME')\n"
        f"connection = create_engine(os.environ.get('APP_DB', 'sqlite:///{file}')).connect()\n{RUN}",
    )
    with pytest.raises(MigrationError) as error:
        migrated(migrator(), url)
    assert (
        f"connects to sqlite ('sqlite:///{file}') and not to PostgreSQL; nothing was migrated there"
        in str(error.value)
    )
    assert 'Add route = ["APP_DB"] to [tool.clonedb]' in str(error.value)
    assert file.read_bytes() == b""


def test_a_listener_that_provides_a_token(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """An engine of env.py that puts a password and sslmode into each connection reaches the database being built."""
    project.revision("one", TABLE)
    project.write(
        "migrations/env.py",
        "from alembic import context\nfrom sqlalchemy import create_engine, event\n"
        "engine = create_engine('postgresql+psycopg://app@db.invalid/app')\n"
        "@event.listens_for(engine, 'do_connect')\ndef provide(dialect, record, cargs, cparams):\n"
        "    cparams.update(password='token', sslmode='verify-full', host='db.invalid')\n"
        f"connection = engine.connect()\n{RUN}connection.commit()\n",
    )
    assert migrated(migrator(), url) == ("one",)


@pytest.mark.parametrize(
    ("required", "url_option", "expected"),
    [
        ("psycopg2-binary>=2.9", "postgresql://x/y", "psycopg2"),
        ("psycopg2", "driver://user:pass@localhost/dbname", "psycopg2"),
        ("psycopg[binary]", "postgresql://x/y", "psycopg"),
        ("asyncpg", "", "psycopg"),
        ("psycopg2", "postgresql+psycopg://x/y", "psycopg"),
    ],
)
def test_the_projects_own_driver(
    project: Project, migrator: Migrators, required: str, url_option: str, expected: str
) -> None:
    """What env.py reads names the driver that the project requires, unless the URL in its place names one."""
    project.write(
        "pyproject.toml",
        f'[project]\nname = "items"\ndependencies = ["sqlalchemy", "{required}"]\n',
    )
    project.write(
        "alembic.ini",
        f"[alembic]\nscript_location = migrations\nsqlalchemy.url = {url_option}\n",
    )
    setup = migrator()._setup(DatabaseURL.parse("postgresql://me@host/built"))
    assert setup["env_url"] == f"postgresql+{expected}://me@host/built"


def test_revisions_that_are_missing_are_counted_once(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """Those that ran and were not committed are missing, too."""
    project.revision("one", TABLE)
    project.revision("two", "pass")
    project.write(
        "migrations/env.py",
        "from alembic import context\nfrom sqlalchemy import create_engine\n"
        "connection = create_engine('postgresql+psycopg://').connect()\nconnection.begin()\n"
        + RUN.replace("run_migrations()", "run_migrations()\nconnection.rollback()"),
    )
    with pytest.raises(
        VerificationError, match=r"2 of 2 revisions up to 'heads' are missing \(one, two\)"
    ):
        migrated(migrator(), url)


def test_a_missing_revision_is_named_with_its_file(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """Alembic says a KeyError."""
    project.revision("one", TABLE)
    path = project.revision("two", "pass", down="gone")
    with pytest.raises(
        MigrationError,
        match=rf"revision 'two' \({re.escape(str(path))}\) comes after 'gone', which",
    ):
        migrated(migrator(), url)


def test_two_files_with_one_id_are_named(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """Alembic runs one of them."""
    first = project.revision("one", TABLE)
    second = project.directory / "migrations/versions/zwei.py"
    second.write_text(first.read_text())
    found = migrator().migrate(url)
    ((name, paths),) = found.doubled
    assert (name, {*paths}) == ("one", {first, second})
    assert found.scripts == (paths[-1],)
