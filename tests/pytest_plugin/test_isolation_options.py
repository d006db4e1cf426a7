"""What a test gets is said by option, environment, pyproject.toml or marker, and a wrong word is one clear message."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.campaigns import VARIANT
from tests.projects import Project

NAMES = """
import os, pytest

names = []

@pytest.mark.parametrize("n", range(3))
def test_name(clonedb, n):
    with clonedb.connect() as connection:
        assert connection.execute("select count(*) from item").fetchone() == ({rows},)
        connection.execute("insert into item (name) values ('left')")
    names.append(clonedb.name)

def test_names():
    assert len(set(names)) == {databases}
"""
WORKER = NAMES.format(rows="n + 1", databases=1)
CLONE = NAMES.format(rows="1", databases=3)
AUTO = NAMES.format(rows="1", databases=1)


def test_auto_is_the_default(items: Project) -> None:
    """Without a word each test finds the template's state, in one database that is rewound."""
    items.write("test_it.py", AUTO)
    out = items.pytest().demand().out
    assert "isolation 'auto' (default)" in out
    assert "after their tests 3 rewound" in out


def test_isolation_by_option_environment_and_pyproject(
    items: Project, clones: Callable[[], list[str]]
) -> None:
    """Each place wins over the one before it, and the header says which was heard."""
    items.write("test_it.py", WORKER)
    items.settings(isolation="worker")
    assert "isolation 'worker' (" in (out := items.pytest().demand().out)
    assert "pyproject.toml [tool.clonedb])" in out
    assert "; 1 clone; " in out
    assert clones() == []
    items.settings(isolation="clone")
    assert (
        "isolation 'worker' (CLONEDB_ISOLATION)"
        in items.pytest(CLONEDB_ISOLATION="worker").demand().out
    )
    items.write("test_it.py", CLONE)
    out = items.pytest("--clonedb-isolation=clone", CLONEDB_ISOLATION="worker").demand().out
    assert "isolation 'clone' (--clonedb-isolation)" in out


def test_isolation_by_marker(items: Project, clones: Callable[[], list[str]]) -> None:
    """A marker wins over all else, on a test, a class or a module; each argument is the nearest marker's."""
    items.write(
        "test_one.py", WORKER + "\npytestmark = pytest.mark.clonedb(isolation='worker')"
    )
    items.write(
        "test_two.py",
        CLONE
        + """
pytestmark = pytest.mark.clonedb(isolation="clone")

@pytest.mark.clonedb(isolation="worker")
class TestWorker:
    def test_same(self, clonedb):
        names.append(clonedb.name)
        assert len(set(names)) == 4

    @pytest.mark.clonedb(keep="all")
    def test_kept_too(self, clonedb):
        names.append(clonedb.name)
        assert len(set(names)) == 4

    @pytest.mark.clonedb(isolation="clone")
    def test_other(self, clonedb):
        names.append(clonedb.name)
        assert len(set(names)) == 5
""",
    )
    outcome = items.pytest("--clonedb-isolation=clone").demand()
    assert "; 5 clones; " in outcome.out  # test_one's and TestWorker's are the worker's one
    assert len(clones()) == 1


def test_each_worker_has_its_own(items: Project, clones: Callable[[], list[str]]) -> None:
    """`worker` under xdist: one clone for each process, dropped at the end of all."""
    items.write(
        "test_it.py",
        """
        import pytest

        @pytest.mark.parametrize("n", range(8))
        def test_name(clonedb, worker_id, n):
            with clonedb.connect() as connection:
                connection.execute("insert into item (name) values (%s)", [worker_id])
                names = {row[0] for row in connection.execute("select name from item")}
            assert names == {"seeded", worker_id}
        """,
    )
    outcome = items.pytest("-n", "2", "--clonedb-isolation=worker").demand()
    assert "8 passed" in outcome.out
    assert "; 2 clones; " in outcome.out
    assert clones() == []


WRONG_MARKERS = """
import pytest

@pytest.mark.clonedb("clone")
def test_by_position(clonedb): pass

@pytest.mark.clonedb(isolaton="clone")
def test_misspelt_argument(clonedb): pass

@pytest.mark.clonedb(isolation="wrok")
def test_misspelt_isolation(clonedb): pass

@pytest.mark.clonedb(isolation=3)
def test_wrong_type(clonedb): pass

@pytest.mark.clonedb(keep="al")
def test_misspelt_keep(clonedb): pass

@pytest.mark.clonedb(seed=["rows.sql", 5])
def test_wrong_seed(clonedb): pass

@pytest.mark.clonedb(isolation="clone")
def test_right(clonedb): pass
"""


@pytest.mark.parametrize(
    "arguments", [(), pytest.param(("-n", "2"), marks=VARIANT)], ids=["alone", "xdist"]
)
def test_wrong_marker_arguments(
    items: Project,
    clones: Callable[[], list[str]],
    arguments: tuple[str, ...],
    tmp_path: object,
) -> None:
    """Each wrong marker is an error of its test in one line, and no traceback; the others run."""
    items.write("test_it.py", WRONG_MARKERS)
    outcome = items.pytest("--junitxml", "report.xml", *arguments).demand(1)
    assert "1 passed, 6 errors" in outcome.out
    marker = "ConfigError: test_it.py::{}: @pytest.mark.clonedb".format
    for line in (
        marker("test_by_position")
        + "('clone'): it takes isolation=..., template=..., seed=... and keep=..., by name",
        marker("test_misspelt_argument")
        + "(isolaton='clone'): it takes isolation=..., template=..., seed=... and keep=..., by name",
        marker("test_misspelt_isolation")
        + ": isolation is 'wrok' (did you mean 'worker'?); it takes one of auto,"
        " clone, rollback, truncate, migrate, worker, readonly",
        marker("test_wrong_type") + ": isolation is 3; it takes a string",
        marker("test_misspelt_keep")
        + ": keep is 'al' (did you mean 'all'?); it takes one of failed, all, none",
        marker("test_wrong_seed")
        + ": seed is ['rows.sql', 5]; it takes a text, a function, or a list of these",
    ):
        assert line in outcome.out.splitlines()
    assert "options.py" not in outcome.text  # no traceback
    assert clones() == []
    assert "isolation is 3; it takes a string" in (items.directory / "report.xml").read_text()


@pytest.mark.parametrize("place", ["option", "pyproject", "conftest"])
def test_an_unknown_isolation_is_told_once(items: Project, place: str) -> None:
    """However many tests ask, the message stands in full in the header and at the first one, without a traceback."""
    items.write("test_it.py", CLONE)
    arguments = []
    if place == "option":
        arguments.append("--clonedb-isolation=wrok")
    elif place == "pyproject":
        items.settings(isolation="wrok")
    else:
        items.write(
            "conftest.py",
            "import pytest\n@pytest.fixture(scope='session')\ndef clonedb_config(clonedb_config):\n"
            "    return clonedb_config.replace('conftest.py', isolation='wrok')\n",
        )
    outcome = items.pytest("-rN", *arguments).demand(1)
    assert "3 errors" in outcome.out
    message = "isolation is 'wrok' (did you mean 'worker'?); it takes one of auto, clone, rollback, truncate, migrate, worker, readonly"
    assert outcome.out.count(message + "\n") == (1 if place == "conftest" else 2)
    assert outcome.out.count("(shown in full above)") == 2
    assert "config.py" not in outcome.out
    assert "keys.py" not in outcome.out


def test_an_error_in_a_tests_own_call_keeps_its_traceback(items: Project) -> None:
    """Only what clonedb's fixtures raise is shortened: a test that calls clonedb itself wants to see its own line."""
    items.write(
        "test_it.py",
        """
        def test_it(clonedb_config):
            clonedb_config.replace("the test", isolation="wrok")
        """,
    )
    outcome = items.pytest().demand(1)
    assert '>       clonedb_config.replace("the test", isolation="wrok")' in outcome.out
