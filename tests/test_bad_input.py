"""What a user's mistake gets: one clear message with a remedy, an exit code, and nothing left behind."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.projects import ENV_PY, Outcome, Project, databases

PASSWORD = "s3cr%t@/pass"
ESCAPED = "s3cr%25t%40%2Fpass"

TEST = """
def test_items(clonedb_connection):
    assert clonedb_connection.execute("select count(*) from item").fetchone() == (1,)
"""


@pytest.fixture
def role(admin_dsn: str, prefix: str) -> Iterator[str]:
    """A role that may log in with PASSWORD, and do nothing else."""
    name = f"{prefix}_role"
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        create = sql.SQL("create role {} login password {}").format(
            sql.Identifier(name), sql.Literal(PASSWORD)
        )
        connection.execute(create)
        yield name
        for database in databases(admin_dsn, prefix):
            connection.execute(
                sql.SQL("alter database {} is_template false").format(sql.Identifier(database))
            )
            connection.execute(
                sql.SQL("drop database {} with (force)").format(sql.Identifier(database))
            )
        connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def refused(outcome: Outcome, *words: str) -> str:
    """The one message of a command that failed; it holds the words, no traceback of ours, and no password."""
    text = outcome.demand(1).text
    assert not re.search(r"clonedb/\w+\.py", text), text
    assert PASSWORD not in text
    assert ESCAPED not in text
    for word in words:
        assert word in text, f"{word!r} is not in:\n{text}"
    return text


def port_of(url: str) -> str:
    return url.rpartition(":")[2].strip("/")


def test_server_unreachable(items: Project) -> None:
    """A closed port is refused at once, with the URL, where it was said, and what to check."""
    items.settings(url=f"postgresql://app:{ESCAPED}@127.0.0.1:1/shop")
    text = refused(
        items.clonedb("build"),
        "postgresql://app:***@127.0.0.1:1/shop",
        "pyproject.toml [tool.clonedb]",
    )
    assert "check that it runs, and its host, port, user and password" in text


@pytest.mark.campaign("long")
def test_server_that_does_not_answer(items: Project) -> None:
    """A server that accepts and then says nothing costs connect_timeout, never a silent minute."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://app@127.0.0.1:{silent.getsockname()[1]}/shop"
        start = time.monotonic()
        refused(
            items.clonedb("build", CLONEDB_URL=url, CLONEDB_CONNECT_TIMEOUT="2"),
            "CLONEDB_URL",
            "connect_timeout = 2 s",
        )
        assert time.monotonic() - start < 6


def test_wrong_password(items: Project, server_url: str, role: str) -> None:
    """The server's own words, and no password."""
    url = f"postgresql://{role}:{ESCAPED}x@127.0.0.1:{port_of(server_url)}"
    text = refused(items.clonedb("build", CLONEDB_URL=url), "password authentication failed")
    assert "s3cr" not in text


@pytest.mark.campaign("long")
def test_no_right_to_create_databases(
    items: Project, server_url: str, role: str, admin_dsn: str, prefix: str
) -> None:
    """The role is named, and the statement that grants the right; with the right, an ordinary role builds a template of its own and clones it."""
    url = f"postgresql://{role}:{ESCAPED}@127.0.0.1:{port_of(server_url)}"
    refused(
        items.clonedb("build", CLONEDB_URL=url),
        f"{role!r} may not create databases",
        f'ALTER ROLE "{role}" CREATEDB',
    )
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("alter role {} createdb").format(sql.Identifier(role)))
    items.write("test_items.py", TEST)
    items.clonedb("build", CLONEDB_URL=server_url).demand()
    assert (
        "1 passed" in items.pytest(CLONEDB_URL=url).demand().out
    )  # what a superuser built would be denied to it
    assert (
        "1 passed" in items.pytest(CLONEDB_URL=server_url, CLONEDB_FROZEN="true").demand().out
    )
    assert [f"{prefix}_t_" in name for name in databases(admin_dsn, prefix)] == [True, True]


def test_missing_extension(project: Project, server_url: str) -> None:
    """An external server that lacks an extension is named, and the extension; nothing is begun."""
    project.revision("one", 'op.execute("create extension if not exists no_such_extension")')
    text = refused(
        project.clonedb("build", CLONEDB_URL=server_url),
        "no extension 'no_such_extension'",
        "postgresql-contrib",
    )
    assert "building" not in text
    with psycopg.connect(server_url.replace("+psycopg", "") + "/postgres") as connection:
        icu = connection.execute(
            "select from pg_collation where collname = 'und-x-icu'"
        ).fetchone()
    if icu is None:
        project.revision(
            "one",
            "op.execute('create collation c (provider = icu, locale = \\'und\\')')",
            down=None,
        )
        refused(project.clonedb("build", CLONEDB_URL=server_url), "no extension 'ICU'")


def test_missing_extension_on_every_server_at_hand(project: Project) -> None:
    """Without a URL, every PostgreSQL found is listed with what it lacks."""
    project.revision("one", 'op.execute("create extension if not exists no_such_extension")')
    refused(project.clonedb("build"), "no_such_extension", "CLONEDB_URL")


def test_missing_extension_seen_only_at_run_time(project: Project) -> None:
    """A name that is put together while migrating fails there, with the revision and the way to say it beforehand."""
    project.revision("one", 'op.execute("create " + "extension no_such_extension")')
    refused(
        project.clonedb("build"),
        "revision 'one'",
        "'no_such_extension'",
        "[tool.clonedb] extensions",
    )


def test_no_alembic_configuration(project: Project) -> None:
    """Every place that was looked at, and the remedies."""
    (project.directory / "alembic.ini").unlink()
    refused(project.clonedb("build"), "alembic.ini", "pyproject.toml", "alembic init")


BROKEN = 'open(os.environ["RUNS"], "a").write("x"); op.execute("select 1 from no_such_table")'


def test_a_migration_that_raises(items: Project, admin_dsn: str, prefix: str) -> None:
    """Revision, file and line, the database's error, the statement, the user's frames; nothing is left."""
    items.revision("three", 'op.execute("select 1 from no_such_table")')
    text = refused(
        items.clonedb("build"),
        "revision 'three' (migrations/versions/three.py:",
        "UndefinedTable",
    )
    assert 'relation "no_such_table" does not exist' in text
    assert "statement: select 1 from no_such_table" in text
    assert "sqlalchemy/engine" not in text
    assert databases(admin_dsn, prefix) == []


def test_a_migration_that_raises_runs_once_for_all_workers(
    items: Project, tmp_path: Path
) -> None:
    """Under -n 3, one worker tries and shows the error; the others say in a line that it failed."""
    runs = tmp_path / "runs"
    items.revision("three", BROKEN)
    items.write(
        "test_items.py",
        "import pytest\n@pytest.mark.parametrize('n', range(12))\ndef test_it(n, clonedb): pass\n",
    )
    outcome = items.pytest("-n", "3", "-q", RUNS=str(runs)).demand(1)
    assert runs.read_text() == "x"
    assert outcome.out.count("statement: select 1 from no_such_table") == 1
    assert "12 errors" in outcome.out
    assert "INTERNALERROR" not in outcome.text


def test_version_table_behind_the_heads(items: Project, admin_dsn: str, prefix: str) -> None:
    """An env.py that does not commit leaves nothing: the message says what is missing and where to look."""
    forgetful = ENV_PY.replace(
        "        with context.begin_transaction():\n            context.run_migrations()",
        "        connection.begin()\n        context.run_migrations()",
    )
    assert forgetful != ENV_PY
    items.write("migrations/env.py", forgetful)
    refused(items.clonedb("build"), "'alembic_version' holds nothing", "one, two", "commit")
    assert databases(admin_dsn, prefix) == []


def test_an_env_py_that_never_connects(items: Project) -> None:
    """It ran, but Alembic was never asked to migrate."""
    items.write("migrations/env.py", "from alembic import context\n")
    refused(items.clonedb("build"), "never called context.run_migrations()")


def test_an_env_py_that_raises(items: Project) -> None:
    """The error and the user's frames."""
    items.write("migrations/env.py", "raise RuntimeError('out of order')\n")
    refused(items.clonedb("build"), "env.py", "RuntimeError: out of order", "migrations/env.py")


def test_an_env_py_that_exits(items: Project) -> None:
    """sys.exit() in env.py is a failure like others."""
    items.write(
        "migrations/env.py", "import sys\nprint('no database configured')\nsys.exit(3)\n"
    )
    refused(items.clonedb("build"), "SystemExit: 3", "no database configured")


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        ("seeds.sql", ("seed 'seeds.sql'", 'relation "nowhere" does not exist')),
        ("fill:people", ("seed 'fill:people'", "ValueError: nobody to add", "fill.py")),
        ("fill:nothing", ("seed 'fill:nothing'", "AttributeError")),
        (
            "fill:generator",
            (
                "seed 'fill:generator'",
                "this seed is a generator function, of which a call runs nothing",
            ),
        ),
        ("missing.sql", ("seed 'missing.sql'", "package.module:function")),
    ],
)
def test_a_seed_that_fails(
    items: Project, admin_dsn: str, prefix: str, seed: str, words: tuple[str, ...]
) -> None:
    """The seed's name and its error; nothing is left but the layer below, which is migrated and has no seeds."""
    items.write(
        "seeds.sql", "insert into item (name) values ('a');\ninsert into nowhere values (1);\n"
    )
    items.write(
        "fill.py",
        "def people(connection):\n    raise ValueError('nobody to add')\n\ndef generator(connection):\n    yield\n",
    )
    items.settings(seed=[seed])
    refused(items.clonedb("build"), *words)
    assert databases(admin_dsn, f"{prefix}_b") == databases(admin_dsn, f"{prefix}_c") == []
    items.settings(seed=[])
    items.clonedb("build").demand()
    assert len(databases(admin_dsn, prefix)) <= 2


def test_a_mistyped_setting(items: Project) -> None:
    """The key, the file and the nearest right spelling."""
    items.settings(isolaton="clone")
    refused(
        items.clonedb("build"),
        "unknown setting 'isolaton'",
        "did you mean 'isolation'?",
        "pyproject.toml",
    )


def test_a_mistyped_variable(items: Project) -> None:
    """Environment variables too."""
    refused(
        items.clonedb("build", CLONEDB_LOCK_TIMEOT="3"),
        "unknown variable 'CLONEDB_LOCK_TIMEOT'",
        "did you mean 'CLONEDB_LOCK_TIMEOUT'?",
    )


def test_a_name_too_long(items: Project) -> None:
    """A prefix that leaves no room in PostgreSQL's 63 bytes."""
    refused(items.clonedb("build", CLONEDB_PREFIX="x" * 30), "x" * 30, "63 bytes")


def test_mistakes_reach_pytest_as_one_message(items: Project) -> None:
    """In a test run the same messages, without our frames and in full only once; the header does not fail."""
    items.settings(url="postgresql://127.0.0.1:1/shop")
    items.write("test_items.py", TEST + TEST.replace("test_items", "test_more"))
    outcome = items.pytest().demand(1)
    assert "2 errors" in outcome.out
    errors = outcome.out.partition("short test summary")[0]
    assert errors.count("check that it runs, and its host") == 1
    assert errors.count("(shown in full above)") == 1
    assert not re.search(r"clonedb/\w+\.py", outcome.out), outcome.out


@pytest.mark.campaign("long")
def test_a_full_disk_during_the_build(
    small_disk: Callable[[str], Path], project: Project, postgres_bin: str | None
) -> None:
    """The revision, PostgreSQL's error and what to do; with room again, the same server builds."""
    disk = small_disk("120m")
    project.revision(
        "one",
        'op.execute("create table big as select repeat(md5(g::text), 30) t from generate_series(1, 200000) g")',
    )
    state: dict[str, str] = {
        "CLONEDB_STATE_DIR": str(disk / "state"),
        "CLONEDB_IDLE_TIMEOUT": "0.5",
        "CLONEDB_DATA": "disk",
    }
    try:
        refused(
            project.clonedb("build", **state),
            "revision 'one'",
            "No space left on device",
            "free some space",
        )
        project.revision("one", 'op.execute("create table small (x int)")', down=None)
        project.clonedb("build", **state).demand()
        assert "unfinished" not in project.clonedb("list", **state).out
    finally:
        project.clonedb("server", "stop", **state)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pyproject.toml", "it is a FIFO and no file"),
        ("migrations/versions/three.py", "it is a FIFO and no file"),
        ("alembic.ini", "no Alembic migrations"),
        ("rows.sql", "seed 'rows.sql' is neither a file"),
    ],
)
def test_a_fifo_is_no_file(items: Project, name: str, told: str) -> None:
    """Opening one would wait until somebody writes into it: it is told of, or not taken for a file."""
    items.settings(seed=["rows.sql"] if name == "rows.sql" else [])
    (items.directory / name).unlink(missing_ok=True)
    os.mkfifo(items.directory / name)
    refused(items.clonedb("fingerprint"), told)


def test_what_is_no_file_is_not_surveyed(items: Project) -> None:
    """`clonedb init` passes FIFOs by, and the links that an editor makes of its locks, which lead nowhere."""
    (items.directory / ".#models.py").symlink_to("somebody@somewhere.4711")
    for name in ("pipe.py", "requirements.txt"):
        os.mkfifo(items.directory / name)
    items.clonedb("init", "--yes").demand()
