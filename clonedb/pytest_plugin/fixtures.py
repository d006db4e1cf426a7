"""The fixtures: each a small one that a project can override."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from clonedb.pytest_plugin.lending import Paid, Request, lend, let_go, require_on
from clonedb.pytest_plugin.options import configuration, marker_of
from clonedb.pytest_plugin.run import CLONES, run_of

if TYPE_CHECKING:
    from psycopg import Connection
    from sqlalchemy.engine import Engine
    from sqlalchemy.orm import Session, sessionmaker

    from clonedb.api import Template
    from clonedb.clones.clone import Clone
    from clonedb.clones.database import Database
    from clonedb.project.recipe import Recipe
    from clonedb.settings.config import Config

__all__ = [
    "clonedb",
    "clonedb_config",
    "clonedb_connection",
    "clonedb_dsn",
    "clonedb_engine",
    "clonedb_factory",
    "clonedb_session",
    "clonedb_sessionmaker",
    "clonedb_template",
    "clonedb_url",
]


@pytest.fixture(scope="session")
def clonedb_config(pytestconfig: pytest.Config) -> Config:
    """The configuration; override it to set keys in code: `return clonedb_config.replace("conftest.py", url=...)`."""
    __tracebackhide__ = True
    with run_of(pytestconfig).process_state.session():
        return configuration(pytestconfig)


@pytest.fixture(scope="session")
def clonedb_template(pytestconfig: pytest.Config, clonedb_config: Config) -> Iterator[Template]:
    """The project's template, built if it is not there; of all the workers of all runs, one builds it."""
    __tracebackhide__ = True
    require_on(clonedb_config)
    run = run_of(pytestconfig)
    opened = run.open(clonedb_config)
    yield opened
    run.close(opened)


@pytest.fixture
def clonedb(request: pytest.FixtureRequest) -> Iterator[Database]:
    """The test's database: a Database with `name`, `url`, `dsn`, `connect()`, `engine()` and `sessionmaker()`."""
    __tracebackhide__ = True
    said = marker_of(request.node)
    yield from lend(request, Request(said.isolation, said.template, said.seed))


@pytest.fixture
def clonedb_url(clonedb: Database) -> str:
    """The database's URL for SQLAlchemy, with the configured driver."""
    return clonedb.url


@pytest.fixture
def clonedb_dsn(clonedb: Database) -> str:
    """The database's URL for libpq, psycopg and asyncpg."""
    return clonedb.dsn


@pytest.fixture
def clonedb_connection(
    request: pytest.FixtureRequest, clonedb: Database
) -> Iterator[Connection[Any]]:
    """A psycopg connection to the database; what the test did not commit is gone after it."""

    def warn() -> None:
        from clonedb.sessions.leaks import held

        warnings.warn(held(request.node.nodeid), stacklevel=2)

    with contextlib.ExitStack() as stack:
        with run_of(request.config).process_state.unpatched():
            connection = stack.enter_context(clonedb.lasting_connection(warn))
        yield connection


@pytest.fixture
def clonedb_engine(request: pytest.FixtureRequest, clonedb: Database) -> Engine:
    """A SQLAlchemy engine on the database; what its pool holds is reset, or closed, after the test."""
    with run_of(
        request.config
    ).process_state.unpatched():  # this may be the first to import SQLAlchemy
        return clonedb.lasting_engine()


@pytest.fixture
def clonedb_sessionmaker(
    request: pytest.FixtureRequest, clonedb: Database
) -> sessionmaker[Session]:
    """A sessionmaker bound to the test's engine; under `rollback`, to its one transaction."""

    def engine() -> Engine:
        made: Engine = request.getfixturevalue("clonedb_engine")
        return made

    return clonedb.sessionmaker(engine)


@pytest.fixture
def clonedb_session(
    request: pytest.FixtureRequest,
    clonedb: Database,
    clonedb_sessionmaker: sessionmaker[Session],
) -> Iterator[Session]:
    """A SQLAlchemy session on the test's engine, closed after the test; its commits are real (but under `rollback`)."""
    from sqlalchemy.exc import DBAPIError

    session = clonedb_sessionmaker()
    yield session
    # first: the rollback of close() would wait for a COPY that was left open
    let_go(request.node, clonedb)
    with contextlib.suppress(
        DBAPIError
    ):  # the test may have ended its own connection, or dropped the database
        session.close()


@pytest.fixture
def clonedb_factory(
    request: pytest.FixtureRequest, clonedb_config: Config, clonedb_template: Template
) -> Iterator[Callable[[], Clone]]:
    """A function that makes one more database for the test each time it is called."""
    __tracebackhide__ = True
    run, paid, made = run_of(request.config), Paid(request), list[tuple["Clone", "Recipe"]]()
    run.require_own(clonedb_template, clonedb_config)
    supply = run.supply(clonedb_template, request.session.addfinalizer)
    # where `keep` and the report look for the databases of a failed test
    clones = request.node.stash.setdefault(CLONES, [])

    def make() -> Clone:
        with paid:
            clone = supply.clone(ahead=1)
        made.append((clone, clonedb_template.recipe))
        clones.append(made[-1])
        return clone

    yield make
    with (
        paid,
        contextlib.ExitStack() as drops,
    ):  # one that fails keeps no other from being dropped
        for used in made:
            clones.remove(used)
            drops.callback(supply.drop, used[0])

    paid.note()
