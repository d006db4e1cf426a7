"""What a test pays for its database in pytest-postgresql, used as its documentation says, on a given server."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.apparatus.places import environment, timed

__all__ = ["pytest_postgresql"]

_CONFTEST = """
import json, time
from pathlib import Path
from alembic import command
from alembic.config import Config
from pytest_postgresql import factories

def migrate(*, host, user, dbname, **_):
    config = Config({ini!r})
    config.set_main_option("sqlalchemy.url", f"postgresql+psycopg://{{user}}@/{{dbname}}?host={{host}}")
    command.upgrade(config, "heads")

postgresql_noproc = factories.postgresql_noproc(host={host!r}, port=5432, user="postgres", load=[migrate])
postgresql = factories.postgresql("postgresql_noproc")

spent = []

def pytest_runtest_logreport(report):
    if report.when != "call":
        spent.append(report.duration)

def pytest_sessionfinish():
    Path("spent.json").write_text(json.dumps(spent))
"""

_TESTS = """
import pytest

@pytest.mark.parametrize("number", range({tests}))
def test_that_writes(postgresql, number):
    cursor = postgresql.cursor()
    cursor.execute("insert into table_000 (title) values ('one'), ('two')")
    cursor.execute("insert into table_001 (title, parent_id) values ('three', 1)")
    postgresql.commit()
"""


def pytest_postgresql(sockets: str, project: Path, directory: Path, *, tests: int) -> Sequence[float] | str:
    """The milliseconds that each of its tests pays before and after, the first left out; or why there are none.

    The first pays for the template, which the project's migrations make.
    """
    if importlib.util.find_spec("pytest_postgresql") is None:
        return "pytest-postgresql is not installed here"
    directory.mkdir()
    ini = str(project / "alembic.ini")
    (directory / "conftest.py").write_text(_CONFTEST.format(ini=ini, host=sockets))
    (directory / "test_writing.py").write_text(_TESTS.format(tests=tests + 1))
    (directory / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:clonedb", "-p", "no:cacheprovider"]
    timed(command, cwd=directory, variables=environment())
    spent = json.loads((directory / "spent.json").read_text())
    pairs = [before + after for before, after in zip(spent[::2], spent[1::2], strict=True)]
    return [seconds * 1e3 for seconds in pairs[1:]]
