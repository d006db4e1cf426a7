"""The differential test's own server, and the template on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clonedb.api import Template
from clonedb.embedded.binaries import Binaries
from tests.differential import template
from tests.differential.laboratory import Laboratory


@pytest.fixture(scope="session")
def installation(postgres_bin: str | None) -> Binaries:
    """The PostgreSQL to test with."""
    return template.binaries_of(postgres_bin)


@pytest.fixture(scope="session")
def pg_dump(installation: Binaries) -> Path | None:
    """A pg_dump that can read the server."""
    return template.pg_dump(installation)


@pytest.fixture(scope="session")
def opened(
    installation: Binaries, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Template]:
    """The template, on a server whose data nobody will miss."""
    with (
        template.server(installation) as url,
        template.opened(url, tmp_path_factory.mktemp("differential")) as found,
    ):
        yield found


@pytest.fixture
def laboratory(opened: Template, pg_dump: Path | None) -> Iterator[Laboratory]:
    """Runs programs, one after the other on a clone, and compares after each."""
    with Laboratory(opened, pg_dump=pg_dump) as ready:
        yield ready
