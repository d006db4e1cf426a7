"""Each revision up, down and up again: whatever the shape of the history, and whatever goes wrong in it."""

from __future__ import annotations

from typing import Any

import pytest

from clonedb.errors import MigrationError
from clonedb.migrate.results import Stair
from clonedb.url import DatabaseURL
from tests.migrate.conftest import Ask
from tests.migrate.test_env_py import ASYNC_ENV_PY
from tests.migrators import Migrators
from tests.projects import ALEMBIC_INI, ENV_PY, Project


def table(project: Project, name: str, **options: Any) -> None:
    """Add a revision that makes a table of its name and drops it again."""
    project.revision(
        name,
        f'op.execute("create table {name} (id int)")',
        f'op.execute("drop table {name}")',
        **options,
    )


def results(stairs: list[Stair]) -> list[tuple[str, str | None]]:
    """The revisions in their order, and the step that failed."""
    return [(stair.revision, stair.failed) for stair in stairs]


def test_a_plain_history(
    project: Project,
    migrator: Migrators,
    url: DatabaseURL,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every revision is timed thrice, and the database ends at the head; env.py is run for each step."""
    for name in ("one", "two"):
        table(project, name)
    project.write("migrations/env.py", ENV_PY + "\nopen('runs.txt', 'a').write('run\\n')")
    project.directory.joinpath("runs.txt").touch()
    monkeypatch.chdir(project.directory)
    stairs = list(migrator().stairway(url))
    assert results(stairs) == [("one", None), ("two", None)]
    assert [(stair.number, stair.total, stair.path.name) for stair in stairs] == [
        (1, 2, "one.py"),
        (2, 2, "two.py"),
    ]
    assert all(
        seconds is not None and seconds > 0
        for s in stairs
        for seconds in (s.up, s.down, s.again)
    )
    assert ask("select version_num from alembic_version") == [("two",)]
    # one run to see what there is to do, then three for each revision
    assert (project.directory / "runs.txt").read_text().count("run") == 1 + 2 * 3


def test_branches_heads_dependencies_and_merge_points(
    project: Project, migrator: Migrators, url: DatabaseURL, ask: Ask
) -> None:
    """Parents and dependencies come first, a merge point is split and joined again, and every head is reached."""
    table(project, "one")
    table(project, "west")
    table(project, "east", down="one")
    table(project, "merged", down=("west", "east"))
    table(project, "after")
    table(project, "other_root", down=None)
    path = project.directory / "migrations/versions/other_head.py"
    table(project, "other_head")
    path.write_text(
        path.read_text().replace(
            "\n\n\ndef upgrade", "\ndepends_on = 'merged'\n\n\ndef upgrade"
        )
    )
    stairs = list(migrator().stairway(url))
    names = [stair.revision for stair in stairs]
    assert [stair.error for stair in stairs if stair.error] == []
    assert sorted(names) == sorted(
        ["one", "west", "east", "merged", "after", "other_root", "other_head"]
    )
    assert names.index("merged") > max(names.index("west"), names.index("east"))
    assert names.index("other_head") > names.index("merged")
    assert ask("select version_num from alembic_version order by 1") == [
        ("after",),
        ("other_head",),
    ]


def test_an_asynchronous_env_py(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """asyncio.run() for every step."""
    for name in ("one", "two"):
        table(project, name)
    project.write("migrations/env.py", ASYNC_ENV_PY)
    project.write("alembic.ini", ALEMBIC_INI.replace("+psycopg", "+asyncpg"))
    assert results(list(migrator().stairway(url))) == [("one", None), ("two", None)]


def test_a_downgrade_that_leaves_a_table_behind(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """The second upgrade fails, and the message says why it did."""
    project.revision("one", 'op.execute("create table one (id int)")')
    table(project, "two")
    (stair,) = migrator().stairway(url)
    assert (stair.failed, stair.irreversible, stair.number, stair.total) == (
        "second upgrade",
        False,
        1,
        2,
    )
    assert stair.up is not None
    assert stair.down is not None
    assert stair.again is None
    assert isinstance(stair.error, MigrationError)
    text = str(stair.error)
    assert text.startswith(
        "second upgrade of revision 'one' (migrations/versions/one.py:10) failed: DuplicateTable:"
    )
    assert "statement: create table one (id int)" in text
    assert "it worked the first time, so the downgrade left something behind" in text


def test_a_stairway_begins_above_what_is_skipped(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """After a failure a new database goes on with the next revision."""
    project.revision("one", 'op.execute("create table one (id int)")')
    table(project, "two")
    (stair,) = migrator().stairway(url, skip=["one"])
    assert (stair.revision, stair.failed, stair.number, stair.total) == ("two", None, 2, 2)


def test_no_downgrade_is_told_from_a_broken_one(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """NotImplementedError from the revision, or no function at all; what comes after is tried all the same."""
    project.revision("one", "pass", "raise NotImplementedError('data are gone')")
    project.revision("two", "pass", 'op.execute("drop table never")')
    path = project.revision("three", "pass")
    path.write_text(path.read_text().partition("\n\ndef downgrade")[0])
    project.revision("four", "pass", "__import__('helpers').no()")
    project.write("helpers.py", "def no():\n    raise NotImplementedError")
    table(project, "five")
    stairs = list(migrator().stairway(url))
    assert [(stair.failed, stair.irreversible) for stair in stairs] == [
        ("downgrade", True),
        ("downgrade", False),
        ("downgrade", True),
        ("downgrade", False),
        (None, False),
    ]
    assert "downgrade of revision 'two' (migrations/versions/two.py:14) failed" in str(
        stairs[1].error
    )


def test_nothing_comes_after_a_revision_that_does_not_go_up(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """There is no way on."""
    table(project, "one")
    project.revision("two", 'op.execute("create table one (id int)")')
    table(project, "three")
    stairs = list(migrator().stairway(url))
    assert results(stairs) == [("one", None), ("two", "upgrade")]
    assert str(stairs[1].error).startswith(
        "upgrade of revision 'two' (migrations/versions/two.py:10) failed"
    )


def test_a_revision_that_fills_its_own_module_can_go_up_twice(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """Each step sees the revision's file as a new alembic command would."""
    project.revision(
        "one",
        'sa.Table("one", meta, sa.Column("id", sa.Integer)); meta.create_all(op.get_bind())',
        "op.drop_table('one')",
    )
    path = project.directory / "migrations/versions/one.py"
    path.write_text(
        path.read_text().replace("\n\n\ndef upgrade", "\nmeta = sa.MetaData()\n\n\ndef upgrade")
    )
    assert results(list(migrator().stairway(url))) == [("one", None)]


def test_a_broken_env_py_is_an_error(
    project: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """What no revision is to blame for is raised."""
    table(project, "one")
    project.write("migrations/env.py", "raise LookupError('nothing here')")
    with pytest.raises(
        MigrationError, match=r"migrating \(env.py\) failed: LookupError: nothing here"
    ):
        list(migrator().stairway(url))
