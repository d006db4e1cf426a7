"""`migrate`: a command of the project's makes the schema."""

from __future__ import annotations

import socket
import sys
import textwrap
from pathlib import Path

import pytest

from clonedb.embedded import leases
from tests.projects import Project, databases
from tests.templates.conftest import MAKE, STATEMENTS


@pytest.mark.campaign("long")
def test_a_command_in_place_of_migrations(maker: Project) -> None:
    """Run once by two workers; found again; run anew when a file that it names, or what that imports, is another."""
    first = maker.pytest("-n", "2").demand()
    assert "2 passed" in first.out
    assert first.text.count("building template") == 1
    assert "building template" not in maker.pytest().demand().text
    assert "made by 'python make.py'" in maker.clonedb("status").demand().out

    maker.write("shop/sql.py", STATEMENTS.replace("'one'", "'two'"))
    told = maker.clonedb("fingerprint", "--explain").demand().text
    assert "changed  import     shop/sql.py" in told
    assert "assert ['two'] == ['one']" in maker.pytest().demand(1).text.replace("\\", "")
    maker.write("make.py", MAKE + "print()\n")
    assert "building template" in maker.clonedb("build").demand().text


@pytest.mark.campaign("long")
def test_what_a_build_read_is_told(maker: Project) -> None:
    """Modules that only running it shows, and data files; with the line that watches them."""
    more = "import os\nprint(open('names.txt').read(), os.environ.get('TENANT'))\n"
    maker.write("shop/more.py", more)
    maker.write("names.txt", "x")
    maker.write(
        "make.py", "import importlib\nimportlib.import_module('shop.' + 'more')\n" + MAKE
    )
    told = maker.clonedb("build").demand().text
    assert 'add watch = ["names.txt", "shop/more.py"]' in told
    assert 'add watch_env = ["TENANT"]' in told
    # compiled, it is read in another file
    maker.settings(migrate="python make.py", watch=["names.txt"], salt="other")
    del maker.environment["PYTHONDONTWRITEBYTECODE"]
    for salt in ("first", "second"):
        told = maker.clonedb("build", CLONEDB_SALT=salt).demand().text
        assert 'add watch = ["shop/more.py"]' in told


def test_many_files_that_a_build_read_are_told_by_directory(maker: Project) -> None:
    """So that one line is enough."""
    names = [f"shop/m{number}.py" for number in range(7)]
    for name in names:
        maker.write(name, "")
    imports = "import importlib\nfor n in range(7): importlib.import_module(f'shop.m{n}')\n"
    maker.write("make.py", imports + MAKE)
    told = maker.clonedb("build").demand().text
    assert "7 files that are not in the fingerprint" in told
    assert 'add watch = ["shop/*.py"]' in told
    maker.settings(migrate="python make.py", watch=["shop/*.py"])
    assert "not in the fingerprint" not in maker.clonedb("build").demand().text


def test_files_and_directories_that_a_command_names(maker: Project) -> None:
    """And those of every directory that is called `migrations`, a new one too; a module; what SQL includes."""
    maker.write("db/one.sql", "\\i db/two.inc\n")
    maker.write("db/two.inc", "")
    maker.write("more/migrations/3.sql", "")
    for place in ("node_modules/x", "env", "env/lib/x"):
        maker.write(f"{place}/migrations/4.sql", "")
    maker.write("env/pyvenv.cfg", "")
    maker.write("shop/tool.py", "import shop.sql\n")
    maker.write("shop/unused.py", "")
    maker.settings(migrate="python make.py --file=db/one.sql --app=shop.tool:run shop db")
    told = maker.clonedb("fingerprint", "--explain").demand().out
    for name in ("migrate    db/one.sql", "migrate    db/two.inc", "migrate    make.py"):
        assert name in told
    assert "migrate    more/migrations/3.sql" in told
    assert "shop/unused.py" not in told  # of a package that is named as a module
    assert "import     shop/tool.py" in told
    assert "4.sql" not in told
    maker.write("more/migrations/5.sql", "")
    assert "migrate    more/migrations/5.sql" in maker.clonedb("fingerprint", "--explain").out


def test_another_version_of_a_package_is_another_template(maker: Project) -> None:
    """It may bring migrations of its own."""
    before = maker.clonedb("fingerprint").demand().out
    (maker.directory / "site-packages/other-1.0.dist-info").mkdir(parents=True)
    path = str(maker.directory / "site-packages")
    after = maker.clonedb("fingerprint", "--explain", PYTHONPATH=path).demand().out
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
def test_connections_lead_to_the_database_that_is_built(maker: Project, driver: str) -> None:
    """Wherever they are aimed, whatever makes them."""
    statement = "STATEMENT = \"create table item as select text 'one' as name\"\n"
    maker.write("make.py", statement + textwrap.dedent(DRIVERS[driver]))
    assert "2 passed" in maker.pytest().demand().out


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
def test_a_command_that_fails(maker: Project, admin_dsn: str, mistake: str) -> None:
    """Its exit code, its last output, and the line to run it by hand; no password, and nothing is left."""
    program, messages = MISTAKES[mistake]
    maker.write("make.py", program)
    outcome = maker.clonedb("build", SHOP_URL="postgresql://x").demand(1)
    for message in messages:
        assert message in outcome.text
    assert (
        f"  cd {maker.directory} && DATABASE_URL=postgresql:///NAME PGDATABASE=NAME python make.py"
        in outcome.text
    )
    assert "clonedb/migrate" not in outcome.text
    assert databases(admin_dsn, maker.environment["CLONEDB_PREFIX"]) == []


def test_a_driver_that_is_not_led(maker: Project) -> None:
    """What a Python process opened by itself is told of, when nothing has come of it here."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        connects = f"import socket\nsocket.create_connection(('127.0.0.1', {port}))\n"
        maker.write("make.py", connects)
        failed = maker.clonedb("build").demand(1).text
        assert f"it may have written to another one (it opened 127.0.0.1:{port}" in failed
        maker.write("make.py", connects + MAKE)
        maker.clonedb("build").demand()


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
        ({"migrate": ["python x"]}, "a list has each word by itself: write it as a text"),
        ({"migrate": "A=1 python x"}, 'migrate = ["sh", "-c", "..."] runs one'),
        ({"migrate": "a 'b"}, 'migrate is "a \'b", which cannot be split into words'),
        (
            {"migrate": "make", "schema": ["x.sql"]},
            "are set together, and one of them makes the schema",
        ),
    ],
)
def test_what_is_no_command(maker: Project, settings: dict[str, object], message: str) -> None:
    """Each is told in a line with what to do."""
    maker.settings(**settings)
    outcome = maker.clonedb("build")
    assert outcome.code != 0
    assert message in outcome.text
    assert "Traceback" not in outcome.text


def test_what_needs_revisions_says_so(maker: Project) -> None:
    """There are none to stop at, to go down from, or to check."""
    words = "needs Alembic's revisions, and the template is made by 'python make.py', which has none"
    assert f"clonedb check {words}" in maker.clonedb("check").text
    assert f"isolation 'migrate' {words}" in maker.pytest("--clonedb-isolation=migrate").text
    maker.write("test_it.py", "def test_at(clonedb_at):\n    clonedb_at('base')\n")
    assert f"clonedb_at() {words}" in maker.pytest().demand(1).text
    maker.write("db/env.py", "def run_migrations_online(): pass")
    assert (
        "; 'db' has some of Alembic's, which is used if `migrate` is not set"
        in maker.clonedb("check").text
    )


def test_a_named_template_that_another_recipe_makes(maker: Project) -> None:
    """Its own stands in place of the project's; upon a base it is run there."""
    maker.write("more.sql", "create table more (id int)")
    more = "import psycopg\npsycopg.connect(autocommit=True).execute('alter table item add id int')\n"
    maker.write("more.py", more)
    maker.settings(
        migrate="python make.py",
        templates={
            "alone": {"schema": ["more.sql"]},
            "upon": {"base": "default", "migrate": ["python", "more.py"]},
        },
    )
    maker.write(
        "test_it.py",
        """
        import pytest
        FOUND = "select to_regclass('item') is not null, to_regclass('more') is not null"

        @pytest.mark.clonedb(template="alone")
        def test_alone(clonedb_connection):
            assert clonedb_connection.execute(FOUND).fetchone() == (False, True)

        @pytest.mark.clonedb(template="upon")
        def test_upon(clonedb_connection):
            assert clonedb_connection.execute("select name, id from item").fetchall() == [("one", None)]
        """,
    )
    assert "2 passed" in maker.pytest().demand().out


def test_a_python_without_clonedb(maker: Project, lease: leases.Lease) -> None:
    """Another environment's is led by the variables, and told nothing."""
    psql = lease.binaries.program("psql")
    if psql is None:
        pytest.skip("there is no psql here")
    maker.write(
        "make.py",
        f"""
        import subprocess, sys
        assert "clonedb" not in sys.modules
        assert not [path for path in sys.path if "startup" in path]
        statement = "create table item as select text 'one' as name"
        subprocess.run([{str(psql)!r}, "-c", statement], check=True)
        """,
    )
    python = Path(sys.base_prefix, "bin/python3")
    maker.settings(migrate=[str(python), "make.py"])
    outcome = maker.pytest().demand()
    assert "2 passed" in outcome.out
    assert "sitecustomize" not in outcome.text


def test_variables(maker: Project) -> None:
    """Each URL has the form that it had; one that was not set names no driver; input is closed."""
    maker.write(
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
    maker.settings(migrate="python make.py", route=["SHOP_URL"])
    url = "postgresql+asyncpg://shop@db.invalid/shop?application_name=shop"
    maker.clonedb("build", SHOP_URL=url).demand()
    maker.write("make.py", "1 / 0")
    failed = maker.clonedb("build", SHOP_URL=url).demand(1).text
    assert "SHOP_URL=postgresql+asyncpg:///NAME PGDATABASE=NAME python make.py" in failed


def test_the_projects_own_sitecustomize(maker: Project) -> None:
    """It is run, too."""
    maker.write("site/sitecustomize.py", "import builtins\nbuiltins.customized = True\n")
    maker.write("make.py", "assert customized\n" + MAKE)
    maker.clonedb("build", PYTHONPATH=str(maker.directory / "site")).demand()


def test_a_program_that_is_not_python(maker: Project, lease: leases.Lease) -> None:
    """The server's own psql, led by libpq's variables: what an SQL file includes is part of the template."""
    psql = lease.binaries.program("psql")
    if psql is None:
        pytest.skip("there is no psql here")
    maker.write("db/schema.sql", "\\ir more.sql\ninsert into item values ('one');\n")
    maker.write("db/more.sql", "create table item (name text);\n")
    maker.settings(migrate=[str(psql), "-v", "ON_ERROR_STOP=1", "-f", "db/schema.sql"])
    assert "2 passed" in maker.pytest().demand().out
    maker.settings(
        migrate=["sh", "-c", f'{psql} -d postgres -c "drop database \\"$PGDATABASE\\""']
    )
    gone = maker.clonedb("build").demand(1).text
    assert "ended without an error, but its database cannot be reached: " in gone
    assert "does not exist" in gone

    maker.settings(migrate=[str(psql), "-v", "ON_ERROR_STOP=1", "-f", "db/schema.sql"])
    maker.write("db/more.sql", "create table itme (name text);\n")
    failed = maker.clonedb("build").demand(1).text
    assert 'ERROR:  relation "item" does not exist' in failed
    assert "failed: exit status 3" in failed


def test_seeds_are_a_layer(maker: Project) -> None:
    """The command is not run again for another seed."""
    maker.write("seed.sql", "update item set name = 'two';\n")
    maker.settings(migrate="python make.py", seed=["seed.sql"])
    assert "assert ['two'] == ['one']" in maker.pytest().demand(1).text
    maker.write("seed.sql", "delete from item; insert into item values ('one');\n")
    again = maker.pytest().demand()
    assert "2 passed" in again.out
    assert "1 command" not in again.text
