"""The fixtures for tests of migrations: clones at a revision, and a database that none was run in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Self

import pytest

from clonedb.pytest_plugin.lending import Paid, require_on
from clonedb.pytest_plugin.options import marker_of
from clonedb.pytest_plugin.run import CLONES, run_of

if TYPE_CHECKING:
    from clonedb.api import Template
    from clonedb.clones.clone import Clone
    from clonedb.postgres.server import Server
    from clonedb.project.recipe import Recipe
    from clonedb.revisions import RevisionDatabase
    from clonedb.settings.config import Config

__all__ = ["clonedb_at", "clonedb_empty"]

_AT = pytest.StashKey[dict[tuple[int, str, str], "Template"]]()
_SERVERS = pytest.StashKey[dict[tuple[int, str], "Server"]]()


@pytest.fixture
def clonedb_at(
    request: pytest.FixtureRequest, clonedb_config: Config
) -> Iterator[Callable[[str], RevisionDatabase]]:
    """A function that makes a clone at a revision, which can be upgraded and downgraded from there.

    def test_names_are_split(clonedb_at):
        db = clonedb_at("3f2a")  # before the revision under test; "base" is an empty database
        with db.connect() as connection:
            connection.execute("insert into person (name) values ('Ada Lovelace')")
        db.upgrade("+1")
    """
    __tracebackhide__ = True
    require_on(clonedb_config)
    with _Taken(request) as taken:

        def make(revision: str) -> RevisionDatabase:
            from clonedb.migrate.recipes import require_revisions
            from clonedb.revisions import RevisionDatabase

            __tracebackhide__ = True
            template = _template_at(request, clonedb_config, revision)
            recipe = template.recipe
            supply = run_of(request.config).supply(template, request.session.addfinalizer)
            with_revisions = require_revisions(recipe, "clonedb_at()")
            database = RevisionDatabase(taken.take(supply.clone, recipe), with_revisions)
            # the last callback is called first: this session ends before its clone is dropped
            taken.at_end.callback(database.close)
            return database

        yield make


def _template_at(request: pytest.FixtureRequest, config: Config, revision: str) -> Template:
    """The template at a revision, opened once in a session."""
    from clonedb.revisions import config_at

    __tracebackhide__ = True
    meant, run = _meant(request, config), run_of(request.config)
    with run.process_state.session():
        wanted = config_at(meant, revision)
    opened, key = (
        request.session.stash.setdefault(_AT, {}),
        (id(config), meant.template, wanted.target),
    )
    if key not in opened:
        opened[key] = run.open(wanted)
        request.session.addfinalizer(lambda: run.close(opened.pop(key)))

    return opened[key]


@pytest.fixture
def clonedb_empty(request: pytest.FixtureRequest, clonedb_config: Config) -> Iterator[Clone]:
    """A database in which no migration was run, with the configured extensions; for pytest-alembic.

    @pytest.fixture
    def alembic_engine(clonedb_empty):
        return clonedb_empty.engine()
    """
    __tracebackhide__ = True
    from clonedb.clones.clone import create_empty
    from clonedb.migrate.recipes import find_recipe

    require_on(clonedb_config)
    meant, run = _meant(request, clonedb_config), run_of(request.config)
    with run.process_state.session():
        server, recipe = _server(request, clonedb_config, meant), find_recipe(meant)
    with _Taken(request) as taken:
        clone = taken.take(
            lambda: run.state.other(server, lambda: create_empty(server, meant)), recipe
        )
        run.statistics.count_clone(server.about)
        yield clone


def _server(request: pytest.FixtureRequest, config: Config, meant: Config) -> Server:
    """The server alone, opened once in a session: migrations that do not run keep no test of them from starting."""
    from clonedb.api import open_project_server
    from clonedb.clones.collector import Collector
    from clonedb.postgres.roles import prepare_role

    __tracebackhide__ = True
    # by identity: several directories may override clonedb_config
    opened, key = request.session.stash.setdefault(_SERVERS, {}), (id(config), meant.template)
    if key not in opened:
        run = run_of(request.config)
        opened[key] = server = open_project_server(meant, servers=run.state.servers)
        run.hide_passwords_of(server)
        request.session.addfinalizer(lambda: opened.pop(key).close())
        prepare_role(server)
        # the last finalizer runs first: the collector ends before its server is closed
        request.session.addfinalizer(Collector(server).join)

    return opened[key]


def _meant(request: pytest.FixtureRequest, config: Config) -> Config:
    """The configuration of the template that the test's marker names, or else of the one that all tests have."""
    from clonedb.api import resolved

    name = marker_of(request.node).template
    return resolved(config) if name is None else config.of_template(name, "template")


class _Taken:
    """The clones of one test: kept by the policy when it fails, dropped after it, and paid for by it.

    `at_end` calls what ends with them, the last first; one that fails keeps no other from being
    called.
    """

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.at_end = contextlib.ExitStack()
        self._paid = Paid(request)
        self._clones = request.node.stash.setdefault(CLONES, [])

    def take(self, make: Callable[[], Clone], recipe: Recipe) -> Clone:
        """Make a clone, and take note of it."""
        __tracebackhide__ = True
        with self._paid:
            clone = make()
        used = clone, recipe
        # a failed test's report mentions the clones that are in this list
        self._clones.append(used)
        self.at_end.callback(clone.drop)
        self.at_end.callback(self._clones.remove, used)
        return clone

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._paid:
            self.at_end.close()
        self._paid.note()
