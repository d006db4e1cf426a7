"""Failed tests' databases are kept by policy, and the command in the failure report opens them."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.campaigns import VARIANT
from tests.projects import Project

FAILURES = """
import pytest

@pytest.mark.parametrize("n", range(5))
def test_fails(clonedb_session, n):
    from sqlalchemy import text
    clonedb_session.execute(text("insert into item (name) values (:name)"), {"name": f"left by {n}"})
    clonedb_session.commit()
    clonedb_session.execute(text("insert into item (name) values ('not committed')"))
    assert n > 10

def test_passes(clonedb):
    pass

@pytest.mark.xfail
def test_is_expected_to_fail(clonedb):
    assert not clonedb

def test_skips(clonedb):
    pytest.skip("not today")
"""


def kept_in(out: str) -> list[str]:
    """The commands that the failure reports give."""
    return re.findall(r"^database kept: (.+)$", out, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments", [(), pytest.param(("-n", "2"), marks=VARIANT)], ids=["alone", "xdist"]
)
def test_a_failed_tests_database_can_be_looked_into(
    items: Project, clones: Callable[[], list[str]], arguments: tuple[str, ...]
) -> None:
    """keep_count databases of a run's failures outlive it, hold what the test committed, and nothing else is left."""
    items.write("test_it.py", FAILURES)
    outcome = items.pytest(*arguments).demand(1)
    commands = kept_in(outcome.out)
    assert len(commands) == 3
    assert sorted(command.split()[-1] for command in commands) == clones()
    assert (
        "clonedb: 3 databases kept for you: clonedb psql NAME, clonedb drop NAME" in outcome.out
    )
    left = set()
    for command in commands:
        program, *words = command.split()
        assert program == "clonedb"
        query = "select name from item where name <> 'seeded'"
        left.add(items.clonedb(*words, "--", "-Atc", query).demand().out.strip())
    assert len(left) == 3
    assert left < {f"left by {n}" for n in range(5)}
    listed = items.clonedb("list").demand().out
    assert listed.count("kept clone") == 3
    assert re.search(r"(project|items) \(\w{6}\), test_it.py::test_fails\[", listed)
    items.clonedb("drop", *clones()).demand()
    assert clones() == []


@pytest.mark.campaign("long")
def test_older_runs_give_way_to_newer_ones(
    items: Project, clones: Callable[[], list[str]]
) -> None:
    """A project has keep_count kept databases at most, over all its runs: the newest run's first, then the last ones'."""
    items.write("test_it.py", FAILURES)
    arguments = ("-k", "fails and (0 or 1)")
    first, second = (kept_in(items.pytest(*arguments).demand(1).out) for _ in range(2))
    assert len(first) == len(second) == 2
    names = [command.split()[-1] for command in (*first, *second)]
    assert set(clones()) == set(names[1:]) or set(clones()) == {names[0], *names[2:]}
    third = kept_in(items.pytest("-k", "fails").demand(1).out)
    assert {command.split()[-1] for command in third} == set(clones())
    assert kept_in(items.pytest(*arguments, "--clonedb-keep-count=1").demand(1).out)
    assert len(clones()) == 1
    assert kept_in(items.pytest(*arguments, "--clonedb-keep-count=0").demand(1).out) == []
    assert clones() == []


@pytest.mark.campaign("long")
def test_policies(items: Project, clones: Callable[[], list[str]]) -> None:
    """`none` keeps nothing; `all` keeps every test's of this run, and drops the older runs'."""
    items.write("test_it.py", FAILURES)
    outcome = items.pytest("--clonedb-keep=none").demand(1)
    assert "kept" not in outcome.out
    assert clones() == []
    for workers in ("0", "2"):
        outcome = items.pytest("--clonedb-keep=all", "-rA", "-n", workers).demand(1)
        assert "clonedb: 8 databases kept for you" in outcome.out
        assert len(clones()) == 8
    passed = outcome.out.partition("= PASSES =")[2].partition("short test summary")[0]
    assert len(kept_in(passed)) == 1


def test_the_marker_decides_for_its_test(
    items: Project, clones: Callable[[], list[str]]
) -> None:
    """`keep` in a marker wins over the configuration, in both directions."""
    items.write(
        "test_it.py",
        """
        import pytest

        @pytest.mark.clonedb(keep="all")
        def test_passes(clonedb): pass

        @pytest.mark.clonedb(keep="none")
        def test_fails(clonedb): assert 0

        @pytest.mark.clonedb(keep="failed")
        def test_fails_too(clonedb): assert 0

        def test_fails_as_the_others(clonedb): assert 0
        """,
    )
    items.settings(keep="none")
    outcome = items.pytest().demand(1)
    assert len(kept_in(outcome.out)) == 1  # a passed test has no report to stand in
    assert "clonedb: 2 databases kept for you" in outcome.out
    listed = items.clonedb("list").demand().out
    assert re.search(r"items \(\w{6}\), test_it.py::test_passes", listed)
    assert re.search(r"items \(\w{6}\), test_it.py::test_fails_too", listed)


def test_every_database_of_the_test_is_kept(
    items: Project, clones: Callable[[], list[str]]
) -> None:
    """Those of `clonedb_factory` too; and those of a test whose other fixture fails in its set-up."""
    items.write(
        "test_it.py",
        """
        import pytest

        def test_two(clonedb, clonedb_factory):
            clonedb_factory()
            assert 0

        @pytest.fixture
        def broken(clonedb):
            raise RuntimeError("cannot be set up")

        def test_not_run(broken): pass
        """,
    )
    outcome = items.pytest().demand(1)
    assert "1 failed, 1 error" in outcome.out
    assert len(kept_in(outcome.out)) == len(clones()) == 3


def test_the_workers_one_database_is_kept_once(
    items: Project, clones: Callable[[], list[str]]
) -> None:
    """Under `worker` each failure names the same database, which is kept when the first of them asks for it."""
    items.write("test_it.py", FAILURES)
    outcome = items.pytest("-k", "fails", "--clonedb-isolation=worker").demand(1)
    assert set(kept_in(outcome.out)) == {f"clonedb psql {name}" for name in clones()}
    assert len(kept_in(outcome.out)) == 5
    assert "clonedb: 1 database kept for you" in outcome.out


def test_what_only_the_run_was_told_stands_in_the_command(
    items: Project, clones: Callable[[], list[str]], server_url: str
) -> None:
    """A server that an option named is named again, without its password; one from the environment is not."""
    items.write("test_it.py", FAILURES)
    password = server_url.partition("//postgres:")[2].partition("@")[0]
    outcome = items.pytest("-k", "fails and 0", "--clonedb-url", server_url).demand(1)
    (name,) = clones()
    assert kept_in(outcome.out) == [
        f"CLONEDB_URL='{server_url.replace(password, '***')}' clonedb psql {name}"
    ]
    assert password not in outcome.text
    query = ("psql", name, "--", "-Atc", "select count(*) from item")
    assert items.clonedb(*query, CLONEDB_URL=server_url).demand().out.strip() == "2"
    environment = {"CLONEDB_URL": server_url}
    outcome = items.pytest("-k", "fails and 1", **environment).demand(1)
    assert kept_in(outcome.out)[0].startswith("clonedb psql ")


def test_a_database_that_the_failed_test_dropped(
    items: Project, clones: Callable[[], list[str]]
) -> None:
    """There is nothing to keep: the report says so, below the test's own failure, and the other one is kept."""
    items.write(
        "test_it.py",
        """
        def test_it(clonedb, clonedb_factory):
            clonedb_factory()
            clonedb.clone.drop()
            assert 0, "its own failure"
        """,
    )
    outcome = items.pytest().demand(1)
    assert "its own failure" in outcome.out
    assert "1 failed in" in outcome.out
    assert "could not be kept: database" in outcome.out
    assert len(kept_in(outcome.out)) == len(clones()) == 1


def test_the_debugger_begins_with_the_name(items: Project) -> None:
    """Under --pdb a person is asked before the summary comes: how to look into the database is said before."""
    items.write("test_it.py", "def test_it(clonedb): assert 0\n")
    items.write(
        "pdb_that_quits.py",
        """
        import pdb

        class Pdb(pdb.Pdb):
            def interaction(self, *arguments, **options):
                print("the debugger begins")
        """,
    )
    outcome = items.pytest(
        "--pdb", "--pdbcls=pdb_that_quits:Pdb", PYTHONPATH=str(items.directory)
    )
    before, _, after = outcome.out.partition("the debugger begins")
    assert after
    assert re.search(
        r"^clonedb: database kept: clonedb psql \S+$", before + outcome.err, re.MULTILINE
    )
