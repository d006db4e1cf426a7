"""Seeds that are dumps, in a template: built once, told of, and part of the fingerprint."""

from __future__ import annotations

import hashlib
import io

import pytest

from clonedb.project import contents
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
