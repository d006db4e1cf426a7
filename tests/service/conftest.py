"""Services on the run's embedded server, each under a prefix of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from clonedb.embedded.leases import Lease
from clonedb.settings.config import Config
from tests.embedded.sandbox import Sandbox, make_sandbox
from tests.projects import Project
from tests.service.site import Site
from tests.service.stories import databases


@contextlib.contextmanager
def _own(config: Config, prefix: str, dsn: str) -> Iterator[Config]:
    """A configuration under a prefix, of which nothing is left afterwards."""
    yield config.replace("tests", prefix=prefix)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(prefix))
        )
        for name in databases(dsn, prefix):
            for statement in (
                "alter database {} is_template false",
                "drop database {} with (force)",
            ):
                connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


@pytest.fixture
def service_config(config: Config, prefix: str, admin_dsn: str) -> Iterator[Config]:
    """A configuration whose databases and tables no other test has."""
    with _own(config, prefix, admin_dsn) as own:
        yield own


@pytest.fixture(scope="module")
def common_site(
    request: pytest.FixtureRequest, config: Config, run_id: str, lease: Lease
) -> Iterator[Site]:
    """The service over HTTP for all tests of a module that ask for it; with a token, if the module has one."""
    prefix = f"t{run_id[:5]}_{os.getpid():x}_s{secrets.token_hex(3)}"
    dsn = f"host={lease.socket_dir} port={lease.port} user={lease.user} dbname=postgres"
    with (
        _own(config, prefix, dsn) as own,
        Site(own, token=getattr(request.module, "TOKEN_OF_ALL", None)) as site,
    ):
        yield site


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
