"""`clonedb check`: what is wrong with migrations is found before they reach anybody's database."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

import clonedb.demo
from tests.cli.conftest import Command
from tests.migrate.test_env_py import ASYNC_ENV_PY
from tests.projects import ALEMBIC_INI, CLONEDB, ENV_PY, TIMEOUT, Project, databases

Clones = Callable[[], list[str]]

MODELS = """import sqlalchemy as sa
target_metadata = sa.MetaData()
sa.Table("item", target_metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text, nullable={nullable}))
"""


def with_models(project: Project, *, nullable: bool) -> None:
    """Give env.py models of the table `item`."""
    models = MODELS.format(nullable=nullable)
    project.write("migrations/env.py", ENV_PY.replace("target_metadata = None\n", models))


@pytest.fixture
def sound(items: Project) -> Project:
    """Migrations and models without a fault."""
    with_models(items, nullable=False)
    for name, undo in (("one", "drop table item"), ("two", "delete from item")):
        path = items.directory / f"migrations/versions/{name}.py"
        path.write_text(path.read_text().replace("    pass", f"    op.execute('{undo}')"))
    return items


def found(cli: Command, *arguments: str, code: int = 0) -> Any:
    """What the command prints for programs."""
    return json.loads(cli("check", "--json", *arguments, code=code).out)


def test_sound_migrations(sound: Project, cli: Command, clones: Clones) -> None:
    """Everything is said to be well, in a line each and a row for each revision, and no database is left."""
    out = cli("check").out.splitlines()
    assert out[0] == "heads     one: two"
    assert out[1] == "models    fit the migrated database"
    assert out[2].startswith("stairway  2 revisions up, down and up again in ")
    assert out[3].split() == [
        "revision",
        "file",
        "message",
        "up",
        "down",
        "up",
        "again",
        "seconds",
        "result",
    ]
    assert out[4].split()[:2] == ["one", "migrations/versions/one.py"]
    assert out[4].endswith("  ok")
    assert out[-1] == "all is well"
    assert clones() == []


@pytest.mark.campaign("long")
def test_the_sample_shop_is_sound(make_project: Callable[[str], Project]) -> None:
    """The package's own example, as it is installed."""
    shop = make_project("shop")
    shop.settings(alembic_ini=f"{clonedb.demo.__path__[0]}/alembic.ini")
    assert "stairway  8 revisions up, down and up again" in shop.clonedb("check").demand().out


def test_for_programs(sound: Project, cli: Command, clones: Clones) -> None:
    """The same as JSON, with seconds as numbers."""
    data = found(cli)
    assert data["ok"]
    assert data["heads"] == {"ok": True, "revisions": ["two"]}
    assert data["models"] == {"ok": True, "differences": [], "not_compared": None}
    first, second = data["stairway"]["revisions"]
    assert (first["revision"], first["result"], second["file"]) == (
        "one",
        "ok",
        "migrations/versions/two.py",
    )
    assert all(second[step] > 0 for step in ("up", "down", "again"))
    assert found(cli, "--no-stairway")["stairway"] is None
    assert clones() == []


def test_several_heads(sound: Project, cli: Command) -> None:
    """They are named, with the command that joins them; their revisions are tried all the same."""
    sound.revision("side", "pass", down="one")
    out = cli("check", code=1).out
    assert "heads     2: " in out
    assert "one revision has to join them: alembic merge -m 'merge heads' " in out
    assert "stairway  3 revisions up, down and up again" in out
    assert "all of them well" in out
    assert out.splitlines()[-1] == "something is not as it should be: see above"


@pytest.mark.campaign("long")
def test_labelled_branches_stay_apart(sound: Project, cli: Command) -> None:
    """One head for each is as it should be; a target that is a head of one is what is checked."""
    for name in ("left", "right"):
        path = sound.revision(name, "pass", down="two")
        path.write_text(path.read_text() + f"branch_labels = ('{name}_side',)\n")
    data = found(cli)
    assert (data["heads"]["ok"], sorted(data["heads"]["revisions"])) == (
        True,
        ["left", "right"],
    )
    assert len(data["stairway"]["revisions"]) == 4
    assert re.search(
        r"heads     2, one for each branch: \w+ \((left|right)_side\), ",
        cli("check", "--no-stairway").out,
    )
    sound.settings(target="left_side@head")
    data = found(cli)
    assert data["heads"] == {"ok": True, "revisions": ["left"]}
    assert data["models"]["not_compared"] == "target 'left_side@head' is not the whole history"
    assert [row["revision"] for row in data["stairway"]["revisions"]] == ["one", "two", "left"]


def test_two_files_of_one_revision(sound: Project, cli: Command) -> None:
    """Alembic runs one of them, and warns where nobody reads it."""
    path = sound.directory / "migrations/versions/two.py"
    path.with_name("zwei.py").write_text(path.read_text())
    out = cli("check", "--no-stairway", code=1).out
    assert re.search(
        r"history   revision 'two' is in 2 files, '\S+' and '\S+', of which Alembic runs the last",
        out,
    )


def test_an_env_py_that_fails_is_told_once(sound: Project, cli: Command) -> None:
    """Nothing is said to be well of what there is not."""
    sound.write("migrations/env.py", "print('before')\nraise ValueError('the reason')\n")
    out = sound.clonedb("check").demand(1).out
    assert out.count("ValueError: the reason") == 1
    assert out.splitlines()[-2] == "stairway  not tried"
    data = json.loads(sound.clonedb("check", "--json").demand(1).out)
    assert (data["heads"]["ok"], data["models"]["ok"]) == (None, None)


def test_models_that_do_not_fit(sound: Project, cli: Command) -> None:
    """Each difference is a line; the command that writes a revision is named."""
    with_models(sound, nullable=True)
    out = cli("check", "--no-stairway", code=1).out
    assert "models    1 difference to the migrated database" in out
    assert "  column 'item.name': nullable changed from false to true\n" in out
    assert "alembic revision --autogenerate" in out
    assert "revision  file" not in out


def test_no_models_are_no_failure(items: Project, cli: Command) -> None:
    """A project may have none; it is told what to write if it has."""
    out = cli("check", "--no-stairway").out
    assert "models    not compared: " in out
    assert "write target_metadata = Base.metadata there" in out
    empty = "import sqlalchemy as sa\ntarget_metadata = sa.MetaData()\n"
    items.write("migrations/env.py", ENV_PY.replace("target_metadata = None\n", empty))
    out = cli("check", "--no-stairway").out
    assert (
        "has no table, so that nothing can be compared with it; import the modules there that define the models"
        in out
    )


def test_a_downgrade_that_leaves_a_table_behind(sound: Project, clones: Clones) -> None:
    """The second upgrade fails; the revisions after it are tried in a new database."""
    sound.revision("three", 'op.execute("create table left_over (id int)")')
    sound.revision("four", "pass")
    outcome = sound.clonedb("check").demand(1)
    assert "stairway  4 revisions up, down and up again" in outcome.out
    assert "1 of them not as it should be" in outcome.out
    rows = {line.split()[0]: line for line in outcome.out.splitlines() if line.strip()}
    assert rows["four"].endswith("  ok")
    assert (
        "second upgrade of revision 'three' (migrations/versions/three.py:10) failed: DuplicateTable"
        in outcome.out
    )
    assert "statement: create table left_over (id int)" in outcome.out
    assert "so the downgrade left something behind" in outcome.out
    assert clones() == []


@pytest.mark.campaign("long")
def test_a_revision_without_a_downgrade(sound: Project, cli: Command) -> None:
    """It fails unless that is allowed, whatever it raises; a downgrade that is broken fails in any case."""
    sound.revision("three", "pass", "raise NotImplementedError")
    sound.revision("four", "pass", "'no way back'\nraise RuntimeError('the rows are gone')")
    out = cli("check", code=1).out
    assert "three: no downgrade" in out
    assert "or allow what cannot be undone with --allow-irreversible" in out
    allowed = cli("check", "--allow-irreversible").out
    assert "  no downgrade" in allowed
    assert allowed.splitlines()[-1] == "all is well"
    broken = "if not op.get_bind().exec_driver_sql('select 1').scalar() == 2:\n    raise RuntimeError('no')"
    sound.revision("five", "pass", broken)
    data = json.loads(sound.clonedb("check", "--json", "--allow-irreversible").demand(1).out)
    results = {
        row["revision"]: (row["result"], row["ok"]) for row in data["stairway"]["revisions"]
    }
    assert results["three"] == ("no downgrade", True)
    assert results["four"] == ("no downgrade", True)
    assert results["five"] == ("downgrade failed", False)


def test_a_revision_that_does_not_go_up(sound: Project, clones: Clones) -> None:
    """There is no template to compare with, the revisions before are tried, and those after are counted."""
    path = sound.directory / "migrations/versions/two.py"
    path.write_text(
        path.read_text().replace("upgrade():\n", "upgrade():\n    print('two says')\n")
    )
    sound.revision("three", 'print("three says")\nop.execute("create table item (id int)")')
    sound.revision("four", "pass")
    out = sound.clonedb("check").demand(1).out
    assert (
        "template  could not be built: revision 'three' (migrations/versions/three.py:11) failed"
        in out
    )
    assert out.partition("last output:\n")[2].splitlines()[0] == "  three says"
    assert "three: upgrade failed" in out
    assert "1 more not tried, because no way leads past 'three'" in out
    data = json.loads(sound.clonedb("check", "--json").demand(1).out)
    assert not data["template"]["ok"]
    assert data["heads"]["ok"] is None
    assert [row["result"] for row in data["stairway"]["revisions"]] == [
        "ok",
        "ok",
        "upgrade failed",
    ]
    assert data["stairway"]["not_tried"] == 1
    assert clones() == []


@pytest.mark.campaign("long")
def test_an_asynchronous_env_py_is_checked(sound: Project, cli: Command) -> None:
    """As it is migrated."""
    sound.write("migrations/env.py", ASYNC_ENV_PY)
    sound.write("alembic.ini", ALEMBIC_INI.replace("+psycopg", "+asyncpg"))
    assert "all of them well" in cli("check").out


def test_half_a_history_is_not_what_is_checked(sound: Project, cli: Command) -> None:
    """The setting `target` is about templates: models are those of the heads."""
    sound.settings(target="one")
    assert found(cli)["heads"]["revisions"] == ["two"]


def test_a_named_template_upon_another(
    sound: Project, make_project: Callable[[str], Project], cli: Command, clones: Clones
) -> None:
    """Its own migrations are tried, in a database that has what they build upon."""
    other = make_project("other")
    table = 'op.execute("create table part (id int primary key, item int references item)")'
    other.revision("first", table, 'op.execute("drop table part")')
    other.write(
        "migrations/env.py",
        ENV_PY.replace("=target_metadata", "=target_metadata, version_table='parts'"),
    )
    sound.write(
        "pyproject.toml",
        '[tool.clonedb.templates.parts]\nbase = "default"\nalembic_ini = "../other/alembic.ini"\n',
    )
    out = sound.clonedb("--template", "parts", "check").demand().out
    assert "heads     one: first" in out
    assert "stairway  1 revision up, down and up again" in out
    assert clones() == []


def test_no_other_database_is_touched(sound: Project, cli: Command, admin_dsn: str) -> None:
    """Whatever URL env.py holds: a downgrade to base of the wrong one would be a bad day."""
    name = "somebodys_shop"
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    theirs = psycopg.conninfo.make_conninfo(admin_dsn, dbname=name)
    try:
        with psycopg.connect(theirs, autocommit=True) as connection:
            connection.execute(
                "create table item (id int); create table alembic_version (version_num text)"
            )
            connection.execute("insert into alembic_version values ('two')")
        keywords = psycopg.conninfo.conninfo_to_dict(theirs)
        query = f"host={keywords['host']}&port={keywords['port']}&user={keywords['user']}"
        sound.write(
            "alembic.ini", ALEMBIC_INI.replace("nobody@localhost:1/never", f"/{name}?{query}")
        )
        cli("check")
        with psycopg.connect(theirs, autocommit=True) as connection:
            left = connection.execute(
                "select version_num, (select count(*) from item) from alembic_version"
            ).fetchall()
            assert left == [("two", 0)]
    finally:
        with psycopg.connect(admin_dsn, autocommit=True) as connection:
            connection.execute(f"drop database {name} with (force)")


@pytest.mark.campaign("long")
@pytest.mark.parametrize("to", ["the command", "the group"])
def test_ctrl_c_drops_the_database(
    sound: Project, admin_dsn: str, prefix: str, clones: Clones, to: str
) -> None:
    """In the middle of a downgrade; one line is said, and the interpreter of env.py is gone too."""
    sound.revision(
        "three", "pass", "open('hangs', 'w').write(str(os.getpid())); time.sleep(600)"
    )
    process = subprocess.Popen(
        [*CLONEDB, "check"],
        cwd=sound.directory,
        env=sound.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        hangs, deadline = sound.directory / "hangs", time.monotonic() + TIMEOUT
        while not (hangs.exists() and hangs.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert len(clones()) == 1
        if to == "the group":
            os.killpg(process.pid, signal.SIGINT)
        else:
            os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "clonedb: interrupted; nothing is left behind"
    assert databases(admin_dsn, f"{prefix}_c_") == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(hangs.read_text()), 0)


@pytest.mark.campaign("long")
def test_a_bar_is_shown_on_a_terminal(sound: Project) -> None:
    """While the stairs are climbed: which of how many revisions."""
    for name in ("three", "four", "five"):
        sound.revision(name, "time.sleep(0.5)")
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [*CLONEDB, "check"],
        cwd=sound.directory,
        env={**sound.environment, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's other end is closed
        while more := os.read(terminal, 4096):
            shown += more
    out, _ = process.communicate(timeout=TIMEOUT)
    os.close(terminal)
    assert process.returncode == 0, out
    assert b"4/5" in shown
    assert "━".encode() in shown
    assert "━".encode() not in out
