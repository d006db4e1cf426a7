"""`migrate`: a command of the project's makes the schema."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clonedb.embedded import leases
from tests.projects import CLONEDB, Project, databases

TESTS = """
def test_rows(clonedb_connection):
    rows = clonedb_connection.execute("select name from item").fetchall()
    assert [name for (name,) in rows] == ["one"]
    clonedb_connection.execute("delete from item")

def test_rows_again(clonedb_session):
    from sqlalchemy import text
    assert clonedb_session.scalar(text("select count(*) from item")) == 1
"""

MAKE = """
import os, psycopg
from shop.sql import STATEMENTS
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    for statement in STATEMENTS:
        connection.execute(statement)
"""

STATEMENTS = """
STATEMENTS = ["create table item (name text)", "insert into item values ('one')"]
"""


@pytest.fixture
def shop(project: Project) -> Project:
    """A package with a program that makes the schema, and nothing of Alembic's."""
    (project.directory / "alembic.ini").unlink()
    shutil.rmtree(project.directory / "migrations")
    project.write("shop/__init__.py", "")
    project.write("shop/sql.py", STATEMENTS)
    project.write("make.py", MAKE)
    project.write("test_it.py", TESTS)
    project.settings(migrate="python make.py")
    return project


def test_a_command_in_place_of_migrations(shop: Project) -> None:
    """Run once by two workers; found again; run anew when a file that it names, or what that imports, is another."""
    first = shop.pytest("-n", "2").demand()
    assert "2 passed" in first.out
    assert first.text.count("building template") == 1
    assert "building template" not in shop.pytest().demand().text
    assert "made by 'python make.py'" in shop.clonedb("status").demand().out

    shop.write("shop/sql.py", STATEMENTS.replace("'one'", "'two'"))
    told = shop.clonedb("fingerprint", "--explain").demand().text
    assert "changed  import     shop/sql.py" in told
    assert "assert ['two'] == ['one']" in shop.pytest().demand(1).text.replace("\\", "")
    shop.write("make.py", MAKE + "print()\n")
    assert "building template" in shop.clonedb("build").demand().text


def test_what_a_build_read_is_told(shop: Project) -> None:
    """Modules that only running it shows, and data files; with the line that watches them."""
    more = "import os\nprint(open('names.txt').read(), os.environ.get('TENANT'))\n"
    shop.write("shop/more.py", more)
    shop.write("names.txt", "x")
    shop.write(
        "make.py", "import importlib\nimportlib.import_module('shop.' + 'more')\n" + MAKE
    )
    told = shop.clonedb("build").demand().text
    assert 'add watch = ["names.txt", "shop/more.py"]' in told
    assert 'add watch_env = ["TENANT"]' in told
    # compiled, it is read in another file
    shop.settings(migrate="python make.py", watch=["names.txt"], salt="other")
    del shop.environment["PYTHONDONTWRITEBYTECODE"]
    for salt in ("first", "second"):
        told = shop.clonedb("build", CLONEDB_SALT=salt).demand().text
        assert 'add watch = ["shop/more.py"]' in told


def test_many_files_that_a_build_read_are_told_by_directory(shop: Project) -> None:
    """So that one line is enough."""
    names = [f"shop/m{number}.py" for number in range(7)]
    for name in names:
        shop.write(name, "")
    imports = "import importlib\nfor n in range(7): importlib.import_module(f'shop.m{n}')\n"
    shop.write("make.py", imports + MAKE)
    told = shop.clonedb("build").demand().text
    assert "7 files that are not in the fingerprint" in told
    assert 'add watch = ["shop/*.py"]' in told
    shop.settings(migrate="python make.py", watch=["shop/*.py"])
    assert "not in the fingerprint" not in shop.clonedb("build").demand().text


def test_files_and_directories_that_a_command_names(shop: Project) -> None:
    """And those of every directory that is called `migrations`, a new one too; a module; what SQL includes."""
    shop.write("db/one.sql", "\\i db/two.inc\n")
    shop.write("db/two.inc", "")
    shop.write("more/migrations/3.sql", "")
    shop.write("node_modules/x/migrations/4.sql", "")
    shop.write("shop/tool.py", "import shop.sql\n")
    shop.write("shop/unused.py", "")
    shop.settings(migrate="python make.py --file=db/one.sql --app=shop.tool:run shop db")
    told = shop.clonedb("fingerprint", "--explain").demand().out
    for name in ("migrate    db/one.sql", "migrate    db/two.inc", "migrate    make.py"):
        assert name in told
    assert "migrate    more/migrations/3.sql" in told
    assert "shop/unused.py" not in told  # of a package that is named as a module
    assert "import     shop/tool.py" in told
    assert "node_modules" not in told
    shop.write("more/migrations/5.sql", "")
    assert "migrate    more/migrations/5.sql" in shop.clonedb("fingerprint", "--explain").out


def test_another_version_of_a_package_is_another_template(shop: Project) -> None:
    """It may bring migrations of its own."""
    before = shop.clonedb("fingerprint").demand().out
    (shop.directory / "site-packages/other-1.0.dist-info").mkdir(parents=True)
    path = str(shop.directory / "site-packages")
    after = shop.clonedb("fingerprint", "--explain", PYTHONPATH=path).demand().out
    assert before.strip() not in after


DRIVERS = {
    "psycopg": """
        import psycopg
        with psycopg.connect("postgresql://nobody@localhost:1/never", autocommit=True) as connection:
            connection.execute(STATEMENT)
        """,
    "psycopg, asynchronous": """
        import asyncio, psycopg
        async def main():
            async with await psycopg.AsyncConnection.connect(host="localhost", port=1) as connection:
                await connection.execute(STATEMENT)
        asyncio.run(main())
        """,
    "psycopg2": """
        import psycopg2
        connection = psycopg2.connect("host=localhost port=1 dbname=never", user="nobody")
        connection.cursor().execute(STATEMENT)
        connection.commit()
        """,
    "asyncpg": """
        import asyncio, asyncpg
        async def main():
            async with asyncpg.create_pool("postgresql://nobody@localhost:1/never", min_size=1, max_size=1) as pool:
                await pool.execute(STATEMENT)
        asyncio.run(main())
        """,
    "SQLAlchemy": """
        from sqlalchemy import create_engine, text
        with create_engine("postgresql+psycopg2://nobody@localhost:1/never").begin() as connection:
            connection.execute(text(STATEMENT))
            connection.execute(text("create database never_made"))
        """,
    "SQLAlchemy, a creator": """
        import psycopg
        from sqlalchemy import create_engine, text
        engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect("host=localhost port=1"))
        with engine.begin() as connection:
            connection.execute(text(STATEMENT))
        """,
    "a process below": """
        import multiprocessing, subprocess, sys
        code = "import psycopg; psycopg.connect('port=1', autocommit=True).execute(" + repr(STATEMENT) + ")"
        subprocess.run(["sh", "-c", 'exec "$0" -c "$1"', sys.executable, code], check=True)
        """,
    "libpq's variables": """
        import psycopg
        with psycopg.connect() as connection:
            connection.execute(STATEMENT)
        """,
}


@pytest.mark.parametrize("driver", DRIVERS)
def test_connections_lead_to_the_database_that_is_built(shop: Project, driver: str) -> None:
    """Wherever they are aimed, whatever makes them."""
    statement = "STATEMENT = \"create table item as select text 'one' as name\"\n"
    shop.write("make.py", statement + textwrap.dedent(DRIVERS[driver]))
    assert "2 passed" in shop.pytest().demand().out


MISTAKES = {
    "fails": (
        "import os, sys\nprint(os.environ['DATABASE_URL'], os.environ['PGPASSWORD'])\nsys.exit(3)",
        ["the command 'python make.py' failed: exit status 3", "postgresql://postgres:***@"],
    ),
    "is killed": (
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        ["the command 'python make.py' failed: killed by SIGKILL", "last output: nothing"],
    ),
    "asks": (
        "print('starts')\ninput('Are you sure? [y/N] ')",
        ["Are you sure? [y/N] Traceback", "EOFError: EOF when reading a line"],
    ),
    "asks a terminal": (
        "import getpass, warnings\nwarnings.simplefilter('ignore')\ngetpass.getpass('Password for app: ')",
        ["Password for app: Traceback", "EOFError"],
    ),
    "does nothing": (
        "print('done')",
        [
            "ended without an error, but the database that is being built is empty; it may have written to another one",
            "let it read DATABASE_URL",
            "last output:\n  done",
        ],
    ),
    "writes to SQLite": (
        "import sqlite3\nsqlite3.connect('app.db').execute('create table item (id)')",
        ["is empty; it may have written to another one (it opened SQLite's 'app.db'"],
    ),
    "makes a role again": (
        "import psycopg\npsycopg.connect().execute('create role postgres')",
        [
            'psycopg.errors.DuplicateObject: role "postgres" already exists',
            "hint: roles belong to the server, on which many templates are built: create one only where pg_roles lacks it",
        ],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_command_that_fails(shop: Project, admin_dsn: str, mistake: str) -> None:
    """Its exit code, its last output, and the line to run it by hand; no password, and nothing is left."""
    program, messages = MISTAKES[mistake]
    shop.write("make.py", program)
    outcome = shop.clonedb("build", SHOP_URL="postgresql://x").demand(1)
    for message in messages:
        assert message in outcome.text
    assert (
        f"  cd {shop.directory} && DATABASE_URL=postgresql:///NAME PGDATABASE=NAME python make.py"
        in outcome.text
    )
    assert "clonedb/migrate" not in outcome.text
    assert databases(admin_dsn, shop.environment["CLONEDB_PREFIX"]) == []


def test_a_driver_that_is_not_led(shop: Project) -> None:
    """What a Python process opened by itself is told of, when nothing has come of it here."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        connects = f"import socket\nsocket.create_connection(('127.0.0.1', {port}))\n"
        shop.write("make.py", connects)
        failed = shop.clonedb("build").demand(1).text
        assert f"it may have written to another one (it opened 127.0.0.1:{port}" in failed
        shop.write("make.py", connects + MAKE)
        shop.clonedb("build").demand()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"migrate": "nowhere up"}, "there is no program 'nowhere' in PATH or in '"),
        (
            {"migrate": "./make.py"},
            "the command './make.py' cannot be started: Permission denied",
        ),
        (
            {"migrate": "cd shop && python x"},
            'it is run without a shell: migrate = ["sh", "-c", "..."] runs one',
        ),
        ({"migrate": "A=1 python x"}, 'migrate = ["sh", "-c", "..."] runs one'),
        ({"migrate": "a 'b"}, 'migrate is "a \'b", which cannot be split into words'),
        (
            {"migrate": "make", "schema": ["x.sql"]},
            "are set together, and one of them makes the schema",
        ),
    ],
)
def test_what_is_no_command(shop: Project, settings: dict[str, object], message: str) -> None:
    """Each is told in a line with what to do."""
    shop.settings(**settings)
    outcome = shop.clonedb("build")
    assert outcome.code != 0
    assert message in outcome.text
    assert "Traceback" not in outcome.text


def test_what_needs_revisions_says_so(shop: Project) -> None:
    """There are none to stop at, to go down from, or to check."""
    words = "needs Alembic's revisions, and the template is made by 'python make.py', which has none"
    assert f"clonedb check {words}" in shop.clonedb("check").text
    assert f"isolation 'migrate' {words}" in shop.pytest("--clonedb-isolation=migrate").text
    shop.write("test_it.py", "def test_at(clonedb_at):\n    clonedb_at('base')\n")
    assert f"clonedb_at() {words}" in shop.pytest().demand(1).text


SLEEPS = """
import os, subprocess, sys, time
print("Applying 0001... ", end="")
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", os.environ["MARK"]])
time.sleep(600)
"""


def test_a_command_that_hangs(shop: Project) -> None:
    """It is told how long it runs and what it said last, and ended with all that it started."""
    shop.write("make.py", SLEEPS)
    mark = f"mark{os.getpid()}"
    outcome = shop.clonedb("build", CLONEDB_MIGRATE_TIMEOUT="4", MARK=mark).demand(1)
    assert "command 1 of 1 (2 s: Applying 0001...)" in outcome.err
    told = "the command 'python make.py' still ran after migrate_timeout = 4 s, and was ended"
    assert f"{told}\nlast output:\n  Applying 0001..." in outcome.err
    assert _running(mark) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_command(shop: Project, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and SIGKILL of the process that builds end all that it started."""
    shop.write("make.py", SLEEPS)
    shop.leave_coverage()
    mark = f"mark{os.getpid()}"
    process = shop.popen(*CLONEDB, "build", MARK=mark)
    try:
        _wait(lambda: len(_running(mark)) == 1)
        process.send_signal(number)
        process.communicate(timeout=20)
        _wait(lambda: _running(mark) == [])
    finally:
        process.kill()


def test_what_a_command_leaves_behind_is_ended(shop: Project) -> None:
    """A process that it started in the background, whose output is open."""
    leaves = """
    import os, subprocess, sys
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", os.environ["MARK"]])
    """
    shop.write("make.py", textwrap.dedent(leaves) + MAKE)
    mark = f"mark{os.getpid()}"
    assert "2 passed" in shop.pytest(MARK=mark).demand().out
    assert _running(mark) == []


def _running(mark: str) -> list[int]:
    """The processes that have a word among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def _wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_variables(shop: Project) -> None:
    """Each URL has the form that it had; one that was not set names no driver; input is closed."""
    shop.write(
        "make.py",
        """
        import os, sys
        from urllib.parse import urlsplit
        assert sys.stdin.read() == ""
        urls = [urlsplit(os.environ[name]) for name in ("DATABASE_URL", "SHOP_URL")]
        assert [url.scheme for url in urls] == ["postgresql", "postgresql+asyncpg"]
        assert urls[0].path == urls[1].path == "/" + os.environ["PGDATABASE"]
        assert urls[1].query == "application_name=shop"
        assert os.environ["PGSSLMODE"] == "disable"  # which Go's drivers demand
        assert not [name for name in os.environ if name.startswith("CLONEDB_URL")]
        """
        + textwrap.indent(MAKE, " " * 8),
    )
    shop.settings(migrate="python make.py", route=["SHOP_URL"])
    url = "postgresql+asyncpg://shop@db.invalid/shop?application_name=shop"
    shop.clonedb("build", SHOP_URL=url).demand()


def test_the_projects_own_sitecustomize(shop: Project) -> None:
    """It is run, too."""
    shop.write("site/sitecustomize.py", "import builtins\nbuiltins.customized = True\n")
    shop.write("make.py", "assert customized\n" + MAKE)
    shop.clonedb("build", PYTHONPATH=str(shop.directory / "site")).demand()


def test_a_program_that_is_not_python(shop: Project, lease: leases.Lease) -> None:
    """The server's own psql, led by libpq's variables: what an SQL file includes is part of the template."""
    psql = lease.binaries.program("psql")
    if psql is None:
        pytest.skip("there is no psql here")
    shop.write("db/schema.sql", "\\ir more.sql\ninsert into item values ('one');\n")
    shop.write("db/more.sql", "create table item (name text);\n")
    shop.settings(migrate=[str(psql), "-v", "ON_ERROR_STOP=1", "-f", "db/schema.sql"])
    assert "2 passed" in shop.pytest().demand().out
    shop.write("db/more.sql", "create table itme (name text);\n")
    failed = shop.clonedb("build").demand(1).text
    assert 'ERROR:  relation "item" does not exist' in failed
    assert "failed: exit status 3" in failed


def test_seeds_are_a_layer(shop: Project) -> None:
    """The command is not run again for another seed."""
    shop.write("seed.sql", "update item set name = 'two';\n")
    shop.settings(migrate="python make.py", seed=["seed.sql"])
    assert "assert ['two'] == ['one']" in shop.pytest().demand(1).text
    shop.write("seed.sql", "delete from item; insert into item values ('one');\n")
    again = shop.pytest().demand()
    assert "2 passed" in again.out
    assert "1 command" not in again.text
