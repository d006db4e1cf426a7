"""What the tests of the pool share: the project's template, opened in this process, and its pool."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import clonedb
from clonedb.clones.pool import Pool
from tests.projects import Project

Open = Callable[..., clonedb.Template]


@pytest.fixture
def opened(items: Project, variables: None) -> Iterator[Open]:
    """A function that opens the template of the project, with settings."""
    del variables
    templates = []

    def open_one(directory: Path | None = None, **settings: Any) -> clonedb.Template:
        templates.append(clonedb.template(directory or items.directory, **settings))
        return templates[-1]

    yield open_one
    for template in templates:
        template.close()


@pytest.fixture
def template(opened: Open) -> clonedb.Template:
    """The template."""
    return opened()


@pytest.fixture
def pool(template: clonedb.Template) -> Iterator[Pool]:
    """A pool of its clones."""
    pool = pool_of(template)
    yield pool
    pool.close()


def pool_of(template: clonedb.Template, total: Callable[[], int | None] = lambda: None) -> Pool:
    """A pool of a template's clones."""
    return Pool(template.server, template.record, total=total)


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something that another thread or process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def sessions(dsn: str, application: str) -> list[int]:
    """The server's processes for clients whose name begins so."""
    query = "select pid from pg_stat_activity where starts_with(application_name, %s)"
    with psycopg.connect(dsn, autocommit=True) as connection:
        return [row[0] for row in connection.execute(query, [application])]
