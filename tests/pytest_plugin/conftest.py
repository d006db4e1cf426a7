"""What the plugin's tests share: a project whose template is built once a worker, and what a run left on the server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from tests.projects import databases


@pytest.fixture
def prefix(run_id: str, admin_dsn: str) -> Iterator[str]:
    """A prefix that this worker's tests share, and with it the template; each of them begins without a clone."""
    shared = f"p{run_id[:5]}_{os.getpid():x}"
    yield shared
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        for name in databases(admin_dsn, f"{shared}_c_"):
            connection.execute(SQL("drop database if exists {} with (force)").format(Identifier(name)))


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """Without the plugins that these projects have no use for: pytest-asyncio warns of its own settings."""
    return {**environment, "PYTEST_ADDOPTS": "-p no:asyncio -p no:hypothesispytest"}


@pytest.fixture
def clones(admin_dsn: str, prefix: str) -> Callable[[], list[str]]:
    """A function that lists the clones on the server."""
    return lambda: databases(admin_dsn, f"{prefix}_c_")
