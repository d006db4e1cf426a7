"""Several projects, checkouts and runs on one server, and edits while a run is going: nobody disturbs anybody."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Start
from tests.faults.processes import COUNT, HANG, count, demand_nothing_left
from tests.projects import CLONEDB, PYTEST, Outcome, Project, databases

# Each test inserts a row and must see its own only, however many runs there are.
INSERTS = """
import pytest

@pytest.mark.parametrize("number", range(10))
def test_insert(clonedb_connection, number):
    clonedb_connection.execute("insert into {table} (name) values ('mine')")
    clonedb_connection.commit()
    assert clonedb_connection.execute("select count(*) from {table}").fetchone() == (2,)
"""

# The first test edits the last revision; the others ask for their first database after that, each in another worker.
EDITED = """
import os, pathlib, time, pytest

@pytest.mark.parametrize("number", range(3))
def test_item(request, number):
    if number == 0:
        connection = request.getfixturevalue("clonedb_connection")
        revision = pathlib.Path("migrations/versions/two.py")
        revision.write_text(revision.read_text().replace("seeded", "edited"))
        pathlib.Path("edited").touch()
    else:
        while not os.path.exists("edited"):
            time.sleep(0.05)
        connection = request.getfixturevalue("clonedb_connection")
    found = connection.execute("select name, current_database() from item").fetchone()
    with open("found", "a") as file:
        print(os.environ.get("PYTEST_XDIST_WORKER", "alone"), *found, file=file)
"""


def templates(project: Project, dsn: str) -> list[str]:
    """The templates on the server."""
    return databases(dsn, f"{project.environment['CLONEDB_PREFIX']}_t_")


def template_of(outcome: Outcome) -> str:
    """The template that pytest's summary names."""
    found = re.search(r"template '(\w+)' ", outcome.out)
    assert found
    return found[1]


@pytest.mark.campaign("kills")
def test_two_projects_at_once(
    make_project: Callable[[str], Project], start: Start, admin_dsn: str
) -> None:
    """Each builds its own template on the one server, and each test finds its own project's table."""
    shop, blog = make_project("shop"), make_project("blog")
    for project, table in ((shop, "product"), (blog, "post")):
        project.revision(
            "one", f'op.execute("create table {table} (id serial primary key, name text)")'
        )
        project.revision("two", f"op.execute(\"insert into {table} (name) values ('seeded')\")")
        project.write("test_it.py", INSERTS.format(table=table))
    runs = [start(project, *PYTEST, "-n", "2") for project in (shop, blog)]
    outcomes = [run.outcome().demand() for run in runs]
    assert len({template_of(outcome) for outcome in outcomes}) == 2
    demand_nothing_left(shop, admin_dsn)
    assert len(templates(shop, admin_dsn)) == 2


@pytest.mark.campaign("kills")
def test_two_worktrees_share_one_template(
    make_project: Callable[[str], Project], start: Start, admin_dsn: str, tmp_path: Path
) -> None:
    """The same contents in two directories, tested at the same time: the migrations run once."""
    trees = [make_project("main"), make_project("feature")]
    for tree in trees:
        tree.environment["COUNT"] = str(tmp_path / "count")
        tree.items()
        tree.revision("three", COUNT)
        tree.write("test_it.py", INSERTS.format(table="item"))
    runs = [start(tree, *PYTEST) for tree in trees]
    outcomes = [run.outcome().demand() for run in runs]
    assert count(tmp_path / "count") == 1
    assert template_of(outcomes[0]) == template_of(outcomes[1])
    demand_nothing_left(trees[0], admin_dsn)
    assert len(templates(trees[0], admin_dsn)) == 1


def test_two_runs_of_a_project_at_once(
    project: Project, start: Start, admin_dsn: str, counter: Path
) -> None:
    """Their tests do not see each other's rows, and the first that ends takes nothing away from the other."""
    project.items()
    project.revision("three", COUNT)
    project.write("test_it.py", INSERTS.format(table="item"))
    runs = [start(project, *PYTEST, "-n", "2"), start(project, *PYTEST)]
    for run in runs:
        assert "10 passed" in run.outcome().demand().out
    assert count(counter) == 1
    demand_nothing_left(project, admin_dsn)
    assert len(templates(project, admin_dsn)) == 1


@pytest.mark.campaign("kills")
def test_a_migration_edited_while_a_run_is_going(items: Project, admin_dsn: str) -> None:
    """All workers end on the template that the run began with; the next run builds the new one."""
    items.write("test_it.py", EDITED)
    items.run(*PYTEST, "-n", "3").demand()
    found = [line.split() for line in (items.directory / "found").read_text().splitlines()]
    assert {worker for worker, _, _ in found} == {"gw0", "gw1", "gw2"}
    assert [name for _, name, _ in found] == ["seeded"] * 3
    assert len(templates(items, admin_dsn)) == 1
    (items.directory / "found").unlink()
    items.run(*PYTEST).demand()
    found = [line.split() for line in (items.directory / "found").read_text().splitlines()]
    assert [name for _, name, _ in found] == ["edited"] * 3
    assert len(templates(items, admin_dsn)) == 2
    demand_nothing_left(items, admin_dsn)


@pytest.mark.campaign("kills")
def test_a_migration_edited_while_it_is_built(
    project: Project, start: Start, admin_dsn: str, tmp_path: Path
) -> None:
    """What was read at two times is never sealed as one template: the build begins again with the new files."""
    project.items()
    project.revision("three", HANG.replace("time.sleep(60)", "time.sleep(1)"))
    project.revision("four", 'op.execute("create table before ()")')
    builder = start(project, *CLONEDB, "build", HANG=str(tmp_path / "hangs"))
    builder.wait_for(tmp_path / "hangs")
    edited = project.directory / "migrations/versions/four.py"
    edited.write_text(edited.read_text().replace("before", "afterwards"))
    outcome = builder.outcome().demand()
    assert (
        "'migrations/versions/four.py' was changed before the template was ready; beginning again"
        in outcome.err
    )
    demand_nothing_left(project, admin_dsn)
    assert len(templates(project, admin_dsn)) == 1
    look = "import os, psycopg; psycopg.connect(os.environ['DATABASE_URL']).execute('select from afterwards')"
    project.clonedb("run", "--", sys.executable, "-c", look).demand()


def test_a_migration_that_writes_among_its_files(project: Project, admin_dsn: str) -> None:
    """What would never come to rest is an error after three attempts, which names the file."""
    project.revision(
        "one", 'with open("migrations/log", "a") as file:\n    file.write("ran\\n")'
    )
    outcome = project.clonedb("build").demand(1)
    assert (
        "'migrations/log' was changed while the template was being built, as something was each of the 3"
        in outcome.err
    )
    demand_nothing_left(project, admin_dsn)
    assert not templates(project, admin_dsn)


@pytest.mark.campaign("kills")
def test_workers_that_began_beside_an_edit_agree(
    project: Project, admin_dsn: str, tmp_path: Path
) -> None:
    """Of two workers, one builds the old template and the other, after an edit, the new one: both use the same."""
    project.items()
    project.revision("three", HANG.replace("time.sleep(60)", "time.sleep(1)"))
    hangs = tmp_path / "hangs"
    project.write(
        "test_it.py",
        """
        import os, pathlib, pytest, time

        @pytest.mark.parametrize("number", range(2))
        def test_item(request, number):
            if number == 1:
                while not os.path.exists(os.environ["HANG"]):
                    time.sleep(0.01)
                pathlib.Path("migrations/versions/four.py").write_text(
                    "revision = 'four'\\ndown_revision = 'three'\\ndef upgrade(): pass\\n"
                )
            clonedb = request.getfixturevalue("clonedb")
            with open("found", "a") as file:
                print(clonedb.clone.template.name, file=file)
        """,
    )
    project.run(*PYTEST, "-n", "2", HANG=str(hangs)).demand()
    found = (project.directory / "found").read_text().splitlines()
    assert len(found) == 2
    assert len(set(found)) == 1
    demand_nothing_left(project, admin_dsn)
