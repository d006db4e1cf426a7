"""Seeds that are dumps, in a template: built once, told of, and part of the fingerprint."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess

import psycopg
import pytest

from clonedb.embedded import leases
from clonedb.errors import ConfigError
from clonedb.migrate.process import MigrationProcess
from clonedb.project import contents
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL
from tests.projects import Project

DUMP = r"""--
-- PostgreSQL database dump
--

\restrict 6HsO1

SET transaction_timeout_of_the_future = 0;
SELECT pg_catalog.set_config('search_path', '', false);

--
-- Data for Name: item; Type: TABLE DATA; Schema: public; Owner: shop
--

COPY public.item (name) FROM stdin;
one\ttab
two
\.

ALTER TABLE public.item OWNER TO shop_of_the_dump;

--
-- PostgreSQL database dump complete
--

\unrestrict 6HsO1
"""

TESTS = """
def test_rows(clonedb_connection):
    rows = clonedb_connection.execute("select name from item where name not in ('part', 'seeded') order by name").fetchall()
    assert rows == [("csv",), ("one\\ttab",), ("two",)]
"""


def test_a_dump_fills_the_template(items: Project) -> None:
    """Rows of COPY, a CSV file, and a file that a script includes; what was left out is said, and what is unseen."""
    items.write("dump.sql", DUMP)
    items.write("item.csv", "name\ncsv\n")
    items.write("part.sql", "insert into item (name) values ('part');")
    items.write("more.sql", "\\i part.sql\n")
    items.settings(seed=["dump.sql", "item.csv", "more.sql"])
    built = items.clonedb("build").demand()
    assert (
        'left out, because role "shop_of_the_dump" does not exist; unrecognized configuration'
        in built.text
    )
    assert "watch" not in built.text
    items.write("test_it.py", TESTS)
    assert "1 passed" in items.pytest().demand().out


def test_a_file_that_a_script_includes(items: Project) -> None:
    """It is part of the template, also in files that are included in turn, and those of a copy."""
    items.write("db/more.sql", "\\ir deeper.sql\n")
    items.write("db/deeper.sql", "\\copy item (name) from 'rows.csv' with (format csv)\n")
    items.write("rows.csv", "one\n")
    items.settings(seed=["db/more.sql"])
    items.clonedb("build").demand()
    assert "is ready" not in items.clonedb("build").demand().err
    items.write("rows.csv", "two\n")
    items.write(
        "test_it.py",
        """
        def test_rows(clonedb_connection):
            rows = clonedb_connection.execute("select name from item order by id desc limit 1").fetchall()
            assert rows == [("two",)]
    """,
    )
    assert "1 passed" in items.pytest().demand().out


@pytest.mark.campaign("long")
@pytest.mark.parametrize("kind", ["custom", "directory"])
def test_dumps_of_pg_dumps_own_formats(items: Project, lease: leases.Lease, kind: str) -> None:
    """The schema by one, the rows by another; another dump is another template, and `extensions` need not be named."""
    pg_dump = lease.binaries.program("pg_dump")
    assert pg_dump is not None

    def dump(name: str, setup: str, *options: str) -> None:
        clone = items.clonedb("clone").demand().out.strip()
        dsn = DatabaseURL.parse(clone).replace(driver=None).render()
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(setup.encode())
        target = items.directory / name
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        to = [f"--format={kind}", f"--file={target}"]
        subprocess.run([str(pg_dump), *to, *options, dsn], check=True)

    dump("rows.dump", "insert into item (name) values ('dumped')", "--data-only", "-t", "item")
    dump("schema.dump", "create extension citext", "--schema-only")
    (items.directory / "alembic.ini").unlink()
    shutil.rmtree(items.directory / "migrations")
    items.settings(schema=["schema.dump"], seed=["rows.dump"])
    items.write(
        "test_it.py",
        """
        def test_rows(clonedb_connection):
            query = "select count(*) filter (where name = 'dumped'), 'A'::citext = 'a' from item"
            assert clonedb_connection.execute(query).fetchone() == (1, True)
        """,
    )
    items.pytest().demand()
    assert "building" not in items.clonedb("build").demand().text
    dump("schema.dump", "create extension if not exists hstore", "--schema-only")
    assert "building" in items.clonedb("build").demand().text


def test_without_pg_restore(items: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    (items.directory / "shop.dump").write_bytes(b"PGDMP...")
    monkeypatch.setattr("clonedb.migrate.process.client_programs", lambda *_: iter(()))
    ours = Config(rootdir=items.directory).replace("the test", seed=["shop.dump"])
    process = MigrationProcess(ours, {}, {})
    with pytest.raises(
        ConfigError, match=r"no pg_restore to read it; install it .*postgresql-client"
    ):
        process.fill((), ours.seed)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "insert into item (name) values ('x');\n\ninsert into nothing values (1);",
            "seed 'seed.sql' (seed.sql:3) failed",
        ),
        ("\\connect postgres\n", "line 1: \\connect leads to another database"),
    ],
)
def test_an_error_is_the_seed_s(items: Project, lines: str, message: str) -> None:
    """It says the line, and nothing is left of the build."""
    items.write("seed.sql", lines)
    items.settings(seed=["seed.sql"])
    assert message in items.clonedb("build").demand(1).text


def test_a_large_file_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same digest, and the extension that two pieces share."""
    monkeypatch.setattr(contents, "_PIECE", 50)
    monkeypatch.setattr(contents, "_OVERLAP", 40)
    data = b"x" * 90 + b"\ncreate extension citext;\n" + b"y" * 200
    found = contents.read_large("dump.sql", io.BytesIO(data))
    assert found.digest == hashlib.sha256(data).hexdigest()
    assert found.extensions == ("citext",)
