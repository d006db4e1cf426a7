"""Migrators of projects that tests write, and an empty database for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from clonedb.project.find import find_project
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL
from tests.migrators import Migrator
from tests.projects import Project

Ask = Callable[[str], list[tuple[object, ...]]]


@pytest.fixture
def migrator(project: Project) -> Callable[..., Migrator]:
    """A function that gives the migrator of the test's project; keywords are settings."""

    def make(**settings: Any) -> Migrator:
        config = Config(rootdir=project.directory).replace("tests", **settings)
        return Migrator(config, find_project(config))

    return make


@pytest.fixture
def url(empty_database_url: str) -> DatabaseURL:
    """An empty database."""
    return DatabaseURL.parse(empty_database_url)


@pytest.fixture
def ask(url: DatabaseURL) -> Ask:
    """A function that runs a query in that database, in a session of its own."""

    def run(query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(url.replace(driver=None).render(), autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    return run
