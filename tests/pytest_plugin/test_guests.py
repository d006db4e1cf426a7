"""clonedb in a process whose tests replace the clock, the file system, sockets, threads, the environment."""

from __future__ import annotations

import pytest

from tests.campaigns import VARIANT
from tests.projects import Project, lean_pytest

WORLDS = """
import contextlib, os, pathlib, socket, subprocess, threading, time
from unittest import mock
import freezegun, psycopg, pytest, sqlalchemy as sa

def refuse(*arguments, **keywords):
    raise AssertionError("no test may do that")

WORLDS = {
    "environ": lambda: mock.patch.dict(os.environ, clear=True),
    "another environ": lambda: mock.patch("os.environ", {}),
    "open": lambda: mock.patch("builtins.open", mock.mock_open(read_data="{}")),
    "exists": lambda: mock.patch.object(pathlib.Path, "exists", return_value=True),
    "thread": lambda: mock.patch("threading.Thread"),
    "popen": lambda: mock.patch("subprocess.Popen", refuse),
    "sleep": lambda: mock.patch("time.sleep", refuse),
    "pid": lambda: mock.patch("os.getpid", return_value=4711),
    "urandom": lambda: mock.patch("os.urandom", lambda count: b"0" * count),
    "socket": lambda: mock.patch("socket.socket", refuse),
    "past": lambda: freezegun.freeze_time("2012-01-14 12:00:01"),
}

@contextlib.contextmanager
def everything():
    with contextlib.ExitStack() as stack:
        for make in WORLDS.values():
            stack.enter_context(make())
        yield
"""

CONFTEST = (
    WORLDS
    + """
@pytest.fixture(scope="session")
def session_variable():
    os.environ["OF_THE_SESSION"] = "set"

@pytest.fixture
def first_world(session_variable, fs, tmp_path_factory):
    "What the first of all tests has before it asks for a database."
    with everything():
        os.environ["DIMENSIONS"] = "3"
        yield

@pytest.fixture
def world(request):
    with WORLDS[request.param]():
        yield
"""
)

TESTS = """
import conftest, os, pathlib, psycopg, pytest, sqlalchemy as sa, threading, time

def names(engine):
    with engine.connect() as connection:
        return set(connection.scalars(sa.text("select name from item")))

def test_first(first_world, clonedb_engine, clonedb):
    assert os.environ.pop("PYTEST_CURRENT_TEST") and os.environ == {"DIMENSIONS": "3"}
    assert isinstance(threading.Thread, conftest.mock.Mock) and time.time() < 1.4e9 and not os.path.exists("/usr")
    assert clonedb.name.startswith("PREFIX")
    assert names(clonedb_engine) == {"seeded", "1536", "set"}

@pytest.mark.parametrize("world", conftest.WORLDS, indirect=True)
def test_writes(world, clonedb_engine, clonedb_connection, clonedb_factory):
    assert names(clonedb_engine) == {"seeded", "1536", "set"}
    assert clonedb_factory().name != clonedb_factory().name
    with clonedb_engine.begin() as connection:
        connection.execute(sa.text("create table later (id int)"))

def test_fake_files(fs, clonedb_engine, clonedb_factory):
    fs.create_file("/data/in.txt", contents="x")
    assert names(clonedb_engine) == {"seeded", "1536", "set"} and clonedb_factory().name
    assert pathlib.Path("/data/in.txt").read_text() == "x"

@pytest.mark.disable_socket
def test_no_socket(clonedb_engine, clonedb_factory):
    assert names(clonedb_engine) == {"seeded", "1536", "set"} and clonedb_factory().name

@pytest.mark.allow_hosts(["10.0.0.1"])
def test_other_hosts(clonedb_engine, clonedb_factory):
    assert names(clonedb_engine) == {"seeded", "1536", "set"} and clonedb_factory().name

def test_elsewhere(tmp_path, monkeypatch, clonedb_at):
    monkeypatch.chdir(tmp_path), monkeypatch.setenv("HOME", str(tmp_path)), monkeypatch.setenv("DIMENSIONS", "3")
    monkeypatch.setattr("sys.path", [])
    assert names(clonedb_at("two").engine()) == {"seeded", "1536", "set"}

def test_the_test_keeps_its_world(fs, clonedb):
    assert not os.path.exists("/usr")
"""


@pytest.fixture
def items(items: Project) -> Project:
    """The project, whose programs do their imports themselves: when and what is imported matters here."""
    items.starts_anew = True
    return items


@pytest.fixture
def guests(project: Project) -> Project:
    """A project whose template depends on the environment."""
    project.revision(
        "one", 'op.execute("create table item (id serial primary key, name text not null)")'
    )
    project.revision(
        "two",
        """
        values = ["seeded", os.environ.get("DIMENSIONS", "1536"), os.environ.get("OF_THE_SESSION", "not set")]
        for value in values:
            op.execute(f"insert into item (name) values ('{value}')")
        """,
    )
    project.write("conftest.py", CONFTEST)
    return project


@pytest.mark.campaign("long")
@pytest.mark.parametrize("isolation", ["auto", pytest.param("clone", marks=VARIANT)])
def test_what_a_test_replaces_is_its_own(guests: Project, isolation: str) -> None:
    """The template is the session's whichever test comes first, and every test gets a database and keeps its world."""
    guests.write("test_it.py", TESTS.replace("PREFIX", guests.environment["CLONEDB_PREFIX"]))
    guests.pytest(
        f"--clonedb-isolation={isolation}", PYTEST_ADDOPTS=lean_pytest("fakefs", "socket")
    ).demand()


LEAKS = """
import psycopg, pytest, threading, time

kept = []

@pytest.mark.parametrize("number", range(2))
def test_leaks(clonedb, number):
    kept.append(psycopg.connect(clonedb.dsn))
    kept[-1].execute("select 1")

def test_is_busy(clonedb):
    connection = psycopg.connect(clonedb.dsn, autocommit=True)
    connection.pgconn.send_query(b"select pg_sleep(300)")
    kept.append(connection)

def test_changes_the_schema(clonedb_connection, clonedb_factory):
    assert time.time() == 1326542401.0
    clonedb_connection.execute("create table later (id int)")
    clonedb_connection.commit()
    clonedb_factory()

def test_is_clean(clonedb_connection):
    assert clonedb_connection.execute("select to_regclass('later')").fetchone()[0] is None
"""

FROZEN = {
    "freezegun": """
        import freezegun
        frozen = freezegun.freeze_time("2012-01-14 12:00:01")
        def pytest_configure(config): frozen.start()
        def pytest_unconfigure(config): frozen.stop()
        """,
    "time-machine": """
        import pytest, time_machine
        @pytest.fixture(autouse=True, scope="session")
        def frozen():
            with time_machine.travel("2012-01-14 12:00:01+00:00", tick=False):
                yield
        """,
}


@pytest.mark.parametrize("library", FROZEN)
def test_a_frozen_clock_stops_nothing(items: Project, library: str) -> None:
    """What waits for sessions that a test left open ends, though no time passes; each leak is told."""
    items.write("conftest.py", FROZEN[library])
    items.write("test_it.py", LEAKS)
    outcome = items.pytest().demand()
    assert outcome.out.count("LeakedConnectionWarning:") == 3
