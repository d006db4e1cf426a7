"""The one name that the clones of a process's tests have, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

import clonedb
from clonedb.isolation.modes import MODES
from clonedb.names import parse
from clonedb.settings.typed import Isolation
from clonedb.supply import Supply
from clonedb.templates.metadata import Kept
from tests.projects import Project, databases


@pytest.fixture
def template(project: Project, variables: None) -> Iterator[clonedb.Template]:
    """The project's template."""
    del variables
    project.revision(
        "one",
        'op.execute("create table item (id serial)")',
        'op.execute("drop table item")',
        down=None,
    )
    with clonedb.template(project.directory) as opened:
        yield opened


@pytest.fixture
def supply(template: clonedb.Template) -> Iterator[Supply]:
    """What gives its databases."""
    made = template.supply()
    yield made
    made.close()


DDL = "create table other ()"


@pytest.mark.parametrize("isolation", ["auto", "clone", "truncate"])
def test_a_new_clone_has_the_name_of_the_one_before(
    supply: Supply, prefix: str, admin_dsn: str, isolation: Isolation
) -> None:
    """Until the last; two at once have two."""
    supply.one_name = isolation
    names, oids = [], set()
    for _ in range(3):
        with supply.database(isolation) as db, db.connect() as connection:
            names.append(db.name)
            oids.add(db.clone.oid)
            connection.execute(DDL)
    assert len(set(names)) == 1
    assert len(oids) == 3
    with supply.database(isolation) as db, supply.database(isolation) as second:
        assert db.name == names[0]
        assert second.name != db.name
    with supply.database("worker") as other:
        assert other.name != names[0]
    supply.close()
    assert databases(admin_dsn, f"{prefix}_c") == []


@pytest.mark.parametrize("isolation", MODES)
def test_every_isolation(supply: Supply, isolation: Isolation) -> None:
    """Where another process waits for room, what is held for later is dropped, and made again."""
    supply.one_name = isolation
    names = set()
    for _ in range(3):
        with supply.database(isolation) as db:
            names.add(db.name)
        supply.release_spares()
    assert len(names) == 1


def test_a_clone_that_is_used_again(supply: Supply) -> None:
    """It keeps the name, and what watches it goes on."""
    supply.one_name = "auto"
    found = set()
    for _ in range(3):
        with supply.database("auto") as db, db.connect() as connection:
            found.add((db.name, db.clone.oid))
            connection.execute("insert into item default values")
    assert len(found) == 1
    assert [*supply.run.statistics.clones.values()] == [1]


@pytest.mark.parametrize("kept", [True, False])
def test_a_prepared_transaction(supply: Supply, *, kept: bool) -> None:
    """A test's database gives up the name even if it is kept, and has its own name then."""
    supply.one_name = "clone"
    with supply.database("clone") as db:
        with db.connect(autocommit=True) as connection:
            connection.execute(
                "begin; insert into item default values; prepare transaction 'left'"
            )
        name, clone = db.name, db.clone
        if kept:
            clone.keep(Kept(project="items", run="1", when=0.0, test="test"))
    with supply.database("clone") as db:
        assert (db.name, clone.name) == (name, clone.own_name)
        assert db.clone.oid != clone.oid
    clone.kept = False
    clone.drop()


def test_another_owner(supply: Supply, template: clonedb.Template, prefix: str) -> None:
    """A name says whose the database is: a process that owns databases anew, as one that was forked, has another."""
    supply.one_name = "clone"
    with supply.database("clone") as db:
        before = parse(prefix, db.name)
    template.server._owner = None
    with supply.database("clone") as db:
        after = parse(prefix, db.name)
    assert before is not None
    assert after is not None
    assert after.owner == template.server.owner != before.owner


def test_a_name_that_is_taken(supply: Supply, admin_dsn: str, prefix: str) -> None:
    """A clone that cannot have the name is dropped, and the room that it had is free again."""
    supply.one_name = "clone"
    with supply.database("clone") as db:
        name = db.name
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(SQL("create database {}").format(Identifier(name)))
        with pytest.raises(psycopg.errors.DuplicateDatabase), supply.database("clone"):
            pass
        supply.release_spares()
        supply.close()
        assert databases(admin_dsn, f"{prefix}_c") == [name]
        connection.execute(SQL("drop database {}").format(Identifier(name)))
