"""`clonedb clone`, `run`, `psql`, `drop`: databases from the shell."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.cli.conftest import Command
from tests.projects import CLONEDB, Project

SHOW = ("sh", "-c", "echo $DATABASE_URL; echo $SHOP_DB; psql -Atc 'select count(*) from item'")


def test_clone_prints_a_url_that_works(cli: Command, clones: Callable[[], list[str]]) -> None:
    """Nothing else is on standard output; the database stays, and with it the embedded server, until they are ended."""
    outcome = cli("clone")
    url = outcome.out.removesuffix("\n")
    assert url.startswith("postgresql://postgres:")
    with psycopg.connect(url) as connection:
        assert connection.execute("select name from item").fetchall() == [("seeded",)]
    assert (
        "the embedded server stays up for 8 hours, until nothing is kept there, or until"
        in outcome.err
    )
    assert "held for 8 hours" in cli("server", "status").out
    (name,) = clones()
    assert url.endswith(f"/{name}")
    assert f"{name}  kept clone" in cli("list").out
    assert cli("gc").out == "nothing is left over\n"
    assert cli("drop", name).out == f"dropped {name}\n"
    assert clones() == []
    assert "held" not in cli("server", "status").out


def test_clone_with_a_driver(cli: Command, clones: Callable[[], list[str]]) -> None:
    """`--driver` writes the URL for SQLAlchemy."""
    (first, second) = cli("clone", "--driver", "asyncpg").out.strip(), cli("clone").out.strip()
    assert first.startswith("postgresql+asyncpg://postgres:")
    assert sorted(url.rpartition("/")[2] for url in (first, second)) == clones()


def test_run_gives_a_fresh_clone(
    cli: Command, items: Project, clones: Callable[[], list[str]]
) -> None:
    """DATABASE_URL, every name that `route` lists and libpq's variables lead to it, and it is gone afterwards."""
    items.settings(route=["SHOP_DB"])
    outcome = cli("run", "--", *SHOW)
    url, shop, count = outcome.out.splitlines()
    assert url.startswith("postgresql://postgres:")
    assert (shop, count) == (url, "1")
    before = {
        "DATABASE_URL": "postgresql+asyncpg://app@db/production",
        "SHOP_DB": "postgresql+psycopg2://db/shop",
    }
    url, shop, count = cli(
        "run", "--", *SHOW, **before, PGHOST="db.invalid", PGDATABASE="production"
    ).out.splitlines()
    assert url.startswith("postgresql+asyncpg://postgres:")
    assert shop.startswith("postgresql+psycopg2://postgres:")
    assert url.rpartition("/")[2] == shop.rpartition("/")[2]
    assert count == "1"
    items.settings(driver="psycopg")
    assert cli("run", *SHOW, DATABASE_URL="not a URL").out.startswith(
        "postgresql+psycopg://postgres:"
    )
    assert clones() == []


def test_run_leads_libpq_past_nothing(cli: Command, items: Project) -> None:
    """A service's host would win over PGHOST, and so would an address: both lead to somebody's application."""
    services = items.write("services", "[production]\nhost=db.invalid\ndbname=production\n")
    elsewhere = {
        "PGSERVICEFILE": str(services),
        "PGSERVICE": "production",
        "PGHOSTADDR": "192.0.2.1",
    }
    assert cli("run", "--", *SHOW, **elsewhere).out.splitlines()[-1] == "1"
    assert cli("psql", "--", "-Atc", "select count(*) from item", **elsewhere).out == "1\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("sh", "-c", "exit 7"), 7),
        (("--", "sh", "-c", "exit 0"), 0),
        (("--", "sh", "-c", "kill -9 $$"), 137),
        (("no-such-command", "--option"), 127),
        (("./alembic.ini",), 126),
    ],
    ids=["exit", "dashes", "killed", "not-found", "not-executable"],
)
def test_run_passes_the_exit_code_on(
    cli: Command, clones: Callable[[], list[str]], command: tuple[str, ...], code: int
) -> None:
    """As a shell does: 127 for no such command, 126 for one that may not be run, 128 + n for a signal."""
    outcome = cli("run", *command, code=code)
    if code in (126, 127):
        assert f"clonedb: cannot run {command[0]!r}: " in outcome.err
    assert clones() == []


def test_run_leaves_the_commands_options_alone(cli: Command) -> None:
    """What stands after the command's name is the command's, also what clonedb knows itself."""
    assert cli("run", "echo", "-h", "--url", "x", "--", "-y").out == "-h --url x -- -y\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_waits_for_its_command(
    items: Project, clones: Callable[[], list[str]], number: signal.Signals
) -> None:
    """SIGTERM is passed on, Ctrl-C reaches both: the command cleans up with its database still there."""
    script = """
import os, signal, sys, time, psycopg
def end(*_):
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        print(connection.execute("select count(*) from item").fetchone()[0], "row")
    sys.exit(9)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
print("ready", flush=True)
time.sleep(60)
"""
    command = (*CLONEDB, "run", sys.executable, "-c", script)
    process = subprocess.Popen(
        command,
        cwd=items.directory,
        env=items.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    if number == signal.SIGINT:  # a terminal sends it to all
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (9, "1 row\n"), err
    assert "Traceback" not in err
    assert clones() == []


def test_psql_without_a_name_opens_a_fresh_clone(
    cli: Command, clones: Callable[[], list[str]]
) -> None:
    """It is dropped afterwards; psql's options stand after `--`, or alone, and its exit code is passed on."""
    query = "insert into item (name) values ('x'); select count(*) from item"
    for _ in range(2):
        assert cli("psql", "--", "-At", "-c", query).out.splitlines()[-1] == "2"
    assert cli("psql", "-Atc", query).out.splitlines()[-1] == "2"
    assert (
        "does not exist"
        in cli("psql", "--", "-v", "ON_ERROR_STOP=1", "-c", "select * from nothing", code=1).err
    )
    assert clones() == []


def test_psql_with_a_name(cli: Command, clones: Callable[[], list[str]]) -> None:
    """It opens that database, and leaves it there; a template, a stranger's and one that is gone are refused."""
    name = cli("clone").out.strip().rpartition("/")[2]
    cli("psql", name, "--", "-c", "insert into item (name) values ('by psql')")
    assert cli("psql", name, "-Atc", "select count(*) from item").out == "2\n"
    assert clones() == [name]
    assert (
        "was not made by clonedb" in cli("psql", "postgres", "--", "-c", "select 1", code=1).err
    )
    cli("drop", name)
    assert f"there is no database {name!r} on embedded server" in cli("psql", name, code=1).err
    template = cli("build").out.partition(":")[0]
    assert (
        f"{template!r} is a template, which takes no connections"
        in cli("psql", template, code=1).err
    )


def test_no_psql_anywhere(cli: Command, server_url: str) -> None:
    """With another's server there are no binaries of clonedb's own: one message says what to install."""
    outcome = cli("--url", server_url, "psql", code=1, PATH="/nowhere")
    assert outcome.err.endswith(
        "no psql found; install PostgreSQL's client programs (postgresql-client)\n"
    )


def test_drop_refuses_a_strangers_database(
    cli: Command, clones: Callable[[], list[str]], admin_dsn: str, prefix: str
) -> None:
    """Not only what has another name: a name like ours without its mark was not made by clonedb either."""
    strangers = ["postgres", f"{prefix}_c_abcdef_abcdefghij_1_000000", 'we"ird']
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        for name in strangers[1:]:
            connection.execute(
                psycopg.sql.SQL("create database {}").format(psycopg.sql.Identifier(name))
            )
        kept = cli("clone").out.strip().rpartition("/")[2]
        for name in strangers:
            assert (
                f"database {name!r} was not made by clonedb"
                in cli("drop", kept, name, code=1).err
            )
        cli("drop", kept, kept)
        cli("drop", "--all")
        left = {row[0] for row in connection.execute("select datname from pg_database")}
        assert {*strangers} < left
        for name in strangers[1:]:
            connection.execute(
                psycopg.sql.SQL("drop database {}").format(psycopg.sql.Identifier(name))
            )
    assert clones() == []


def test_drop_all(
    cli: Command, items: Project, clones: Callable[[], list[str]], admin_dsn: str
) -> None:
    """Every clone and template of the project that nobody uses or has open, each named; another's of the same name stay."""
    made = [cli("clone").out.strip().rpartition("/")[2] for _ in range(2)]
    template = cli("build").out.partition(":")[0]
    versions = items.directory / "migrations" / "versions"
    history = {path: path.read_text() for path in versions.glob("*.py")}
    for path, text in history.items():
        path.write_text(text.replace("'one'", "'other'"))  # the history begins elsewhere
    other = cli("build").out.partition(":")[0]
    with psycopg.connect(admin_dsn, dbname=made[0], application_name="looking into it"):
        outcome = cli("drop", "--all").out
        assert outcome == f"dropped {other}\n"
        for path, text in history.items():
            path.write_text(text)
        outcome = cli("drop", "--all").out
        assert set(outcome.split()) >= {"dropped", made[1], template}
        assert f"could not drop {made[0]}: database {made[0]!r} is open in pid " in outcome
        assert "(looking into it)" in cli("drop", made[0], code=1).err
    assert cli("drop", "--all").out == f"dropped {made[0]}\n"
    assert cli("drop", "--all").out == "there was nothing to drop\n"
    assert clones() == []


def test_drop_everything(cli: Command, items: Project, clones: Callable[[], list[str]]) -> None:
    """Every project's, after a question that names them; without a terminal that is `--yes`."""
    template = cli("build").out.partition(":")[0]
    made = cli("clone").out.strip().rpartition("/")[2]
    (items.directory / "alembic.ini").rename(items.directory / "elsewhere.ini")
    outcome = cli("drop", "--everything", code=1)
    assert outcome.out == ""
    assert re.search(rf"{template}: project \(\w{{6}}\)\n", outcome.err)
    assert re.search(rf"{made}: project \(\w{{6}}\)\n", outcome.err)
    assert "of every project on embedded server" in outcome.err
    assert clones() == [made]
    assert "--all" in cli("drop", "--all", "--everything", code=2).err
    assert set(cli("drop", "--everything", "--yes").out.split()) >= {template, made}
    assert clones() == []


def test_a_database_in_use_is_not_dropped(
    cli: Command, items: Project, clones: Callable[[], list[str]]
) -> None:
    """Its owner is named, with its pid; `drop --all` leaves it and its template alone."""
    with running(items) as process:
        (name,) = clones()
        error = cli("drop", name, code=1).err
        assert f"database {name!r} is in use by clonedb on " in error
        assert re.search(
            rf"pid {process.pid} \(server process \d+, connected since \d+ s\)", error
        )
        template = cli("build").out.partition(":")[0]
        assert (
            f"database {template!r} is in use by clonedb on "
            in cli("drop", template, code=1).err
        )
        assert name not in cli("drop", "--all").out
        assert cli("build").out.startswith(f"{template}: already there")
        assert cli("gc", "--dry-run").out == "nothing is left over\n"


def test_gc_drops_what_a_killed_process_left(
    cli: Command, items: Project, clones: Callable[[], list[str]]
) -> None:
    """`--dry-run` only names it; a database that is kept stays."""
    kept = cli("clone").out.strip().rpartition("/")[2]
    with running(items):
        (orphan,) = set(clones()) - {kept}
    line = f"{orphan}: its owner is gone\n"
    deadline = time.monotonic() + 10
    while (
        out := cli("gc", "--dry-run").out
    ) != f"would drop {line}":  # the server has to notice
        assert time.monotonic() < deadline, out
    assert f"{orphan}  clone " in (listed := cli("list").out)
    assert "its owner is gone: clonedb gc drops it" in listed
    assert sorted(clones()) == sorted([kept, orphan])
    assert cli("gc").out == f"dropped {line}"
    assert cli("gc").out == "nothing is left over\n"
    assert clones() == [kept]


@contextlib.contextmanager
def running(project: Project) -> Iterator[subprocess.Popen[str]]:
    """A `clonedb run` with its database, killed in the end, and what it ran too."""
    process = project.popen(*CLONEDB, "run", "--", "sh", "-c", "echo ready; exec sleep 60")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield process
    finally:
        process.kill()
        process.wait()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    process.communicate()
