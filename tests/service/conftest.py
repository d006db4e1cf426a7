"""Services on the run's embedded server, each under a prefix of its own."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from clonedb.settings.config import Config
from tests.embedded.sandbox import Sandbox, make_sandbox
from tests.projects import Project
from tests.service.site import Site
from tests.service.stories import databases


@pytest.fixture
def service_config(config: Config, prefix: str, admin_dsn: str) -> Iterator[Config]:
    """A configuration whose databases and tables no other test has, and of which nothing is left afterwards."""
    yield config.replace("tests", prefix=prefix)
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(prefix))
        )
        for name in databases(admin_dsn, prefix):
            for statement in (
                "alter database {} is_template false",
                "drop database {} with (force)",
            ):
                connection.execute(sql.SQL(statement).format(sql.Identifier(name)))
        role = sql.Identifier(f"{prefix}_service")
        connection.execute(sql.SQL("drop role if exists {}").format(role))


@pytest.fixture
def site(service_config: Config) -> Iterator[Site]:
    """The service over HTTP."""
    with Site(service_config) as site:
        yield site


@pytest.fixture
def shop(items: Project) -> Project:
    """An Alembic project with a table `item` that has a row."""
    return items


@pytest.fixture
def sandbox(postgres_bin: str | None) -> Iterator[Sandbox]:
    """A server of the test's own."""
    made = make_sandbox(postgres_bin)
    yield made
    made.close()
