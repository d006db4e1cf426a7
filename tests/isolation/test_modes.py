"""Modes: what acquire() gives each test of a worker, and what is left after release() and close()."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import psycopg
import pytest

import clonedb
from clonedb.errors import MigrationError
from clonedb.isolation.modes import MODES
from clonedb.settings.config import Config
from clonedb.settings.keys import KEYS
from clonedb.supply import Supply
from clonedb.templates.metadata import Kept
from tests.clones.conftest import eventually
from tests.projects import Project, databases, one


@pytest.fixture
def template(items: Project, config: Config, prefix: str) -> Iterator[clonedb.Template]:
    """The project's template on the run's server."""
    settings = {
        name: getattr(config, name)
        for name in ("state_dir", "postgres_bin", "salt", "idle_timeout")
    }
    with clonedb.template(items.directory, **settings, prefix=prefix) as opened:
        yield opened


@pytest.fixture
def supply(template: clonedb.Template) -> Iterator[Supply]:
    """What gives databases of it."""
    supply = template.supply()
    yield supply
    supply.close()


def rows(clone: clonedb.Clone) -> int:
    """How many rows there are before one more is committed."""
    with clone.connect() as connection:
        found = connection.execute("select count(*) from item").fetchone()
        connection.execute("insert into item (name) values ('more')")
    assert found is not None
    return int(found[0])


def test_every_mode_of_the_configuration_is_there(supply: Supply) -> None:
    """What `isolation` may be said to be is what there is."""
    assert set(MODES) == set(KEYS["isolation"].choices)
    for name in MODES:
        mode = supply.isolation(name)
        clone = mode.acquire()
        with contextlib.suppress(MigrationError):  # the project's downgrades do nothing
            mode.release(clone)
        mode.close()


def test_clone_gives_each_test_its_own(supply: Supply, admin_dsn: str, prefix: str) -> None:
    """Two tests at once have two databases; each is gone when it is released, but for one that is kept."""
    mode = supply.isolation("clone")
    first, second = mode.acquire(), mode.acquire()
    assert [rows(first), rows(first), rows(second)] == [1, 2, 1]
    mode.release(first)
    eventually(lambda: first.name not in databases(admin_dsn, f"{prefix}_c"))
    second.keep(Kept(project="items", run="1", when=0.0, test="test"))
    mode.release(second)
    supply.close()
    assert databases(admin_dsn, f"{prefix}_c") == [second.name]


def test_worker_gives_all_tests_the_same(supply: Supply, admin_dsn: str, prefix: str) -> None:
    """It is made for the first, never reset, and dropped at the end; after that the next gets a new one."""
    mode = supply.isolation("worker")
    assert databases(admin_dsn, f"{prefix}_c") == []
    first = mode.acquire()
    assert rows(first) == 1
    mode.release(first)
    assert mode.acquire() is first
    assert rows(first) == 2
    mode.close()
    mode.close()
    assert databases(admin_dsn, f"{prefix}_c") == []
    assert rows(mode.acquire()) == 1
    mode.close()
    assert databases(admin_dsn, f"{prefix}_c") == []


def renamed(name: str) -> list[str]:
    return [f'alter database "{name}" rename to "{name}_away"']


def dropped(name: str) -> list[str]:
    return [f'drop database "{name}"']


def made_again(name: str) -> list[str]:
    return [f'drop database "{name}"', f'create database "{name}"']


def closed(name: str) -> list[str]:
    return [f'alter database "{name}" allow_connections false']


def limited(name: str) -> list[str]:
    return [f'alter database "{name}" connection limit 0']


@pytest.mark.parametrize("deed", [renamed, dropped, made_again, closed, limited])
@pytest.mark.parametrize("isolation", ["auto", "clone", "truncate", "worker", "readonly"])
def test_a_test_that_does_away_with_its_database(
    supply: Supply,
    isolation: str,
    deed: Callable[[str], list[str]],
    admin_dsn: str,
    prefix: str,
) -> None:
    """The next test gets another one, and nothing is left behind, whatever its name is by now."""
    before = databases(admin_dsn, prefix)
    mode = supply.isolation(isolation)
    clone = mode.acquire()
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        for statement in deed(clone.name):
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s",
                [clone.name],
            )
            admin.execute(statement.encode())
    mode.release(clone)
    following = mode.acquire()
    assert one(following, "select count(*) from item") == (1,)
    mode.release(following)
    supply.close()
    assert databases(admin_dsn, prefix) == before
