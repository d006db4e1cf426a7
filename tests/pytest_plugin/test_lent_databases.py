"""How long a test, a module or a worker has its database, and who is told of what comes late."""

from __future__ import annotations

import sys

import pytest

from tests.projects import Project


@pytest.mark.parametrize("isolation", ["auto", "truncate"])
def test_a_late_process_is_told_with_the_name_of_its_test(
    items: Project, isolation: str
) -> None:
    """Not as a connection of the test that happens to have the database then."""
    items.write(
        "late.py",
        """
        import pathlib, sys, time
        import psycopg

        while not pathlib.Path("go").exists():
            time.sleep(0.01)
        connection = psycopg.connect(sys.argv[1], autocommit=True)
        connection.execute("select 'password=SECRET'")
        pathlib.Path("there").touch()
        time.sleep(600)
        """,
    )
    items.write(
        "test_it.py",
        """
        import pathlib, subprocess, sys, time

        processes = []

        def teardown_module():
            processes[0].kill()
            processes[0].wait()

        def test_first(clonedb_dsn):
            processes.append(subprocess.Popen([sys.executable, "late.py", clonedb_dsn], stderr=subprocess.DEVNULL))

        def test_second(clonedb):
            pathlib.Path("go").touch()
            while not pathlib.Path("there").exists():
                assert processes[0].poll() is None
                time.sleep(0.01)
        """,
    )
    outcome = items.pytest(f"--clonedb-isolation={isolation}").demand()
    text = " ".join(outcome.out.split())
    assert (
        "test 'test_it.py::test_first' had ended when an open connection by its URL came to the database of"
        in text
    )
    assert "test_it.py::test_second ended with" not in text
    assert "SECRET" not in outcome.text


def test_a_process_that_a_test_has_forked_is_refused(items: Project) -> None:
    """Its memory is a copy of the time when the test had its database."""
    items.write(
        "test_it.py",
        """
        import multiprocessing
        import psycopg

        fork = multiprocessing.get_context("fork")
        go, told = fork.Event(), fork.SimpleQueue()

        def work(dsn):
            go.wait()
            try:
                psycopg.connect(dsn).close()
            except Exception as error:
                told.put(repr(error))
            else:
                told.put("accepted")

        def test_first(clonedb_dsn):
            fork.Process(target=work, args=(clonedb_dsn,), daemon=True).start()

        def test_second(clonedb):
            go.set()
            assert "EndedTestError" in (error := told.get()) and "test_first" in error
        """,
    )
    assert "2 passed" in items.pytest().demand().out


def test_a_database_of_a_wider_scope_serves_until_its_end(items: Project) -> None:
    """A module's is of use in all of its tests, and in none of the next module's, whose error names the module."""
    items.write(
        "conftest.py",
        'import clonedb\nshop = clonedb.fixture(scope="module", isolation="auto")\n',
    )
    items.write(
        "test_1.py",
        """
        import psycopg

        handed = []

        def test_one(shop):
            handed.append(shop.dsn)

        def test_two(shop):
            assert shop.dsn == handed[0]
            psycopg.connect(handed[0]).close()
        """,
    )
    items.write(
        "test_2.py",
        """
        import psycopg, pytest
        import clonedb as package
        from test_1 import handed

        def test_three(shop):
            assert shop.dsn != handed[0]
            with pytest.raises(package.EndedTestError, match="^module 'test_1.py' has ended"):
                psycopg.connect(handed[0])
        """,
    )
    assert "3 passed" in items.pytest().demand().out


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_routed_engine_is_not_led_on_by_an_ended_tests_url(
    items: Project, driver: str
) -> None:
    """An application's engine goes to the test that runs; one that was made from a test's own URL is that test's."""
    items.settings(route=["*"], driver=driver)
    items.write(
        "test_it.py",
        """
        import asyncio
        import pytest
        from sqlalchemy.ext.asyncio import create_async_engine
        import clonedb as package

        handed = []

        async def connect(url):
            async with create_async_engine(url).connect():
                pass

        def test_first(clonedb_url):
            handed.append(clonedb_url)
            asyncio.run(connect(clonedb_url))

        def test_second(clonedb):
            with pytest.raises(package.EndedTestError, match="test_first"):
                asyncio.run(connect(handed[0]))
        """,
    )
    assert "2 passed" in items.pytest("--clonedb-isolation=clone").demand().out


def test_the_database_of_a_worker_is_lent_to_nobody(items: Project) -> None:
    """All tests may use what one of them was handed, until the run ends: they share the database on purpose."""
    items.write(
        "test_it.py",
        """
        import psycopg

        handed = []

        def test_one(clonedb, clonedb_connection):
            handed.append(clonedb)

        def test_two(clonedb):
            assert clonedb.clone is handed[0].clone
            assert "application_name" not in clonedb.url
            psycopg.connect(handed[0].dsn).close()
            handed[0].engine().connect().close()
        """,
    )
    assert "2 passed" in items.pytest("--clonedb-isolation=worker").demand().out


def test_the_drivers_are_as_they_were_after_the_run(items: Project) -> None:
    """Another run in the same process, and the program around it, connect as if there had been none."""
    items.write(
        "test_it.py",
        "import psycopg\n\ndef test_one(clonedb_dsn):\n    psycopg.connect(clonedb_dsn).close()\n",
    )
    items.write(
        "around.py",
        """
        import sys
        import asyncpg, psycopg, psycopg2, pytest

        def functions():
            found = [vars(kind)["_get_connection_params"] for kind in (psycopg.Connection, psycopg.AsyncConnection)]
            return [*found, psycopg2._connect, asyncpg.connect, asyncpg.connect_utils._connect, *sys.meta_path]

        class Within:
            def pytest_runtest_teardown(self):
                self.seen = functions()

        before, within = functions(), Within()
        assert pytest.main(["test_it.py"], plugins=[within]) == 0
        assert all(one not in within.seen for one in before[:5])
        assert functions() == [one for one in before]
        """,
    )
    outcome = items.run(sys.executable, "around.py")
    assert outcome.code == 0, outcome.text
