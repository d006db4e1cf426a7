"""SQL files as seeds: what psql does with them, and what it must not do."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from clonedb.embedded import leases
from clonedb.migrate.inside.failure import RefusedError
from clonedb.migrate.inside.sql_files import SeedFile
from clonedb.project.dump_archives import is_archive
from clonedb.url import DatabaseURL
from tests.differential import template

Run = Callable[..., SeedFile]
Dump = Callable[[], str]


@pytest.fixture
def dsn(empty_database_url: str) -> str:
    return DatabaseURL.parse(empty_database_url).replace(driver=None).render()


@pytest.fixture
def run(dsn: str, tmp_path: Path, program: Callable[[str], Path]) -> Run:
    """Run a seed: a script's text, or a file's name."""

    def run(
        text: str = "", *, file: str = "seed.sql", said: list[str] | None = None
    ) -> SeedFile:
        path = tmp_path / file
        if text:
            path.write_text(text)
        with psycopg.connect(dsn, autocommit=True) as connection:
            seed = SeedFile(connection, tmp_path, (said if said is not None else []).append)
            is_dump = is_archive(str(path))
            seed.run(path, str(program("pg_restore")) if is_dump else None)
            return seed

    return run


@pytest.fixture
def rows(dsn: str) -> Callable[[str], list[tuple[object, ...]]]:
    def rows(query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(dsn, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    return rows


@pytest.fixture
def program(lease: leases.Lease) -> Callable[[str], Path]:
    """One of the programs that come with the server, or the test is skipped."""

    def program(name: str) -> Path:
        found = (
            template.pg_dump(lease.binaries)
            if name == "pg_dump"
            else lease.binaries.program(name)
        )
        if found is None:
            pytest.skip(f"this PostgreSQL has no {name}")
        return found

    return program


def _dump(pg_dump: Path, dsn: str, *options: str) -> str:
    done = subprocess.run([pg_dump, *options, dsn], capture_output=True, text=True, check=True)
    return "\n".join(
        line
        for line in done.stdout.splitlines()
        if not line.startswith(("\\restrict", "\\unrestrict"))
    )


@pytest.fixture
def pair(dsn: str) -> Iterator[tuple[str, str]]:
    """The empty database that `run` fills, and a second one."""
    name = f"{conninfo_to_dict(dsn)['dbname']}2"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f'create database "{name}"'.encode())
        yield dsn, make_conninfo(dsn, dbname=name)
        connection.execute(f'drop database "{name}" with (force)'.encode())


SCRIPTS = {
    "quotes": r"""
        create table t (a text); -- a comment; with 'a quote
        insert into t values ('one; two'), ('it''s'), (E'a\'b;c\\'), ($$a;b$$), ($x$ $$ ; $x$), (U&'\0061;');
        /* one /* in another ; */ ' */ insert into t values ('after'); insert into t values ('same line');
        create table "odd;""name" ("a;b" int); insert into "odd;""name" values (1)
        ;;
        insert into t values ('two
lines;
of it')""",
    "bodies": r"""
        create function f(a int) returns int language plpgsql as $body$
        declare b int := 1; begin if a > 1 then return ';'::text = ''; end if; return b; end $body$;
        create function g() returns int language sql begin atomic select 1; select case when true then 2 else 3 end; end;
        create procedure p() language sql begin atomic; end;
        create table rules (a int); create table noted (a int);
        create rule r as on insert to rules do also (insert into noted values (new.a); select 1;);
        insert into rules values (1);""",
    "copy": r"""
        create table t (a text, b int);
        COPY t (a, b) FROM stdin;
one	1
\\.	2
;tab\there	\N
--	4
\.
        copy t from stdin with (format csv); select 'not seen';
"a;
b",5
\.
        insert into t values ('after', 6);""",
    "variables": r"""
        \set
        \set table t
        \set value 'it''s \\ "odd"'
        \set joined a b 'c d'
        create table :table (a text, b text default :'value', ":no" int[]);
        insert into :"table" values (:'joined'), (:'value'); insert into t (":no") values (array[1,2,3]);
        select (":no")[1:2], ':value', "b" from t;
        \unset value
        insert into t select 'x' || ':value' where 1::int = 1;
        \echo 'a \\ b' \\ insert into t values ('next');""",
    "semicolons": "create table t (a int); insert into t values (1) \\; insert into t values (2) \\g\nselect 1 \\g\n",
    "whole statements": r"""
        begin; create table t (a int); savepoint x; insert into t values (1); rollback to x; insert into t values (2); commit;
        do $$ begin perform 1; end $$;
        create type mood as enum ('sad');
        alter type mood add value 'ok';
        create table m (a mood); insert into m values ('ok');
        vacuum t; create index concurrently i on t (a);
        set search_path = public; set local work_mem = '5MB';""",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_does_what_psql_does(
    run: Run, pair: tuple[str, str], program: Callable[[str], Path], tmp_path: Path, script: str
) -> None:
    """The same script by psql leaves the same in another database."""
    dsn, other = pair
    run(script)
    subprocess.run(
        [program("psql"), "-X", "-q", "-f", tmp_path / "seed.sql", other],
        check=True,
        capture_output=True,
    )
    assert _dump(program("pg_dump"), dsn) == _dump(program("pg_dump"), other)


ODD = r"""
create table "odd "" (name); --" ("select" int, "a;b" text default ';''');
insert into "odd "" (name); --" values (1, E'tab\t \\N \\. \n;'), (2, null), (3, E'\\.'), (4, repeat('long', 50000));
create function standard(a int) returns int begin atomic select case when a > 1 then 2 else 3 end; end;
comment on function standard is E'a;b''c\n\\connect postgres\n-- Name: x; Type: TABLE; Schema: y';
create view v as select ';' as a, $x$'$$x$ as b;
"""


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--inserts", "--rows-per-insert=50"],
        ["--format=custom"],
        ["--format=directory"],
        ["--format=tar"],
    ],
    ids=["copy", "inserts", "custom", "directory", "tar"],
)
def test_a_dump_comes_back(
    run: Run,
    pair: tuple[str, str],
    program: Callable[[str], Path],
    tmp_path: Path,
    options: list[str],
) -> None:
    """Of a schema with everything in it: what pg_dump writes of the copy is what it wrote of the original."""
    dsn, other = pair
    with psycopg.connect(other, autocommit=True) as connection:
        for part in ("moving", "nulls", "replicated", "unlogged"):
            connection.execute(
                Path(template.__file__).with_name("world").joinpath(f"{part}.sql").read_bytes()
            )
        connection.execute(ODD.encode())
        connection.execute("select lo_from_bytea(4711, 'of a large object')")
    dumped = _dump(program("pg_dump"), other)
    subprocess.run(
        [program("pg_dump"), *options, "-f", tmp_path / "dump.sql", other], check=True
    )
    run(file="dump.sql")
    assert _dump(program("pg_dump"), dsn) == dumped


def test_archives_that_cannot_be_read(
    run: Run, dsn: str, program: Callable[[str], Path], tmp_path: Path
) -> None:
    """Damaged, cut off, of a version to come, or compressed once more: refused with what pg_restore says."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table t (a text)")
        connection.execute("insert into t select md5(i::text) from generate_series(1, 9000) i")
        whole = subprocess.run(
            [program("pg_dump"), "--format=custom", dsn], capture_output=True, check=True
        ).stdout
        connection.execute("drop table t")
    newer = whole[:6] + b"\x63" + whole[7:]
    damaged = {
        "cut off": (whole[:-50_000], "cannot be read: .*could not read from input file"),
        "short": (whole[:400], "cannot be read: .*(could not read|unexpected end of file)"),
        "of a version to come": (newer, "unsupported version .*install a pg_restore of the"),
    }
    for name, (data, message) in damaged.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RefusedError, match=message):
            run(file=name)
    (tmp_path / "shop.dump.gz").write_bytes(gzip.compress(whole))
    with pytest.raises(RefusedError, match="was compressed once more; decompress it"):
        run(file="shop.dump.gz")


def test_roles_and_parameters_that_are_not_there(
    run: Run, rows: Callable[[str], list[tuple[object, ...]]]
) -> None:
    """What a dump says of them is skipped and noted, and all else is done."""
    seed = run("""
        SET transaction_timeout_of_the_future = 0;
        create table t (a int);
        ALTER TABLE public.t OWNER TO nobody_here;
        GRANT SELECT ON TABLE public.t TO nobody_here;
        alter default privileges for role nobody_here grant select on tables to public;
        insert into t values (1);
    """)
    assert rows("select a from t") == [(1,)]
    assert seed.left_out == {
        'role "nobody_here" does not exist',
        'unrecognized configuration parameter "transaction_timeout_of_the_future"',
    }


def test_roles_that_are_not_there_after_a_commit_of_the_script(
    run: Run, rows: Callable[[str], list[tuple[object, ...]]]
) -> None:
    """What they are named by is skipped where the script has ended the transaction, too."""
    seed = run("""
        begin; create table t (a int); insert into t values (1); commit;
        grant select on t to nobody_here;
        set work_mem = '5MB';
        commit;
        alter table t owner to nobody_here;
        insert into t values (2);
    """)
    assert rows("select a from t order by a") == [(1,), (2,)]
    assert seed.left_out == {'role "nobody_here" does not exist'}


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("select 1;\n\\connect postgres", r"line 2: \\connect leads to another database"),
        ("\\c - - localhost", r"line 1: \\c leads to another database"),
        (
            "drop database postgres;",
            r"line 1: DROP DATABASE; a seed fills the database that it is given",
        ),
        ("-- comment\nCREATE DATABASE x;", r"line \d: CREATE DATABASE; a seed fills"),
        (
            "\nalter database shop set work_mem = '5MB';",
            r"line 2: ALTER DATABASE shop changes another database",
        ),
        ('Comment  on database "Shop" is null', r'line 1: COMMENT ON DATABASE "Shop" changes'),
        ("\\! touch here", r"line 1: \\! is a command of psql's that a seed cannot have"),
        ("select 1 as a \\gset", r"line 1: \\gset in the middle of a statement"),
        ("\n\\i missing.sql", r"line 2: \\i: there is no file '.*missing\.sql'"),
        ("\n\\ir .", r"line 2: \\ir: '.*' is a directory"),
        (
            "create table t (a int);\n\\copy t from missing.csv",
            r"line 2: \\copy: there is no file '.*missing\.csv'",
        ),
        ("\\unset", r"line 1: \\unset takes a variable"),
        ("\\i seed.sql", r"is included by itself, 20 times over"),
        ("insert into t values ('", r"it ends within what ' begins on line 1; was it cut off"),
        ("create function f() as $body$ begin", r"ends within what \$body\$ begins on line 1"),
        (
            "create table t (a int); copy t from stdin;\n1\n",
            r"ends within the rows of the COPY on line 1",
        ),
        ("--\n-- PostgreSQL database dump\n--\nselect 1;\n", r"it was cut off"),
    ],
)
def test_refused(run: Run, script: str, message: str) -> None:
    """What leads elsewhere, what only psql can do, and what is not whole."""
    with pytest.raises(RefusedError, match=message):
        run(script)


def test_connect_to_where_it_is(
    run: Run, dsn: str, rows: Callable[[str], list[tuple[object, ...]]]
) -> None:
    """A script that names the database it is given goes on."""
    run(f"\\connect {conninfo_to_dict(dsn)['dbname']}\ncreate table t (a int);")
    assert rows("select * from t") == []


def test_settings_of_the_database_it_is_given(
    run: Run, dsn: str, rows: Callable[[str], list[tuple[object, ...]]]
) -> None:
    """By psql's variable, or by its name."""
    run(
        """alter database :"DBNAME" set work_mem = '5MB';"""
        f"alter database {conninfo_to_dict(dsn)['dbname']} set statement_timeout = '5s';"
    )
    assert rows("select current_setting('work_mem'), current_setting('statement_timeout')") == [
        ("5MB", "5s")
    ]


@pytest.mark.parametrize(
    ("script", "line", "statement"),
    [
        (
            "create table t (a int);\n\nselect 1;\n  insert into t values\n  ('x');\nselect 2;",
            4,
            "insert into t values\n  ('x')",
        ),
        ("create table t (a int);\n-- one\nselect * from nowhere;", 3, "select * from nowhere"),
        ("create table t (a int);\ncopy t from stdin;\nx\n\\.\n", 2, "copy t from stdin"),
    ],
)
def test_an_error_says_where(
    run: Run, tmp_path: Path, script: str, line: int, statement: str
) -> None:
    """The file, the line on which the statement begins, and the statement."""
    with pytest.raises(psycopg.Error) as caught:
        run(script)
    assert getattr(caught.value, "place") == (str(tmp_path / "seed.sql"), line)  # noqa: B009
    assert getattr(caught.value, "statement").endswith(statement)  # noqa: B009


def test_files_in_files(
    run: Run, rows: Callable[[str], list[tuple[object, ...]]], tmp_path: Path
) -> None:
    r"""`\i` from the project, `\ir` from beside the script, and `\copy` of rows in a file."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "one.sql").write_text(
        "create table t (a text, b int);\n\\ir two.sql\n"
    )
    (tmp_path / "parts" / "two.sql").write_text("insert into t values (:'word', 1);\n")
    (tmp_path / "rows.csv").write_text('a,b\n"x, y",2\n')
    run(
        "\\set word hello\n\\i parts/one.sql\n\\copy t (a, b) from 'rows.csv' with (format csv, header)\n"
        "\\copy t from stdin\nthird\t3\n\\.\ninsert into t values ('last', 4);"
    )
    assert rows("select * from t order by b") == [
        ("hello", 1),
        ("x, y", 2),
        ("third", 3),
        ("last", 4),
    ]


def test_compressed(
    run: Run, rows: Callable[[str], list[tuple[object, ...]]], tmp_path: Path
) -> None:
    """By gzip; one that was cut off or damaged is refused."""
    whole = gzip.compress(b"create table t (a int); insert into t values (1);")
    (tmp_path / "seed.sql.gz").write_bytes(whole)
    run(file="seed.sql.gz")
    assert rows("select a from t") == [(1,)]
    (tmp_path / "cut.sql.gz").write_bytes(whole[:-12])
    with pytest.raises(RefusedError, match="cannot be decompressed"):
        run(file="cut.sql.gz")
    (tmp_path / "damaged.sql.gz").write_bytes(whole[:10] + b"\xff" * 20)
    with pytest.raises(RefusedError, match="cannot be decompressed"):
        run(file="damaged.sql.gz")


def test_csv(run: Run, rows: Callable[[str], list[tuple[object, ...]]], tmp_path: Path) -> None:
    """The file is named after the table, its first line names columns, in any order."""
    run('create schema "s"; create table s."Odd t" (a int, "b c" text default \'d\', e text);')
    (tmp_path / "s.Odd t.csv").write_text('\ufeffb c,a\n"x, ""y""",1\n,2\n')
    run(file="s.Odd t.csv")
    assert rows('select * from s."Odd t" order by a') == [(1, 'x, "y"', None), (2, None, None)]
    (tmp_path / "s.Odd t.csv").write_text("a,nothing\n1,2\n")
    with pytest.raises(psycopg.errors.UndefinedColumn, match="nothing"):
        run(file="s.Odd t.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(RefusedError, match="the first line of a CSV file names the columns"):
        run(file="empty.csv")
