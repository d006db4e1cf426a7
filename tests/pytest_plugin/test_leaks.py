"""Connections that a test leaves open: told with the test's id, and no obstacle."""

from __future__ import annotations

import pytest

from tests.campaigns import VARIANT
from tests.projects import Project

TESTS = """
import psycopg, pytest, sqlalchemy as sa, time

left = []

def test_leaves_one(clonedb_dsn):
    connection = psycopg.connect(clonedb_dsn, application_name="the shop")
    connection.execute("select 'password=SECRET', name from item")
    left.append(connection)

def test_leaves_two_in_a_pool(clonedb_url):
    engine = sa.create_engine(clonedb_url)
    with engine.connect() as one, engine.connect() as two:
        one.execute(sa.text("select 1")), two.execute(sa.text("select 2"))
    left.append(engine)

def test_closes_late(clonedb_dsn):
    for _ in range(20):
        psycopg.connect(clonedb_dsn).close()

def test_uses_the_fixtures(clonedb_connection, clonedb_engine, clonedb_session):
    clonedb_connection.execute("select 1")
    clonedb_session.execute(sa.text("select 1"))

def test_a_lock_is_no_obstacle(clonedb_dsn):
    connection = psycopg.connect(clonedb_dsn)
    connection.execute("lock table item in access exclusive mode")
    left.append(connection)
"""


@pytest.mark.parametrize("isolation", ["auto", "clone", "truncate", "readonly"])
@pytest.mark.parametrize(
    "arguments", [(), pytest.param(("-n", "2"), marks=VARIANT)], ids=["alone", "xdist"]
)
def test_leaks_are_told(items: Project, arguments: tuple[str, ...], isolation: str) -> None:
    """The test's id, what the connection calls itself, and its last statement, without a password; others are not."""
    items.write("test_it.py", TESTS)
    outcome = items.pytest(f"--clonedb-isolation={isolation}", *arguments).demand()
    assert "5 passed" in outcome.out
    text = " ".join(outcome.out.split())
    assert (
        "LeakedConnectionWarning: test_it.py::test_leaves_one ended with an open connection to its database"
        " ('the shop', idle in transaction, last statement" in text
    )
    assert "SECRET" not in outcome.text
    assert "test_it.py::test_leaves_two_in_a_pool ended with 2 open connections" in text
    assert "test_it.py::test_a_lock_is_no_obstacle ended with an open connection" in text
    assert text.count("LeakedConnectionWarning:") == 3


LATE = """
import os, psycopg, signal, subprocess, sqlalchemy as sa

processes = []

def slowed(connection):
    # as a loaded machine does: the server's process does not come to its end for a while
    os.kill(connection.info.backend_pid, signal.SIGSTOP)
    processes.append(subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -CONT {connection.info.backend_pid}"]))

def test_closed(clonedb_dsn):
    connection = psycopg.connect(clonedb_dsn, autocommit=True)
    slowed(connection)
    connection.close()

def test_the_fixtures(clonedb_connection, clonedb_engine):
    with clonedb_engine.connect() as connection:
        connection.execute(sa.text("select 1"))
        slowed(connection.connection.driver_connection)
    slowed(clonedb_connection)

def test_after(clonedb_connection):
    assert clonedb_connection.execute("select count(*) from item").fetchone() == (1,)
    for process in processes:
        process.wait()
"""


@pytest.mark.parametrize("isolation", ["auto", "clone", "readonly"])
def test_what_was_closed_is_no_leak(items: Project, isolation: str) -> None:
    """However long the server takes to end a session whose client has gone: the kernel knows that it has."""
    items.write("test_it.py", LATE)
    outcome = items.pytest(f"--clonedb-isolation={isolation}", "-W", "error").demand()
    assert "3 passed" in outcome.out


def test_a_leak_may_be_an_error(items: Project) -> None:
    """filterwarnings decides, as for every warning."""
    items.write("test_it.py", TESTS)
    outcome = items.pytest("-W", "error::clonedb.LeakedConnectionWarning").demand(1)
    assert "5 passed, 3 errors" in outcome.out


def test_a_leak_does_not_cost_a_second(items: Project) -> None:
    """That is given to what its client has closed; one that is held open is ended after 25 ms."""
    items.write(
        "test_it.py",
        """
        import psycopg, pytest

        left = []

        @pytest.mark.parametrize("number", range(20))
        def test_leaves_one(clonedb_dsn, number):
            left.append(psycopg.connect(clonedb_dsn))

        @pytest.fixture(autouse=True, scope="module")
        def extra(request, clonedb_template):
            import statistics, time
            from clonedb.clones.clone import Clone
            seconds = []
            real = Clone.end_sessions
            def timed(self):
                start = time.perf_counter()
                try:
                    return real(self)
                finally:
                    seconds.append(time.perf_counter() - start)
            Clone.end_sessions = timed
            yield
            Clone.end_sessions = real
            print("median ms", round(statistics.median(seconds) * 1e3))
        """,
    )
    outcome = items.pytest("-s", "--clonedb-isolation=clone").demand()
    assert int(outcome.out.partition("median ms ")[2].split()[0]) < 500


HELD = """
import os, pytest, sqlalchemy as sa

kept = []
application = sa.create_engine("postgresql+psycopg://me@localhost/shop")

def stream(connection):
    kept.append(connection.cursor().stream("select generate_series(1, 1000000)"))
    next(kept[-1])

def copy(connection):
    kept.append(connection.cursor().copy("copy item (name) from stdin"))
    kept[-1].__enter__().write_row(("x",))

def pipeline(connection):
    kept.append(connection.pipeline())
    kept[-1].__enter__()
    connection.execute("insert into item (name) values ('x')")

@pytest.mark.parametrize("hold", [stream, copy, pipeline])
def test_session(clonedb_session, hold):
    hold(clonedb_session.connection().connection.driver_connection)

if os.environ["ISOLATION"] != "rollback":

    @pytest.mark.parametrize("hold", [stream, copy, pipeline])
    def test_engine(clonedb_engine, hold):
        kept.append(clonedb_engine.connect())
        hold(kept[-1].connection.driver_connection)

    @pytest.mark.parametrize("hold", [stream, copy, pipeline])
    def test_application(clonedb, hold):
        session = sa.orm.Session(application)
        hold(session.connection().connection.driver_connection)

def test_clean(clonedb_session):
    assert clonedb_session.scalar(sa.text("select count(*) from item")) == 1
"""


@pytest.mark.parametrize("isolation", ["auto", "clone", "rollback"])
def test_what_holds_a_connection_stops_no_teardown(items: Project, isolation: str) -> None:
    """psycopg's rollback would wait for a generator that nobody finishes: the connection is closed underneath it."""
    items.settings(route=["postgresql://me@localhost/shop"], isolation=isolation)
    items.write("test_it.py", HELD)
    outcome = items.pytest(ISOLATION=isolation).demand()
    for hold in ("stream", "copy", "pipeline"):
        assert f"test_session[{hold}] ended in the middle of a COPY" in outcome.out
    if isolation != "rollback":
        assert "test_engine[copy] ended in the middle of a COPY" in outcome.out
